"""Augmentation: MONAI transforms that change placed slices as scanners and uploads plausibly do."""

# pyright: reportPrivateImportUsage=false
# MONAI re-exports its classes without declaring them in __all__.

from __future__ import annotations

import torch
from monai import transforms as mt

from brainmri.io.pixels import FLAIR


class RandReplaceWithFlaird(mt.RandomizableTransform, mt.MapTransform):
    """Replace the pre-contrast channel, the post-contrast channel or, most often, both by FLAIR.

    The dataset does this where a sequence is missing, and so does an upload of a single sequence.
    """

    def __init__(self, keys, prob: float) -> None:
        mt.MapTransform.__init__(self, keys)
        mt.RandomizableTransform.__init__(self, prob)

    def randomize(self, data=None) -> None:
        super().randomize(None)
        self.replaced = [(0, 2), (0, 2), (0, 2), (0,), (2,)][self.R.randint(5)]

    def __call__(self, data: dict) -> dict:
        self.randomize()
        data = dict(data)
        if self._do_transform:
            for key in self.keys:
                image = data[key].clone()
                for channel in self.replaced:
                    image[channel] = image[FLAIR]
                data[key] = image
        return data


class RandChannelGammad(mt.RandomizableTransform, mt.MapTransform):
    """Apply a random gamma and gain to each channel: scanners weight and scale the sequences differently."""

    def __init__(self, keys, prob: float, gamma: tuple[float, float], gain: tuple[float, float]) -> None:
        mt.MapTransform.__init__(self, keys)
        mt.RandomizableTransform.__init__(self, prob)
        self.gamma, self.gain = gamma, gain

    def randomize(self, data=None) -> None:
        super().randomize(None)
        self.sampled_gamma = torch.tensor(self.R.uniform(*self.gamma, size=(3, 1, 1)), dtype=torch.float32)
        self.sampled_gain = torch.tensor(self.R.uniform(*self.gain, size=(3, 1, 1)), dtype=torch.float32)

    def __call__(self, data: dict) -> dict:
        self.randomize()
        data = dict(data)
        if self._do_transform:
            for key in self.keys:
                gamma, gain = (sampled.to(data[key].device) for sampled in (self.sampled_gamma, self.sampled_gain))
                data[key] = data[key].clamp(min=0) ** gamma * gain
        return data


def augmentation(size: int) -> mt.Compose:
    """For dicts with `image` (3, size, size) and `mask` (1, size, size), both in [0, 1]; normalise afterwards.

    FLAIR replaces the other channels after all other intensity changes, so that equal channels stay equal.
    """
    keys = ["image", "mask"]
    shift = 0.08 * size
    return mt.Compose([
        mt.RandFlipd(keys, prob=0.5, spatial_axis=1),
        mt.RandAffined(keys, prob=0.9, rotate_range=0.4, shear_range=0.1, scale_range=0.2,
                       translate_range=shift, mode="bilinear", padding_mode="zeros"),
        RandChannelGammad("image", prob=0.7, gamma=(0.7, 1.4), gain=(0.7, 1.3)),
        mt.RandBiasFieldd("image", prob=0.1, coeff_range=(0.0, 0.2)),
        mt.RandGaussianSmoothd("image", prob=0.1, sigma_x=(0.3, 1.2), sigma_y=(0.3, 1.2)),
        mt.RandGaussianNoised("image", prob=0.3, std=0.03),
        RandReplaceWithFlaird("image", prob=0.35),
        mt.EnsureTyped(keys, track_meta=False),
    ])  # fmt: skip
