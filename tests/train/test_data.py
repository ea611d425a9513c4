"""Placed slices, distillation targets, sampling."""

import numpy as np
import pytest
import torch

from brainmri.analysis.forward import predict_slices
from brainmri.io.pixels import to_unit
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.registry import load
from train.data import TumourShareSampler, load_placed, read_patients
from train.datasets.lgg import find_slices
from train.folds import tumour_areas
from train.phantoms import write_phantom_dataset


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(root, patients=3, slices=6)
    return root


def test_patients_are_read_from_a_file(tmp_path):
    (tmp_path / "patients.txt").write_text("# ten\nTCGA_A\n\n  TCGA_B  \n")
    assert read_patients(tmp_path / "patients.txt") == ("TCGA_A", "TCGA_B")


def test_placed_slices(phantoms):
    cases = find_slices(phantoms)
    slices = next(iter(cases.values()))
    loaded = load_placed(slices, Preprocess(size=64))
    assert [s["number"] for s in loaded] == [1, 2, 3, 4, 5, 6]
    assert loaded[0]["image"].shape == (3, 64, 64)
    assert loaded[0]["mask"].shape == (1, 64, 64)
    assert {s["tumour"] for s in loaded} == {0, 1}
    areas = tumour_areas(cases)
    assert all(area > 0 for area in areas.values())


def test_targets_are_the_mean_of_mask_and_teacher(phantoms):
    slices = next(iter(find_slices(phantoms).values()))
    teacher = load("resunet-lgg", device="cpu")
    plain, distilled = (load_placed(slices, Preprocess(size=64), model) for model in (None, teacher))
    unit = to_unit(slices[2].read_image())
    predicted = predict_slices(teacher, None, unit[None]).maps
    image, placement = Preprocess(size=64)(unit)
    placed = Preprocess(size=64).place(torch.from_numpy(predicted), placement)
    torch.testing.assert_close(distilled[2]["mask"], (plain[2]["mask"] + placed) / 2)
    assert torch.equal(distilled[2]["image"], image)
    assert [s["tumour"] for s in distilled] == [s["tumour"] for s in plain]


def make_slices(*counts: tuple[int, int]) -> list[dict]:
    """What the sampler uses of slices: for each patient, the number of slices with tumour and without."""
    return [
        {"case": f"patient {number}", "tumour": tumour}
        for number, (positive, negative) in enumerate(counts)
        for tumour in [1] * positive + [0] * negative
    ]


def test_the_sampler_keeps_its_share_and_depends_on_seed_and_epoch_only():
    slices = make_slices((10, 90))
    sampler = TumourShareSampler(slices, samples=4000, share=0.6, seed=1)
    first = list(sampler)
    assert first == list(sampler)
    assert len(first) == len(sampler) == 4000
    assert abs(np.mean([slices[i]["tumour"] for i in first]) - 0.6) < 0.03
    assert set(first) == set(range(100))
    sampler.epoch = 1
    assert first != list(sampler)
    sampler.epoch = 0
    assert first == list(sampler)
    assert first != list(TumourShareSampler(slices, samples=4000, share=0.6, seed=2))


def test_the_sampler_needs_the_kinds_of_slices_that_it_samples():
    with pytest.raises(ValueError, match="got only one kind"):
        TumourShareSampler(make_slices((2, 0)), samples=4, share=0.5, seed=0)
    assert set(TumourShareSampler(make_slices((2, 0)), samples=40, share=1, seed=0)) == {0, 1}
    assert set(TumourShareSampler(make_slices((2, 3)), samples=40, share=0, seed=0)) == {2, 3, 4}


@pytest.mark.parametrize(("evenness", "share"), [(0.0, 36 / 40), (0.5, 6 / 8), (1.0, 1 / 2)])
def test_evenness_balances_patients(evenness, share):
    """Two patients, with 36 and 4 slices with tumour and 9 and 81 without: the share of the first in each kind."""
    slices = make_slices((36, 9), (4, 81))
    sampled = [slices[i] for i in TumourShareSampler(slices, samples=8000, share=0.5, seed=0, evenness=evenness)]
    first = {kind: np.mean([s["case"] == "patient 0" for s in sampled if s["tumour"] == kind]) for kind in (0, 1)}
    assert first[1] == pytest.approx(share, abs=0.03)
    assert first[0] == pytest.approx(9 ** (1 - evenness) / (9 ** (1 - evenness) + 81 ** (1 - evenness)), abs=0.03)
