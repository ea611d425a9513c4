"""A new network family takes one module and one registration line."""

import numpy as np
import pytest
import torch

import brainmri
from brainmri.analysis.explain import explain
from brainmri.zoo.entry import new_config, save_entry
from brainmri.zoo.nets import NETWORKS
from brainmri.zoo.preprocess import Preprocess
from tests.support.tiny_network import TinyNet

ARGUMENTS = {"channels": 4}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "TinyNet", "tests.support.tiny_network")  # the registration line
    torch.manual_seed(0)
    net = TinyNet(**ARGUMENTS).eval()
    config = new_config(
        name="tiny", net="TinyNet", tasks=net.tasks, arguments=ARGUMENTS, preprocess=Preprocess(size=64), flips=True
    )
    save_entry(tmp_path / "tiny", net, config, {"train": [], "validation": []})
    return tmp_path / "tiny"


def test_it_is_saved_and_loaded(folder):
    model = brainmri.load(folder, device="cpu")
    net = TinyNet.from_pretrained(folder)
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected, found = net(image), model.net(image)
    assert torch.equal(found.mask, expected.mask)
    assert torch.equal(found.verdict, expected.verdict)
    assert [features.shape[1] for features in model.net.forward_features(image)] == model.net.feature_channels


def test_it_gives_findings_and_studies(folder):
    model = brainmri.load(folder, device="cpu")
    pipe = brainmri.Pipeline(model, ood_model=model)
    slices = np.random.default_rng(0).integers(0, 256, (3, 80, 64, 3), np.uint8)
    finding, study = pipe(slices[0]), pipe.study(slices)
    assert finding.mask.shape == (80, 64)
    assert 0 < finding.probability < 1
    assert study.mask.shape == (3, 80, 64)
    assert finding.provenance["segmenter"]["name"] == "tiny"
    assert explain(model, slices[0] / np.float32(255), finding.mask).saliency.shape == (80, 64)


def test_an_unregistered_network_is_refused(folder, monkeypatch):
    monkeypatch.delitem(NETWORKS, "TinyNet")
    with pytest.raises(ValueError, match="TinyNet"):
        brainmri.load(folder, device="cpu")
