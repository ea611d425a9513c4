"""Dice, AUC, calibration and other scores, with their policy for empty masks, and intervals by bootstrap over patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

BINS = 15  # of probability, in the calibration error and the reliability diagram


def dice(predicted: np.ndarray, true: np.ndarray) -> float:
    """The Dice similarity coefficient 2|A and B| / (|A| + |B|) of two boolean arrays of one shape.

    Two empty masks have a Dice of 1; any pixel predicted where none is annotated, 0.
    """
    return dice_of_counts(int(predicted.sum()), int(true.sum()), int((predicted & true).sum()))


def dice_of_counts(predicted: int, true: int, overlap: int) -> float:
    """`dice` from the pixels of each mask and of their overlap, with the same policy for empty masks."""
    return 2 * overlap / (predicted + true) if predicted + true else 1.0


def mean(values: Sequence[float]) -> float:
    """Mean over patients, as a statistic for `with_interval`."""
    return float(np.mean(values))


def pooled_mean(patients: Sequence[Sequence[float]]) -> float:
    """Mean over all patients' values together, as a statistic for `with_interval`."""
    return float(np.mean(np.concatenate(patients)))


def auc(probability: ArrayLike, tumour: ArrayLike) -> float:
    """Area under the ROC curve, by ranks (Mann and Whitney), ties counted half; NaN when one class is missing."""
    positive = np.asarray(tumour, bool)
    positives, negatives = positive.sum(), (~positive).sum()
    if not positives or not negatives:
        return float("nan")
    # not scikit-learn's: its checks take longer than the ranks, and the bootstrap calls this thousands of times
    ranks = np.asarray(rankdata(probability))
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def accuracy(probability: ArrayLike, tumour: ArrayLike) -> float:
    """Share of slices on the right side of 0.5."""
    return float(np.mean((np.asarray(probability) > 0.5) == np.asarray(tumour)))


def sensitivity(probability: ArrayLike, tumour: ArrayLike) -> float:
    """Share of slices with tumour above 0.5; NaN when there is none."""
    called = np.asarray(probability)[np.asarray(tumour, bool)] > 0.5
    return float(called.mean()) if called.size else float("nan")


def specificity(probability: ArrayLike, tumour: ArrayLike) -> float:
    """Share of slices without tumour at or below 0.5; NaN when there is none."""
    called = np.asarray(probability)[~np.asarray(tumour, bool)] <= 0.5
    return float(called.mean()) if called.size else float("nan")


def binned(probability: ArrayLike, tumour: ArrayLike, bins: int) -> np.ndarray:
    """(3, bins): the slices, their summed probability and those with tumour, in each bin of equal width."""
    values = np.asarray(probability, float)
    which = np.minimum((values * bins).astype(int), bins - 1)
    return np.stack([np.bincount(which, weights, bins) for weights in (None, values, np.asarray(tumour, float))])


def expected_calibration_error(probability: ArrayLike, tumour: ArrayLike, bins: int = BINS) -> float:
    """|mean probability - share of tumour| over equal-width bins, weighted by count (Guo et al. 2017, on P(tumour))."""
    slices, predicted, true = binned(probability, tumour, bins)
    return float(np.abs(predicted - true).sum() / slices.sum())


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float], patients: int, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95% percentile interval of a statistic over patients drawn with replacement.

    Args:
        statistic: indices of the drawn patients to a number; resamples that give NaN (one class missing) are left out.
        patients: how many there are.
    """
    generator = np.random.default_rng(seed)
    values = [statistic(generator.integers(patients, size=patients)) for _ in range(resamples)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def with_interval(per_patient: Sequence, statistic: Callable[[list], float]) -> dict:
    """A figure and its 95% interval: {"value": v, "interval_95": [low, high]}.

    Args:
        per_patient: one item a patient.
        statistic: a list of such items to a number.
    """
    low, high = bootstrap_interval(lambda drawn: statistic([per_patient[i] for i in drawn]), len(per_patient))
    return {"value": float(statistic(list(per_patient))), "interval_95": [low, high]}


def reliability(patients: Sequence[np.ndarray], bins: int = BINS) -> list[dict]:
    """The non-empty bins of the reliability diagram, which are those of `expected_calibration_error`.

    Args:
        patients: for each (slices, 2), probability and whether there is a tumour.

    Returns:
        For each bin its `range`, the number of `slices`, their mean `probability`, the share with `tumour` and the `interval_95`
        of that share over patients, where they differ.
    """
    counts = np.stack([binned(patient[:, 0], patient[:, 1], bins) for patient in patients])  # (patients, 3, bins)
    held = np.flatnonzero(counts[:, 0].sum(axis=0)).tolist()
    return [{"range": [number / bins, (number + 1) / bins], **_bin(counts[:, :, number])} for number in held]


def _bin(counts: np.ndarray) -> dict:
    """A bin of `reliability`, from (patients, 3): slices, their summed probability, those with tumour."""
    slices, predicted, true = counts.sum(axis=0).tolist()

    def share(drawn: np.ndarray) -> float:
        slices, _, true = counts[drawn].sum(axis=0).tolist()
        return true / slices if slices else float("nan")

    low, high = bootstrap_interval(share, len(counts))
    interval = {"interval_95": [low, high]} if low < high else {}  # no spread between patients is not certainty
    return {"slices": int(slices), "probability": predicted / slices, "tumour": true / slices, **interval}
