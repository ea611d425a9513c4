"""The deterministic preprocessing of training, evaluation and inference, and its inverse.

`Preprocess` is stored with the weights in `config.json`. Training inserts its augmentation between `place` and `normalise`. The
module uses torch, not MONAI, so that inference does not need MONAI and the inverse needs only one small record, `Placement`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch is imported on use, so that the zoo can be listed quickly
    import torch
    from torch import Tensor

SQUARE = (1.0, 1.0)  # spacing of pixels that are as wide as high


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where an image is on the network's grid; `Preprocess.restore` needs nothing else.

    The crop box is in pixels of the image, the placed box in pixels of the network's square grid.
    """

    image: tuple[int, int]  # H, W of the image
    crop: tuple[int, int, int, int]  # top, left, height, width of the crop
    placed: tuple[int, int, int, int]  # top, left, height, width on the grid


def head_box(unit: np.ndarray, spacing: tuple[float, float] = SQUARE, smallest: float = 0.5) -> tuple[int, int, int, int]:
    """The bounding box of the head, with a margin of 4%.

    Scaling the head to the network's grid, instead of the field of view, makes tight crops and wide fields of view look alike. A
    row or column belongs to the head if over 3% of it is foreground, which excludes speckle and letters in a corner. An image
    without clear borders keeps its full frame.

    Args:
        unit: (H, W, 3) float32 in [0, 1].
        spacing: between rows and between columns, in a common unit.
        smallest: the minimum of each side, as a share of the image's longer side and limited by the image, so that
            small cross-sections at the top of a head are not enlarged.

    Returns:
        top, left, height, width in pixels.
    """
    height, width = unit.shape[:2]
    mean = (unit[..., 0] + unit[..., 1] + unit[..., 2]) / 3  # numpy's mean over so short an axis takes ten times as long
    foreground = mean > 0.15 * np.percentile(mean, 99)
    longer = max(height * spacing[0], width * spacing[1])
    box = []
    for counts, side, step in ((foreground.mean(axis=1), height, spacing[0]), (foreground.mean(axis=0), width, spacing[1])):
        inside = np.flatnonzero(counts > 0.03)
        low, high = (inside[0], inside[-1] + 1) if len(inside) else (0, side)
        length = min(side, max(1.08 * (high - low), smallest * longer / step))
        start = int(np.clip(round((low + high - length) / 2), 0, side - 1))
        stop = min(side, start + int(np.ceil(length)))
        box.append((start, stop - start))
    (top, tall), (left, wide) = box
    return top, left, tall, wide


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Pixels to a network's input, and a probability map back to the pixels' own grid.

    Args:
        size: side of the network's square grid, a multiple of 32.
        crop: crop to the head first (see `head_box`); otherwise the whole frame is used.
        normalise_over: "slice" standardises each placed slice by the mean and population standard deviation over all its pixels
            and channels, which works for single slices and volumes; "volume" uses those of the batch, for comparison.
    """

    size: int = 160
    crop: bool = True
    normalise_over: str = "slice"

    def __post_init__(self) -> None:
        if self.size % 32:
            raise ValueError(f"expected a size that is a multiple of 32, got {self.size}")
        if self.normalise_over not in ("slice", "volume"):
            raise ValueError(f"expected normalise_over to be 'slice' or 'volume', got {self.normalise_over!r}")

    def config(self) -> dict:
        """What `config.json` stores; `Preprocess(**config)` reads it."""
        return asdict(self)

    def placement(self, unit: np.ndarray, spacing: tuple[float, float] = SQUARE) -> Placement:
        """Where `place` puts an image: centred, with its aspect ratio, the longer side filling the grid.

        Args:
            unit: (H, W, 3) float32 in [0, 1].
            spacing: between rows and between columns, in a common unit; the networks expect square pixels.
        """
        top, left, tall, wide = head_box(unit, spacing) if self.crop else (0, 0, *unit.shape[:2])
        sides = tall * spacing[0], wide * spacing[1]
        height, width = (max(1, round(side * self.size / max(sides))) for side in sides)
        return Placement(
            image=tuple(unit.shape[:2]),
            crop=(top, left, tall, wide),
            placed=((self.size - height) // 2, (self.size - width) // 2, height, width),
        )

    def place(self, channels: Tensor, placement: Placement) -> Tensor:
        """Resize with antialiasing and pad with black.

        Args:
            channels: (C, H, W) float32, an image in [0, 1] or a mask of zeros and ones.

        Returns:
            (C, size, size) float32, on the network's grid.
        """
        from torch.nn import functional as F

        top, left, tall, wide = placement.crop
        y, x, height, width = placement.placed
        cut = channels[None, :, top : top + tall, left : left + wide]
        small = F.interpolate(cut, size=(height, width), mode="bilinear", antialias=True)[0]
        return F.pad(small, (x, self.size - x - width, y, self.size - y - height))

    def normalise(self, batch: Tensor) -> Tensor:
        """(B, 3, size, size) in [0, 1] to zero mean and unit population standard deviation; a constant slice to zeros."""
        import torch

        dims = (1, 2, 3) if self.normalise_over == "slice" else (0, 1, 2, 3)
        centred = batch - batch.mean(dim=dims, keepdim=True)
        deviation = centred.square().mean(dim=dims, keepdim=True).sqrt()
        return centred / torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))

    def __call__(
        self, unit: np.ndarray, spacing: tuple[float, float] = SQUARE, device: str | torch.device = "cpu"
    ) -> tuple[Tensor, Placement]:
        """(H, W, 3) float32 in [0, 1] to the input of `normalise`, (3, size, size) in [0, 1], and its placement.

        Args:
            spacing: between rows and between columns, in a common unit.
            device: where the image is resized, and the result stays. A GPU works while the CPU prepares the next slice.
        """
        import torch

        placement = self.placement(unit, spacing)
        channels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(unit, 2, 0), dtype=np.float32))
        if torch.device(device).type == "cuda" and torch.cuda.is_initialized():  # ZeroGPU's main process only emulates CUDA
            channels = channels.pin_memory()  # so that the copy does not block the CPU
        return self.place(channels.to(device, non_blocking=True), placement), placement

    def restore(self, probability: Tensor, placement: Placement) -> Tensor:
        """Put a probability map back on the grid of the image.

        Restore before thresholding: resizing a mask loses thin structures.

        Args:
            probability: (1, size, size) float in [0, 1], on the network's grid.
            placement: where `place` put the image on that grid.

        Returns:
            (H, W) float32 in [0, 1], on the image's own grid; 0 outside the crop.
        """
        from torch.nn import functional as F

        top, left, tall, wide = placement.crop
        y, x, height, width = placement.placed
        cut = probability[None, :, y : y + height, x : x + width].float()
        back = F.interpolate(cut, size=(tall, wide), mode="bilinear", antialias=True)[0, 0]
        image_height, image_width = placement.image
        return F.pad(back, (left, image_width - left - wide, top, image_height - top - tall)).clamp(0, 1)
