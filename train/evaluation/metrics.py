"""Figures of merit, each with its empty-mask policy said, and intervals by bootstrap over patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import rankdata

BINS = 15  # of probability, in the calibration error and the reliability diagram


def dice(predicted: np.ndarray, true: np.ndarray) -> float:
    """The Dice similarity coefficient 2|A and B| / (|A| + |B|) of two boolean arrays of one shape.

    Two empty masks agree wholly (1.0); a false alarm on an empty one costs all (0.0).
    """
    return dice_of_counts(int(predicted.sum()), int(true.sum()), int((predicted & true).sum()))


def dice_of_counts(predicted: int, true: int, both: int) -> float:
    """The Dice of `dice`, empty masks and all, from the pixels of each mask and of their overlap."""
    return 2 * both / (predicted + true) if predicted + true else 1.0


def auc(probability: Sequence[float], tumour: Sequence[int]) -> float:
    """Area under the ROC curve, by ranks (Mann and Whitney), ties counted half; NaN when one class is missing."""
    tumour = np.asarray(tumour, bool)
    ill, healthy = tumour.sum(), (~tumour).sum()
    if not ill or not healthy:
        return float("nan")
    # scikit-learn's checks take longer than the ranks, and the bootstrap asks thousands of times
    return float((rankdata(probability)[tumour].sum() - ill * (ill + 1) / 2) / (ill * healthy))


def accuracy(probability: Sequence[float], tumour: Sequence[int]) -> float:
    """Share of slices that fall on the right side of 0.5."""
    return float(np.mean((np.asarray(probability) > 0.5) == np.asarray(tumour)))


def sensitivity(probability: Sequence[float], tumour: Sequence[int]) -> float:
    """Share of slices with tumour above 0.5; NaN when there is none."""
    called = np.asarray(probability)[np.asarray(tumour, bool)] > 0.5
    return float(called.mean()) if called.size else float("nan")


def specificity(probability: Sequence[float], tumour: Sequence[int]) -> float:
    """Share of slices without tumour at or below 0.5; NaN when there is none."""
    called = np.asarray(probability)[~np.asarray(tumour, bool)] <= 0.5
    return float(called.mean()) if called.size else float("nan")


def binned(probability: Sequence[float], tumour: Sequence[int], bins: int) -> np.ndarray:
    """(3, bins): the slices, their summed probability and those with tumour, in each of so many bins of equal width."""
    probability = np.asarray(probability, float)
    which = np.minimum((probability * bins).astype(int), bins - 1)
    return np.stack([np.bincount(which, weights, bins) for weights in (None, probability, np.asarray(tumour, float))])


def expected_calibration_error(probability: Sequence[float], tumour: Sequence[int], bins: int = BINS) -> float:
    """|mean probability - share of tumour| over equal-width bins, weighted by count (Guo et al. 2017, on P(tumour))."""
    slices, said, true = binned(probability, tumour, bins)
    return float(np.abs(said - true).sum() / slices.sum())


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float], patients: int, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic over patients drawn with replacement.

    Args:
        statistic: indices of the drawn patients to a figure; NaN resamples (one class missing) are left out.
    """
    generator = np.random.default_rng(seed)
    values = [statistic(generator.integers(patients, size=patients)) for _ in range(resamples)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def with_interval(per_patient: Sequence, statistic: Callable[[list], float]) -> dict:
    """A figure and its 95 % interval: {"value": v, "interval_95": [low, high]}.

    Args:
        per_patient: whatever each patient gives.
        statistic: a list of patients' values to a number.
    """
    low, high = bootstrap_interval(lambda drawn: statistic([per_patient[i] for i in drawn]), len(per_patient))
    return {"value": float(statistic(per_patient)), "interval_95": [low, high]}


def reliability(patients: Sequence[np.ndarray], bins: int = BINS) -> list[dict]:
    """The bins of the reliability diagram, those of `expected_calibration_error`, that hold a slice.

    Args:
        patients: for each (slices, 2), probability and whether there is a tumour.

    Returns:
        For each bin its `range`, how many `slices` it holds, their mean `probability`, the share with `tumour` and the
        `interval_95` of that over patients, where they differ.
    """
    counts = np.stack([binned(*patient.T, bins) for patient in patients])  # (patients, 3, bins)
    held = np.flatnonzero(counts[:, 0].sum(axis=0)).tolist()
    return [{"range": [number / bins, (number + 1) / bins], **_bin(counts[:, :, number])} for number in held]


def _bin(counts: np.ndarray) -> dict:
    """What `reliability` tells of a bin, from (patients, 3): slices, their summed probability, those with tumour."""
    slices, said, true = counts.sum(axis=0).tolist()

    def share(drawn: np.ndarray) -> float:
        slices, _, true = counts[drawn].sum(axis=0).tolist()
        return true / slices if slices else float("nan")

    low, high = bootstrap_interval(share, len(counts))
    interval = {"interval_95": [low, high]} if low < high else {}  # where all agree it would be called certain
    return {"slices": int(slices), "probability": said / slices, "tumour": true / slices, **interval}
