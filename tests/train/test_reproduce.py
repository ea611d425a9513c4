"""The paper's protocol: its splits by slice, its schedule, the whole command on phantoms, and the table."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import brainmri
from brainmri.zoo.entry import read_entry
from brainmri.zoo.metrics import THREE_SEQUENCES, label
from brainmri.zoo.registry import load
from train.datasets import Slice
from train.datasets.lgg import HELD_OUT
from train.folds import Split
from train.loop import RunFiles, fit
from train.paper import reproduce
from train.paper.comparison import OURS, PAPER, write_table
from train.paper.keras_schedule import KerasAdam, plateau_scheduler, shuffled_epochs, validation_means
from train.paper.slicewise import SliceSplit, split_for_classifier, split_for_segmenter, split_for_segmenter_by_patient
from train.release import card
from train.run import load_unleaked

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_resamples")]

SMOKE = ["paper", "--smoke", "--precision", "float32"]
ONE_SLICE = [{"image": torch.zeros(3, 4, 4), "mask": torch.zeros(1, 4, 4), "tumour": 0}]


def make_slices(count: int, case: str = "TCGA_CS_0001_20000101") -> list[Slice]:
    return [
        Slice(case=case, number=n, image=Path(f"{case}_{n}.tif"), mask=Path(f"{case}_{n}_mask.tif")) for n in range(1, count + 1)
    ]


@pytest.mark.parametrize(
    ("tumour_slices", "train", "test", "validation"),
    [(1109, 942, 125, 42), (1373, 1167, 154, 52)],  # the 90 patients, and all 110: 85%, 11.25%, 3.75%
)
def test_the_segmenters_split(tumour_slices, train, test, validation):
    slices = make_slices(tumour_slices)
    split = split_for_segmenter(slices, seed=0)
    assert (len(split.train), len(split.test), len(split.validation)) == (train, test, validation)
    assert {*split.train, *split.test, *split.validation} == set(slices)
    assert split == split_for_segmenter(slices, seed=0) != split_for_segmenter(slices, seed=1)


def test_the_split_by_patient_keeps_patients_together():
    slices = [s for number in range(90) for s in make_slices(12, f"TCGA_CS_{number:04}_20000101")]
    split = split_for_segmenter_by_patient(slices, seed=0)
    roles = [{s.case for s in role} for role in (split.train, split.test, split.validation)]
    assert [len(cases) for cases in roles] == [76, 10, 4]
    assert len(set.union(*roles)) == 90
    assert {*split.train, *split.test, *split.validation} == set(slices)
    assert split.with_a_neighbour_in_training(split.test) == 0
    assert split == split_for_segmenter_by_patient(slices, seed=0) != split_for_segmenter_by_patient(slices, seed=1)


def test_the_classifiers_split_keeps_the_share_of_tumour():
    slices = make_slices(3246)
    tumour = [s.number <= 1109 for s in slices]
    split = split_for_classifier(slices, tumour, seed=0)
    assert (len(split.train), len(split.validation), len(split.test)) == (2921, 325, 0)
    assert [sum(s.number <= 1109 for s in role) for role in (split.train, split.validation)] == [998, 111]
    assert split == split_for_classifier(slices, tumour, seed=0) != split_for_classifier(slices, tumour, seed=1)


def test_leaks_between_roles_are_refused():
    slices = make_slices(3)
    with pytest.raises(ValueError, match="two roles"):
        SliceSplit(train=tuple(slices), validation=tuple(slices[:1]))
    with pytest.raises(ValueError, match="held-out"):
        SliceSplit(train=tuple(slices), validation=(), test=tuple(make_slices(1, min(HELD_OUT))))


def test_neighbours_belong_to_the_same_patient():
    one, other = make_slices(9), make_slices(9, "TCGA_DU_0002_20000101")
    split = SliceSplit(train=(one[0], one[4]), validation=(other[1],), test=(one[1], one[2], one[3], one[8], other[3]))
    assert split.with_a_neighbour_in_training(split.test) == 2  # the second and fourth slices of the first patient
    assert split.with_a_neighbour_in_training(split.validation) == 0


def test_adam_steps_as_keras_does():
    weight = nn.Parameter(torch.tensor(1.0))
    optimiser = KerasAdam([weight], lr=0.05, eps=0.1)
    expected, mean, square = 1.0, 0.0, 0.0
    for number, gradient in enumerate((1.0, -0.5, 2.0), 1):
        weight.grad = torch.tensor(gradient)
        optimiser.step()
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        rate = 0.05 * math.sqrt(1 - 0.999**number) / (1 - 0.9**number)
        expected -= rate * mean / (math.sqrt(square) + 0.1)
        assert weight.item() == pytest.approx(expected, rel=1e-5)


class Weight(nn.Module):
    """A single weight, whose square is the loss: SGD at a rate of 1.1 multiplies it by -1.2."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))


