"""Failure analysis: groups, worst patients, studies and tumour-free runs, with figures counted by hand."""

import json
from functools import partial

import numpy as np
import pytest

import brainmri
from brainmri.report.metric_tables import describe_error, failure_tables
from brainmri.zoo.calibration import Rules
from brainmri.zoo.metrics import (
    ACCURACY,
    CALLED_NO_TUMOUR,
    CALLED_TUMOUR,
    FAILURES,
    FLAIR_ONLY,
    RUNS,
    SENSITIVITY,
    SLICE_DICE,
    SPECIFICITY,
    STUDIES,
    STUDY_DICE,
    STUDY_GAIN,
    THREE_SEQUENCES,
    TO_REVIEW,
    TUMOUR_FREE_RUNS,
    VARIANTS,
    VOLUMETRIC_DICE,
    VOLUMETRIC_DICE_BY_PATIENT,
    share_metric,
)
from train.datasets.lgg import LGG
from train.evaluation import metrics
from train.evaluation.evaluate import evaluate
from train.evaluation.failures import (
    Tally,
    by_institution,
    by_position,
    by_tumour_size,
    failures,
    group_figures,
    study_figures,
    study_result,
    tally,
    tumour_free_runs,
    worst,
)
from train.evaluation.predictions import SlicePrediction, predict_case
from train.phantoms import write_phantom_dataset

CS, DU = "TCGA_CS_0001_20000101", "TCGA_DU_0002_20000101"


def prediction(number: int, true=0, predicted=0, overlap=0, probability=None, head=True, side=8) -> SlicePrediction:
    """A slice as `predict_case` returns it, with so many pixels annotated, in the mask, and in both."""
    annotation, map_ = np.zeros(side * side, bool), np.zeros(side * side, np.float32)
    annotation[:true] = True
    map_[true - overlap : true - overlap + predicted] = 0.9
    probability = float(predicted > 0) if probability is None else probability
    return SlicePrediction(
        case=CS, number=number, annotation=annotation.reshape(side, side), map=map_.reshape(side, side), grid_share=1.0,
        evidence=0.0, logit=40 * probability - 20, rules=Rules(review=(0.4, 0.6)), probability=probability,
        verdict="tumour" if predicted else "no tumour", head=head,
    )  # fmt: skip


def verdict_only(number: int, true=0, probability=0.0) -> SlicePrediction:
    """The same without a segmenter."""
    annotation = prediction(number, true).annotation
    return SlicePrediction(case=CS, number=number, annotation=annotation, logit=40 * probability - 20, probability=probability)


def test_a_slice_is_counted():
    assert tally(prediction(1, true=10, predicted=12, overlap=4)) == Tally(true=10, predicted=12, overlap=4, probability=1.0)
    assert tally(verdict_only(1, true=4, probability=0.3)) == Tally(true=4, probability=0.3)


def test_patients_are_grouped_by_institution():
    one, two, three = ([Tally(true=n)] for n in (1, 2, 3))
    other = CS.replace("0001", "0009")
    assert by_institution(LGG, {DU: one, CS: two, other: three}) == {"institution CS": [two, three], "institution DU": [one]}


def test_tumour_sizes_are_grouped_in_thirds_with_their_bounds():
    patients = {f"p{n}": [Tally(true=n), Tally(true=1000)] for n in (5, 1, 4, 2, 3, 6)}
    groups = by_tumour_size(patients)
    assert list(groups) == [
        f"tumour of {low} to {high} pixels" for low, high in (("1,001", "1,002"), ("1,003", "1,004"), ("1,005", "1,006"))
    ]
    assert [p[0].true for p in groups["tumour of 1,003 to 1,004 pixels"]] == [3, 4]
    assert list(by_tumour_size({"p": [Tally(true=7)]})) == ["tumour of 7 to 7 pixels"]


def test_positions_are_thirds_of_each_patient():
    groups = by_position({"a": [Tally(true=n) for n in range(7)], "b": [Tally(true=n) for n in range(3)]})
    assert [[[s.true for s in p] for p in group] for group in groups.values()] == [
        [[0, 1, 2], [0]], [[3, 4], [1]], [[5, 6], [2]],
    ]  # fmt: skip


