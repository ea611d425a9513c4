"""Inputs of several studies give a row for each, and what models cannot analyse gives no sure verdict."""

import nibabel
import numpy as np
import pandas
import pytest

import brainmri
from brainmri.__main__ import main
from brainmri.batch.cohort import find_inputs, process
from brainmri.io.reading import read_study
from tests.support.cases import other_patient
from tests.support.phantom import PHANTOM, RAS, images, save, zip_of
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
