"""Inputs of several studies give a row for each, and what models cannot analyse gives no sure verdict."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas
import pytest

import brainmri
from brainmri.__main__ import main, output_stems
from brainmri.batch.cohort import process
from brainmri.batch.inputs import find_inputs, given_inputs
from brainmri.io.reading import read_study
from tests.support.cases import other_patient
from tests.support.phantom import PHANTOM, RAS, images, nifti, save, zip_of
from tests.support.studies import png


@pytest.fixture(scope="module")
def pipe():
    return brainmri.Pipeline(device="cpu")


@pytest.mark.slow
def test_two_patients_in_a_zip_give_two_rows(tmp_path, capsys):
    folder = save(tmp_path / "upload", images())
    save(folder, other_patient("AX T1", 2), prefix="b")
    save(folder, other_patient("AX T1 POST", 3), prefix="c")
    assert main(["predict", str(zip_of(folder)), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert "upload.zip (study-1): " in printed.out
    assert "upload.zip (study-2): none of 2 series is a FLAIR" in printed.err
    table = pandas.read_csv(tmp_path / "out" / "studies.csv")
    assert table["input"].tolist() == ["upload/study-1", "upload/study-2"]
    assert table["status"].tolist() == ["done", "failed"]
    assert (tmp_path / "out" / "upload" / "study-1" / "study.json").is_file()


@pytest.mark.slow
def test_two_folders_of_slices_in_a_zip_give_two_rows(pipe, tmp_path):
    (tmp_path / "upload").mkdir()
    for name in ("a/case_1.png", "a/case_2.png", "b/case_1.png"):
        (tmp_path / "upload" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "upload" / name).write_bytes(png(90))
    rows = process(pipe, zip_of(tmp_path / "upload"), tmp_path / "out", "upload")
    assert [(row["input"], row["status"], row["slices"]) for row in rows] == [
        ("upload/study-1", "done", 2),
        ("upload/study-2", "done", 1),
    ]


@pytest.mark.slow
def test_pictures_in_a_zip_and_in_a_folder_are_rows_with_their_names(pipe, tmp_path):
    (tmp_path / "upload").mkdir()
    for name in ("Y1.png", "Y2.png"):
        (tmp_path / "upload" / name).write_bytes(png(90))
    rows = process(pipe, zip_of(tmp_path / "upload"), tmp_path / "out", "upload")
    assert [(row["input"], row["status"]) for row in rows] == [("upload/Y1", "done"), ("upload/Y2", "done")]
    assert find_inputs(tmp_path / "upload") == [tmp_path / "upload" / "Y1.png", tmp_path / "upload" / "Y2.png"]


@pytest.mark.slow
def test_lone_t2_is_for_review(pipe, tmp_path):
    (row,) = process(pipe, save(tmp_path / "t2", images(description="AX T2 FSE")), tmp_path, "t2")
    assert row["verdict"] == "review"
    assert "the series is T2, not FLAIR" in row["warnings"]


def test_halves_of_a_pair_are_one_input(tmp_path):
    image = nibabel.Nifti1Pair(PHANTOM, RAS)
    image.set_sform(RAS, 1)
    nibabel.save(image, tmp_path / "flair.hdr")
    assert find_inputs(tmp_path) == [tmp_path]
    assert np.isfinite(read_study(tmp_path).pixels).all()


def test_subjects_of_a_bids_dataset_are_the_inputs(tmp_path):
    for folder in ("sub-01/anat", "sub-02/anat", "derivatives/sub-01/anat", "code"):
        (tmp_path / folder).mkdir(parents=True)
    assert [path.name for path in find_inputs(tmp_path)] == ["code", "derivatives", "sub-01", "sub-02"]
    (tmp_path / "dataset_description.json").write_text("{}")
    assert [path.name for path in find_inputs(tmp_path)] == ["sub-01", "sub-02"]


def place(folder: Path, *names: str) -> Path:
    """Files with these names: a zip of a volume, volumes and pictures."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".zip":
            (folder.parent / "packed").mkdir(exist_ok=True)
            nifti(folder.parent / "packed" / "flair.nii")
            zip_of(folder.parent / "packed").rename(path)
        elif path.suffix == ".nii":
            nifti(path)
        else:
            path.write_bytes(png(90))
    return folder


def found(folder: Path) -> list[str]:
    """The inputs in a folder: the names of their files below it."""
    inputs = [(source,) if isinstance(source, Path) else source for source in find_inputs(folder)]
    return [" + ".join(path.relative_to(folder).as_posix() for path in paths) for paths in inputs]