def fit_weight(net, optimiser, out, epochs, loss=None, resume=False, **schedule):
    device, loss = torch.device("cpu"), loss or (lambda batch: (net.weight**2, {}))
    files = RunFiles(checkpoint=out.with_suffix(".pt"), history=out.with_suffix(".csv"), curves=out.with_suffix(".png"))
    return fit(
        net, loss=loss, optimiser=optimiser, load_epoch=shuffled_epochs(ONE_SLICE, seed=0), epochs=epochs, files=files, recipe="",
        validate=lambda: validation_means(ONE_SLICE, loss, device), resume=resume, keep_best=True, device=device,
        dtype=torch.float32, **schedule,
    )  # fmt: skip


def test_a_plateau_lowers_the_rate_and_then_stops_the_run(tmp_path):
    net = Weight()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    history = fit_weight(
        net, optimiser, tmp_path / "run", 60, lambda batch: (net.weight * 0 + 1, {}),
        scheduler=plateau_scheduler(optimiser), patience=20,
    )  # fmt: skip
    # the first epoch is the best; ten epochs without a better one lower the rate, twenty stop the run
    assert [row["learning rate"] for row in history] == pytest.approx([0.05] * 11 + [0.01] * 10)


def test_the_best_epochs_weights_are_kept(tmp_path):
    net = Weight()
    history = fit_weight(net, torch.optim.SGD(net.parameters(), lr=1.1), tmp_path / "run", 60, patience=3)
    assert [row["validation loss"] for row in history] == pytest.approx([1.2 ** (2 * n) for n in (1, 2, 3, 4)])
    assert net.weight.item() == pytest.approx(-1.2)


def test_a_finished_run_can_be_resumed_for_more_epochs(tmp_path):
    whole, broken = Weight(), Weight()
    expected = fit_weight(whole, KerasAdam(whole.parameters(), lr=0.05, eps=0.1), tmp_path / "whole", 4)
    for epochs in (2, 4):
        broken = Weight()
        history = fit_weight(broken, KerasAdam(broken.parameters(), lr=0.05, eps=0.1), tmp_path / "broken", epochs, resume=True)
    assert [row["train loss"] for row in history] == [row["train loss"] for row in expected]
    assert torch.equal(broken.weight, whole.weight)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    net = Weight()
    with pytest.raises(FloatingPointError, match="nan in epoch 1; try a smaller --lr"):
        fit_weight(net, torch.optim.SGD(net.parameters(), lr=1.0), tmp_path / "run", 5, lambda batch: (net.weight * math.nan, {}))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("paper")
    reproduce.main([*SMOKE, "--out", str(out)])
    return out


def test_smoke(run):
    for number in (1, 2, 3):
        assert (run / f"figure-{number}.png").read_bytes().startswith(b"\x89PNG")
    stages = [run / OURS / f"stage-{number}" / "history.csv" for number in (1, 2)]
    histories = [*stages, *(run / f"{name}.csv" for name in reproduce.NETWORKS if name != OURS)]
    assert [path.read_text().count("\n") for path in histories] == [3] * 5  # the header and two epochs
    rows = json.loads((run / "table.json").read_text())["rows"]
    assert [row["figure"] for row in rows][:3] == [label(name) for name in PAPER]
    assert all(0 <= row["same_protocol"] <= 1 for row in rows)
    for column in ("our_network", "split_by_patient"):
        assert [row[column] is None for row in rows] == [False, False, True, False, True]
    assert str(run) not in (run / "table.md").read_text()


def test_the_run_is_an_entry_split_by_slice(run):
    entry = load(run, device="cpu").entry
    assert (entry.name, entry.parameters) == ("resunet-paper", 1_210_513)
    assert not entry.preprocess.crop
    measured = json.loads((run / "table.json").read_text())["runs"]["segmenter"]["figures"]
    assert {name: figure for (_, name), figure in card.measured(entry).items()} == measured
    assert "These figures say nothing about new patients" in entry.metrics.protocol
    split = json.loads((run / "split.json").read_text())
    assert split["unit"] == "slice"
    assert (len(split["train"]), split["validation"], len(split["held_out"])) == (7, [], 20)
    assert [len(split["slices"][role]) for role in ("train", "test", "validation")] == [11, 2, 1]
    # a run that starts from it or learns from it cannot validate on any of its patients
    with pytest.raises(ValueError, match="trained on 1 of this run's validation patients"):
        load_unleaked(run, Split(train=(), validation=(split["train"][0],), held_out=HELD_OUT), torch.device("cpu"))


def test_the_run_by_patient_is_a_separate_entry(run):
    split = json.loads((run / "segmenter-by-patient" / "split.json").read_text())
    assert [len({s.rsplit("_", 1)[0] for s in split["slices"][role]}) for role in ("train", "test", "validation")] == [5, 1, 1]
    assert {s.rsplit("_", 1)[0] for s in split["slices"]["train"]} == set(split["train"])
    assert load(run / "segmenter-by-patient", device="cpu").entry.metrics is None


