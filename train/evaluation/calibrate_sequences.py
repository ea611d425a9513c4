"""Fit mask threshold, fusion and review band for each MR sequence, on slices that were not used for training.

The training pictures of a sequence hold mostly tumours or mostly none, depending on the hospital they come from. So slices with
and without tumour weigh the same here, within each sequence: a probability of 50% means that a slice looks equally like both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.linear_model import LogisticRegression

from brainmri.analysis.decision import MIN_AREA
from brainmri.zoo.attributes import FLAIR, T1, T1C, THREE_SEQUENCES
from brainmri.zoo.calibration import UNKNOWN, Fusion, Rules, SequenceRules, smooth_across_slices
from train.evaluation.calibrate import NEIGHBOURS, choose_review_band, choose_threshold
from train.evaluation.inputs import Measured, nearest_threshold
from train.mix import AXIAL

SEQUENCES_WITH_TUMOURS = (FLAIR, T1, T1C, THREE_SEQUENCES)  # of the datasets
SINGLE = (FLAIR, T1, T1C)  # what an unrecognised single sequence can be


def fit_sequence_rules(measured: list[Measured]) -> dict[str, SequenceRules]:
    """Rules for each of `SEQUENCES_WITH_TUMOURS` that has slices with and without tumour, and for `UNKNOWN`."""
    fitted = {}
    for name in (*SEQUENCES_WITH_TUMOURS, UNKNOWN):
        part = [one for one in measured if (one.sequence in SINGLE if name == UNKNOWN else one.sequence == name)]
        if len({one.tumour for one in part}) == 2:
            fitted[name] = fit_one_sequence(part)
    return fitted


def fit_one_sequence(measured: list[Measured]) -> SequenceRules:
    """Rules for slices of one sequence."""
    threshold = choose_threshold(np.stack(dice_by_group(measured)))
    return SequenceRules(
        mask_threshold=threshold,
        fusion={"slice": fit_fusion(measured, threshold), "study": fit_study_fusion(measured, threshold)},
    )


def dice_by_group(measured: list[Measured]) -> list[np.ndarray]:
    """For each group with tumours its Dice at each of `THRESHOLDS`, over all its pixels together."""
    groups: dict[tuple[str, str, bool], list[Measured]] = {}
    for one in measured:
        groups.setdefault((one.dataset, one.group, one.plane == "axial"), []).append(one)
    scores = []
    for part in groups.values():
        true = sum(one.annotated for one in part)
        if true:
            outlined, overlap = (np.sum([getattr(one, name) for one in part], axis=0) for name in ("outlined", "overlap"))
            scores.append(2 * overlap / (outlined + true))
    return scores


def fit_fusion(measured: list[Measured], threshold: float, neighbours: float = 0.0, smoothed: np.ndarray | None = None) -> Fusion:
    """A logistic regression on logit and evidence, and the review band.

    Args:
        measured: the slices.
        threshold: of the mask.
        neighbours: recorded in the fusion.
        smoothed: (n, 2) logit and evidence, where they differ from the slices' own.
    """
    tumour = np.array([one.tumour for one in measured])
    numbers = np.array([(one.logit, one.evidence) for one in measured]) if smoothed is None else smoothed
    regression = LogisticRegression(C=1e3, class_weight="balanced").fit(numbers, tumour)  # all but unregularised
    (logit, weight), (bias,) = regression.coef_[0].tolist(), np.asarray(regression.intercept_).tolist()
    fusion = Fusion(logit=logit, evidence=weight, bias=bias, review=(0.5, 0.5), neighbours=neighbours)
    probability = replace(fusion, neighbours=0.0).probability(*numbers.T)
    areas = np.array([one.outlined[nearest_threshold(threshold)] * one.grid_share for one in measured])
    balanced = balance(tumour)
    return replace(fusion, review=choose_review_band(probability[balanced], tumour[balanced], areas[balanced] >= MIN_AREA))


def fit_study_fusion(measured: list[Measured], threshold: float) -> Fusion:
    """The fusion for studies, on the patients' axial slices in order along the head; the pictures are no volumes."""
    volumes: dict[tuple[str, str], list[Measured]] = {}
    for one in measured:
        if one.dataset == AXIAL and one.plane == "axial":
            volumes.setdefault((one.group, one.sequence), []).append(one)
    if not volumes:
        return fit_fusion(measured, threshold, NEIGHBOURS)
    ordered = [one for part in volumes.values() for one in part]
    smoothed = np.concatenate([
        smooth_across_slices(np.array([(one.logit, one.evidence) for one in part]), NEIGHBOURS) for part in volumes.values()
    ])  # fmt: skip
    return fit_fusion(ordered, threshold, NEIGHBOURS, smoothed)


def balance(tumour: np.ndarray) -> np.ndarray:
    """Indices that repeat the rarer class until both are about equally many."""
    positive, negative = np.flatnonzero(tumour), np.flatnonzero(~tumour)
    most = max(len(positive), len(negative))
    return np.concatenate([np.resize(positive, most), np.resize(negative, most)])


def cross_fit(measured: list[Measured], base: Rules) -> tuple[dict[str, Rules], Rules]:
    """For each group the rules fitted on the other half of the groups, and the rules fitted on all of them.

    Args:
        measured: the slices.
        base: whose smoothing of masks is kept.
    """
    groups = sorted({one.group for one in measured})
    halves = [set(groups[::2]), set(groups[1::2])]
    rules = [replace(base, sequences=fit_sequence_rules([one for one in measured if one.group not in half])) for half in halves]
    each = {group: rules[number] for number, half in enumerate(halves) for group in half}
    return each, replace(base, sequences=fit_sequence_rules(measured))