INPUTS = {
    "a zip, a volume and a picture": (["p1.zip", "p2.nii", "p3.png"], ["p1.zip", "p2.nii", "p3.png"]),
    "a zip and a picture": (["p1.zip", "p2.png"], ["p1.zip", "p2.png"]),
    "a zip and slices of one case": (["p1.zip", "a_1.png", "a_2.png", "a_1_mask.png"], ["a_1.png + a_2.png", "p1.zip"]),
    "masks of pictures": (["p1.zip", "image_3.png", "mask_3.png", "seg_image_3.png"], ["image_3.png", "p1.zip"]),
    "two volumes and a picture": (["p2.nii", "p3.nii", "lesion.png"], ["lesion.png", "p2.nii", "p3.nii"]),
    "a zip, a study and a folder": (["p1.zip", "flair.nii", "t1.nii", "p3/flair.nii"], ["flair.nii + t1.nii", "p1.zip", "p3"]),
    "a volume and folders": (["p1.nii", "p2/flair.nii", "p3/flair.nii"], ["p1.nii", "p2", "p3"]),
    "previews of one study": (["flair.nii", "t1.nii", "preview.png"], ["."]),
    "a T2 beside the sequences": (["flair.nii", "t1.nii", "t1ce.nii", "t2.nii", "seg.nii"], ["."]),
    "a sequence in a folder": (["flair.nii", "t1/x.nii"], ["."]),
    "two BraTS cases": (
        [f"BraTS-GLI-0000{case}-000-{word}.nii" for case in (1, 2) for word in ("t1n", "t1c", "t2w", "t2f", "seg")],
        [
            " + ".join(f"BraTS-GLI-0000{case}-000-{word}.nii" for word in ("t1c", "t1n", "t2f", "t2w"))
            for case in (1, 2)
        ],
    ),
    "two names": (
        ["smith_flair.nii", "smith_t1.nii", "jones_flair.nii", "jones_t1.nii"],
        ["jones_flair.nii + jones_t1.nii", "smith_flair.nii + smith_t1.nii"],
    ),
    "another patient's T1": (["smith_flair.nii", "jones_t1.nii"], ["jones_t1.nii", "smith_flair.nii"]),
}  # fmt: skip


@pytest.mark.parametrize("name", INPUTS)
def test_every_study_and_picture_of_a_folder_is_an_input(tmp_path, name):
    files, inputs = INPUTS[name]
    assert found(place(tmp_path / "cohort", *files)) == inputs


def test_damaged_zip_is_an_input(tmp_path):
    place(tmp_path, "p2.nii")
    (tmp_path / "p1.zip").write_bytes(b"damaged")
    assert found(tmp_path) == ["p1.zip", "p2.nii"]


def test_volumes_of_one_study_that_are_given_are_one_input(tmp_path):
    place(tmp_path, "X_flair.nii", "X_t1.nii", "X_t1ce.nii", "Y_t1.nii", "else/X_t1.nii", "flair.nii", "t1.nii")
    named = [tmp_path / f"X_{word}.nii" for word in ("flair", "t1", "t1ce")]
    slice_, other = tmp_path / "p.png", tmp_path / "Y_t1.nii"
    slice_.write_bytes(png(90))
    assert given_inputs([slice_, *named, other]) == [slice_, tuple(named), other]
    assert given_inputs([named[0], tmp_path / "else" / "X_t1.nii"]) == [named[0], tmp_path / "else" / "X_t1.nii"]
    assert given_inputs([named[1]] * 2) == [named[1]] * 2
    assert output_stems(given_inputs([*named, slice_])) == ["X", "p"]
    assert output_stems(given_inputs([tmp_path / "flair.nii", tmp_path / "t1.nii"])) == [tmp_path.name]


@pytest.mark.slow
def test_every_case_of_a_flat_folder_has_a_row(tmp_path, capsys):
    folder = place(tmp_path / "cohort", *(f"P-0{case}-{word}.nii" for case in (1, 2) for word in ("t1n", "t2f")), "c.png")
    options = ["--out", str(tmp_path / "out"), "--device", "cpu", "--segmenter", "effunet-lgg"]
    assert main(["predict", str(folder), *options]) == 0
    table = pandas.read_csv(tmp_path / "out" / "studies.csv")
    assert table["input"].tolist() == ["P-01", "P-02", "c"]
    assert table["kind"].tolist() == ["study", "study", "slice"]
    record = json.loads((tmp_path / "out" / "P-02" / "study.json").read_text())
    assert list(record["sequences"].values()) == ["P-02-t1n.nii", "P-02-t2f.nii", None]
    assert f"{folder / 'P-01'} (2 files): " in capsys.readouterr().out
