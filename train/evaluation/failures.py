"""Where the segmenter and the verdict fail: figures by group, the worst patients, whole studies, and runs without tumour.

Everything comes from the rows of `train.evaluation.predictions.predict_case`; nothing is predicted again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from brainmri.analysis.findings import NO_TUMOUR, REVIEW, TUMOUR, decide_study
from brainmri.analysis.pipeline import judge, outline
from brainmri.report.metric_tables import ACCURACY, FAR, LONG, SENSITIVITY, SLICE_DICE, SPECIFICITY, VOLUMETRIC_DICE
from train.datasets.lgg import institution_of
from train.evaluation.metrics import accuracy, dice, dice_of_counts, sensitivity, specificity, with_interval
from train.evaluation.predictions import as_prediction, outline_of

STUDY_DICE = "volumetric Dice as a study, mean over patients"
STUDY_GAIN = "gain of the study over its slices alone in volumetric Dice, mean over patients"
CALLED = {TUMOUR: "called tumour", REVIEW: "to review", NO_TUMOUR: "called no tumour"}
STUDIES, RUNS = "studies {called}, share of patients", "tumour-free runs {called}, share of runs"

WORST = 10


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What a slice comes down to.

    Attributes:
        true: annotated pixels.
        predicted: pixels in the mask; None without a segmenter.
        both: pixels in both; None without a segmenter.
        probability: of tumour, calibrated; None without a classifier.
    """

    true: int
    predicted: int | None = None
    both: int | None = None
    probability: float | None = None


def tally(row: dict) -> Tally:
    """Count a row of `predict_case`."""
    predicted, both = None, None
    if "map" in row:
        mask = outline_of(row)
        predicted, both = int(mask.sum()), int((mask & row["mask"]).sum())
    return Tally(true=int(row["mask"].sum()), predicted=predicted, both=both, probability=row.get("probability"))


def total(slices: list[Tally]) -> Tally:
    """The pixels of a patient, over all slices; there has to be a segmenter."""
    return Tally(
        true=sum(s.true for s in slices), predicted=sum(s.predicted for s in slices), both=sum(s.both for s in slices)
    )  # fmt: skip


def _dice(slices: list[Tally]) -> float:
    pixels = total(slices)
    return dice_of_counts(pixels.predicted, pixels.true, pixels.both)


def by_institution(patients: dict[str, list[Tally]]) -> dict[str, list[list[Tally]]]:
    """The patients of each institution, by the two letters that name it."""
    groups: dict[str, list] = {}
    for case in sorted(patients):
        groups.setdefault(f"institution {institution_of(case)}", []).append(patients[case])
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
    """`with_interval`, but of a lone patient the value alone: one patient says nothing of the spread."""
    return with_interval(per_patient, statistic) if len(per_patient) > 1 else {"value": float(statistic(per_patient))}


def group_figures(patients: list[list[Tally]], volumes: bool = True) -> dict:
    """The group's counts and those of the named figures that it has what it takes for.

    Args:
        patients: the group's slices of each patient.
        volumes: whether these are all of a patient's slices, and so have a volumetric Dice.
    """
    slices = [s for patient in patients for s in patient]
    figures: dict = {"patients": len(patients), "slices": len(slices)}
    if slices and slices[0].predicted is not None:
        if volumes:
            figures[VOLUMETRIC_DICE] = _figure([_dice(patient) for patient in patients], np.mean)
        slicewise = [[_dice([s]) for s in patient if s.true] for patient in patients]
        if shown := [values for values in slicewise if values]:
            figures[SLICE_DICE] = _figure(shown, lambda drawn: np.mean(np.concatenate(drawn)))
    if slices and slices[0].probability is not None:
        tumour = [s.true > 0 for s in slices]
        for name, function, needed in (
            (ACCURACY, accuracy, True),
            (SENSITIVITY, sensitivity, any(tumour)),
            (SPECIFICITY, specificity, not all(tumour)),
        ):
            if needed:
                figures[name] = {"value": function([s.probability for s in slices], tumour)}
    return figures


def worst(patients: dict[str, list[Tally]]) -> list[dict]:
    """The `WORST` patients by volumetric Dice, the worst first, with their pixels."""
    ordered = sorted(patients, key=lambda case: (_dice(patients[case]), case))[:WORST]
    return [
        {
            "patient": case,
            "volumetric Dice": _dice(patients[case]),
            "tumour pixels": pixels.true,
            "predicted pixels": pixels.predicted,
            "pixels in both": pixels.both,
        }
        for case, pixels in ((case, total(patients[case])) for case in ordered)
    ]


