"""The typed results, and the rules that make a verdict of a probability and a mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TUMOUR, NO_TUMOUR, REVIEW = VERDICTS = ("tumour", "no tumour", "review")
# a mask below this many pixels on the network's own grid is taken for nothing found
MIN_AREA = 12


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found in one slice.

    Attributes:
        verdict: "tumour", "no tumour" or "review".
        reason: one plain sentence on why the verdict is what it is.
        probability: calibrated probability that the slice shows tumour, in [0, 1].
        mask: (H, W) bool, on the input's own grid.
        probability_map: (H, W) float32 in [0, 1], on the input's own grid; `mask` is this above the threshold.
        area_px: pixels in `mask`.
        warnings: what the reader assumed and the user should know.
        provenance: input SHA-256, model names and weight SHA-256, thresholds, versions, device.
    """

    verdict: str
    reason: str
    probability: float
    mask: np.ndarray
    probability_map: np.ndarray
    area_px: int
    warnings: tuple[str, ...]
    provenance: dict

    def record(self) -> dict:
        """The finding without its arrays, ready for JSON."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "probability": round(self.probability, 6),
            "area_px": self.area_px,
            "height": int(self.mask.shape[0]),
            "width": int(self.mask.shape[1]),
            "warnings": list(self.warnings),
            "provenance": self.provenance,
            "notice": "Research demo, not a medical device.",
        }


@dataclass(frozen=True, kw_only=True)
class Study:
    """What was found in a study.

    Attributes:
        findings: one a slice, in order along the head.
        mask: (S, H, W) bool.
        probability_map: (S, H, W) float32 in [0, 1].
    """

    findings: tuple[Finding, ...]
    mask: np.ndarray
    probability_map: np.ndarray


def percent(probability: float) -> str:
    """Whole percent, without claiming certainty at the ends."""
    if probability > 0.995:
        return "over 99 %"
    return "under 1 %" if probability < 0.005 else f"{100 * probability:.0f} %"


def decide(probability: float, area_on_grid: float, review: tuple[float, float]) -> tuple[str, str]:
    """Join the classifier's probability and the segmenter's mask to a three-state verdict.

    Args:
        probability: calibrated, in [0, 1].
        area_on_grid: mask pixels, counted on the network's grid so that the upload's resolution does not matter.
        review: [low, high] band of probability, chosen on validation patients, in which nobody should rely on either.

    Returns:
        The verdict and its reason.
    """
    low, high = review
    shown = percent(probability)
    found = area_on_grid >= MIN_AREA
    if low <= probability <= high and low < high:
        return REVIEW, f"The classifier is undecided ({shown} for tumour)."
    if (probability > high) != found:
        if found:
            return REVIEW, f"The segmenter outlined a region, but the classifier sees no tumour ({shown} for one); they disagree."
        return REVIEW, f"The classifier sees a tumour ({shown}), but the segmenter outlined none; they disagree."
    if found:
        return TUMOUR, f"The classifier sees a tumour ({shown}) and the segmenter outlined it."
    return NO_TUMOUR, f"The classifier sees no tumour ({shown} for one) and the segmenter outlined none."
