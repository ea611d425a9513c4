"""Fit what turns logits and masks into probabilities and three-state verdicts, on patients that the networks never saw."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression

from brainmri.analysis.findings import MIN_AREA
from brainmri.analysis.pipeline import judge
from brainmri.zoo.calibration import Fusion, Rules, along_head, smooth_maps
from train.evaluation.metrics import dice
from train.evaluation.predictions import as_prediction

REVIEW_ERROR = 0.01  # the verdict may be wrong on this share of the slices it decides
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
    """The band outside of which most slices are decided while at most `REVIEW_ERROR` of them are called wrongly.

    The widest there is, when none keeps to that.

    Args:
        outlined: whether the mask found something; where it contradicts the probability, a slice is not decided either.
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


def dice_by_threshold(rows: list[dict]) -> np.ndarray:
    """A patient's volumetric Dice at each of `THRESHOLDS`, of maps smoothed as in a study; islands stay."""
    maps = smooth_maps(as_prediction(rows).maps, MASK_NEIGHBOURS)
    truth = np.stack([row["mask"] for row in rows])
    return np.array([dice(maps > threshold, truth) for threshold in THRESHOLDS])


def choose_threshold(reached: np.ndarray) -> float:
    """Of `THRESHOLDS` the one nearest to 0.5 that is within one standard error of the best (Breiman et al. 1984).

    The curve is flat around its top, and where in it the top lies is mostly a matter of which patients were asked.

    Args:
        reached: (patients, thresholds), `dice_by_threshold` of each.
    """
    lost = reached[:, [reached.mean(axis=0).argmax()]] - reached
    error = lost.std(axis=0) / np.sqrt(len(reached))  # of the patients' differences from the best, not of their Dice
    good = [threshold for threshold, within in zip(THRESHOLDS, lost.mean(axis=0) <= error + 1e-9, strict=True) if within]
    return min(good, key=lambda threshold: abs(threshold - 0.5))


def fit_rules(patients: list[list[dict]], rules: Rules, fused: bool) -> Rules:
    """The rules with temperature and review band, and where mask and verdict are one entry's with fusions, fitted on patients.

    Args:
        patients: each one's rows, as `predict_case` gives them, in order along the head.
        rules: with what to keep for the mask.
        fused: whether the rows' masks and verdicts are one entry's.
    """
    tumour = np.concatenate([[row["tumour"] for row in rows] for rows in patients])
    logits = [np.array([row["logit"] for row in rows]) for rows in patients]
    temperature = fit_temperature(np.concatenate(logits), tumour)
    fitted = replace(rules, temperature=temperature, fusion={})
    probability = fitted.probability(np.concatenate(logits), None, "slice")
    fitted = replace(fitted, review=choose_review_band(probability, tumour))
    if not fused:
        return fitted
    said = [as_prediction(rows) for rows in patients]
    for mode, sigma in (("slice", 0.0), ("study", NEIGHBOURS)):
        numbers = np.concatenate(
            [np.stack([along_head(values, sigma) for values in (one.logits, one.evidence)], axis=1) for one in said]
        )  # (slices, 2)
        regression = LogisticRegression(C=1e3).fit(numbers, tumour)  # all but unregularised
        (logit, weight), (bias,) = regression.coef_[0].tolist(), regression.intercept_.tolist()
        fusion = Fusion(logit=logit, evidence=weight, bias=bias, review=(0.5, 0.5), neighbours=sigma)
        fitted = replace(fitted, fusion=fitted.fusion | {mode: fusion})
        judged = [judge(one, fitted, mode) for one in said]
        shares = np.concatenate([[row["grid_share"] for row in rows] for rows in patients])
        areas = np.concatenate([one.masks.sum(axis=(1, 2)) for one in judged]) * shares
        probability = np.concatenate([one.probabilities for one in judged])
        review = choose_review_band(probability, tumour, areas >= MIN_AREA)
        fitted = replace(fitted, fusion=fitted.fusion | {mode: replace(fusion, review=review)})
    return fitted


def cross_fitted(parts: list[list[list[dict]]], rules: Rules, fused: bool) -> tuple[list[Rules], Rules]:
    """For each part the rules that fit the other parts' patients (a single part's, its own), and those that fit all of them.

    The mask threshold is chosen by several parts only.

    Args:
        parts: each one's patients' rows: folds, or patients one by one.
    """
    reached = []
    if "map" in parts[0][0][0]:
        rules = replace(rules, mask_neighbours=MASK_NEIGHBOURS)
        reached = [np.stack([dice_by_threshold(rows) for rows in part]) for part in parts] if len(parts) > 1 else []

    def fitted_on(chosen: list[int]) -> Rules:
        began = rules
        if reached:
            began = replace(rules, mask_threshold=choose_threshold(np.concatenate([reached[number] for number in chosen])))
        patients = [rows for number in chosen for rows in parts[number]]
        return fit_rules(patients, began, fused) if "logit" in patients[0][0] else began

    everything = list(range(len(parts)))
    others = [[number for number in everything if number != left_out] or everything for left_out in everything]
    return [fitted_on(chosen) for chosen in others], fitted_on(everything)
