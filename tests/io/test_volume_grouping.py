"""Volume files of several patients or visits are separate studies."""

from pathlib import Path

import numpy as np
import pytest

from brainmri.io.pixels import FLAIR
from brainmri.io.reading import UnreadableImage, count_studies, list_sequences, read_study
from brainmri.io.sequences import PRE
from tests.support.phantom import EXPECTED, PHANTOM, nifti, zip_of
from tests.support.studies import read, refusal

LAYOUTS = {
    "folders of patients": "P{0}/{1}.nii",
    "folders of sequences": "P{0}/{1}/x.nii",
    "BraTS in one folder": "BraTS-GLI-0000{0}-000-{1}.nii",
    "BIDS subjects": "sub-0{0}/anat/sub-0{0}_{1}.nii",
    "BIDS sessions": "sub-01/ses-{0}/anat/sub-01_ses-{0}_{1}.nii",
    "folders of sessions": "sub-01/ses-{0}/anat/sub-01_{1}.nii",
    "folders of visits": "pat1/visit{0}/{1}.nii",
    "time points": "PatientID_0003_Timepoint_{0}_{1}.nii",
    "names in one folder": "smith{0}_{1}_3d.nii",
    "dates in one folder": "2019010{0}_{1}_brain.nii",
}


def write_patients(folder: Path, layout: str) -> Path:
    """A FLAIR and a T1 of two patients or visits; those of the second are mirrored."""
    for number, volume in enumerate((PHANTOM, PHANTOM[::-1]), 1):
        for sequence in ("flair", "t1"):
            path = folder / layout.format(number, sequence)
            path.parent.mkdir(parents=True, exist_ok=True)
            nifti(path, volume)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_patients_and_visits_are_studies_of_their_own(tmp_path, layout):
    folder = write_patients(tmp_path / "upload", LAYOUTS[layout])
    for source in (folder, zip_of(folder)):
        assert count_studies(source) == 2
        for number, marker in enumerate((EXPECTED == 1000, EXPECTED[..., ::-1] == 1000)):
            scan = read_study(source, study=number)
            assert np.array_equal(scan.pixels[..., FLAIR] == 1, marker)
            assert np.array_equal(scan.pixels[..., PRE] == 1, marker)
            assert scan.sequences[PRE] is not None
    assert "got 2 studies, of different patients or visits" in refusal(folder)


def test_initials_that_are_also_names_of_maps_tell_patients_apart(tmp_path):
    for patient in ("ad", "md"):
        (tmp_path / "folders" / patient).mkdir(parents=True)
        for sequence in ("flair", "t1"):
            nifti(tmp_path / f"{patient}_{sequence}.nii")
            nifti(tmp_path / "folders" / patient / f"{sequence}.nii")
    assert count_studies(list(tmp_path.glob("*.nii"))) == count_studies(tmp_path / "folders") == 2


def test_volumes_of_several_studies_can_be_assigned(tmp_path):
    folder = write_patients(tmp_path / "upload", LAYOUTS["folders of patients"])
    candidates = list_sequences(folder)
    assert [(one.label, one.study, one.channel) for one in candidates] == [
        ("study 1, P1/flair.nii", 0, None), ("study 1, P1/t1.nii", 0, None),
        ("study 2, P2/flair.nii", 1, None), ("study 2, P2/t1.nii", 1, None),
    ]  # fmt: skip
    assert read_study(folder, {FLAIR: 2, PRE: 3}).sequences == ("t1.nii", "flair.nii", None)
    with pytest.raises(UnreadableImage, match="belong to different patients or visits"):
        read_study(folder, {FLAIR: 0, PRE: 3})


def test_one_sequence_twice_in_one_folder_is_a_choice(tmp_path):
    for name in ("flair", "flair_2", "t1"):
        nifti(tmp_path / f"{name}.nii")
    assert count_studies(tmp_path) == 1
    assert "two NIfTI files are named as FLAIR. Please upload one of them" in refusal(tmp_path)


def test_visit_is_distinguished_by_the_file_before_its_folder(tmp_path):
    for visit, sequence in ((1, "FLAIR"), (2, "T1w")):
        folder = tmp_path / "sub-01" / f"ses-{visit}"
        folder.mkdir(parents=True)
        nifti(folder / f"sub-01_ses-{visit}_{sequence}.nii")
    assert "named as another patient or visit than the FLAIR and was left out" in read(tmp_path).warnings[0]


