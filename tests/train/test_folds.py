"""Splits by patient: fold manifest, stratification, leaks."""

import json
from collections import Counter

import numpy as np
import pytest

from train.datasets.lgg import HELD_OUT, LGG, institution_of
from train.folds import Split, manifest_areas, split_cases, split_patients, tumour_areas
from train.phantoms import write_phantom_dataset


def make_areas(institution: str, count: int) -> dict[str, int]:
    return {f"TCGA_{institution}_{i:04d}_20000101": i * 100 for i in range(count)}


def test_folds_partition_the_patients_without_the_held_out():
    areas = make_areas("CS", 23) | make_areas("DU", 31) | dict.fromkeys(HELD_OUT, 5)
    splits = [split_patients(LGG, areas, fold=fold) for fold in range(5)]
    validated = [case for split in splits for case in split.validation]
    assert len(validated) == len(set(validated)) == 54
    assert set(validated) == set(areas) - HELD_OUT
    for split in splits:
        assert not set(split.train) & set(split.validation)
        assert set(split.train) | set(split.validation) == set(areas) - HELD_OUT
        assert abs(sum(institution_of(case) == "CS" for case in split.validation) - 23 / 5) <= 2
        # stratified by volume: no fold consists of large tumours
        assert 0.6 < np.mean([areas[c] for c in split.validation]) / np.mean([areas[c] for c in validated]) < 1.4


def test_held_out_patients_do_not_change_the_split():
    areas = make_areas("HT", 20)
    assert split_patients(LGG, areas) == split_patients(LGG, areas | dict.fromkeys(HELD_OUT, 7))


def test_manifest_gives_every_patient_one_role():
    manifest = json.loads(LGG.manifest.read_text())
    patients = manifest["patients"]
    assert len(patients) == 110
    assert {case for case, patient in patients.items() if patient["role"] == "held out"} == HELD_OUT
    assert Counter(map(institution_of, patients)) == {"CS": 16, "DU": 45, "EZ": 1, "FG": 14, "HT": 34}  # as published
    fold_of = {case: patient["fold"] for case, patient in patients.items() if patient["role"] == "fold"}
    assert len(fold_of) == 90
    assert sorted(set(fold_of.values())) == list(range(manifest["folds"]))
    areas = manifest_areas(LGG)
    for fold in range(manifest["folds"]):  # the rule gives the same folds from the areas in the manifest
        assert {case for case, to in fold_of.items() if to == fold} == set(split_patients(LGG, areas, fold=fold).validation)


def test_partial_copy_gets_the_folds_of_the_whole_dataset():
    whole = split_patients(LGG, manifest_areas(LGG), fold=2)
    train, validation = whole.train[::3], whole.validation[::4]
    found = {case: [] for case in train + validation}
    assert split_cases(LGG, found, 5, 2) == Split(train=train, validation=validation, held_out=HELD_OUT)
    with pytest.raises(ValueError, match="in fold 2 of 5, got 24 and 0 of the 24 found"):
        split_cases(LGG, {case: [] for case in train}, 5, 2)


def test_patients_outside_the_manifest_are_split_among_themselves(tmp_path):
    write_phantom_dataset(tmp_path, patients=3, slices=6)
    cases = LGG.find_slices(tmp_path)
    assert split_cases(LGG, cases, 3, 1) == split_patients(LGG, tumour_areas(cases), 3, 1)


def test_leaks_are_refused():
    with pytest.raises(ValueError, match="leak"):
        Split(train=("a", "b"), validation=("b",), held_out=frozenset())
    with pytest.raises(ValueError, match="held-out"):
        Split(train=tuple(HELD_OUT)[:1], validation=(), held_out=HELD_OUT)
    with pytest.raises(ValueError, match="expected a fold from 0 to 4, got 5"):
        split_patients(LGG, make_areas("CS", 9), fold=5)
    with pytest.raises(ValueError, match="at least 5 patients for 5 folds, got 3"):
        split_patients(LGG, make_areas("CS", 3))
