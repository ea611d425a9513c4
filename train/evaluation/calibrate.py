"""Fit the rules that turn logits and maps into probabilities, masks and verdicts, on patients not used for training."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression

from brainmri.analysis.decision import MIN_AREA, decide_slices
from brainmri.zoo.calibration import Fusion, Rules, smooth_across_slices, smooth_maps
from train.evaluation.metrics import dice
from train.evaluation.predictions import SlicePrediction, stack

REVIEW_ERROR = 0.01  # largest share of wrong verdicts among the slices that are not for review
EDGES = (0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1)  # of the review band, from 0 and from 1
THRESHOLDS = tuple(step / 20 for step in range(6, 19))  # of the mask, 0.30 to 0.90
# slices over which a study's verdicts and masks are smoothed along the head; chosen on four folds, see EXPERIMENTS.md
NEIGHBOURS, MASK_NEIGHBOURS = 1.0, 0.5


def fit_temperature(logits: np.ndarray, tumour: np.ndarray) -> float:
    """The temperature (Guo et al. 2017) that minimises the log loss of logits, between 0.2 and 5."""
    sign = np.where(tumour, 1.0, -1.0)
    loss = minimize_scalar(lambda t: np.logaddexp(0, -sign * logits / t).mean(), bounds=(0.2, 5.0), method="bounded")
    return float(loss.x)


def choose_review_band(probability: np.ndarray, tumour: np.ndarray, outlined: np.ndarray | None = None) -> tuple[float, float]:
    """The review band that leaves most slices decided, with at most `REVIEW_ERROR` of these wrong; the widest if none does.

    Args:
        probability: (n,) of tumour.
        tumour: (n,) bool, whether a tumour is annotated.
        outlined: (n,) bool, whether the mask is large enough for a finding; a slice where it contradicts the probability is for
            review too.

    Returns:
        (low, high), rounded to two decimals.
    """
    best, chosen = 0.0, (EDGES[-1], 1 - EDGES[-1])
    for low, above in itertools.product(EDGES, EDGES):
        called = probability > 1 - above
        decided = (probability < low) | called
        if outlined is not None:
            decided &= called == outlined
        share = decided.mean()
        if share > best and (called != tumour)[decided].mean() <= REVIEW_ERROR:
            best, chosen = share, (low, 1 - above)
    return round(chosen[0], 2), round(chosen[1], 2)


def dice_by_threshold(predictions: list[SlicePrediction]) -> np.ndarray:
    """A patient's volumetric Dice at each of `THRESHOLDS`, with maps smoothed as in a study; small islands are kept."""
    maps = stack(predictions).maps
    if maps is None:
        raise ValueError("expected predictions with maps, got none; give a segmenter")
    maps = smooth_maps(maps, MASK_NEIGHBOURS)
    truth = np.stack([one.annotation for one in predictions])
    return np.array([dice(maps > threshold, truth) for threshold in THRESHOLDS])


def choose_threshold(scores: np.ndarray) -> float:
    """Of `THRESHOLDS` the one nearest to 0.5 that is within one standard error of the best (Breiman et al. 1984).

    The curve is flat around its maximum, so the position of the maximum depends mostly on the sample of patients.

    Args:
        scores: (patients, thresholds), `dice_by_threshold` of each.
    """
    lost = scores[:, [scores.mean(axis=0).argmax()]] - scores
    error = lost.std(axis=0) / np.sqrt(len(scores))  # of the patients' differences from the best, not of their Dice
    good = [threshold for threshold, within in zip(THRESHOLDS, lost.mean(axis=0) <= error + 1e-9, strict=True) if within]
    return min(good, key=lambda threshold: abs(threshold - 0.5))


