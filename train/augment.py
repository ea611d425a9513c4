"""Random changes that a slice may plausibly have undergone, as MONAI transforms on placed slices."""

from __future__ import annotations

import torch
from monai import transforms as mt

from brainmri.io.pixels import FLAIR


class RandReplaceWithFlaird(mt.RandomizableTransform, mt.MapTransform):
    """Put FLAIR into the pre-contrast channel, the post-contrast channel or, most often, both.

    The dataset does so where a sequence is missing, and an upload of one sequence arrives that way.
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
    """Each channel with a gamma and a gain of its own: scanners weight and scale the sequences differently."""

    def __init__(self, keys, prob: float, gamma: tuple[float, float], gain: tuple[float, float]) -> None:
        mt.MapTransform.__init__(self, keys)
        mt.RandomizableTransform.__init__(self, prob)
        self.gamma, self.gain = gamma, gain

    def randomize(self, data=None) -> None:
        super().randomize(None)
        self.drawn_gamma = torch.tensor(self.R.uniform(*self.gamma, size=(3, 1, 1)), dtype=torch.float32)
        self.drawn_gain = torch.tensor(self.R.uniform(*self.gain, size=(3, 1, 1)), dtype=torch.float32)

    def __call__(self, data: dict) -> dict:
        self.randomize()
        data = dict(data)
        if self._do_transform:
            for key in self.keys:
                data[key] = data[key].clamp(min=0) ** self.drawn_gamma * self.drawn_gain
        return data


def augmentation(size: int) -> mt.Compose:
    """For dicts with `image` (3, size, size) in [0, 1] and `mask` (1, size, size) in [0, 1]; normalisation comes after.

    FLAIR replaces missing sequences last among the intensity changes, so that equal channels stay equal.
    """
    both = ["image", "mask"]
    shift = 0.08 * size
    return mt.Compose([
        mt.RandFlipd(both, prob=0.5, spatial_axis=1),
        mt.RandAffined(both, prob=0.9, rotate_range=0.4, shear_range=0.1, scale_range=0.2,
                       translate_range=shift, mode="bilinear", padding_mode="zeros"),
        RandChannelGammad("image", prob=0.7, gamma=(0.7, 1.4), gain=(0.7, 1.3)),
        mt.RandBiasFieldd("image", prob=0.1, coeff_range=(0.0, 0.2)),
        mt.RandGaussianSmoothd("image", prob=0.1, sigma_x=(0.3, 1.2), sigma_y=(0.3, 1.2)),
        mt.RandGaussianNoised("image", prob=0.3, std=0.03),
        RandReplaceWithFlaird("image", prob=0.35),
        mt.EnsureTyped(both, track_meta=False),
    ])  # fmt: skip
