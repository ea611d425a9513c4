"""Calibration of a network's outputs: one temperature, or a fusion of verdict, mask and neighbouring slices.

A fusion is a logistic regression on two numbers of a slice, the verdict's logit and the mask's evidence, fitted on patients not
used for training. In a study both are first smoothed across slices, because a tumour extends over neighbouring slices.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN = "unknown"  # in place of a sequence, where it is not recognised


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """How verdict and mask become one probability of tumour.

    Attributes:
        logit: weight of the verdict's logit, tumour against no tumour.
        evidence: weight of the mask's evidence (`evidence`).
        bias: added to both.
        review: [low, high] band of the probability in which the verdict is "review".
        neighbours: standard deviation, in slices, of the Gaussian that smooths both across slices; 0 for no smoothing.
    """

    logit: float
    evidence: float
    bias: float
    review: tuple[float, float]
    neighbours: float = 0.0

    @classmethod
    def from_config(cls, stored: dict[str, Any]) -> Fusion:
        """The fusion that `config.json` stores."""
        low, high = stored["review"]
        return cls(**{**stored, "review": (float(low), float(high))})

    def config(self) -> dict:
        """What `config.json` stores."""
        return asdict(self) | {"review": list(self.review)}  # a list as in JSON, so that records can be compared

    def probability(self, logits: np.ndarray, evidence: np.ndarray) -> np.ndarray:
        """(S,) logits and evidence of slices in order along the head to (S,) probabilities of tumour."""
        combined = self.logit * smooth_across_slices(logits, self.neighbours) + self.evidence * smooth_across_slices(
            evidence, self.neighbours
        )
        return sigmoid(combined + self.bias)


@dataclass(frozen=True, kw_only=True)
class SequenceRules:
    """Rules for one MR sequence, fitted on its slices.

    Attributes:
        mask_threshold: on the probability map, in (0, 1).
        fusion: by mode, "slice" and "study".
    """

    mask_threshold: float
    fusion: dict[str, Fusion]

    @classmethod
    def from_config(cls, stored: dict) -> SequenceRules:
        """The rules that `config.json` stores."""
        fusion = {mode: Fusion(**{**one, "review": tuple(one["review"])}) for mode, one in stored["fusion"].items()}
        return cls(mask_threshold=float(stored["mask_threshold"]), fusion=fusion)

    def config(self) -> dict:
        """What `config.json` stores."""
        return {"mask_threshold": self.mask_threshold, "fusion": {mode: one.config() for mode, one in self.fusion.items()}}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules that turn the outputs of a segmenter and a classifier into findings; `mode` is "slice" or "study".

    Attributes:
        mask_threshold: on the probability map, in (0, 1).
        temperature: divides the verdict's logits if there is no fusion.
        review: [low, high] band of the probability in which the verdict is "review" if there is no fusion.
        fusion: by mode; empty if mask and verdict are of different entries, because a fusion is fitted on the entry's own mask.
        mask_neighbours: in studies, the standard deviation, in slices, of the Gaussian that smooths the logits of the mask's
            probabilities across slices, voxel by voxel; 0 for no smoothing.
        sequences: rules that replace threshold and fusion for the slices of a sequence (`brainmri.zoo.attributes.SEQUENCES`), and
            for `UNKNOWN`; empty where one set of rules holds for every input.
        evaluated_on: without `sequences`, the sequences that both models were trained and evaluated on; None for any.
    """

    mask_threshold: float = 0.5
    temperature: float = 1.0
    review: tuple[float, float] = (0.5, 0.5)
    fusion: dict[str, Fusion] = field(default_factory=dict)
    mask_neighbours: float = 0.0
    sequences: dict[str, SequenceRules] = field(default_factory=dict)
    evaluated_on: frozenset[str] | None = None

    def for_sequence(self, sequence: str | None) -> Rules:
        """The rules for a sequence; those for `UNKNOWN` where it has none of its own."""
        if not self.sequences:
            return self
        chosen = self.sequences.get(sequence or UNKNOWN, self.sequences[UNKNOWN])
        return replace(self, mask_threshold=chosen.mask_threshold, fusion=chosen.fusion)

    def was_evaluated_on(self, sequence: str | None) -> bool:
        """Whether verdicts for this sequence were evaluated on slices with tumour; without a sequence, on any."""
        known = frozenset(self.sequences) or self.evaluated_on
        return known is None or (bool(known) if sequence is None else sequence in known)

    def maps(self, maps: np.ndarray, mode: str) -> np.ndarray:
        """(S, H, W) probability maps of a network to the maps that are thresholded."""
        return smooth_maps(maps, self.mask_neighbours) if mode == "study" else maps

    def probability(self, logits: np.ndarray, evidence: np.ndarray | None, mode: str) -> np.ndarray:
        """(S,) logits and evidence of slices in order along the head to (S,) calibrated probabilities of tumour."""
        fusion = self.fusion.get(mode)
        if fusion is None:
            return sigmoid(logits / self.temperature)
        if evidence is None:
            raise ValueError("expected the mask's evidence, which the fusion needs, got none")
        return fusion.probability(logits, evidence)

    def band(self, mode: str) -> tuple[float, float]:
        """[low, high] in which the verdict is "review"."""
        return self.fusion[mode].review if mode in self.fusion else self.review

    def config(self, mode: str) -> dict:
        """The calibration, for a finding's provenance."""
        known: dict = self.fusion[mode].config() if mode in self.fusion else {"temperature": self.temperature}
        known |= {"review": list(self.band(mode)), "mask_threshold": self.mask_threshold}
        if mode == "study":
            known["mask_neighbours"] = self.mask_neighbours
        if self.sequences:
            known["sequences"] = {name: one.config() for name, one in self.sequences.items()}
        return known


def evidence(grid_maps: Tensor) -> np.ndarray:
    """Evidence of a tumour in the mask: (S, 1, h, w) maps on the network's grid to (S,) float64, log(1 + summed probability)."""
    return np.log1p(grid_maps.sum(dim=(1, 2, 3)).double().numpy())


def smooth_across_slices(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing along the first axis, the slices; the end slices are repeated beyond the ends."""
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(values, sigma, axis=0, mode="nearest") if sigma else values


def smooth_maps(maps: np.ndarray, sigma: float) -> np.ndarray:
    """(S, H, W) float32 probabilities, smoothed across slices as logits, so that confident slices outweigh uncertain ones."""
    if not sigma:
        return maps
    clipped = np.clip(maps, 1e-6, 1 - 1e-6)
    return sigmoid(smooth_across_slices(np.log(clipped / (1 - clipped)), sigma)).astype(np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logits to probabilities, without overflow."""
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
