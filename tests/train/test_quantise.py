"""Quantising an entry: the files, the measured differences, and the limits."""

import json

import numpy as np
import pytest
import torch

import brainmri
from brainmri.zoo.backends import QUANTISED
from brainmri.zoo.entry import INT8, INT8_WEIGHTS, SPLIT, file_sha256, new_config, read_entry, save_entry
from brainmri.zoo.nets import ResUNet
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.records import Training
from train.datasets.lgg import LGG
from train.phantoms import write_phantom_dataset
from train.release import quantise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A dataset of two phantoms and a run on one of them, whose network is as it was initialised."""
    root = tmp_path_factory.mktemp("quantise")
    write_phantom_dataset(root / "data")
    first, second = sorted(LGG.find_slices(root / "data"))[:2]
    torch.manual_seed(0)
    config = new_config(
        name="run", net="ResUNet", tasks=("segmentation",), arguments={}, preprocess=Preprocess(size=64, normalise_over="slice"),
        training=Training(dataset=LGG.reference).config(),
    )  # fmt: skip
    save_entry(root / "run", ResUNet(), config, {"train": [first], "validation": [second]})
    return root


def quantised(run, monkeypatch, limit: float) -> dict:
    monkeypatch.setattr(quantise, "write_card", lambda entry: None)  # an entry without metrics has no card
    monkeypatch.setattr(quantise, "MAX_DICE_LOST", limit)
    return quantise.main(["run", "--data", str(run / "data"), "--validated", str(run / "run"), "--into", str(run)])


def test_a_network_that_loses_too_much_is_not_written(run, monkeypatch):
    with pytest.raises(SystemExit, match="run stays in float32"):
        quantised(run, monkeypatch, limit=-1.0)
    assert not (run / "run" / INT8).exists()
    assert not read_entry(run / "run").int8


def test_an_entry_gets_an_8_bit_network_and_loses_it_with_its_weights(run, monkeypatch):
    measured = quantised(run, monkeypatch, limit=1.0)
    assert measured["patients"] == 1
    assert abs(measured["dice_lost"]) <= measured["dice_changed_at_most"] + 1e-9
    entry = read_entry(run / "run")
    assert entry.int8.measured == measured
    assert {name: file_sha256(run / "run" / name) for name in (INT8, INT8_WEIGHTS)} == entry.int8.files
    assert set(entry.hashes) == {"model.safetensors", INT8, INT8_WEIGHTS}
    text = (run / "run" / INT8).read_text(encoding="utf-8")
    assert "FakeQuantize" in text
    assert str(run) not in text

    plain, other = (brainmri.load(run / "run", device="cpu", runtime=kind) for kind in ("torch", QUANTISED))
    views = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    gap = (plain.backend(views).mask.sigmoid() - other.backend(views).mask.sigmoid()).abs().mean()
    assert 0 < gap < 0.05

    config = json.loads((run / "run" / "config.json").read_text())
    save_entry(run / "run", ResUNet(), config, json.loads((run / "run" / SPLIT).read_text()))
    assert not read_entry(run / "run").int8
    assert not (run / "run" / INT8).exists()


def test_ancestors_of_an_output():
    from brainmri.zoo.backends import load_openvino

    class Forked(torch.nn.Module):
        def forward(self, x):
            return torch.exp(x), torch.sin(torch.cos(x))

    graph = load_openvino().convert_model(Forked(), example_input=torch.zeros(2))
    kinds = {node.get_friendly_name(): node.get_type_name() for node in graph.get_ops()}
    assert {kinds[name] for name in quantise.ancestors(graph.outputs[1:])} == {"Cos", "Sin"}


def test_the_differences_are_summarised():
    found = quantise.summarise([(0.9, 0.89), (0.8, 0.82)], [(True, 2.0, 1.0), (False, -2.0, 1.5), (True, 3.0, 4.0)])
    assert found["dice_lost"] == pytest.approx(-0.005)
    assert found["dice_changed_at_most"] == pytest.approx(0.02)
    assert found["auc_lost"] == pytest.approx(0.5)
    assert found["slices"] == 3
    before, after = 1 / (1 + np.exp(-np.array([2, -2, 3.0]))), 1 / (1 + np.exp(-np.array([1, 1.5, 4.0])))
    assert found["probability_changed_on_average"] == pytest.approx(np.abs(before - after).mean(), abs=1e-5)