def test_the_figures_of_a_group_are_golden():
    first = [Tally(true=10, predicted=10, overlap=5, probability=0.9), Tally(true=0, predicted=10, overlap=0, probability=0.7)]
    second = [Tally(true=10, predicted=10, overlap=10, probability=0.2), Tally(true=0, predicted=0, overlap=0, probability=0.1)]
    figures = group_figures([first, second])
    assert (figures["patients"], figures["slices"]) == (2, 4)
    assert figures[VOLUMETRIC_DICE]["value"] == pytest.approx((2 * 5 / 30 + 1) / 2)
    assert figures[SLICE_DICE]["value"] == pytest.approx((0.5 + 1) / 2)
    assert [figures[name] for name in (ACCURACY, SENSITIVITY, SPECIFICITY)] == [{"value": 0.5}] * 3
    low, high = figures[VOLUMETRIC_DICE]["interval_95"]
    assert (low, high) == (pytest.approx(1 / 3), 1)


def test_figures_a_group_cannot_have_are_left_out():
    figures = group_figures([[Tally(true=0, predicted=3, overlap=0, probability=0.2)]], volumes=False)
    assert set(figures) == {"patients", "slices", ACCURACY, SPECIFICITY}
    alone = group_figures([[Tally(true=4, predicted=4, overlap=2)]])
    assert alone == {"patients": 1, "slices": 1, VOLUMETRIC_DICE: {"value": 0.5}, SLICE_DICE: {"value": 0.5}}
    assert group_figures([[]]) == {"patients": 1, "slices": 0}


def test_the_worst_come_first_and_are_ten():
    patients = {f"p{n:02}": [Tally(true=100, predicted=100, overlap=n)] for n in range(12, 0, -1)}
    assert [p["patient"] for p in worst(patients)] == [f"p{n:02}" for n in range(1, 11)]
    assert worst(patients)[0] == {
        "patient": "p01", VOLUMETRIC_DICE: 0.01, "true_pixels": 100, "predicted_pixels": 100, "overlap_pixels": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("true", "predicted", "overlap", "words"),
    [
        (100, 0, 0, "nothing found"),
        (0, 10, 0, "false alarm"),
        (0, 0, 0, "none"),
        (100, 90, 0, "found elsewhere"),
        (100, 49, 49, "mostly missed"),
        (100, 50, 50, "outline too small"),  # half of it is found, so it is not mostly missed
        (100, 201, 100, "mostly false alarm"),
        (100, 200, 100, "outline too large"),
        (100, 100, 40, "mostly missed, mostly false alarm"),
        (100, 125, 90, "right size, inaccurate border"),
        (100, 126, 90, "outline too large"),
        (100, 79, 79, "outline too small"),
    ],
)
def test_errors_in_words(true, predicted, overlap, words):
    assert describe_error(true, predicted, overlap) == words


def test_a_study_drops_islands_and_slices_without_a_head():
    tumour = dict(true=40, predicted=40, overlap=40)
    predictions = [prediction(1, predicted=40, head=False), prediction(2), prediction(3, **tumour), prediction(4, **tumour)]
    predictions += [prediction(5), prediction(6, predicted=13)]  # 13 of 80: more than `MIN_ISLAND_SHARE` of the largest
    mask, verdict = study_result(predictions)
    assert (mask.sum((1, 2)).tolist(), verdict) == ([0, 0, 40, 40, 0, 13], "tumour")
    predictions[-1] = prediction(6, predicted=11)
    mask, verdict = study_result(predictions)
    assert mask.sum((1, 2)).tolist() == [0, 0, 40, 40, 0, 0]
    # without anything larger the island stays, but a single slice is not enough for "tumour"
    assert study_result([prediction(1), prediction(2, predicted=13), prediction(3)])[1] == "review"
    # an island too small for a finding, in an isolated undecided slice
    assert study_result([*predictions[4:], prediction(7), prediction(8)])[1] == "no tumour"


@pytest.mark.slow
def test_study_rules_give_the_pipelines_result(tmp_path):
    write_phantom_dataset(tmp_path, patients=1, slices=8, size=96)
    model = brainmri.load("effunet-lgg", device="cpu")
    (slices,) = LGG.find_slices(tmp_path).values()
    study = brainmri.Pipeline(model, model).study(np.stack([item.read_image() for item in slices]))
    mask, verdict = study_result(predict_case(slices, model, model))
    assert mask.any()
    assert np.array_equal(mask, study.mask)
    assert verdict == study.verdict


def test_tumour_free_runs_keep_away_from_the_tumour():
    predictions = [prediction(n, true=5 * (n == 8)) for n in range(1, 17)]
    runs = [[one.number for one in run] for run in tumour_free_runs(predictions)]
    assert runs == [[1, 2, 3, 4, 5], [11, 12, 13, 14, 15, 16]]
    predictions[:2] = [prediction(n, head=False) for n in (1, 2)]  # three are left below: too few
    del predictions[12]  # slice 13 is missing, so 11 and 12 are not neighbours of 14 to 16
    assert tumour_free_runs(predictions) == []


