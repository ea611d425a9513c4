"""The dataset's layout, honest splits, sampling."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from brainmri.analysis.pipeline import predict_slices
from brainmri.io.pixels import to_unit
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.registry import load
from train.data import (
    HELD_OUT,
    Split,
    TumourShareSampler,
    find_slices,
    institutions,
    load_placed,
    read_image,
    read_patients,
    split_patients,
    tumour_areas,
)
from train.folds import MANIFEST, known_areas, split_at_hand
from train.phantoms import write_phantom_dataset


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(root, patients=3, slices=6)
    return root


def made_up(institution: str, count: int) -> dict[str, int]:
    return {f"TCGA_{institution}_{i:04d}_20000101": i * 100 for i in range(count)}


def test_slices_come_in_order_along_the_head(phantoms):
    cases = find_slices(phantoms)
    assert len(cases) == 3
    assert all([s.number for s in slices] == list(range(1, 7)) for slices in cases.values())
    assert find_slices(phantoms / "kaggle_3m").keys() == cases.keys()


def test_ten_comes_after_nine(tmp_path):
    case = "TCGA_CS_0001_20000101"
    (tmp_path / case).mkdir()
    for number in (1, 10, 2, 9):
        for suffix in ("", "_mask"):
            Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / case / f"{case}_{number}{suffix}.tif")
    assert [s.number for s in find_slices(tmp_path)[case]] == [1, 2, 9, 10]


def test_a_folder_that_is_not_the_dataset_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="Kaggle layout"):
        find_slices(tmp_path)
    with pytest.raises(FileNotFoundError, match="not a folder"):
        find_slices(tmp_path / "nothing")
    case = "TCGA_CS_0001_20000101"
    (tmp_path / case).mkdir()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / case / f"{case}_1.tif")
    with pytest.raises(FileNotFoundError, match="has no mask"):
        find_slices(tmp_path)


def test_there_are_twenty_held_out():
    assert len(HELD_OUT) == 20


def test_the_folds_part_the_patients_and_leave_the_held_out_alone():
    areas = made_up("CS", 23) | made_up("DU", 31) | dict.fromkeys(HELD_OUT, 5)
    splits = [split_patients(areas, fold=f) for f in range(5)]
    everyone = [case for s in splits for case in s.validation]
    assert len(everyone) == len(set(everyone)) == 54
    assert set(everyone) == set(areas) - HELD_OUT
    for s in splits:
        assert not set(s.train) & set(s.validation)
        assert set(s.train) | set(s.validation) == set(areas) - HELD_OUT
        assert abs(institutions(s.validation)["CS"] - 23 / 5) <= 2
        # stratified by volume: no fold gets the large tumours alone
        assert 0.6 < np.mean([areas[c] for c in s.validation]) / np.mean([areas[c] for c in everyone]) < 1.4


def test_a_user_with_all_patients_gets_the_same_split():
    areas = made_up("HT", 20)
    assert split_patients(areas) == split_patients(areas | dict.fromkeys(HELD_OUT, 7))


def test_the_manifest_gives_every_patient_one_role():
    manifest = json.loads(MANIFEST.read_text())
    patients = manifest["patients"]
    assert len(patients) == 110
    assert {case for case, patient in patients.items() if patient["role"] == "held out"} == HELD_OUT
    assert institutions(list(patients)) == {"CS": 16, "DU": 45, "EZ": 1, "FG": 14, "HT": 34}  # of the published dataset
    dealt = {case: patient["fold"] for case, patient in patients.items() if patient["role"] == "fold"}
    assert len(dealt) == 90
    assert sorted(set(dealt.values())) == list(range(manifest["folds"]))
    for fold in range(manifest["folds"]):  # as the rule deals the areas that stand beside
        assert {case for case, to in dealt.items() if to == fold} == set(split_patients(known_areas(), fold=fold).validation)


def test_a_partial_copy_of_the_dataset_gets_the_folds_of_the_whole():
    whole = split_patients(known_areas(), fold=2)
    some = whole.train[::3] + whole.validation[::4]
    assert split_at_hand(dict.fromkeys(some, ()), 5, 2) == Split(train=whole.train[::3], validation=whole.validation[::4])
    with pytest.raises(ValueError, match="24 are left to train on and 0 to validate in fold 2 of 5"):
        split_at_hand(dict.fromkeys(whole.train[::3], ()), 5, 2)


def test_patients_unknown_to_the_manifest_are_dealt_by_the_rule(phantoms):
    cases = find_slices(phantoms)
    assert split_at_hand(cases, 3, 1) == split_patients(tumour_areas(cases), 3, 1)


def test_leaks_are_refused():
    with pytest.raises(ValueError, match="leak"):
        Split(train=("a", "b"), validation=("b",))
    with pytest.raises(ValueError, match="held-out"):
        Split(train=tuple(HELD_OUT)[:1], validation=())
    with pytest.raises(ValueError, match="fold 5"):
        split_patients(made_up("CS", 9), fold=5)
    with pytest.raises(ValueError, match="cannot make"):
        split_patients(made_up("CS", 3))


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


def test_a_teacher_moves_the_masks_halfway_towards_its_own(phantoms):
    slices = next(iter(find_slices(phantoms).values()))
    teacher = load("resunet-lgg", device="cpu")
    alone, taught = (load_placed(slices, Preprocess(size=64), by) for by in (None, teacher))
    found = predict_slices(teacher, None, to_unit(read_image(slices[2].image))[None]).maps
    image, placement = Preprocess(size=64)(to_unit(read_image(slices[2].image)))
    placed = Preprocess(size=64).place(torch.from_numpy(found), placement)
    torch.testing.assert_close(taught[2]["mask"], (alone[2]["mask"] + placed) / 2)
    assert torch.equal(taught[2]["image"], image)
    assert [s["tumour"] for s in taught] == [s["tumour"] for s in alone]


def of_patients(*counts: tuple[int, int]) -> list[dict]:
    """What the sampler knows of slices: for each patient so many with tumour, so many without."""
    return [
        {"case": f"patient {number}", "tumour": tumour}
        for number, (ill, free) in enumerate(counts)
        for tumour in [1] * ill + [0] * free
    ]


def test_the_sampler_keeps_its_share_and_repeats_itself():
    slices = of_patients((10, 90))
    sampler = TumourShareSampler(slices, samples=4000, share=0.6, seed=1)
    first = list(sampler)
    assert first == list(sampler)
    assert abs(np.mean([slices[i]["tumour"] for i in first]) - 0.6) < 0.03
    assert set(first) == set(range(100))
    sampler.epoch = 1
    assert first != list(sampler)
    with pytest.raises(ValueError, match="one kind is missing"):
        TumourShareSampler(of_patients((2, 0)), samples=4, share=0.5, seed=0)
    assert set(TumourShareSampler(of_patients((2, 0)), samples=40, share=1, seed=0)) == {0, 1}  # nothing else is asked for


@pytest.mark.parametrize(("evenness", "share"), [(0.0, 36 / 40), (0.5, 6 / 8), (1.0, 1 / 2)])
def test_the_sampler_evens_patients_out(evenness, share):
    """Of two patients with 36 and 4 slices with tumour, and 9 and 81 without, the first one's share of each kind."""
    slices = of_patients((36, 9), (4, 81))
    drawn = [slices[i] for i in TumourShareSampler(slices, samples=8000, share=0.5, seed=0, evenness=evenness)]
    of_first = {kind: np.mean([s["case"] == "patient 0" for s in drawn if s["tumour"] == kind]) for kind in (0, 1)}
    assert of_first[1] == pytest.approx(share, abs=0.03)
    assert of_first[0] == pytest.approx(9 ** (1 - evenness) / (9 ** (1 - evenness) + 81 ** (1 - evenness)), abs=0.03)
