"""`python -m train.check` reports what a dataset holds, and fails on masks that do not fit and on leaks."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.train.layouts import SIZE, SLICES, save_picture, write_folders, write_volume_folders
from train import check


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    write_folders(root, 3)
    return root


def test_a_sound_dataset_passes(dataset, tmp_path, capsys):
    assert check.main(["--data", str(dataset), "--folds", "3", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"layout: images and masks\npatients: 3\nslices: {3 * SLICES}, of which 12 show a tumour (50%)" in printed
    assert f"sizes in pixels: {SIZE} x {SIZE} ({3 * SLICES})" in printed
    assert printed.rstrip().splitlines()[-2] == "nothing to correct"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["duplicates"] == report["leaks"] == []
    assert 0 < report["tumour_share"][0] <= report["tumour_share"][2] < 0.3
    with Image.open(tmp_path / "montage.png") as montage:
        red = (np.asarray(montage) == (255, 40, 40)).all(axis=2)
    assert red.any()  # the outlines


def test_volumes_have_their_spacing_reported(tmp_path, capsys):
    write_volume_folders(tmp_path, 1)
    check.main(["--data", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "spacing in mm: 5.00 x 4.00 x 4.00 (1)" in printed
    assert "1 patients are too few for 5 folds" in printed


def test_masks_that_do_not_fit_and_shared_pictures_are_found(dataset, tmp_path, capsys):
    shutil.copytree(dataset, tmp_path, dirs_exist_ok=True)
    save_picture(tmp_path / "masks" / "p1_1_mask.png", np.zeros((SIZE, SIZE + 1), np.uint8))
    save_picture(tmp_path / "masks" / "p1_2_mask.png", np.arange(SIZE**2, dtype=np.uint8).reshape(SIZE, SIZE))
    for kind, end in (("images", ""), ("masks", "_mask")):
        shutil.copy(tmp_path / kind / f"p3_4{end}.png", tmp_path / kind / f"p2_9{end}.png")
    assert check.main(["--data", str(tmp_path), "--folds", "3"]) == 1
    printed = capsys.readouterr().out
    assert "problem: p1: p1_1.png: image and mask differ in size: p1_1.png 48 x 48, p1_1_mask.png 49 x 48" in printed
    assert "problem: p1: p1_2.png: expected one value besides 0 in the mask p1_2_mask.png" in printed
    assert "same picture in two patients: p2 and p3 (p2_9.png and p3_4.png)" in printed
    assert "pictures; give them one patient" in printed

    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["p1", "p2"], "validation": ["p3"]}))
    check.main(["--data", str(tmp_path), "--split", str(split)])
    assert "leak: p2 (train) and p3 (validation) share" in capsys.readouterr().out
    split.write_text(json.dumps({"train": ["p1", "p2", "p3"], "validation": ["p3"]}))
    check.main(["--data", str(tmp_path), "--split", str(split)])
    assert "leak: patient p3 is in training and in validation" in capsys.readouterr().out
