"""Figures and calibration by kind of input, and the release of a network for any head."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import brainmri
from brainmri.zoo.attributes import ATTRIBUTES, FLAIR, SEQUENCES, T1C, THREE_SEQUENCES
from brainmri.zoo.calibration import UNKNOWN, Rules
from brainmri.zoo.entry import CARD, METRICS_PAGE, read_config, read_entry, rules_of
from brainmri.zoo.registry import find_entry
from train import crossvalidate, generalist
from train.datasets import LGG
from train.evaluation import inputs
from train.evaluation.calibrate import THRESHOLDS
from train.evaluation.calibrate_sequences import cross_fit, fit_sequence_rules
from train.evaluation.inputs import (
    Measured,
    View,
    decide,
    input_table,
    measure,
    patient_views,
    recognised_sequence,
    recognition_accuracy,
    table_rows,
)
from train.examples import patient_examples, picture_examples
from train.ood import fit_inputs, fit_scope
from train.ood.negatives import PACKAGES
from train.phantoms import phantom_slice, write_phantom_dataset
from train.release import release_inputs


def measured(number: int, sequence: str, tumour: bool, recognised: str | None = None) -> Measured:
    """A slice whose logit, evidence and outline follow its label, with some noise."""
    noise = np.random.default_rng(number).normal()
    area = 100 if tumour else 0
    attributes = {name: np.zeros(len(classes)) for name, classes in ATTRIBUTES.items()}
    attributes["sequence"][ATTRIBUTES["sequence"].index(recognised or sequence)] = 1
    attributes["plane"][0] = attributes["kind"][1] = attributes["turn"][0] = 1
    return Measured(
        dataset="lgg", sequence=sequence, plane="axial", kind="glioma" if tumour and sequence == T1C else "",
        group=f"p{number // 4}", tumour=tumour, outlined=np.full(len(THRESHOLDS), area),
        overlap=np.full(len(THRESHOLDS), 0.8 * area), annotated=area, grid_share=1.0,
        evidence=5 + noise if tumour else 0.1, logit=(4 if tumour else -4) + noise, attributes=attributes,
    )  # fmt: skip


SLICES = [measured(number, sequence, number % 2 == 0) for sequence in (FLAIR, T1C, THREE_SEQUENCES) for number in range(24)] + [
    measured(number, "T2", False) for number in range(6)
]


def test_rules_are_fitted_for_each_sequence_that_has_tumours():
    rules = fit_sequence_rules(SLICES)
    assert set(rules) == {FLAIR, T1C, THREE_SEQUENCES, UNKNOWN}  # no tumour in T2, no T1
    for one in rules.values():
        assert set(one.fusion) == {"slice", "study"}
        assert one.fusion["study"].neighbours > 0


def test_a_slice_is_decided_by_the_rules_of_the_recognised_sequence():
    rules = Rules(sequences=fit_sequence_rules(SLICES))
    assert decide(measured(2, FLAIR, True), rules) == "tumour"
    assert decide(measured(3, T1C, False), rules) == "no tumour"
    assert decide(measured(2, "T2", True), rules) == "review"  # without tumours to evaluate on
    assert decide(measured(2, T1C, True, recognised="T2"), rules) == "review"
    one = measured(2, FLAIR, True)
    unsure = replace(one, attributes=one.attributes | {"sequence": np.full(6, 1 / 6)})
    assert recognised_sequence(unsure) is None  # as the pipeline takes it


def test_no_group_is_measured_with_rules_fitted_on_it():
    each, everything = cross_fit(SLICES, Rules())
    changed, _ = cross_fit([replace(one, logit=one.logit - 3) if one.group == "p0" else one for one in SLICES], Rules())
    assert set(each) == {f"p{number}" for number in range(6)}
    assert changed["p0"] == each["p0"]
    assert changed["p1"] != each["p1"]
    assert each["p0"] != everything


def test_rows_by_hand():
    rules = Rules(sequences=fit_sequence_rules(SLICES))
    rows = table_rows(SLICES, dict.fromkeys((one.group for one in SLICES), rules))
    flair = next(row for row in rows if row["sequence"] == FLAIR)
    assert (flair["slices"], flair["tumours"]) == (24, 12)
    assert flair["dice"] == pytest.approx(2 * 80 / 200)
    assert flair["auc"] == 1
    t2 = next(row for row in rows if row["sequence"] == "T2")
    assert (t2["review"], t2["dice"], t2["auc"], t2["right"]) == (1, None, None, None)
    assert "| lgg | T2 | axial | 6 | 0 | - | - | 0.0% | 100.0% | - |" in input_table(rows)
    assert recognition_accuracy(SLICES) == {"sequence": 1, "plane": 1, "kind": 1}


def test_figures_are_of_the_calibrated_heads(wider):
    model = brainmri.load("effunet-any", device="cpu", runtime="torch")
    views = [View(example=example, stripped=False) for example in picture_examples(wider)[::4]]
    before, temperatures = measure(model, views), {"kind": 0.7, "sequence": 1.4, "plane": 2.0}
    release_inputs.calibrate_heads(model.net, temperatures)
    for one, other in zip(release_inputs.calibrate_measured(before, temperatures), measure(model, views), strict=True):
        for attribute, values in other.attributes.items():
            np.testing.assert_allclose(one.attributes[attribute], values, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_figures_count_the_verdicts_of_the_pipeline(wider, tmp_path):
    """Of the default network alone: it checks no slice and leaves none to a specialist."""
    data = Path(os.environ.get("BRAINMRI_DATA", tmp_path))
    if data == tmp_path:
        write_phantom_dataset(data)
    cases = LGG.find_slices(data)
    views = [view for case in list(cases)[:2] for view in patient_views(patient_examples(cases[case])[::24])]
    views += [View(example=example, stripped=False) for example in picture_examples(wider)[::4]]
    model = brainmri.load("effunet-any", device="cpu", runtime="torch")
    model = replace(model, entry=replace(model.entry, specialist=None), ood=None, scope=None)
    pipe, rules = brainmri.Pipeline(model), rules_of(model.entry, model.entry)
    counted = [decide(one, rules) for one in measure(model, views)]
    given = [THREE_SEQUENCES if SEQUENCES[view.example.sequence] == THREE_SEQUENCES else None for view in views]
    assert counted == [pipe(view.example.pixels, sequence=one).verdict for view, one in zip(views, given, strict=True)]
    assert len(set(counted)) > 1


@pytest.mark.slow
def test_a_cross_validation_measures_every_group_of_pictures_once(wider, tmp_path, capsys):
    """From one start for all folds."""
    recipe = ["generalist", "--wider", str(wider), "--net", "resunet", "--smoke", "--start", "resunet-any", "--folds", "2"]
    runs = crossvalidate.main([*recipe, "--out", str(tmp_path / "cv")])
    before = find_entry("resunet-any").training.stages
    assert [read_entry(run).training.stages[:-1] for run in runs] == [before, before]
    report = tmp_path / "inputs.json"
    capsys.readouterr()
    inputs.main([*map(str, runs), "--wider", str(wider), "--out", str(report)])
    printed = capsys.readouterr().out
    validated = [e for e in picture_examples(wider) if e.collection not in generalist.TRAIN_ONLY]
    rows = json.loads(report.read_text())["rows"]
    assert sum(row["slices"] for row in rows) == len(validated)
    assert any(row["review"] < 1 for row in rows if row["sequence"] == T1C)  # before rules are fitted, every sequence is decided
    assert "| dataset | sequence | plane | fold-0 | fold-1 |" in printed
    assert "| figshare glioma | T1c | axial | " in printed
    with pytest.raises(ValueError, match="another run both validate on"):
        inputs.main([str(runs[0]), str(runs[0]), "--wider", str(wider)])


@pytest.mark.slow
def test_from_a_run_to_an_entry_for_any_head(wider, tmp_path, monkeypatch):
    run, entries = tmp_path / "run", tmp_path / "entries"
    generalist.main(["--wider", str(wider), "--out", str(run), "--encoder", "lite0", "--smoke"])
    data = run / "phantoms"
    release_inputs.main([
        "--run", str(run), "--validated", str(run), "--data", str(data), "--wider", str(wider), "--into", str(entries),
        "--name", "mine",
    ])  # fmt: skip
    config = read_config(entries / "mine")
    assert UNKNOWN in config["sequences"]
    again = tmp_path / "again"
    release_inputs.release(entries / "mine", entries / "mine", data, wider, again, "mine")  # its heads are calibrated already
    with pytest.raises(SystemExit, match=r"expected a run to find the temperatures of .*, got the entry .*; give its run folder"):
        release_inputs.release(run, entries / "mine", data, wider, again, "mine")
    assert read_entry(again / "mine").sha256 == read_entry(entries / "mine").sha256
    assert re.fullmatch(
        r"validation on \d+ patients and \d+ groups of pictures that the released weights were not trained on\. Mask threshold, "
        r"calibration and review bands were fitted on the other patients and groups, and predictions were averaged over each "
        r"slice and its mirror image",
        config["metrics"]["protocol"],
    )
    released = replace(read_entry(run), sha256="0" * 64)  # as if trained further
    protocol = release_inputs.describe_protocol(released, read_entry(run), patients=2, groups=5)
    assert protocol.startswith("validation on 2 patients and 3 groups of pictures, with the weights of a separate training run")
    page = (entries / "mine" / METRICS_PAGE).read_text(encoding="utf-8")
    assert "by dataset, sequence and plane" in page
    assert "The released weights, on patients and pictures that they were not trained on" in page
    assert set(config["metrics"]["inputs"]) == {"validated"}
    few = {kind: PACKAGES[kind] for kind in ("handwritten digits", "noise", "blank")}
    monkeypatch.setattr(fit_inputs, "PACKAGES", few)
    report = fit_inputs.main([
        "mine", "--data", str(data), "--wider", str(wider), "--validated", str(run), "--into", str(entries),
    ])  # fmt: skip
    kinds = {"headct", "handwritten digits", "noise"}  # a blank image is left to its pixels
    assert set(report["negatives"]) == set(report["halves"]) == set(report["review"]) == kinds
    counts = [{kind: one["images"] for kind, one in report[part].items()} for part in ("negatives", "halves", "review")]
    assert counts[0] == counts[1] == counts[2]
    assert "## What is no brain MR slice" in (entries / "mine" / CARD).read_text(encoding="utf-8")
    shares = fit_scope.main([
        "mine", "--specialist", "effunet-lite2-lgg", "--data", str(data), "--wider", str(wider), "--validated", str(run),
        "--into", str(entries),
    ])  # fmt: skip
    assert {FLAIR, THREE_SEQUENCES, "skull removed", "heads"} <= set(shares)
    assert "## Specialist" in (entries / "mine" / CARD).read_text(encoding="utf-8")
    model = brainmri.load("mine", weights=entries / "mine", device="cpu")
    assert model.scope.distance_threshold == model.entry.specialist.scope.distance_threshold
    assert model.ood.any_plane
    pipe = brainmri.Pipeline(model)
    assert pipe(np.zeros((96, 96), np.uint8) + 30).verdict == "review"
    finding, rules = pipe(phantom_slice(size=96)[0][..., 1], sequence=FLAIR), model.entry.sequences[FLAIR]
    assert finding.recognition.sequence.name == FLAIR
    assert finding.provenance["mask_threshold"] == rules.mask_threshold
    assert finding.provenance["review_band"] == list(rules.fusion["slice"].review)
