"""Training from end to end on two phantoms, and resuming to the same weights."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import brainmri
from brainmri.io.pixels import FLAIR
from brainmri.report.metric_tables import failure_tables, reliability_table
from brainmri.zoo.entry import DIAGRAM, read_entry
from brainmri.zoo.metrics import RELIABILITY, THREE_SEQUENCES, VARIANTS
from brainmri.zoo.nets import ResNet50Classifier, ResUNet
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.registry import load
from train import classifier, crossvalidate, segmenter
from train.augment import RandReplaceWithFlaird, augmentation
from train.loop import choose_precision
from train.phantoms import write_phantom_dataset
from train.pretrained import imagenet_resnet50
from train.release import average, ensemble
from train.release.card import describe_stage
from train.release.publish import entry_files
from train.release.release import OUT_OF_FOLD, recipe, release

SMOKE = ["--smoke", "--precision", "float32"]


@pytest.mark.parametrize(
    ("command", "extra", "name"),
    [
        (segmenter, ["--net", "resunet"], "resunet-lgg"),
        (segmenter, ["--net", "effunet", "--loss", "dice-bce"], "effunet-lgg"),
        (classifier, ["--frozen"], "resnet50-lgg"),
    ],
)
def test_smoke(command, extra, name, tmp_path):
    out = tmp_path / name
    command.main([*SMOKE, *extra, "--out", str(out)])
    with (out / "history.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(any(key.startswith("validation") for key in row) for row in rows)
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    model = load(name, weights=out, device="cpu")
    assert model.entry.name == name
    split = json.loads((out / "split.json").read_text())
    assert not set(split["train"]) & set(split["validation"])
    assert len(split["held_out"]) == 20
    assert model.entry.training["stages"][0]["samples"] == 32


def test_resume_ends_where_an_unbroken_run_does(tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    segmenter.main([*SMOKE, "--out", str(whole)])

    save = torch.save

    def save_and_die(*arguments, **keywords):
        save(*arguments, **keywords)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_and_die)  # the power goes as soon as the first checkpoint is written
        with pytest.raises(KeyboardInterrupt):
            segmenter.main([*SMOKE, "--out", str(broken)])
    (broken / "checkpoint.partial").rename(broken / "checkpoint.pt")
    assert not (broken / "model.safetensors").exists()
    data = torch.load(broken / "checkpoint.pt", weights_only=True)
    assert len(data["history"]) == 1

    segmenter.main([*SMOKE, "--resume", "--out", str(broken)])
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, broken))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_augmenting_where_the_slices_lie_trains_the_same_network(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    segmenter.main([*SMOKE, "--out", str(there)])
    segmenter.main([*SMOKE, "--on-device", "--out", str(here)])
    one, two = (load_file(folder / "model.safetensors") for folder in (there, here))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_resume_refuses_another_recipe(tmp_path):
    segmenter.main([*SMOKE, "--out", str(tmp_path)])
    with pytest.raises(ValueError, match="other options"):
        segmenter.main([*SMOKE, "--resume", "--lr", "0.5", "--out", str(tmp_path)])


def test_a_run_of_two_steps_is_refused(tmp_path):
    write_phantom_dataset(tmp_path, patients=2, slices=8)
    one = ["--data", str(tmp_path), "--folds", "2", "--size", "64", "--precision", "float32", "--samples", "8", "--batch", "8"]
    with pytest.raises(ValueError, match="expected 3 steps or more for a one-cycle schedule, got 2"):
        segmenter.main([*one, "--epochs", "2", "--out", str(tmp_path / "run")])
    segmenter.main([*one, "--epochs", "3", "--workers", "0", "--out", str(tmp_path / "run")])


def test_a_run_starts_from_another(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    segmenter.main([*SMOKE, "--out", str(first)])
    segmenter.main([*SMOKE, "--out", str(second), "--start", str(first), "--lr", "1e-9", "--all"])
    one, two = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert torch.allclose(one["head.weight"], two["head.weight"], atol=1e-5)
    stages = load("resunet-lgg", weights=second, device="cpu").entry.training["stages"]
    assert [stage["patients"] for stage in stages] == [1, 2]
    assert json.loads((second / "split.json").read_text())["validation"] == []


def test_runs_from_one_start_are_averaged(tmp_path):
    first, one, two, mean, alone, all_ = (tmp_path / name for name in ("first", "one", "two", "mean", "alone", "all"))
    segmenter.main([*SMOKE, "--out", str(first)])
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
    stages = config["training"]["stages"]
    assert "mean of the weights of the 2 stages before" in describe_stage(stages[-1])
    assert [re.findall(r"--seed (\d)", stage["command"]) for stage in stages] == [[], ["1"], ["2"], []]
    assert stages[-1] == {
        "command": "python -m train.release.average --out RUN RUN RUN",
        "samples": 0,
        "patients": 1,
        "averages": 2,
    }
    assert (mean / "split.json").read_text() == (one / "split.json").read_text()

    segmenter.main([*SMOKE, "--out", str(alone)])
    with pytest.raises(SystemExit, match="did not start from the same weights"):
        average.main([str(one), str(alone), "--out", str(mean)])
    segmenter.main([*SMOKE, "--out", str(all_), "--start", str(first), "--all"])
    with pytest.raises(SystemExit, match="trained on other patients"):
        average.main([str(one), str(all_), "--out", str(mean)])
    with pytest.raises(SystemExit, match="differ in net"):
        average.main([str(one), "effunet-lgg", "--out", str(mean)])


def test_runs_that_learnt_apart_answer_together(tmp_path):
    one, two, pair = (tmp_path / name for name in ("one", "two", "pair"))
    for folder, seed in ((one, "1"), (two, "2")):
        segmenter.main([*SMOKE, "--net", "effunet", "--out", str(folder), "--seed", seed])
    ensemble.main([str(one), str(two), "--out", str(pair)])
    together, *members = (load(folder, device="cpu", runtime="torch") for folder in (pair, one, two))
    views = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    answers = [member.run(views) for member in members]
    assert not torch.equal(answers[0].mask, answers[1].mask)
    found = together.run(views)
    masks = [answer.mask.sigmoid() for answer in answers]
    assert torch.allclose(found.mask.sigmoid(), (masks[0] + masks[1]) / 2, atol=1e-6)
    assert torch.allclose(found.verdict, (answers[0].verdict + answers[1].verdict) / 2, atol=1e-6)
    assert together.entry.parameters == sum(member.entry.parameters for member in members)
    assert not together.entry.flips
    assert (pair / "split.json").read_text() == (one / "split.json").read_text()
    stages = together.entry.training["stages"]
    assert stages[:2] == [member.entry.training["stages"][0] for member in members]
    united = {"command": "python -m train.release.ensemble --out RUN RUN RUN", "samples": 0, "patients": 1, "unites": [1, 2]}
    assert stages[2:] == [united]
    assert "the networks of stages 1 and 2" in describe_stage(united)

    small = tmp_path / "small"
    segmenter.main([*SMOKE, "--out", str(small)])
    with pytest.raises(SystemExit, match="differ in net"):
        ensemble.main([str(one), str(small), "--out", str(pair)])
    with pytest.raises(SystemExit, match="made of EffUNets"):
        ensemble.main([str(small), str(small), "--out", str(pair)])


def test_a_start_that_saw_the_validation_patients_is_refused(tmp_path):
    first = tmp_path / "first"
    segmenter.main([*SMOKE, "--out", str(first)])
    with pytest.raises(ValueError, match="trained on 1 of this run's validation patients"):
        segmenter.main([*SMOKE, "--out", str(tmp_path / "second"), "--start", str(first), "--fold", "1"])


def test_a_student_learns_from_its_teachers_masks(tmp_path):
    teacher, student, alone = tmp_path / "teacher", tmp_path / "student", tmp_path / "alone"
    segmenter.main([*SMOKE, "--net", "effunet", "--out", str(teacher)])
    segmenter.main([*SMOKE, "--teacher", str(teacher), "--out", str(student)])
    segmenter.main([*SMOKE, "--out", str(alone)])
    losses = []
    for folder in (student, alone):
        with (folder / "history.csv").open() as handle:
            losses.append(next(csv.DictReader(handle))["train loss"])
    assert losses[0] != losses[1]  # the same start, the same slices, other targets
    stage = load("resunet-lgg", weights=student, device="cpu").entry.training["stages"][0]
    assert stage["teacher"].startswith("effunet-lgg, SHA-256 ")
    assert "--teacher TEACHER" in stage["command"]
    assert str(tmp_path) not in stage["command"]
    with pytest.raises(ValueError, match="trained on 1 of this run's validation patients"):
        segmenter.main([*SMOKE, "--teacher", str(teacher), "--fold", "1", "--out", str(tmp_path / "leaks")])
    with pytest.raises(SystemExit, match="expected a teacher with a mask, got resnet50-lgg"):
        segmenter.main([*SMOKE, "--teacher", "resnet50-lgg", "--all", "--out", str(tmp_path / "other")])


def test_a_classifier_learns_from_a_teachers_masks_and_verdicts(tmp_path):
    teacher, student, alone = tmp_path / "teacher", tmp_path / "student", tmp_path / "alone"
    segmenter.main([*SMOKE, "--net", "effunet", "--out", str(teacher)])
    classifier.main([*SMOKE, "--teacher", str(teacher), "--out", str(student)])
    classifier.main([*SMOKE, "--out", str(alone)])
    losses = [(folder / "history.csv").read_text().splitlines()[1].split(",")[1] for folder in (student, alone)]
    assert losses[0] != losses[1]  # the same start, the same slices, other targets
    stage = load("resnet50-lgg", weights=student, device="cpu").entry.training["stages"][0]
    assert stage["teacher"].startswith("effunet-lgg, SHA-256 ")
    weights = Path(brainmri.__file__).parent / "weights"
    with pytest.raises(SystemExit, match="does segmentation only"):
        classifier.main([*SMOKE, "--teacher", str(weights / "resunet-lgg"), "--out", str(tmp_path / "other")])
    with pytest.raises(SystemExit, match=r"expected a teacher of at least 192 px, got .* with 160 px"):
        classifier.main(["--data", str(student / "phantoms"), "--teacher", str(weights / "effunet-lgg"), "--size", "192",
                         "--out", str(tmp_path / "finer")])  # fmt: skip


def test_a_student_sees_its_teachers_slice_on_a_coarser_grid():
    image = torch.rand(2, 3, 160, 160)
    small = classifier.resize_and_normalise(image, Preprocess(size=96))
    assert small.shape == (2, 3, 96, 96)
    assert small.mean(dim=(1, 2, 3)) == pytest.approx([0, 0], abs=1e-5)
    assert torch.equal(classifier.resize_and_normalise(image, Preprocess(size=160)), Preprocess(size=160).normalise(image))


def test_a_release_of_a_run_that_did_not_start_from_the_measured_one_is_refused(tmp_path):
    measured, other = tmp_path / "measured", tmp_path / "other"
    segmenter.main([*SMOKE, "--out", str(measured)])
    # another recipe, from scratch: its stages differ from the measured run's
    segmenter.main([*SMOKE, "--out", str(other), "--all"])
    config = json.loads((other / "config.json").read_text())
    config["training"]["stages"][0]["samples"] += 1
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit, match="did not start from"):
        release(other, [measured], measured / "phantoms", tmp_path / "zoo", half=False)


def test_a_recipe_is_the_same_for_other_patients_and_on_another_machine():
    entry = load("resunet-lgg", device="cpu").entry

    def told(command):
        stage = {"command": f"python -m train.segmenter --data DIR {command}", "samples": 8}
        return recipe(replace(entry, training=entry.training | {"stages": [stage]}))

    one = told("--fold 0 --lr 3e-3 --precision float32 --workers 0 --out RUN")
    assert told("--all --out RUN --lr 3e-3 --precision bfloat16 --workers 4 --device cuda --on-device --resume") == one
    assert told("--fold 0 --lr 3e-4 --precision float32 --out RUN") != one


def test_a_release_says_when_another_teacher_taught_the_measured_weights(tmp_path):
    measured, other = tmp_path / "measured", tmp_path / "other"
    segmenter.main([*SMOKE, "--out", str(measured)])
    shutil.copytree(measured, other)
    for folder, teacher in ((measured, "effunet-lgg, SHA-256 0123456789ab"), (other, "effunet-lite2-lgg, SHA-256 ba9876543210")):
        config = json.loads((folder / "config.json").read_text())
        config["training"]["stages"][0]["teacher"] = teacher
        (folder / "config.json").write_text(json.dumps(config))
    data, said = measured / "phantoms", "; the measured weights were trained with other teachers: effunet-lgg"
    assert said in release(other, [measured], data, tmp_path / "zoo", half=False).metrics["protocol"]
    assert said not in release(measured, [measured], data, tmp_path / "zoo", half=False).metrics["protocol"]


def test_a_release_measures_the_run_and_writes_the_entry(tmp_path):
    run, zoo = tmp_path / "run", tmp_path / "zoo"
    segmenter.main([*SMOKE, "--net", "effunet", "--out", str(run)])
    entry = release(run, [run], run / "phantoms", zoo, half=True)
    assert entry.metrics["variants"][THREE_SEQUENCES]["patients"] == 1
    assert 0.2 <= entry.temperature <= 5
    card = (zoo / entry.name / "README.md").read_text()
    assert "The released weights are the measured ones" in card
    variants = entry.metrics["variants"]
    assert failure_tables(variants) in card
    for variant in VARIANTS:
        assert sum(one["slices"] for one in variants[variant][RELIABILITY]) == variants[variant]["slices"]
    assert reliability_table(variants) in card
    assert f"]({DIAGRAM})" in card
    assert (zoo / entry.name / DIAGRAM).read_text().startswith("<svg ")
    assert "Brains without tumour" not in card  # no report was given
    assert load(entry.name, weights=zoo / entry.name, device="cpu").entry == entry
    assert DIAGRAM in entry_files(entry)
    (zoo / entry.name / DIAGRAM).unlink()
    with pytest.raises(ValueError, match=f"lacks {DIAGRAM}, which its card shows"):
        entry_files(entry)


def test_without_data_it_says_what_to_give(tmp_path):
    with pytest.raises(SystemExit, match="expected --data"):
        segmenter.main(["--out", str(tmp_path), "--precision", "float32"])


def test_flair_replaces_the_other_sequences():
    transform = RandReplaceWithFlaird("image", prob=1.0)
    transform.set_random_state(0)
    image = torch.rand(3, 8, 8)
    seen = set()
    for _ in range(60):
        out = transform({"image": image})["image"]
        assert torch.equal(out[FLAIR], image[FLAIR])
        seen.add(tuple(bool(torch.equal(out[c], image[FLAIR])) for c in (0, 2)))
    assert seen == {(True, True), (True, False), (False, True)}
    assert not torch.equal(image[0], image[FLAIR])  # the cached slice is left as it was


def test_augmentation_moves_image_and_mask_together():
    transform = augmentation(64)
    transform.set_random_state(3)
    mask = torch.zeros(1, 64, 64)
    mask[:, 24:40, 20:34] = 1
    for _ in range(20):
        out = transform({"image": mask.repeat(3, 1, 1), "mask": mask})
        assert type(out["image"]) is torch.Tensor
        inside, outside = out["mask"] > 0.9, out["mask"] < 0.1
        flair = out["image"][FLAIR : FLAIR + 1]
        assert flair[inside].mean() > 0.5 > flair[outside].mean()


def test_the_same_seed_augments_the_same_way():
    item = {"image": torch.rand(3, 64, 64), "mask": torch.zeros(1, 64, 64)}
    one, two, other = (augmentation(64).set_random_state(seed)(item)["image"] for seed in (5, 5, 6))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_precision_is_probed_or_obeyed():
    net = ResUNet()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert choose_precision("bfloat16", net, 64, torch.device("cpu")) == torch.bfloat16
    assert choose_precision("auto", net, 64, torch.device("cpu")) in (torch.float32, torch.bfloat16)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training


def test_no_network_and_no_file_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there: offline, wherever the test runs
    with pytest.raises(ConnectionError, match="go online"):
        imagenet_resnet50(ResNet50Classifier(64, 2))


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
    assert [len(read_entry(run).training["stages"]) for run in runs] == [2, 2]
    teaching = ["segmenter", *SMOKE, "--data", str(data), "--folds", "2", "--teacher", str(tmp_path / "cv")]
    for student in crossvalidate.main([*teaching, "--out", str(tmp_path / "taught")]):
        (stage,) = read_entry(student).training["stages"]
        assert stage["teacher"].endswith(read_entry(tmp_path / "cv" / student.name).sha256[:12])
    last = tmp_path / "all-2"
    segmenter.main([*everything, "--start", str(tmp_path / "all"), "--out", str(last)])
    entry = release(last, runs, data, tmp_path / "zoo", half=False)
    assert entry.metrics["variants"][THREE_SEQUENCES]["patients"] == 2
    for run, split in zip(runs, splits, strict=True):  # what it says of its own patients, by three variants, stays with a run
        kept = [path.stem for path in (run / OUT_OF_FOLD).rglob("*.npz")]
        assert kept == split["validation"] * 3
    assert entry.metrics["protocol"].startswith("2-fold cross-validation by patient, 2 of 2 patients")
    card = (tmp_path / "zoo" / entry.name / "README.md").read_text()
    assert "trained with the same recipe on all patients" in card

    entry = release(last, [tmp_path / "cv" / f"fold-{fold}" for fold in range(2)], data, tmp_path / "zoo", half=False)
    card = (tmp_path / "zoo" / entry.name / "README.md").read_text()
    assert "including these, and trained further in the last stage below" in card  # further than what was measured

    with pytest.raises(SystemExit, match="a fold came twice"):
        release(last, [runs[0], runs[0]], data, tmp_path / "zoo", half=False)
