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
