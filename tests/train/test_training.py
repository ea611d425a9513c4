"""Training from end to end on two phantoms, resuming, starting weights, distillation."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import brainmri
from brainmri.zoo.nets import ResNet50Classifier, ResUNet
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.registry import load
from train import classifier, segmenter
from train.loop import choose_precision
from train.phantoms import write_phantom_dataset
from train.pretrained import imagenet_resnet50

pytestmark = pytest.mark.slow

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
    assert model.entry.training.stages[0].samples == 32


def test_a_resumed_run_ends_with_the_same_weights(resunet_run, tmp_path, monkeypatch):
    interrupted, save = tmp_path / "interrupted", torch.save

    def save_and_interrupt(*arguments, **keywords):
        save(*arguments, **keywords)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_and_interrupt)  # interrupted as soon as the first checkpoint is written
        with pytest.raises(KeyboardInterrupt):
            segmenter.main([*SMOKE, "--out", str(interrupted)])
    (interrupted / "checkpoint.partial").rename(interrupted / "checkpoint.pt")
    assert not (interrupted / "model.safetensors").exists()
    data = torch.load(interrupted / "checkpoint.pt", weights_only=True)
    assert len(data["history"]) == 1

    segmenter.main([*SMOKE, "--resume", "--out", str(interrupted)])
    one, two = (load_file(folder / "model.safetensors") for folder in (resunet_run, interrupted))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_augmenting_on_the_device_trains_the_same_network(resunet_run, tmp_path):
    segmenter.main([*SMOKE, "--on-device", "--out", str(tmp_path)])
    one, two = (load_file(folder / "model.safetensors") for folder in (resunet_run, tmp_path))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_resuming_with_other_options_is_refused(resunet_run, tmp_path):
    run = shutil.copytree(resunet_run, tmp_path / "run")
    with pytest.raises(ValueError, match="other options"):
        segmenter.main([*SMOKE, "--resume", "--lr", "0.5", "--out", str(run)])


def test_a_schedule_of_two_steps_is_refused(tmp_path):
    write_phantom_dataset(tmp_path, patients=2, slices=8)
    one = ["--data", str(tmp_path), "--folds", "2", "--size", "64", "--precision", "float32", "--samples", "8", "--batch", "8"]
    with pytest.raises(ValueError, match="expected 3 steps or more for a one-cycle schedule, got 2"):
        segmenter.main([*one, "--epochs", "2", "--out", str(tmp_path / "run")])
    segmenter.main([*one, "--epochs", "3", "--workers", "0", "--out", str(tmp_path / "run")])


def test_a_run_starts_from_the_weights_of_another(resunet_run, tmp_path):
    second = tmp_path / "second"
    segmenter.main([*SMOKE, "--out", str(second), "--start", str(resunet_run), "--lr", "1e-9", "--all"])
    one, two = (load_file(folder / "model.safetensors") for folder in (resunet_run, second))
    assert torch.allclose(one["head.weight"], two["head.weight"], atol=1e-5)
    stages = load("resunet-lgg", weights=second, device="cpu").entry.training.stages
    assert [stage.patients for stage in stages] == [1, 2]
    assert json.loads((second / "split.json").read_text())["validation"] == []


def test_a_start_trained_on_the_validation_patients_is_refused(resunet_run, tmp_path):
    with pytest.raises(ValueError, match="trained on 1 of this run's validation patients"):
        segmenter.main([*SMOKE, "--out", str(tmp_path), "--start", str(resunet_run), "--fold", "1"])


def test_a_segmenter_learns_from_a_teachers_masks(effunet_run, resunet_run, tmp_path):
    teacher, student = effunet_run, tmp_path / "student"
    segmenter.main([*SMOKE, "--teacher", str(teacher), "--out", str(student)])
    losses = []
    for folder in (student, resunet_run):
        with (folder / "history.csv").open() as handle:
            losses.append(next(csv.DictReader(handle))["train loss"])
    assert losses[0] != losses[1]  # same start and slices, different targets
    stage = load("resunet-lgg", weights=student, device="cpu").entry.training.stages[0]
    assert stage.teacher.startswith("effunet-lgg, SHA-256 ")
    assert "--teacher TEACHER" in stage.command_line
    assert str(tmp_path) not in stage.command_line
    with pytest.raises(ValueError, match="trained on 1 of this run's validation patients"):
        segmenter.main([*SMOKE, "--teacher", str(teacher), "--fold", "1", "--out", str(tmp_path / "leaks")])
    with pytest.raises(SystemExit, match="expected a teacher with a mask, got resnet50-lgg"):
        segmenter.main([*SMOKE, "--teacher", "resnet50-lgg", "--all", "--out", str(tmp_path / "other")])


def test_a_classifier_learns_from_a_teachers_masks_and_verdicts(effunet_run, tmp_path):
    student, baseline = tmp_path / "student", tmp_path / "baseline"
    classifier.main([*SMOKE, "--teacher", str(effunet_run), "--out", str(student)])
    classifier.main([*SMOKE, "--out", str(baseline)])
    losses = [(folder / "history.csv").read_text().splitlines()[1].split(",")[1] for folder in (student, baseline)]
    assert losses[0] != losses[1]  # same start and slices, different targets
    stage = load("resnet50-lgg", weights=student, device="cpu").entry.training.stages[0]
    assert stage.teacher.startswith("effunet-lgg, SHA-256 ")
    weights = Path(brainmri.__file__).parent / "weights"
    with pytest.raises(SystemExit, match="does segmentation only"):
        classifier.main([*SMOKE, "--teacher", str(weights / "resunet-lgg"), "--out", str(tmp_path / "other")])
    with pytest.raises(SystemExit, match=r"expected a teacher of at least 192 px, got .* with 160 px"):
        classifier.main(["--data", str(student / "phantoms"), "--teacher", str(weights / "effunet-lgg"), "--size", "192",
                         "--out", str(tmp_path / "finer")])  # fmt: skip


def test_a_students_input_is_a_resized_teachers_input():
    image = torch.rand(2, 3, 160, 160)
    small = classifier.resize_and_normalise(image, Preprocess(size=96))
    assert small.shape == (2, 3, 96, 96)
    assert small.mean(dim=(1, 2, 3)) == pytest.approx([0, 0], abs=1e-5)
    assert torch.equal(classifier.resize_and_normalise(image, Preprocess(size=160)), Preprocess(size=160).normalise(image))


def test_missing_data_says_what_to_give(tmp_path):
    with pytest.raises(SystemExit, match="expected --data"):
        segmenter.main(["--out", str(tmp_path), "--precision", "float32"])


def test_precision_is_timed_or_as_given():
    net = ResUNet()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert choose_precision("bfloat16", net, 64, torch.device("cpu")) == torch.bfloat16
    assert choose_precision("auto", net, 64, torch.device("cpu")) in (torch.float32, torch.bfloat16)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there, so the test is offline everywhere
    with pytest.raises(ConnectionError, match="go online"):
        imagenet_resnet50(ResNet50Classifier(64, 2))
