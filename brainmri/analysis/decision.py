"""Apply the rules of an entry to predictions: thresholds, calibration and three-state verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brainmri.analysis.findings import NO_TUMOUR, REVIEW, TUMOUR, count, percent, ranges
from brainmri.analysis.forward import Prediction
from brainmri.analysis.lesions import without_islands
from brainmri.zoo.calibration import Rules
from brainmri.zoo.ood import OodResult

# masks with fewer pixels than this on the network's grid count as empty
MIN_AREA = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceDecisions:
    """A prediction of mask and verdict under the rules.

    Attributes:
        maps: (S, H, W) float32 in [0, 1].
        masks: (S, H, W) bool.
        probabilities: (S,) float64, calibrated, of tumour.
        verdicts: for each slice the verdict and its reason.
        ood: the out-of-distribution check of each slice; None without a detector.
    """

    maps: np.ndarray
    masks: np.ndarray
    probabilities: np.ndarray
    verdicts: list[tuple[str, str]]
    ood: list[OodResult | None]


def outline(maps: np.ndarray, rules: Rules, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """(S, H, W) probability maps to the maps that are thresholded, and the masks, in a "study" without small islands."""
    maps = rules.maps(maps, mode)
    masks = maps > rules.mask_threshold
    return maps, without_islands(masks) if mode == "study" else masks


def decide_slices(predicted: Prediction, rules: Rules, mode: str) -> SliceDecisions:
    """Apply the rules to a prediction of mask and verdict: of slices one by one ("slice"), or as one "study".

    In a study, predictions are smoothed across neighbouring slices where the entry's rules say so, and small islands of the mask
    are dropped. Slices that the out-of-distribution check rejects are for review.

    Raises:
        ValueError: for a prediction without mask or without verdict.
    """
    if predicted.maps is None or predicted.logits is None or predicted.grid_share is None:
        raise ValueError("expected a prediction of mask and verdict, got one without; run a segmenter and a classifier")
    maps, masks = outline(predicted.maps, rules, mode)
    probabilities = rules.probability(predicted.logits, predicted.evidence, mode)
    areas = masks.sum(axis=(1, 2)) * predicted.grid_share
    checks: list[OodResult | None] = [*predicted.ood] if predicted.ood else [None] * len(masks)
    verdicts = [
        (REVIEW, check.reason) if check and check.reason else decide_slice(float(p), float(area), rules.band(mode))
        for check, p, area in zip(checks, probabilities, areas, strict=True)
    ]
    return SliceDecisions(maps=maps, masks=masks, probabilities=probabilities, verdicts=verdicts, ood=checks)


def decide_slice(probability: float, area_on_grid: float, review: tuple[float, float]) -> tuple[str, str]:
    """Join the classifier's probability and the segmenter's mask to a three-state verdict.

    Args:
        probability: calibrated, in [0, 1].
        area_on_grid: mask pixels, counted on the network's grid so that the upload's resolution does not matter.
        review: [low, high] band of probability, chosen on validation patients, that is too uncertain to decide.

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


def decide_study(
    verdicts: list[str], out_of_distribution: Sequence[int] = (), analysed: int | None = None
) -> tuple[str, str, tuple[int, ...]]:
    """Join the verdicts of a study's slices, in order along the head, to one.

    A tumour extends over neighbouring slices. A single slice called tumour therefore makes the study "review", and a single
    undecided slice does not count. Out-of-distribution slices do not count either; a study with a majority of them is for review.

    Args:
        out_of_distribution: the slices, from 0, that do not look like axial brain MR slices.
        analysed: the number of slices with a head; all of them when None.

    Returns:
        The verdict, its reason, and the slices, from 0, that it rests on.
    """
    if 2 * len(out_of_distribution) > (len(verdicts) if analysed is None else analysed):
        which = f"{len(out_of_distribution)} of {count(len(verdicts), 'slice')}: {ranges(out_of_distribution)}"
        return REVIEW, f"Most of this does not look like axial brain MR slices ({which}).", tuple(out_of_distribution)
    tumour = [number for number, verdict in enumerate(verdicts) if verdict == TUMOUR and number not in out_of_distribution]
    doubtful = [number for number, verdict in enumerate(verdicts) if verdict == REVIEW and number not in out_of_distribution]
    if any(number + 1 in tumour for number in tumour) or len(verdicts) == len(tumour) == 1:
        return TUMOUR, f"{count(len(tumour), 'slice')} of {len(verdicts)} show a tumour: {ranges(tumour)}.", tuple(tumour)
    together = any(number + 1 in doubtful for number in doubtful) or len(verdicts) == len(doubtful) == 1
    if not tumour and not together:
        alone = f" Doubtful, each alone: {ranges(doubtful)}." if doubtful else ""
        return NO_TUMOUR, f"None of {count(len(verdicts), 'slice')} shows a tumour.{alone}", ()
    if tumour:
        apart = f"Slices show a tumour, but no two that are neighbours: {ranges(tumour)}."
        return REVIEW, apart, tuple(sorted(tumour + doubtful))
    return REVIEW, f"No slice shows a tumour for certain; undecided: {ranges(doubtful)}.", tuple(doubtful)
