"""From trained runs to a released entry: averages, ensembles, cross-validation, the release itself."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from brainmri.report.metric_tables import failure_tables, reliability_table
from brainmri.zoo.entry import DIAGRAM, METRICS_PAGE, PICTURE, read_entry, read_split
from brainmri.zoo.metrics import RELIABILITY, THREE_SEQUENCES, VARIANTS
from brainmri.zoo.records import Training, TrainingStage
from brainmri.zoo.registry import load
from train import crossvalidate, segmenter
from train.phantoms import write_phantom_dataset
from train.release import average, ensemble, interpolate
from train.release.card import describe_stage, released_weights
from train.release.publish import entry_files
from train.release.release import OUT_OF_FOLD, check, describe_protocol, recipe, release

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_resamples")]

SMOKE = ["--smoke", "--precision", "float32"]


def test_runs_from_one_start_are_averaged(resunet_run, tmp_path):
    first, one, two, mean, all_ = resunet_run, *(tmp_path / name for name in ("one", "two", "mean", "all"))
    for folder, seed in ((one, "1"), (two, "2")):
        segmenter.main([*SMOKE, "--out", str(folder), "--start", str(first), "--seed", seed])
    measured = json.loads((one / "config.json").read_text()) | {"mask_threshold": 0.9, "metrics": {"protocol": "another's"}}
    (one / "config.json").write_text(json.dumps(measured))
    average.main([str(one), str(two), "--out", str(mean)])
    left, right, both = (load_file(folder / "model.safetensors") for folder in (one, two, mean))
    assert (left["head.weight"] != right["head.weight"]).any()
    for name in both:
        assert torch.allclose(both[name].float(), (left[name].float() + right[name].float()) / 2, atol=1e-6), name
    config = json.loads((mean / "config.json").read_text())
    assert (config["mask_threshold"], config["metrics"]) == (0.5, {})  # nobody has measured the mean yet
    stages = read_entry(mean).training.stages
    assert "mean of the weights of the 2 stages before" in describe_stage(stages[-1])
    assert [re.findall(r"--seed (\d)", stage.command_line) for stage in stages] == [[], ["1"], ["2"], []]
    command = ("train.release.average", *"--out RUN RUN RUN".split())
    assert stages[-1] == TrainingStage(command=command, samples=0, patients=1, averages=2)
    assert (mean / "split.json").read_text() == (one / "split.json").read_text()

    with pytest.raises(SystemExit, match="expected runs that started from the same weights"):
        average.main([str(one), str(first), "--out", str(mean)])
    segmenter.main([*SMOKE, "--out", str(all_), "--start", str(first), "--all"])
    with pytest.raises(SystemExit, match="expected runs trained on the same patients"):
        average.main([str(one), str(all_), "--out", str(mean)])
    with pytest.raises(SystemExit, match="differ in net"):
        average.main([str(one), "effunet-lgg", "--out", str(mean)])


def test_a_run_is_averaged_with_its_start(resunet_run, tmp_path):
    start, run, mean = resunet_run, tmp_path / "run", tmp_path / "mean"
    segmenter.main([*SMOKE, "--out", str(run), "--start", str(start), "--seed", "1"])
    interpolate.main([str(start), str(run), "--out", str(mean), "--no-flips"])
    before, after, both = (load_file(folder / "model.safetensors") for folder in (start, run, mean))
    assert (before["head.weight"] != after["head.weight"]).any()
    for name in both:
        assert torch.allclose(both[name].float(), (before[name].float() + after[name].float()) / 2, atol=1e-6), name
    entry = read_entry(mean)
    assert (read_entry(run).flips, entry.flips, entry.metrics) == (True, False, None)
    assert entry.training.stages[:-1] == read_entry(run).training.stages
    assert "mean of the weights before and after the preceding stage" in describe_stage(entry.training.stages[-1])
    assert (mean / "split.json").read_text() == (run / "split.json").read_text()
    with pytest.raises(SystemExit, match="expected a run that started from"):
        interpolate.main([str(run), str(start), "--out", str(mean)])


def test_independent_runs_become_an_ensemble(effunet_run, resunet_run, tmp_path):
    one, two, pair = effunet_run, tmp_path / "two", tmp_path / "pair"
    segmenter.main([*SMOKE, "--net", "effunet", "--out", str(two), "--seed", "2"])
    ensemble.main([str(one), str(two), "--out", str(pair)])
    together, *members = (load(folder, device="cpu", runtime="torch") for folder in (pair, one, two))
    views = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    answers = [member.backend(views) for member in members]
    assert not torch.equal(answers[0].mask, answers[1].mask)
    found = together.backend(views)
    masks = [answer.mask.sigmoid() for answer in answers]
    assert torch.allclose(found.mask.sigmoid(), (masks[0] + masks[1]) / 2, atol=1e-6)
    assert torch.allclose(found.verdict, (answers[0].verdict + answers[1].verdict) / 2, atol=1e-6)
    assert together.entry.parameters == sum(member.entry.parameters for member in members)
    assert not together.entry.flips
    assert (pair / "split.json").read_text() == (one / "split.json").read_text()
    stages = together.entry.training.stages
    assert stages[:2] == tuple(member.entry.training.stages[0] for member in members)
    united = TrainingStage(command=("train.release.ensemble", *"--out RUN RUN RUN".split()), samples=0, patients=1, unites=(1, 2))
    assert stages[2:] == (united,)
    assert "the networks of stages 1 and 2" in describe_stage(united)

    small = str(resunet_run)
    with pytest.raises(SystemExit, match="differ in net"):
        ensemble.main([str(one), small, "--out", str(pair)])
    with pytest.raises(SystemExit, match="expected runs of EffUNet"):
        ensemble.main([small, small, "--out", str(pair)])


def test_a_release_of_a_run_that_did_not_start_from_the_measured_one_is_refused(resunet_run, tmp_path):
    other = shutil.copytree(resunet_run, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["training"]["stages"][0]["samples"] += 1  # another recipe, from scratch: its stages differ from the measured run's
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit, match="expected a run that started from"):
        release(other, [resunet_run], resunet_run / "phantoms", tmp_path / "zoo", half=False)


def test_a_recipe_does_not_depend_on_patients_or_machine():
    entry = load("resunet-lgg", device="cpu").entry

    def recipe_with(command):
        stage = TrainingStage(command=("train.segmenter", "--data", "DIR", *command.split()), samples=8, patients=1)
        return recipe(replace(entry, training=Training(stages=(stage,))))

    one = recipe_with("--fold 0 --lr 3e-3 --precision float32 --workers 0 --out RUN")
    assert recipe_with("--all --out RUN --lr 3e-3 --precision bfloat16 --workers 4 --device cuda --on-device --resume") == one
    assert recipe_with("--fold 0 --lr 3e-4 --precision float32 --out RUN") != one


def test_a_release_mentions_other_teachers_of_the_measured_weights(resunet_run, tmp_path):
    measured, other = (shutil.copytree(resunet_run, tmp_path / name) for name in ("measured", "other"))
    for folder, teacher in ((measured, "effunet-lgg, SHA-256 0123456789ab"), (other, "effunet-lite2-lgg, SHA-256 ba9876543210")):
        config = json.loads((folder / "config.json").read_text())
        config["training"]["stages"][0]["teacher"] = teacher
        (folder / "config.json").write_text(json.dumps(config))
    data, note = measured / "phantoms", "; the measured weights were trained with other teachers: effunet-lgg"
    assert note in release(other, [measured], data, tmp_path / "zoo", half=False).metrics.protocol
    alike = read_entry(measured)
    assert "other teachers" not in describe_protocol(alike, alike, [read_split(measured)])


def test_a_release_measures_the_run_and_writes_the_entry(effunet_run, tmp_path):
    run, zoo = shutil.copytree(effunet_run, tmp_path / "run"), tmp_path / "zoo"
    entry = release(run, [run], run / "phantoms", zoo, half=True)
    assert entry.metrics.variants[THREE_SEQUENCES]["patients"] == 1
    assert 0.2 <= entry.temperature <= 5
    card = (zoo / entry.name / "README.md").read_text()
    assert "The released weights are the measured ones" in card
    page, variants = (zoo / entry.name / METRICS_PAGE).read_text(), entry.metrics.variants
    assert failure_tables(variants) in page
    for variant in VARIANTS:
        assert sum(one["slices"] for one in variants[variant][RELIABILITY]) == variants[variant]["slices"]
    assert reliability_table(variants) in page
    assert f"]({DIAGRAM})" in card
    assert f"]({METRICS_PAGE})" in card
    assert f"]({PICTURE})" in card
    assert Image.open(zoo / entry.name / PICTURE).format == "WEBP"
    assert (zoo / entry.name / DIAGRAM).read_text().startswith("<svg ")
    assert "Brains without tumour" not in page  # no report was given
    assert load(entry.name, weights=zoo / entry.name, device="cpu").entry == entry
    assert DIAGRAM in entry_files(entry)
    for name in (DIAGRAM, PICTURE):
        content = (zoo / entry.name / name).read_bytes()
        (zoo / entry.name / name).unlink()
        with pytest.raises(ValueError, match=f"lacks {name}, which its card shows"):
            entry_files(entry)
        (zoo / entry.name / name).write_bytes(content)
    (zoo / entry.name / METRICS_PAGE).write_text(page + "\n")
    with pytest.raises(ValueError, match=f"its {METRICS_PAGE} is not the one rendered"):
        entry_files(entry)


def test_a_cross_validation_measures_every_patient_once(tmp_path):
    data = tmp_path / "phantoms"
    write_phantom_dataset(data, patients=2, slices=8)
    command = ["segmenter", *SMOKE, "--net", "effunet", "--data", str(data), "--folds", "2", "--out", str(tmp_path / "cv")]
    runs = crossvalidate.main(command)
    began = [(run / "model.safetensors").stat().st_mtime_ns for run in runs]
    assert crossvalidate.main(command) == runs  # finished folds are left alone
    assert [(run / "model.safetensors").stat().st_mtime_ns for run in runs] == began
    splits = [json.loads((run / "split.json").read_text()) for run in runs]
    assert splits[0]["validation"] == splits[1]["train"] != splits[1]["validation"]

    everything = [*SMOKE, "--net", "effunet", "--data", str(data), "--folds", "2", "--all", "--resume"]
    segmenter.main([*everything, "--out", str(tmp_path / "all")])
    further = [*command[:-1], str(tmp_path / "cv-2"), "--start", str(tmp_path / "cv")]
    runs = crossvalidate.main(further)
    assert [len(read_entry(run).training.stages) for run in runs] == [2, 2]
    teaching = ["segmenter", *SMOKE, "--data", str(data), "--folds", "2", "--teacher", str(tmp_path / "cv")]
    for student in crossvalidate.main([*teaching, "--out", str(tmp_path / "taught")]):
        (stage,) = read_entry(student).training.stages
        assert stage.teacher.endswith(read_entry(tmp_path / "cv" / student.name).sha256[:12])
    last = tmp_path / "all-2"
    segmenter.main([*everything, "--start", str(tmp_path / "all"), "--out", str(last)])
    entry = release(last, runs, data, tmp_path / "zoo", half=False)
    assert entry.metrics.variants[THREE_SEQUENCES]["patients"] == 2
    for run, split in zip(runs, splits, strict=True):  # what it says of its own patients, by three variants, stays with a run
        kept = [path.stem for path in (run / OUT_OF_FOLD).rglob("*.npz")]
        assert kept == split["validation"] * 3
    assert entry.metrics.protocol.startswith("2-fold cross-validation by patient, 2 of 2 patients")
    card = (tmp_path / "zoo" / entry.name / "README.md").read_text()
    assert "trained with the same recipe on all patients" in card

    earlier = [tmp_path / "cv" / f"fold-{fold}" for fold in range(2)]  # what is released was trained further than these
    check(read_entry(last), [read_entry(fold) for fold in earlier], splits)
    assert entry.metrics.stages == 2
    further = replace(entry, metrics=replace(entry.metrics, stages=1))
    assert "including these, and trained further in the last stage below" in released_weights(further)
    with pytest.raises(SystemExit, match="got a fold twice"):
        release(last, [runs[0], runs[0]], data, tmp_path / "zoo", half=False)
