"""The one deterministic preprocessing, used by training, evaluation and serving alike, and its inverse.

`Preprocess` travels with the weights in `config.json`. Training inserts its augmentation between `place` and
`normalise`; nothing here is random and nothing here is written twice. Plain torch rather than MONAI, whose random
transforms do the augmentation: the geometry and its inverse stay explicit in one small record, and serving needs no MONAI.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch is imported where it works, so that reading the zoo takes a moment, not seconds
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where an image stands on the network's grid, all that `Preprocess.restore` needs.

    The crop box is in pixels of the image, the placed box in pixels of the network's square grid.
    """

    image: tuple[int, int]  # H, W of the image
    crop: tuple[int, int, int, int]  # top, left, height, width of what was cut out of the image
    placed: tuple[int, int, int, int]  # top, left, height, width of where it went


def head_box(unit: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0), smallest: float = 0.5) -> tuple[int, int, int, int]:
    """The box around the head: what is brighter than the background, with a margin of 4 %.

    Scaling the head rather than the field of view to the network's grid spends its pixels on the head, and makes
    a tight crop and a wide field of view look alike. A row or column counts when over 3 % of it is foreground, so
    speckle and a letter in a corner don't; an image without clear borders keeps its full frame.

    Args:
        unit: (H, W, 3) float32 in [0, 1].
        spacing: between rows and between columns, in a common unit.
        smallest: neither side shrinks below this share of the image's longer side (as far as the image goes), so
            that the small cross-sections at the top of a head are not blown up.

    Returns:
        top, left, height, width in pixels.
    """
    height, width = unit.shape[:2]
    mean = (unit[..., 0] + unit[..., 1] + unit[..., 2]) / 3  # over so short an axis numpy's mean takes ten times as long
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
        crop: cut the head out first (see `head_box`); else the whole frame is placed.
        normalise: "slice" standardises each placed slice by the mean and population standard deviation over all its
            pixels and channels, which serves a lone slice and a volume alike; "volume" takes them over the batch,
            to measure what the choice costs.
    """

    size: int = 160
    crop: bool = True
    normalise_over: str = "slice"

    def __post_init__(self) -> None:
        if self.size % 32:
            raise ValueError(f"size {self.size} is not a multiple of 32")
        if self.normalise_over not in ("slice", "volume"):
            raise ValueError(f"normalise_over is 'slice' or 'volume', not {self.normalise_over!r}")

    def config(self) -> dict:
        """What `config.json` keeps; `Preprocess(**config)` is the way back."""
        return asdict(self)

    def placement(self, unit: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> Placement:
        """Where `place` puts an image: proportions kept, centred, the longer side filling the grid.

        Args:
            unit: (H, W, 3) float32 in [0, 1].
            spacing: between rows and between columns, in a common unit; the networks know square pixels only.
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
        """Resize and pad with black; antialiased, so that a large upload does not alias.

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
        self, unit: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0), device: str | torch.device = "cpu"
    ) -> tuple[Tensor, Placement]:
        """(H, W, 3) float32 in [0, 1] to what `normalise` takes, (3, size, size) in [0, 1], and its placement.

        Args:
            spacing: between rows and between columns, in a common unit.
            device: what resizes, and keeps the result. A GPU does it while the CPU goes on to the next slice.
        """
        import torch

        placement = self.placement(unit, spacing)
        channels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(unit, 2, 0), dtype=np.float32))
        if torch.device(device).type == "cuda" and torch.cuda.is_initialized():  # ZeroGPU's main process imitates one
            channels = channels.pin_memory()  # from where the copy does not hold up the CPU
        return self.place(channels.to(device, non_blocking=True), placement), placement

    def restore(self, probability: Tensor, placement: Placement) -> Tensor:
        """Put a probability map back on the grid of the uploaded image.

        Resized before it is thresholded: resizing a mask loses thin structures.

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
