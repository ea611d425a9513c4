"""Depthwise convolutions whose gradients a CPU computes fast: the same sums as torch's, in parts that oneDNN is fast at.

Torch 2.11 takes a CPU up to ten times as long for the weights' gradient of a 5 x 5 depthwise kernel as for its forward pass, in
bfloat16 up to a hundred times, and twenty for the input's gradient at stride 2: two fifths of an EfficientNet's step. Here
a 5 x 5 kernel's gradient is put together from those of the 3 x 3 kernels in its corners; at stride 2 float32 gives the input's.
"""

from __future__ import annotations

from types import MethodType

import torch
from torch import Tensor, nn

CORNERS = [(0, 0), (0, 2), (2, 0), (2, 2)]  # of the 3 x 3 kernels that together cover a 5 x 5 one


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.stride = stride
        return nn.functional.conv2d(image, weight, stride=stride, groups=len(weight))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        image, weight = ctx.saved_tensors
        stride = ctx.stride
        gradient = gradient.contiguous(memory_format=torch.channels_last)

        def asked(image: Tensor, weight: Tensor, gradient: Tensor, mask: list[bool]) -> tuple[Tensor, ...]:
            return torch.ops.aten.convolution_backward(
                gradient, image, weight, None, [stride] * 2, [0, 0], [1, 1], False, [0, 0], len(weight), mask
            )

        wide = torch.float32 if stride > 1 else image.dtype
        to_image = asked(image.to(wide), weight.to(wide), gradient.to(wide), [True, False, False])[0].to(image.dtype)
        if weight.shape[-1] != 5:
            return to_image, asked(image, weight, gradient, [False, True, False])[1], None
        to_weight = torch.empty_like(weight)
        rows, columns = ((side - 1) * stride + 3 for side in gradient.shape[2:])
        for top, left in CORNERS:
            seen = image[:, :, top : top + rows, left : left + columns].contiguous(memory_format=torch.channels_last)
            part = asked(seen, weight[:, :, :3, :3], gradient, [False, True, False])[1]
            to_weight[:, :, top : top + 3, left : left + 3] = part
        return to_image, to_weight, None


def _convolve(self: nn.Conv2d, image: Tensor, weight: Tensor, bias: None) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        image, weight = image.to(dtype), weight.to(dtype)
    return _Depthwise.apply(image, weight, self.stride[0])


def speed_up_depthwise(net: nn.Module) -> None:
    """Let a network's unpadded depthwise convolutions of 3 x 3 or 5 x 5 without a bias compute their gradients so, on a CPU."""
    for module in net.modules():
        if (
            isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1
            and module.bias is None and module.padding == (0, 0) and module.kernel_size in ((3, 3), (5, 5))
        ):  # fmt: skip
            module._conv_forward = MethodType(_convolve, module)
