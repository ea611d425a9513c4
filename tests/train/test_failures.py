"""Where it fails: groups, worst patients, studies and tumour-free runs, golden where it can be counted."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import brainmri
from brainmri.report.metric_tables import (
    ACCURACY,
    FAILURES,
    SENSITIVITY,
    SLICE_DICE,
    SPECIFICITY,
    VOLUMETRIC_DICE,
    error_in_words,
    failure_tables,
)
from brainmri.zoo.backends import TORCH
from brainmri.zoo.calibration import Rules
from train.datasets.lgg import find_slices
from train.evaluation import metrics
from train.evaluation.evaluate import evaluate
from train.evaluation.failures import (
    RUNS,
    STUDIES,
    STUDY_DICE,
    STUDY_GAIN,
    Tally,
    as_study,
    by_institution,
    by_position,
    by_tumour_size,
    failures,
    group_figures,
    study_figures,
    tally,
    tumour_free_runs,
    worst,
)
from train.evaluation.predictions import predict_case
from train.phantoms import write_phantom_dataset

CS, DU = "TCGA_CS_0001_20000101", "TCGA_DU_0002_20000101"


def row(number: int, true=0, predicted=0, shared=0, probability=None, head=True, side=8) -> dict:
    """A slice as `predict_case` gives it, of so many pixels annotated, in the mask, and in both."""
    mask, found = np.zeros(side * side, bool), np.zeros(side * side, np.float32)
    mask[:true] = True
    found[true - shared : true - shared + predicted] = 0.9
    probability = float(predicted > 0) if probability is None else probability
    verdict = "tumour" if predicted else "no tumour"
    return {
        "case": CS, "number": number, "tumour": true > 0, "mask": mask.reshape(side, side), "map": found.reshape(side, side),
        "grid_share": 1.0, "evidence": 0.0, "logit": 40 * probability - 20, "rules": Rules(review=(0.4, 0.6)),
        "probability": probability, "verdict": verdict, "head": head,
    }  # fmt: skip


def test_a_slice_is_counted():
    assert tally(row(1, true=10, predicted=12, shared=4)) == Tally(true=10, predicted=12, both=4, probability=1.0)
    verdict_only = {"mask": np.ones((2, 2), bool), "probability": 0.3}
    assert tally(verdict_only) == Tally(true=4, probability=0.3)


def test_institutions_are_told_by_the_patients_names():
    one, two, three = ([Tally(true=n)] for n in (1, 2, 3))
    other = CS.replace("0001", "0009")
    assert by_institution({DU: one, CS: two, other: three}) == {"institution CS": [two, three], "institution DU": [one]}


def test_sizes_are_in_thirds_with_their_bounds():
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
    first = [Tally(true=10, predicted=10, both=5, probability=0.9), Tally(true=0, predicted=10, both=0, probability=0.7)]
    second = [Tally(true=10, predicted=10, both=10, probability=0.2), Tally(true=0, predicted=0, both=0, probability=0.1)]
    figures = group_figures([first, second])
    assert (figures["patients"], figures["slices"]) == (2, 4)
    assert figures[VOLUMETRIC_DICE]["value"] == pytest.approx((2 * 5 / 30 + 1) / 2)
    assert figures[SLICE_DICE]["value"] == pytest.approx((0.5 + 1) / 2)
    assert [figures[name] for name in (ACCURACY, SENSITIVITY, SPECIFICITY)] == [{"value": 0.5}] * 3
    low, high = figures[VOLUMETRIC_DICE]["interval_95"]
    assert (low, high) == (pytest.approx(1 / 3), 1)


def test_what_a_group_has_not_is_left_out():
    figures = group_figures([[Tally(true=0, predicted=3, both=0, probability=0.2)]], volumes=False)
    assert set(figures) == {"patients", "slices", ACCURACY, SPECIFICITY}
    alone = group_figures([[Tally(true=4, predicted=4, both=2)]])
    assert alone == {"patients": 1, "slices": 1, VOLUMETRIC_DICE: {"value": 0.5}, SLICE_DICE: {"value": 0.5}}
    assert group_figures([[]]) == {"patients": 1, "slices": 0}


def test_the_worst_come_first_and_are_ten():
    patients = {f"p{n:02}": [Tally(true=100, predicted=100, both=n)] for n in range(12, 0, -1)}
    assert [p["patient"] for p in worst(patients)] == [f"p{n:02}" for n in range(1, 11)]
    assert worst(patients)[0] == {
        "patient": "p01", "volumetric Dice": 0.01, "tumour pixels": 100, "predicted pixels": 100, "pixels in both": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("true", "predicted", "both", "words"),
    [
        (100, 0, 0, "nothing found"),
        (0, 10, 0, "false alarm"),
        (0, 0, 0, "none"),
        (100, 90, 0, "found elsewhere"),
        (100, 49, 49, "mostly missed"),
        (100, 50, 50, "outlined too small"),  # half of it is found: no longer mostly missed
        (100, 201, 100, "mostly false alarm"),
        (100, 200, 100, "outlined too large"),
        (100, 100, 40, "mostly missed, mostly false alarm"),
        (100, 125, 90, "size right, border off"),
        (100, 126, 90, "outlined too large"),
        (100, 79, 79, "outlined too small"),
    ],
)
def test_errors_in_words(true, predicted, both, words):
    assert error_in_words(true, predicted, both) == words


def test_a_study_drops_islands_and_slices_without_a_head():
    rows = [
        row(1, predicted=40, head=False),
        row(2),
        row(3, true=40, predicted=40, shared=40),
        row(4, true=40, predicted=40, shared=40),
    ]
    rows += [row(5), row(6, predicted=13)]  # 13 of 80: more than ISLAND of the largest
    mask, verdict = as_study(rows)
    assert (mask.sum((1, 2)).tolist(), verdict) == ([0, 0, 40, 40, 0, 13], "tumour")
    rows[-1] = row(6, predicted=11)
    mask, verdict = as_study(rows)
    assert mask.sum((1, 2)).tolist() == [0, 0, 40, 40, 0, 0]
    # an island beside nothing stays, and one slice alone is not believed
    assert as_study([row(1), row(2, predicted=13), row(3)])[1] == "review"
    # beside nothing larger that island is outlined again, too small for a finding, in one doubtful slice alone
    assert as_study([*rows[4:], row(7), row(8)])[1] == "no tumour"


def test_a_study_is_what_the_page_makes_of_it(tmp_path):
    write_phantom_dataset(tmp_path, patients=1, slices=8, size=64)
    model = brainmri.load("effunet-lgg", device="cpu")
    (slices,) = find_slices(tmp_path).values()
    rows = predict_case(slices, model, model)
    pixels = np.stack([item.read_image() for item in slices])
    study = brainmri.Pipeline(model, model).study(pixels)
    mask, verdict = as_study(rows)
    assert mask.any()
    assert np.array_equal(mask, study.mask)
    assert verdict == study.verdict


def test_what_a_network_said_of_a_patient_is_kept_until_another_is_asked(tmp_path):
    write_phantom_dataset(tmp_path / "data", patients=1, slices=8, size=64)
    model = brainmri.load("effunet-lgg", device="cpu", runtime=TORCH)
    (slices,) = find_slices(tmp_path / "data").values()
    straight = replace(model, entry=replace(model.entry, flips=False))
    first = predict_case(slices, model, model, keep=tmp_path / "kept")
    (file,) = (tmp_path / "kept").rglob("*.npz")
    written = file.stat().st_mtime_ns
    plain, again = predict_case(slices, model, model), predict_case(slices, model, model, keep=tmp_path / "kept")
    assert file.stat().st_mtime_ns == written
    for ours, kept, once_more in zip(plain, first, again, strict=True):
        assert np.array_equal(kept.pop("map"), once_more["map"])
        assert once_more.pop("map") == pytest.approx(ours.pop("map"), abs=2**-12)
        for name in ("logit", "evidence", "grid_share", "probability", "verdict"):
            assert kept[name] == once_more[name] == ours[name]
    other = predict_case(slices, straight, straight, keep=tmp_path / "kept")
    assert file.stat().st_mtime_ns > written
    assert [r["logit"] for r in other] != [r["logit"] for r in plain]
    predict_case(slices, model, model, "FLAIR only", keep=tmp_path / "kept")
    assert len(list((tmp_path / "kept").rglob("*.npz"))) == 2


def test_tumour_free_runs_keep_away_from_the_tumour():
    rows = [row(n, true=5 * (n == 8)) for n in range(1, 17)]
    assert [[r["number"] for r in run] for run in tumour_free_runs(rows)] == [[1, 2, 3, 4, 5], [11, 12, 13, 14, 15, 16]]
    rows[0]["head"] = rows[1]["head"] = False  # three are left below: too few
    del rows[12]  # slice 13 is missing, and so 11 and 12 are no neighbours of 14 to 16
    assert tumour_free_runs(rows) == []


def test_the_figures_of_studies_are_golden():
    tumour = [row(n) for n in range(1, 8)] + [row(n, true=40, predicted=40, shared=40) for n in (10, 11)]
    alarmed = [row(n, predicted=20 * (n in (2, 3))) for n in range(1, 8)] + [row(n, true=40) for n in (10, 11)]
    figures = study_figures({CS: tumour, DU: alarmed})
    assert figures[STUDY_DICE]["value"] == 0.5
    assert figures[STUDY_GAIN]["value"] == 0
    assert figures["tumour-free runs"] == {"patients": 2, "runs": 2, "slices": 14}
    assert figures[RUNS.format(called="called tumour")]["count"] == 1
    assert figures[RUNS.format(called="called no tumour")] == {"value": 0.5, "interval_95": [0, 1], "count": 1, "of": 2}
    assert figures[STUDIES.format(called="called tumour")] == {"value": 1.0, "count": 2, "of": 2}  # one by a false alarm
    assert figures[STUDIES.format(called="to review")] == {"value": 0.0, "count": 0, "of": 2}


def test_dropping_an_island_is_a_gain():
    rows = [row(1, true=40, predicted=40, shared=40), row(2), row(3, predicted=5)]
    figures = study_figures({CS: rows})
    assert figures[STUDY_GAIN] == {"value": pytest.approx(1 - 80 / 85)}
    assert figures["tumour-free runs"] == {"patients": 0, "runs": 0, "slices": 0}
    assert RUNS.format(called="called tumour") not in figures


def test_a_verdict_alone_has_groups_and_no_masks():
    rows = [row(1, true=4, probability=0.9), row(2, probability=0.2)]
    for one in rows:
        del one["map"], one["grid_share"], one["evidence"], one["verdict"]
    report = failures({CS: rows})
    assert set(report) == {"groups"}
    assert report["groups"]["institution CS"] == {"patients": 1, "slices": 2} | {
        name: {"value": 1.0} for name in (ACCURACY, SENSITIVITY, SPECIFICITY)
    }
    table = failure_tables({"three sequences": {"patients": 1, "slices": 2, FAILURES: report}})
    assert "Dice" not in table
    assert "| institution CS | 1 | 2 | 1.000 | 1.000 | 1.000 |" in table


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The default's figures on two phantoms, on three sequences and on FLAIR alone, as JSON keeps them; few resamples."""
    data = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(data, patients=2, slices=6, size=64)
    model = brainmri.load("effunet-lgg", device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "bootstrap_interval", partial(metrics.bootstrap_interval, resamples=20))
        return json.loads(json.dumps(evaluate(find_slices(data), model, model, ("three sequences", "FLAIR only"))))


def test_the_groups_say_what_the_whole_says(measured):
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
        assert {p["patient"]: p["volumetric Dice"] for p in figures[FAILURES]["worst"]} == figures["volumetric Dice, by patient"]


def test_the_tables_show_every_variant(measured):
    lines = failure_tables(measured).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| institution CS", "| institution DU"]
    for variant in measured:
        shown = next(line for line in lines if line.startswith(f"| {variant} | 2 | 12 |"))
        assert f"{measured[variant][VOLUMETRIC_DICE]['value']:.3f} [" in shown
    assert "| figure | three sequences | FLAIR only |" in lines
