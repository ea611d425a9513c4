"""From what networks say to probabilities: one temperature, or a fusion of verdict, mask and neighbouring slices.

A fusion is a logistic regression on two numbers of a slice, fitted on patients that the networks never saw: the verdict's logit
and the mask's evidence. In a study both are smoothed along the head first, for a tumour runs through neighbouring slices.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """How verdict and mask become one probability of tumour.

    Attributes:
        logit: weight of the verdict's logit, tumour against no tumour.
        evidence: weight of the mask's evidence (`evidence`).
        bias: added to both.
        review: [low, high] band of the probability in which the verdict is "review".
        neighbours: standard deviation, in slices, of the Gaussian that smooths both along the head; 0 leaves slices alone.
    """

    logit: float
    evidence: float
    bias: float
    review: tuple[float, float]
    neighbours: float = 0.0

    def config(self) -> dict:
        """What `config.json` keeps; `Fusion(**config)` is the way back."""
        return asdict(self) | {"review": list(self.review)}  # as JSON gives it back, since records are compared

    def probability(self, logits: np.ndarray, evidence: np.ndarray) -> np.ndarray:
        """(S,) logits and evidence of slices in order along the head to (S,) probabilities of tumour."""
        one = self.logit * along_head(logits, self.neighbours) + self.evidence * along_head(evidence, self.neighbours)
        return sigmoid(one + self.bias)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Everything that turns what a segmenter and a classifier say into findings; `mode` is "slice" or "study".

    Attributes:
        mask_threshold: on the probability map, in (0, 1).
        temperature: divides the verdict's logits, where there is no fusion.
        review: [low, high] band of the probability in which the verdict is "review", where there is no fusion.
        fusion: by mode; empty when mask and verdict are not one entry's, for it was fitted on its own mask.
        mask_neighbours: in studies, the standard deviation, in slices, of the Gaussian that smooths the logits of the mask's
            probabilities along the head, voxel by voxel; 0 leaves slices alone.
    """

    mask_threshold: float = 0.5
    temperature: float = 1.0
    review: tuple[float, float] = (0.5, 0.5)
    fusion: dict[str, Fusion] = field(default_factory=dict)
    mask_neighbours: float = 0.0

    def maps(self, maps: np.ndarray, mode: str) -> np.ndarray:
        """(S, H, W) probability maps of a network to those that are thresholded."""
        return smooth_maps(maps, self.mask_neighbours) if mode == "study" else maps

    def probability(self, logits: np.ndarray, evidence: np.ndarray | None, mode: str) -> np.ndarray:
        """(S,) logits and evidence of slices in order along the head to (S,) calibrated probabilities of tumour."""
        fusion = self.fusion.get(mode)
        return fusion.probability(logits, evidence) if fusion else sigmoid(logits / self.temperature)

    def band(self, mode: str) -> tuple[float, float]:
        """[low, high] in which the verdict is "review"."""
        return self.fusion[mode].review if mode in self.fusion else self.review

    def config(self, mode: str) -> dict:
        """What a finding's provenance tells of the calibration."""
        smoothed = {"mask_neighbours": self.mask_neighbours} if mode == "study" else {}
        return (self.fusion[mode].config() if mode in self.fusion else {"temperature": self.temperature}) | smoothed


def evidence(grid_maps: Tensor) -> np.ndarray:
    """What a mask says for a tumour: log(1 + summed probability) over (S, 1, h, w) maps on the network's grid; (S,) float64."""
    return np.log1p(grid_maps.sum(dim=(1, 2, 3)).double().numpy())


def along_head(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing over the first axis, the slices; the end slices go on beyond the ends."""
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(values, sigma, axis=0, mode="nearest") if sigma else values


def smooth_maps(maps: np.ndarray, sigma: float) -> np.ndarray:
    """(S, H, W) float32 probabilities smoothed along the head as logits, so that a sure slice outweighs doubtful neighbours."""
    if not sigma:
        return maps
    certain = np.clip(maps, 1e-6, 1 - 1e-6)
    return sigmoid(along_head(np.log(certain / (1 - certain)), sigma)).astype(np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
