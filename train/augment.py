"""Random changes that a slice may plausibly have undergone, as MONAI transforms on placed slices."""

from __future__ import annotations

import torch
from monai import transforms as mt
from monai.transforms.utils import distance_transform_edt
from torch import Tensor

from brainmri.preprocess import FLAIR


class RandFlairInsteadd(mt.RandomizableTransform, mt.MapTransform):
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


class RandCarveMixd(mt.RandomizableTransform):
    """Put the tumour of one patient into another's slice of like height (CarveMix, Zhang et al. 2021), posed anew.

    What is carved out keeps to the tumour's outline, from half of its depth inside to half of its depth around it. Unlike there,
    its edge is blended over a pixel and its brightness brought to the slice's, and in a share of cases the hole is filled from a
    slice without tumour, so that an edge says nothing about what is inside it.

    Args:
        slices: what `train.data.load_placed` gives, of the training patients.
        prob: share of slices that get something.
        healthy: share of those that get something healthy.
    """

    COVERED = 0.9  # of what is carved out has to fall on the other's head
    NEAR = 0.12  # of the head's slices, between the one that gives and the one that gets

    def __init__(self, slices: list[dict], prob: float, healthy: float = 0.3) -> None:
        super().__init__(prob)
        size = slices[0]["mask"].shape[-1]
        self.last: dict[str, int] = {}
        for one in slices:
            self.last[one["case"]] = max(one["number"], self.last.get(one["case"], 0))
        self.tumours = [s for s in slices if (s["mask"] > 0.5).sum() > 0.001 * size**2]
        self.others = [s for s in slices if not s["tumour"]]
        self.healthy = healthy
        both, shift = ["image", "mask"], 0.06 * size
        self.pose = mt.Compose([
            mt.RandFlipd(both, prob=0.5, spatial_axis=1),
            mt.RandAffined(both, prob=1.0, rotate_range=0.4, scale_range=0.25, translate_range=shift, padding_mode="zeros"),
            mt.EnsureTyped(both, track_meta=False),
        ])  # fmt: skip

    def set_random_state(self, seed=None, state=None):
        super().set_random_state(seed, state)
        self.pose.set_random_state(seed=self.R.randint(2**31))
        return self

    def _height(self, one: dict) -> float:
        return one["number"] / self.last[one["case"]]

    def _draw(self, slices: list[dict], data: dict) -> dict | None:
        """One of other patients' slices at the same height."""
        near = [s for s in slices if s["case"] != data["case"] and abs(self._height(s) - self._height(data)) < self.NEAR]
        return near[self.R.randint(len(near))] if near else None

    def randomize(self, data: dict) -> None:
        super().randomize(None)
        self.depth = self.R.uniform(-0.5, 0.5)
        self.fill = self.R.rand() < self.healthy

    def __call__(self, data: dict) -> dict:
        self.randomize(data)
        if not self._do_transform or (donor := self._draw(self.tumours, data)) is None:
            return data
        posed = self.pose({key: donor[key] for key in ("image", "mask")})
        content, carved = posed, _carve(posed["mask"] > 0.5, self.depth)
        if self.fill and (healthy := self._draw(self.others, data)):
            content = {"image": healthy["image"], "mask": torch.zeros_like(posed["mask"])}
        here, there = _tissue(data["image"]), _tissue(content["image"])
        if not carved.any() or (carved & here & there).sum() < self.COVERED * carved.sum():
            return data
        level = _level(data, here) / _level(content, there)
        alpha = mt.GaussianSmooth(sigma=0.7)(carved.float()).as_tensor()
        image = alpha * (content["image"] * level).clamp(0, 1) + (1 - alpha) * data["image"]
        mask = torch.where(carved, content["mask"], data["mask"])
        return data | {"image": image, "mask": mask, "tumour": int((mask > 0.5).any())}


def _tissue(image: Tensor) -> Tensor:
    """(1, S, S) bool: where FLAIR is no background."""
    return image[FLAIR : FLAIR + 1] > 0.05


def _level(data: dict, tissue: Tensor) -> Tensor:
    """(3, 1, 1): each channel's median over tissue outside the tumour."""
    normal = tissue & (data["mask"] < 0.5)
    normal = normal if normal.any() else tissue
    return torch.stack([channel[normal[0]].median() for channel in data["image"]]).clamp(min=0.02)[:, None, None]


def _carve(mask: Tensor, depth: float) -> Tensor:
    """(1, S, S) bool: the mask, shrunk (below 0) or grown by that share of its greatest depth."""
    inside = distance_transform_edt(mask.float())
    distance = distance_transform_edt((~mask).float()) - inside
    return distance <= depth * inside.max()


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
        RandFlairInsteadd("image", prob=0.35),
        mt.EnsureTyped(both, track_meta=False),
    ])  # fmt: skip