OTHERS = [
    ("smith_flair", "jones_t1"),
    ("AB12_FLAIR", "CD34_T1"),
    ("20190101_FLAIR", "20210101_T1"),
    ("smith_2019-01-01_FLAIR", "smith_20210101_T1"),
    ("PatientID_0003_Timepoint_1_t2f", "PatientID_0003_Timepoint_2_t1n"),
    ("pat1/visit1/flair", "pat1/visit2/t1"),
    ("sub-01/ses-1/anat/sub-01_FLAIR", "sub-01/ses-2/anat/sub-01_T1w"),
    ("TCGA_CS_4941_FLAIR", "TCGA_CS_4942_T1"),
]


def two_files(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / f"{name}.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        nifti(path)
    return folder


@pytest.mark.parametrize(("flair", "t1"), OTHERS)
def test_t1_named_as_another_patient_or_visit_is_left_out(tmp_path, flair, t1):
    folder = two_files(tmp_path / "upload", flair, t1)
    for source in (folder, zip_of(folder), [folder / f"{flair}.nii", folder / f"{t1}.nii"]):
        scan = read(source)
        assert scan.sequences[PRE] is None
        (warning,) = [one for one in scan.warnings if "another patient or visit" in one]
        files = [name.rpartition("/")[2] for name in (t1, flair)]
        assert warning == (
            "the pre-contrast T1 is named as another patient or visit than the FLAIR and was left out"
            f" ({files[0]}.nii beside {files[1]}.nii)"
        )


def test_t1_of_another_name_can_be_assigned(tmp_path):
    folder = two_files(tmp_path, "smith_flair", "jones_t1")
    assert [one.channel for one in list_sequences(folder)] == [None, FLAIR]
    assert read_study(folder, {FLAIR: 1, PRE: 0}).sequences == ("jones_t1.nii", "smith_flair.nii", None)


@pytest.mark.parametrize(
    ("flair", "t1"),
    [("flair", "T1_visit2"), ("flair", "jones_t1"), ("john_smith_flair", "john_doe_t1"), ("0003_flair", "0004_t1")],
)
def test_names_that_may_be_of_other_patients_give_a_warning(tmp_path, flair, t1):
    scan = read(two_files(tmp_path, flair, t1))
    assert scan.sequences == (f"{t1}.nii", f"{flair}.nii", None)
    assert scan.warnings[0] == (
        f"{t1}.nii and {flair}.nii are read together, but their names differ; check that both show one patient at one visit"
    )


def test_t1_in_a_folder_of_the_same_name_elsewhere_gives_a_warning(tmp_path):
    scan = read(two_files(tmp_path, "smith/scan/flair", "jones/scan/t1"))
    assert scan.warnings[0] == "the pre-contrast T1 is in another folder than the FLAIR; check that both show one patient"


TOGETHER = [
    ("AX_FLAIR", "AX_T1_POST"),
    ("flair", "t1_mprage"),
    ("sub-01_ses-01_FLAIR", "sub-01_ses-01_ce-gd_T1w"),
    ("BraTS19_x_flair", "BraTS19_x_t1ce"),
    ("VSD.Brain.XX.O.MR_Flair.684", "VSD.Brain.XX.O.MR_T1c.685"),
    ("UPENN-GBM-00001_11_FLAIR_unstripped", "UPENN-GBM-00001_11_T1GD"),
    ("TCGA-02-0003_1996.07.02_flair", "TCGA-02-0003_1996.07.02_t1Gd"),
    ("smith_AX_FLAIR_20190101101010_5", "smith_AX_T1_20190101101544_7"),
    ("t2_tirm_tra_dark-fluid_p2_3mm", "t1_mprage_sag_p2_iso_KM"),
    ("3D_Brain_VIEW_FLAIR_SHC", "sT1W_3D_TFE"),
    ("FLAIR_1mm_n4_bet", "T1_n4_regtoFLAIR"),
    ("flair (1)", "t1"),
    ("P1/FLAIR/resampled/flair", "P1/T1/resampled/t1"),
]


@pytest.mark.parametrize(("flair", "t1"), TOGETHER)
def test_names_that_differ_in_sequence_and_processing_are_one_study(tmp_path, flair, t1):
    scan = read(two_files(tmp_path, flair, t1))
    assert sum(label is not None for label in scan.sequences) == 2
    assert [one for one in scan.warnings if "in place of" not in one] == []
