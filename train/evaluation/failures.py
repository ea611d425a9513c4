"""Failure analysis: figures by group, the worst patients, whole studies, and runs of slices without tumour.

Everything comes from the predictions of `train.evaluation.predictions.predict_case`; nothing is predicted again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from brainmri.analysis.decision import decide_slices, decide_study, outline
from brainmri.analysis.findings import NO_TUMOUR, REVIEW, TUMOUR
from brainmri.report.metric_tables import MIN_DISTANCE, MIN_LENGTH
from brainmri.zoo.metrics import (
    ACCURACY,
    CALLED_NO_TUMOUR,
    CALLED_TUMOUR,
    RUNS,
    SENSITIVITY,
    SLICE_DICE,
    SPECIFICITY,
    STUDIES,
    STUDY_DICE,
    STUDY_GAIN,
    TO_REVIEW,
    TUMOUR_FREE_RUNS,
    VOLUMETRIC_DICE,
    share_metric,
)
from train.datasets import Dataset
from train.evaluation.metrics import accuracy, dice, dice_of_counts, mean, pooled_mean, sensitivity, specificity, with_interval
from train.evaluation.predictions import SlicePrediction, stack

CALLED = {TUMOUR: CALLED_TUMOUR, REVIEW: TO_REVIEW, NO_TUMOUR: CALLED_NO_TUMOUR}  # verdict to the words of a metric's id
WORST = 10  # patients listed


@dataclass(frozen=True, kw_only=True)
class Tally:
    """A slice's counts.

    Attributes:
        true: annotated pixels.
        predicted: pixels in the mask; None without a segmenter.
        overlap: pixels in both; None without a segmenter.
        probability: of tumour, calibrated; None without a classifier.
    """

    true: int
    predicted: int | None = None
    overlap: int | None = None
    probability: float | None = None


def tally(prediction: SlicePrediction) -> Tally:
    """The counts of a slice."""
    true, probability = int(prediction.annotation.sum()), prediction.probability
    if prediction.map is None:
        return Tally(true=true, probability=probability)
    mask = prediction.mask
    overlap = int((mask & prediction.annotation).sum())
    return Tally(true=true, predicted=int(mask.sum()), overlap=overlap, probability=probability)


def total(slices: Sequence[Tally]) -> tuple[int, int, int]:
    """A patient's annotated, predicted and shared pixels over all slices."""
    return sum(s.true for s in slices), sum(s.predicted or 0 for s in slices), sum(s.overlap or 0 for s in slices)


def _dice(slices: Sequence[Tally]) -> float:
    true, predicted, overlap = total(slices)
    return dice_of_counts(predicted, true, overlap)


def by_institution(dataset: Dataset, patients: dict[str, list[Tally]]) -> dict[str, list[list[Tally]]]:
    """The patients of each institution, by its name."""
    groups: dict[str, list] = {}
    for case in sorted(patients):
        groups.setdefault(f"institution {dataset.institution_of(case)}", []).append(patients[case])
    return groups


def by_tumour_size(patients: dict[str, list[Tally]]) -> dict[str, list[list[Tally]]]:
    """Three groups of nearly as many patients each, by tumour pixels over all slices, each named by its smallest and largest."""

    def pixels(slices: list[Tally]) -> int:
        return sum(s.true for s in slices)

    ordered = sorted(patients.values(), key=pixels)
    groups = {}
    for part in np.array_split(np.arange(len(ordered)), 3):
        if len(part):  # fewer than three patients don't fill three groups
            group = [ordered[i] for i in part]
            groups[f"tumour of {pixels(group[0]):,} to {pixels(group[-1]):,} pixels"] = group
    return groups