def test_the_figures_of_studies_are_golden():
    head = [prediction(n) for n in range(1, 8)]
    tumour = head + [prediction(n, true=40, predicted=40, overlap=40) for n in (10, 11)]
    alarmed = [prediction(n, predicted=20 * (n in (2, 3))) for n in range(1, 8)] + [prediction(n, true=40) for n in (10, 11)]
    figures = study_figures({CS: tumour, DU: alarmed})
    assert figures[STUDY_DICE]["value"] == 0.5
    assert figures[STUDY_GAIN]["value"] == 0
    assert figures[TUMOUR_FREE_RUNS] == {"patients": 2, "runs": 2, "slices": 14}
    assert figures[share_metric(RUNS, CALLED_TUMOUR)]["count"] == 1
    assert figures[share_metric(RUNS, CALLED_NO_TUMOUR)] == {"value": 0.5, "interval_95": [0, 1], "count": 1, "of": 2}
    assert figures[share_metric(STUDIES, CALLED_TUMOUR)] == {"value": 1.0, "count": 2, "of": 2}  # one by a false alarm
    assert figures[share_metric(STUDIES, TO_REVIEW)] == {"value": 0.0, "count": 0, "of": 2}


def test_dropping_an_island_is_a_gain():
    predictions = [prediction(1, true=40, predicted=40, overlap=40), prediction(2), prediction(3, predicted=5)]
    figures = study_figures({CS: predictions})
    assert figures[STUDY_GAIN] == {"value": pytest.approx(1 - 80 / 85)}
    assert figures[TUMOUR_FREE_RUNS] == {"patients": 0, "runs": 0, "slices": 0}
    assert share_metric(RUNS, CALLED_TUMOUR) not in figures


def test_a_verdict_without_a_mask_has_groups_only():
    report = failures(LGG, {CS: [verdict_only(1, true=4, probability=0.9), verdict_only(2, probability=0.2)]})
    assert set(report) == {"groups"}
    assert report["groups"]["institution CS"] == {"patients": 1, "slices": 2} | {
        metric: {"value": 1.0} for metric in (ACCURACY, SENSITIVITY, SPECIFICITY)
    }
    table = failure_tables({THREE_SEQUENCES: {"patients": 1, "slices": 2, FAILURES: report}})
    assert "Dice" not in table
    assert "| institution CS | 1 | 2 | 1.000 | 1.000 | 1.000 |" in table


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Figures of two phantoms, for three sequences and FLAIR only, as read back from JSON; few resamples."""
    data = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(data, patients=2, slices=6, size=64)
    model = brainmri.load("effunet-lgg", device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "bootstrap_interval", partial(metrics.bootstrap_interval, resamples=20))
        return json.loads(json.dumps(evaluate(LGG, LGG.find_slices(data), model, model, (THREE_SEQUENCES, FLAIR_ONLY))))


@pytest.mark.slow
def test_groups_add_up_to_the_whole(measured):
    for figures in measured.values():
        groups = figures[FAILURES]["groups"]
        for names in (("institution CS", "institution DU"), [name for name in groups if name.startswith("tumour of")]):
            assert sum(groups[name]["patients"] for name in names) == figures["patients"]
            assert np.mean([groups[name][VOLUMETRIC_DICE]["value"] for name in names]) == pytest.approx(
                figures[VOLUMETRIC_DICE]["value"]
            )
        thirds = [groups[f"{name} third of the slices"] for name in ("lower", "middle", "upper")]
        assert sum(third["slices"] for third in thirds) == figures["slices"]
        assert np.mean([third[ACCURACY]["value"] for third in thirds]) == pytest.approx(figures[ACCURACY]["value"])
        assert {p["patient"]: p[VOLUMETRIC_DICE] for p in figures[FAILURES]["worst"]} == figures[VOLUMETRIC_DICE_BY_PATIENT]


def test_the_tables_show_every_variant(measured):
    lines = failure_tables(measured).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| institution CS", "| institution DU"]
    for variant in measured:
        shown = next(line for line in lines if line.startswith(f"| {VARIANTS[variant]} | 2 | 12 |"))
        assert f"{measured[variant][VOLUMETRIC_DICE]['value']:.3f} [" in shown
    assert "| Metric | three sequences | FLAIR only |" in lines