def test_our_network_uses_the_same_slices_as_the_papers(run):
    paper, ours = (json.loads((folder / "split.json").read_text())["slices"] for folder in (run, run / OURS))
    assert ours == paper
    entry = load(run / OURS, device="cpu").entry
    assert (entry.net, entry.arguments, entry.flips, entry.preprocess.crop) == ("EffUNet", {"encoder": "lite2"}, True, True)
    recorded = json.loads((run / "table.json").read_text())["runs"][OURS]
    assert (recorded["training_slices"], recorded["measured_slices"], recorded["epoch"], recorded["epochs"]) == (11, 2, 4, 4)
    assert (run / OURS / "figure-3.png").read_bytes().startswith(b"\x89PNG")


def test_the_card_of_a_released_entry_states_the_protocol(run, tmp_path):
    reproduce.release(run, tmp_path)
    entry = read_entry(tmp_path / "resunet-paper")
    text = (entry.folder / "README.md").read_text()
    assert text == card.model_card(entry)
    assert "The released weights are the measured ones." in text
    assert "split: test slices" in text
    assert "The image is scaled to 64 x 64" in text
    assert "cropped to the head" not in text
    assert "volumetric Dice" not in text
    assert entry.selfcheck
    link, cells = card.readme_row(entry).removeprefix("| ").split(" | ", 1)
    assert link == "[`resunet-paper`](brainmri/weights/resunet-paper/README.md)"
    assert cells == " | axial; FLAIR or three sequences | - | - | 5 | - |"


def test_training_one_network_keeps_the_metrics_of_the_others(run):
    reproduce.main([*SMOKE, "--only", "segmenter", "--resume", "--out", str(run)])
    assert len(json.loads((run / "table.json").read_text())["rows"]) == 5


def test_a_resumed_run_ends_with_the_same_weights(tmp_path, run, monkeypatch):
    save = torch.save

    def save_and_interrupt(*arguments, **keywords):
        save(*arguments, **keywords)
        raise KeyboardInterrupt

    command = [*SMOKE, "--only", "segmenter", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            reproduce.main(command)
    (tmp_path / "segmenter.partial").rename(tmp_path / "segmenter.pt")
    with pytest.raises(ValueError, match="other options"):
        reproduce.main([*command, "--resume", "--lr", "0.001"])
    reproduce.main([*command, "--resume"])
    one, two = (load_file(folder / "model.safetensors") for folder in (run, tmp_path))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_run_folder_in_the_repository_is_refused():
    out = Path(reproduce.__file__).parents[2] / "runs" / "paper-in-the-repository"
    with pytest.raises(SystemExit, match="Figure 3 shows patients"):
        reproduce.main([*SMOKE, "--out", str(out)])
    assert not out.exists()


def test_the_table(tmp_path):
    def measured(figures, neighbours):
        return {
            "figures": figures, "measured_slices": 125, "measured_patients": 70, "neighbour_in_training": neighbours,
            "training_slices": 942, "epoch": 31, "epochs": 51, "command": "python -m train.paper.reproduce paper",
        }  # fmt: skip

    tversky, sliced, accuracy = PAPER
    runs = {
        "segmenter": measured({tversky: 0.91, sliced: 0.85}, 120),
        "segmenter-by-patient": measured({tversky: 0.82, sliced: 0.71}, 0),
        OURS: measured({tversky: 0.94, sliced: 0.89}, 120),
        "classifier": measured({accuracy: 0.96}, 125),
    }
    text = write_table(tmp_path, runs, excluded="resunet-paper")
    assert (tmp_path / "table.md").read_text() == text
    rows = {row["figure"]: row for row in json.loads((tmp_path / "table.json").read_text())["rows"]}
    effunets = ["effunet-any", "effunet-lgg", "effunet-lite2-lgg", "effunet-pair-lgg"]
    verdicts = {*effunets, "resunet-any"}
    shipped = {entry.name: entry.metrics.variants[THREE_SEQUENCES] for entry in brainmri.list_models()}
    assert rows[label(tversky)] == {
        "figure": label(tversky), "paper": 0.9168, "same_protocol": 0.91, "our_network": 0.94, "split_by_patient": 0.82,
        "shipped": {name: shipped[name][tversky]["value"] for name in (*verdicts, "resunet-lgg")},
    }  # fmt: skip
    assert rows[label(accuracy)]["paper"] == 0.9475
    assert set(rows[label(accuracy)]["shipped"]) == {*verdicts, "resnet50-lgg"}
    ours = ", ".join(f"{name} {shipped[name][sliced]['value']:.4f}" for name in effunets[:2])
    assert f"| {label(sliced)} | not reported | 0.8500 | 0.8900 | 0.7100 | {ours}, effunet-lite2-lgg " in text
    assert f"| {label(accuracy)} | 0.9475 | 0.9600 | - | - | " in text
    assert "epoch 31 of 51; 120 of the 125 slices that measure it, of 70 patients, have a neighbour among the 942" in text
    columns = ("same_protocol", "our_network", "split_by_patient")
    shares = [[row[column] for column in columns] for name, row in rows.items() if "neighbour" in name]
    assert shares == [[0.96, 0.96, 0.0], [1.0, None, None]]
    text = write_table(tmp_path, {"segmenter-by-patient": runs["segmenter-by-patient"]}, excluded="resunet-paper")
    assert f"| {label(sliced)} | not reported | - | - | 0.7100 | " in text
