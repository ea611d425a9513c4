"""Several files become inputs by one rule, whether they are uploaded or lie in a folder."""

from pathlib import Path

import nibabel
import pytest

from brainmri.batch.inputs import find_inputs
from brainmri.io.files import StudyFile
from brainmri.io.input_grouping import group_pictures, group_volumes
from brainmri.io.reading import count_studies
from brainmri.ui.inputs import list_inputs
from tests.support.phantom import PHANTOM, RAS, nifti, zip_of
from tests.support.studies import png


def files(folder: Path, *names: str, listed: bool = False) -> list[StudyFile]:
    """Files with these names; each in a folder of its own if they are listed, as a browser uploads them."""
    made = []
    for number, name in enumerate(names):
        path = folder / (f"upload{number}" if listed else "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".nii":
            nifti(path)
        else:
            path.write_bytes(png(90))
        made.append(StudyFile(path=path, listed=listed))
    return made


def grouped(groups: list[list[Path]]) -> list[str]:
    """The names of the files of each group, without ".nii"."""
    return [" + ".join(path.name.removesuffix(".nii") for path in group) for group in groups]


WORDS = ("t1n", "t1c", "t2w", "t2f", "seg")
# files by their names without suffix, the inputs where nobody can choose their sequences, and the inputs where somebody can
VOLUMES = {
    "one study": ("flair t1 t1ce t2", ["flair + t1 + t1ce + t2"], None),
    "two BraTS cases": (
        " ".join(f"BraTS-GLI-0000{case}-000-{word}" for case in (1, 2) for word in WORDS),
        [" + ".join(f"BraTS-GLI-0000{case}-000-{word}" for word in WORDS) for case in (1, 2)],
        None,
    ),
    "two names with a T2": (
        "smith_flair smith_t1 smith_t2 jones_flair jones_t1 jones_t2",
        ["smith_flair + smith_t1 + smith_t2", "jones_flair + jones_t1 + jones_t2"],
        None,
    ),
    "two processed names": (
        "smith_flair_bet smith_t1_reg jones_flair_bet jones_t1_reg",
        ["smith_flair_bet + smith_t1_reg", "jones_flair_bet + jones_t1_reg"],
        None,
    ),
    "two FLAIRs": ("a_flair b_flair", ["a_flair", "b_flair"], None),
    "two FLAIRs of one T1": ("flair flair_2 t1", ["flair", "flair_2", "t1"], None),
    "two studies and an unnamed file": ("u1_flair u1_t1 v2_flair v2_t1 x", ["u1_flair + u1_t1", "x", "v2_flair + v2_t1"], None),
    "unnamed files": ("one two", ["one", "two"], ["one + two"]),
    "a FLAIR and an unnamed file": ("flair x", ["flair", "x"], ["flair + x"]),
    "other sequences": ("t1 t2", ["t1", "t2"], ["t1 + t2"]),
    "another patient's T1": ("smith_flair jones_t1", ["smith_flair", "jones_t1"], ["smith_flair + jones_t1"]),
}


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_become_studies(tmp_path, name, listed):
    names, separate, choosable = VOLUMES[name]
    made = files(tmp_path, *(f"{one}.nii" for one in names.split()), listed=listed)
    assert grouped(group_volumes(made, choosable=False)) == separate
    assert grouped(group_volumes(made, choosable=True)) == (choosable or separate)


def test_uploads_and_folders_are_grouped_alike(tmp_path):
    names = [f"BraTS-GLI-0000{case}-000-{word}.nii" for case in (1, 2) for word in WORDS]
    uploaded = list_inputs([str(file.path) for file in files(tmp_path / "uploads", *names, listed=True)])
    files(tmp_path / "cohort", *names)
    found = [[path.name for path in source] for source in find_inputs(tmp_path / "cohort")]
    of_uploads = [sorted(Path(path).name for path in one.files if "seg" not in path) for one in uploaded]
    assert of_uploads == found
    assert [one.label for one in uploaded] == [f"{name} and 4 more" for name in names[::5]]


@pytest.mark.parametrize("listed", [False, True])
def test_halves_of_pairs_stay_together(tmp_path, listed):
    made = []
    for name in ("smith", "jones"):
        folder = tmp_path / (name if listed else "")
        folder.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Pair(PHANTOM, RAS), folder / f"{name}_flair.hdr")
        made += [StudyFile(path=folder / f"{name}_flair{suffix}", listed=listed) for suffix in (".img", ".hdr")]
    assert grouped(group_volumes(made, choosable=True)) == [
        "smith_flair.hdr + smith_flair.img",
        "jones_flair.hdr + jones_flair.img",
    ]


# pictures, and the inputs where at least two or at least three of a case are one study
PICTURES = {
    "numbered": ("a_1 a_2 a_3 x b_1", ["a_1 + a_2 + a_3", "x", "b_1"], None),
    "two of a case": ("a_1 a_2", ["a_1 + a_2"], ["a_1", "a_2"]),
    "masks": ("a_1 a_1_mask seg_a_1 x_mask label_7", ["a_1", "label_7"], None),
    "nothing but masks": ("a_mask b_mask", ["a_mask", "b_mask"], None),
}


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", PICTURES)
def test_pictures_become_studies_and_slices(tmp_path, name, listed):
    names, of_two, of_three = PICTURES[name]
    made = files(tmp_path, *(f"{one}.png" for one in names.split()), listed=listed)
    for least, expected in ((2, of_two), (3, of_three or of_two)):
        assert [one.replace(".png", "") for one in grouped(group_pictures(made, least))] == expected


def test_pictures_that_are_nothing_but_masks_are_not_ignored(tmp_path):
    made = files(tmp_path / "masks", "a_1_mask.png", "a_2_mask.png")
    assert [one.label for one in list_inputs([str(file.path) for file in made])] == ["a_1_mask.png", "a_2_mask.png"]
    files(tmp_path / "cohort", "a_1_mask.png")
    nifti(tmp_path / "cohort" / "one.nii")
    nifti(tmp_path / "cohort" / "two.nii")
    assert [path.name for path in find_inputs(tmp_path / "cohort")] == ["a_1_mask.png", "one.nii", "two.nii"]
    files(tmp_path / "single", "a_1_mask.png")
    assert count_studies(zip_of(tmp_path / "single")) == 1
