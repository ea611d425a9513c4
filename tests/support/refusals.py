"""Operations that an accelerator lacks, refused on the CPU, so that a test needs no such machine."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ADAPTIVE_POOLING = {"adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d"}


class RefuseLikeMps(TorchDispatchMode):
    """Raises what MPS raises: for adaptive pooling to a size that does not divide the map's, and for float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name in ADAPTIVE_POOLING and any(n % out for n, out in zip(args[0].shape[-2:], args[1], strict=True)):
            raise RuntimeError(
                "Adaptive pool MPS: input sizes must be divisible by output sizes. "
                "Non-divisible input sizes are not implemented on MPS device yet."
            )
        result = func(*args, **(kwargs or {}))
        if any(isinstance(t, torch.Tensor) and t.dtype == torch.float64 for t in (result, *args)):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
        return result