def fit_rules(patients: list[list[SlicePrediction]], rules: Rules, fused: bool) -> Rules:
    """The rules with temperature and review band fitted, and with fusions where mask and verdict are one entry's.

    Args:
        patients: each one's predictions, as `predict_case` returns them, in order along the head.
        rules: whose settings for the mask are kept.
        fused: whether the mask and the verdict are one entry's.

    Raises:
        ValueError: when the slices are all with tumour, or all without.
    """
    tumour = np.array([one.tumour for predictions in patients for one in predictions])
    if len(set(tumour.tolist())) < 2:
        raise ValueError(
            "expected validation patients with slices with and without tumour, to calibrate the verdict, got only one kind; "
            "validate on more patients by fewer --folds"
        )
    logits = np.array([one.logit for predictions in patients for one in predictions])
    fitted = replace(rules, temperature=fit_temperature(logits, tumour), fusion={})
    fitted = replace(fitted, review=choose_review_band(fitted.probability(logits, None, "slice"), tumour))
    if fused:
        for mode, sigma in (("slice", 0.0), ("study", NEIGHBOURS)):
            fitted = _fit_fusion(patients, tumour, fitted, mode, sigma)
    return fitted


def _fit_fusion(patients: list[list[SlicePrediction]], tumour: np.ndarray, rules: Rules, mode: str, sigma: float) -> Rules:
    """The rules with a fusion for one mode: a logistic regression on logit and evidence, and a review band."""
    stacked = [stack(predictions) for predictions in patients]
    numbers = np.concatenate(
        [
            np.stack([smooth_across_slices(np.asarray(values), sigma) for values in (one.logits, one.evidence)], axis=1)
            for one in stacked
        ]
    )  # (slices, 2)
    regression = LogisticRegression(C=1e3).fit(numbers, tumour)  # all but unregularised
    (logit, weight), (bias,) = regression.coef_[0].tolist(), np.asarray(regression.intercept_).tolist()
    fusion = Fusion(logit=logit, evidence=weight, bias=bias, review=(0.5, 0.5), neighbours=sigma)
    fitted = replace(rules, fusion=rules.fusion | {mode: fusion})
    decisions = [decide_slices(one, fitted, mode) for one in stacked]
    shares = np.array([one.grid_share for predictions in patients for one in predictions])
    areas = np.concatenate([one.masks.sum(axis=(1, 2)) for one in decisions]) * shares
    probability = np.concatenate([one.probabilities for one in decisions])
    review = choose_review_band(probability, tumour, areas >= MIN_AREA)
    return replace(fitted, fusion=fitted.fusion | {mode: replace(fusion, review=review)})


def cross_fitted(parts: list[list[list[SlicePrediction]]], rules: Rules, fused: bool) -> tuple[list[Rules], Rules]:
    """For each part the rules fitted on the other parts' patients (a single part's, on its own), and rules fitted on all of them.

    The mask threshold is chosen only where there are several parts.

    Args:
        parts: folds of patients, or patients one by one; each patient's predictions as `predict_case` returns them.
        rules: the entry's, with which fitting starts.
        fused: whether the mask and the verdict are one entry's.
    """
    first = parts[0][0][0]
    scores: list[np.ndarray] = []
    if first.map is not None:
        rules = replace(rules, mask_neighbours=MASK_NEIGHBOURS)
        if len(parts) > 1:
            scores = [np.stack([dice_by_threshold(predictions) for predictions in part]) for part in parts]

    def fitted_on(chosen: list[int]) -> Rules:
        start = rules
        if scores:
            start = replace(rules, mask_threshold=choose_threshold(np.concatenate([scores[number] for number in chosen])))
        patients = [predictions for number in chosen for predictions in parts[number]]
        if len({one.tumour for predictions in patients for one in predictions}) < 2:  # too few patients to leave some out
            patients = [predictions for part in parts for predictions in part]
        return fit_rules(patients, start, fused) if first.logit is not None else start

    every = list(range(len(parts)))
    others = [[number for number in every if number != left_out] or every for left_out in every]
    return [fitted_on(chosen) for chosen in others], fitted_on(every)
