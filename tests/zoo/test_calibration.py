"""How verdict, mask and neighbouring slices become one probability."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import brainmri
from brainmri.zoo.calibration import Fusion, evidence, smooth_across_slices, smooth_maps
from brainmri.zoo.entry import CONFIG, OOD, WEIGHTS, read_entry
from brainmri.zoo.registry import find_entry
from train.phantoms import phantom_volume

PLAIN = Fusion(logit=2.0, evidence=0.5, bias=-1.0, review=(0.3, 0.7))


def test_a_slice_by_itself_is_a_logistic_regression():
    probability = PLAIN.probability(np.array([0.0, 1.0]), np.array([2.0, 0.0]))
    assert probability == pytest.approx([1 / (1 + np.exp(-0.0)), 1 / (1 + np.exp(-1.0))])


def test_evidence_counts_the_masks_probability():
    maps = torch.zeros(2, 1, 4, 4)
    maps[1] = 0.5
    assert evidence(maps) == pytest.approx([0, np.log(1 + 8)])


def test_studies_are_smoothed_across_slices():
    studied = Fusion(logit=1.0, evidence=0.0, bias=0.0, review=(0.5, 0.5), neighbours=1.0)
    alone = np.array([-4.0, -4, -4, 4, -4, -4, -4])  # one slice against all its neighbours
    together = np.array([-4.0, -4, 4, 4, 4, -4, -4])
    nothing = np.zeros(7)
    assert studied.probability(alone, nothing)[3] < 0.5
    assert studied.probability(together, nothing)[3] > 0.9
    assert smooth_across_slices(np.full(5, 3.0), 1.0) == pytest.approx(3.0)


def test_maps_are_smoothed_as_logits():
    maps = np.full((5, 2, 2), 0.5, np.float32)
    maps[2] = 0.99
    smooth = smooth_maps(maps, 0.5)
    assert smooth.dtype == np.float32
    assert 0.5 < smooth[1, 0, 0] < smooth[2, 0, 0] < 0.99
    assert smooth[0, 0, 0] == pytest.approx(0.5, abs=1e-3)
    assert smooth_maps(maps, 0.0) is maps


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """The default entry with separate fusions for single slices and for studies."""
    source, folder = find_entry("effunet-lgg").folder, tmp_path_factory.mktemp("fused")
    config = json.loads((source / CONFIG).read_text())
    study = Fusion(logit=0.5, evidence=0.7, bias=-3.0, review=(0.45, 0.55), neighbours=1.0)
    config["fusion"] = {"slice": PLAIN.config(), "study": study.config()}
    (folder / CONFIG).write_text(json.dumps(config))
    for name in (WEIGHTS, OOD):
        (folder / name).symlink_to(source / name)
    return folder


def test_an_entry_keeps_its_fusion(fused):
    entry = read_entry(fused)
    assert entry.fusion["slice"] == PLAIN
    assert entry.fusion["study"].review == (0.45, 0.55)


@pytest.mark.slow
def test_the_pipeline_fuses_mask_and_verdict_of_one_entry(fused):
    model = brainmri.load("fused", weights=fused, device="cpu")
    images, _ = phantom_volume(slices=5, size=96, seed=1)
    pipe, plain = (
        brainmri.Pipeline(each, device="cpu")
        for each in (model, replace(model, entry=replace(model.entry, fusion={}, mask_neighbours=0.0)))
    )
    finding = pipe(images[2])
    assert finding.provenance["calibration"]["evidence"] == 0.5
    assert finding.provenance["review_band"] == [0.3, 0.7]
    study = pipe.study(images)
    assert study.provenance["calibration"]["neighbours"] == 1.0
    assert study.provenance["calibration"]["mask_neighbours"] == 0.5
    assert study.provenance["review_band"] == [0.45, 0.55]
    assert np.abs(study.probability_map - plain.study(images).probability_map).max() > 0.01  # smoothed across neighbours
    assert pipe.study(images[2:3]).findings[0].probability == pytest.approx(finding.probability, abs=1e-4)
    # another entry's mask was not there when the fusion was fitted
    other = brainmri.Pipeline("resunet-lgg", model, device="cpu")(images[2])
    assert "temperature" in other.provenance["calibration"]