def study_rows(rows: list[dict]) -> list[dict]:
    """The rows as `Pipeline.study` would judge them, by the rules that they carry.

    Of a map only what is in the mask or below the threshold is kept, so that thresholding it gives the study's mask.
    """
    rules, shown = rows[0]["rules"], [row for row in rows if row["head"]]
    done = [row | {"map": np.zeros_like(row["map"])} for row in rows]
    if "logit" in rows[0]:
        done = [row | {"probability": 0.0, "verdict": NO_TUMOUR} for row in done]
    if not shown:
        return done
    predicted, mode = as_prediction(shown), "study" if len(rows) > 1 else "slice"
    maps, masks = outline(predicted.maps, rules, mode)
    places = [number for number, row in enumerate(rows) if row["head"]]
    for place, one, mask in zip(places, maps, masks, strict=True):
        done[place]["map"] = np.where(mask, one, np.minimum(one, rules.mask_threshold))
    if "logit" in rows[0]:
        judged = judge(predicted, rules, mode)
        for place, probability, (verdict, _) in zip(places, judged.probabilities, judged.verdicts, strict=True):
            done[place] |= {"probability": float(probability), "verdict": verdict}
    return done


def as_study(rows: list[dict]) -> tuple[np.ndarray, str | None]:
    """What `Pipeline.study` would make of these slices.

    Returns:
        (S, H, W) bool, and the study's verdict; None where the rows have none.
    """
    judged = study_rows(rows)
    mask = np.stack([outline_of(row) for row in judged])
    return mask, decide_study([row["verdict"] for row in judged])[0] if "verdict" in rows[0] else None


def tumour_free_runs(rows: list[dict]) -> list[list[dict]]:
    """Neighbouring slices that show a head and are far from any annotation: the nearest thing to a healthy study there is.

    They are at least `FAR` slices away from the nearest annotated one, and at least `LONG` in a row.
    """
    annotated = [row["number"] for row in rows if row["tumour"]]
    runs: list[list[dict]] = []
    for row in rows:
        if not row["head"] or any(abs(row["number"] - number) < FAR for number in annotated):
            continue
        if runs and row["number"] == runs[-1][-1]["number"] + 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return [run for run in runs if len(run) >= LONG]


def study_figures(cases: dict[str, list[dict]]) -> dict:
    """Patients as whole studies, and tumour-free runs as studies of their own; the rows need maps."""
    patients = list(cases.values())
    whole, gains, verdicts = [], [], []
    for rows in patients:
        truth = np.stack([row["mask"] for row in rows])
        mask, verdict = as_study(rows)
        whole.append(dice(mask, truth))
        gains.append(whole[-1] - dice(np.stack([outline_of(row) for row in rows]), truth))
        verdicts += [verdict] if truth.any() else []
    report: dict = {STUDY_DICE: _figure(whole, np.mean), STUDY_GAIN: _figure(gains, np.mean)}
    if "verdict" in patients[0][0]:
        report |= _shares(STUDIES, [[verdict] for verdict in verdicts])
        runs = [found for rows in patients if (found := tumour_free_runs(rows))]
        report["tumour-free runs"] = {
            "patients": len(runs),
            "runs": sum(map(len, runs)),
            "slices": sum(len(run) for found in runs for run in found),
        }
        report |= _shares(RUNS, [[as_study(run)[1] for run in found] for found in runs])
    return report


def _shares(name: str, verdicts: list[list[str]]) -> dict:
    """The share of each verdict, of a list of them for each patient, with its count; nothing of no patients.

    No interval where all agree: a bootstrap would draw the same share over and over, and call it certain.
    """
    report = {}
    given = [verdict for patient in verdicts for verdict in patient]
    for verdict, called in CALLED.items() if given else ():
        count = given.count(verdict)
        matches = [[one == verdict for one in patient] for patient in verdicts]
        figure = _figure(matches, lambda drawn: np.mean(np.concatenate(drawn)))
        if count in (0, len(given)):
            figure.pop("interval_95", None)
        report[name.format(called=called)] = {**figure, "count": count, "of": len(given)}
    return report


def failures(cases: dict[str, list[dict]]) -> dict:
    """`groups`, and where there are maps `worst` and `studies`, from the rows of `predict_case`; ready for JSON."""
    patients = {case: [tally(row) for row in rows] for case, rows in cases.items()}
    groups = {
        name: group_figures(group) for name, group in (by_institution(patients) | by_tumour_size(patients)).items()
    } | {name: group_figures(group, volumes=False) for name, group in by_position(patients).items()}  # fmt: skip
    report: dict = {"groups": groups}
    if "map" in next(iter(cases.values()))[0]:
        report |= {"worst": worst(patients), "studies": study_figures(cases)}
    return report