def by_position(patients: dict[str, list[Tally]]) -> dict[str, list[list[Tally]]]:
    """Each patient's slices, in order from the neck upwards, in thirds."""
    return {
        f"{name} third of the slices": [
            [s for i, s in enumerate(slices) if 3 * i // len(slices) == third] for slices in patients.values()
        ]
        for third, name in enumerate(("lower", "middle", "upper"))
    }


def _figure(per_patient: list, statistic: Callable[[list], float]) -> dict:
    """`with_interval`, but only the value for a single patient, who shows no spread."""
    return with_interval(per_patient, statistic) if len(per_patient) > 1 else {"value": float(statistic(per_patient))}


def group_figures(patients: list[list[Tally]], volumes: bool = True) -> dict:
    """The group's counts and the figures that its slices allow, by metric id.

    Args:
        patients: the group's slices of each patient.
        volumes: whether these are all of a patient's slices, and so have a volumetric Dice.
    """
    slices = [s for patient in patients for s in patient]
    figures: dict = {"patients": len(patients), "slices": len(slices)}
    if slices and slices[0].predicted is not None:
        if volumes:
            figures[VOLUMETRIC_DICE] = _figure([_dice(patient) for patient in patients], mean)
        by_slice = [[_dice([s]) for s in patient if s.true] for patient in patients]
        if with_tumour := [values for values in by_slice if values]:
            figures[SLICE_DICE] = _figure(with_tumour, pooled_mean)
    if slices and slices[0].probability is not None:
        tumour, probabilities = [s.true > 0 for s in slices], np.array([s.probability for s in slices])
        for metric, function, defined in (
            (ACCURACY, accuracy, True),
            (SENSITIVITY, sensitivity, any(tumour)),
            (SPECIFICITY, specificity, not all(tumour)),
        ):
            if defined:
                figures[metric] = {"value": function(probabilities, tumour)}
    return figures


def worst(patients: dict[str, list[Tally]]) -> list[dict]:
    """The `WORST` patients by volumetric Dice, the worst first, with their pixels."""
    ordered = sorted(patients, key=lambda case: (_dice(patients[case]), case))[:WORST]
    rows = []
    for case in ordered:
        true, predicted, overlap = total(patients[case])
        pixels = {"true_pixels": true, "predicted_pixels": predicted, "overlap_pixels": overlap}
        rows.append({"patient": case, VOLUMETRIC_DICE: _dice(patients[case]), **pixels})
    return rows


def apply_study_rules(predictions: list[SlicePrediction]) -> list[SlicePrediction]:
    """Apply the predictions' own rules for studies to all of them together, as `Pipeline.study` does.

    Maps are clipped to the threshold outside the study's mask, so that thresholding them gives this mask.
    """
    rules, verdicts_given = predictions[0].rules, predictions[0].logit is not None
    done = [replace(one, map=None if one.map is None else np.zeros_like(one.map)) for one in predictions]
    if verdicts_given:
        done = [replace(one, probability=0.0, verdict=NO_TUMOUR) for one in done]
    places = [place for place, one in enumerate(predictions) if one.head]
    if not places:
        return done
    predicted, mode = stack([predictions[place] for place in places]), "study" if len(predictions) > 1 else "slice"
    decisions = decide_slices(predicted, rules, mode) if verdicts_given else None
    maps, masks = (decisions.maps, decisions.masks) if decisions else outline(_maps(predicted.maps), rules, mode)
    for place, map_, mask in zip(places, maps, masks, strict=True):
        done[place] = replace(done[place], map=np.where(mask, map_, np.minimum(map_, rules.mask_threshold)))
    if decisions:
        for place, probability, (verdict, _) in zip(places, decisions.probabilities.tolist(), decisions.verdicts, strict=True):
            done[place] = replace(done[place], probability=probability, verdict=verdict)
    return done


def _maps(maps: np.ndarray | None) -> np.ndarray:
    if maps is None:
        raise ValueError("expected predictions with maps, got none; give a segmenter")
    return maps


def study_result(predictions: list[SlicePrediction]) -> tuple[np.ndarray, str | None]:
    """The mask (S, H, W) bool and the verdict of `Pipeline.study` for these slices; no verdict without a classifier."""
    decided = apply_study_rules(predictions)
    verdicts = [one.verdict for one in decided if one.verdict is not None]
    outlined = [number for number, one in enumerate(decided) if one.mask.any()]
    return np.stack([one.mask for one in decided]), decide_study(verdicts, outlined=outlined)[0] if verdicts else None


def tumour_free_runs(predictions: list[SlicePrediction]) -> list[list[SlicePrediction]]:
    """Neighbouring slices that show a head and are far from any annotation: the dataset's closest thing to a healthy study.

    They are at least `MIN_DISTANCE` slices from the nearest annotated one, and at least `MIN_LENGTH` in a row.
    """
    annotated = [one.number for one in predictions if one.tumour]
    runs: list[list[SlicePrediction]] = []
    for one in predictions:
        if not one.head or any(abs(one.number - number) < MIN_DISTANCE for number in annotated):
            continue
        if runs and one.number == runs[-1][-1].number + 1:
            runs[-1].append(one)
        else:
            runs.append([one])
    return [run for run in runs if len(run) >= MIN_LENGTH]


def study_figures(cases: dict[str, list[SlicePrediction]]) -> dict:
    """Figures of patients as whole studies and of tumour-free runs as studies, by metric id; the predictions need maps."""
    patients = list(cases.values())
    whole, gains, verdicts = [], [], []
    for predictions in patients:
        truth = np.stack([one.annotation for one in predictions])
        mask, verdict = study_result(predictions)
        whole.append(dice(mask, truth))
        gains.append(whole[-1] - dice(np.stack([one.mask for one in predictions]), truth))
        verdicts += [verdict] if truth.any() else []
    report: dict = {STUDY_DICE: _figure(whole, mean), STUDY_GAIN: _figure(gains, mean)}
    if patients[0][0].verdict is not None:
        report |= _shares(STUDIES, [[verdict] for verdict in verdicts])
        runs = [found for predictions in patients if (found := tumour_free_runs(predictions))]
        report[TUMOUR_FREE_RUNS] = {
            "patients": len(runs),
            "runs": sum(map(len, runs)),
            "slices": sum(len(run) for found in runs for run in found),
        }
        report |= _shares(RUNS, [[study_result(run)[1] for run in found] for found in runs])
    return report


def _shares(unit: str, verdicts: Sequence[Sequence[str | None]]) -> dict:
    """The share of each verdict with its count, from a list of verdicts for each patient; nothing without patients.

    No interval where all agree: a bootstrap would give an interval of no width, as if the share were certain.
    """
    report = {}
    given = [verdict for patient in verdicts for verdict in patient]
    for verdict, called in CALLED.items() if given else ():
        count = given.count(verdict)
        figure = _figure([[one == verdict for one in patient] for patient in verdicts], pooled_mean)
        if count in (0, len(given)):
            figure.pop("interval_95", None)
        report[share_metric(unit, called)] = {**figure, "count": count, "of": len(given)}
    return report


def failures(dataset: Dataset, cases: dict[str, list[SlicePrediction]]) -> dict:
    """The failure analysis, ready for JSON: `groups`, and where there are maps `worst` and `studies`."""
    patients = {case: [tally(one) for one in predictions] for case, predictions in cases.items()}
    whole = by_institution(dataset, patients) | by_tumour_size(patients)
    groups = {name: group_figures(group) for name, group in whole.items()}
    groups |= {name: group_figures(group, volumes=False) for name, group in by_position(patients).items()}
    report: dict = {"groups": groups}
    if next(iter(cases.values()))[0].map is not None:
        report |= {"worst": worst(patients), "studies": study_figures(cases)}
    return report
