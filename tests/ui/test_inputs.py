"""Uploaded files are sorted into slices and studies by their bytes."""

import shutil

import pytest
from PIL import Image
from skimage import data

from brainmri.io.limits import UnreadableImage
from brainmri.io.pixels import FLAIR
from brainmri.io.sequences import PRE, Candidate
from brainmri.ui.batch_table import MEASURED, analyse_input
from brainmri.ui.decoding import read_input
from brainmri.ui.inference import set_available_models
from brainmri.ui.input_list import decode, encode, field_value, selected
from brainmri.ui.inputs import SLICE, STUDY, Input, list_inputs
from brainmri.ui.results import ABSENT
from tests.support.browsing import EXAMPLE
from tests.support.browsing import STUDY as VOLUME
from tests.support.phantom import images, save, zip_of

FOLDER = EXAMPLE.parent


def sort(*files) -> list[tuple[str, str, int]]:
    """Kind, label and number of files of each input."""
    return [(one.kind, one.label, len(one.files)) for one in list_inputs([str(file) for file in files])]


def copies(folder, names: list[str], source) -> list:
    for name in names:
        shutil.copy(source, folder / name)
    return [folder / name for name in names]


def test_slices_volumes_and_zips_are_recognised(tmp_path):
    three = FOLDER / "study-three.zip"
    assert sort(EXAMPLE) == [(SLICE, "large-lesion.png", 1)]
    assert sort(VOLUME, three) == [(STUDY, three.name, 1), (STUDY, VOLUME.name, 1)]
    assert [one.label for one in list_inputs([str(three)])[0].candidates] == ["flair.nii.gz", "t1.nii.gz", "t1ce.nii.gz"]
    (unnamed,) = copies(tmp_path, ["scan"], EXAMPLE)
    assert sort(unnamed) == [(SLICE, "scan", 1)]


def test_slices_are_a_list_unless_they_are_numbered(tmp_path):
    assert sort(EXAMPLE, FOLDER / "flair-only.png") == [(SLICE, "large-lesion.png", 1), (SLICE, "flair-only.png", 1)]
    numbered = copies(tmp_path, [f"case_{n}.png" for n in range(1, 5)], EXAMPLE)
    masks = copies(tmp_path, [f"case_{n}_mask.png" for n in range(1, 5)], EXAMPLE)
    assert sort(*numbered, *masks) == [(STUDY, "case", 4)]
    assert [kind for kind, *_ in sort(*numbered[:2])] == [SLICE, SLICE]
    others = copies(tmp_path, [f"{name}_{n}.png" for n in range(1, 5) for name in ("mask", "case_seg")], EXAMPLE)
    assert sort(*numbered, *others) == [(STUDY, "case", 4)]


def test_a_stack_of_pages_is_a_study(tmp_path):
    page = Image.open(EXAMPLE)
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page, page])
    assert sort(tmp_path / "stack.tif") == [(STUDY, "stack.tif", 1)]


def test_volumes_of_several_patients_are_several_studies(tmp_path):
    names = [f"{patient}_{sequence}.nii.gz" for patient in ("a1", "b2") for sequence in ("flair", "t1ce")]
    assert [files for *_, files in sort(*copies(tmp_path, names, VOLUME))] == [2, 2]
    assert sort(*copies(tmp_path, ["one.nii.gz", "two.nii.gz"], VOLUME)) == [(STUDY, "one.nii.gz and 1 more", 2)]


def test_dicom_files_of_two_examinations_are_two_studies(tmp_path):
    for number in (1, 2):
        save(tmp_path, images(StudyInstanceUID=f"1.2.{number}", SeriesInstanceUID=f"1.3.{number}"), f"study{number}_")
    (tmp_path / "preview.png").write_bytes(EXAMPLE.read_bytes())
    found = list_inputs([str(path) for path in sorted(tmp_path.iterdir())])
    assert [(one.kind, one.label, one.study) for one in found] == [(STUDY, "Study 1", 0), (STUDY, "Study 2", 1)]
    assert [one.pictures_left_out for one in found] == [1, 1]


@pytest.mark.slow
def test_result_counts_the_pictures_beside_a_volume(tmp_path):
    pictures = copies(tmp_path, ["preview.png", "case_1.png"], EXAMPLE)
    (one,) = list_inputs([str(path) for path in (VOLUME, *pictures)])
    warning = "2 pictures beside the volume were left out; to analyse slices, upload them without the volume"
    assert warning in read_input(decode(encode(one, [*one.files]), one.files)).warnings
    set_available_models([], False)
    assert warning in analyse_input(one, "resunet-lgg", "resnet50-lgg", None)["warnings"]
    (alone,) = list_inputs([str(VOLUME)])
    assert not any("left out" in each for each in read_input(alone).warnings)


@pytest.mark.parametrize("image", [EXAMPLE, VOLUME])
def test_a_result_names_files_that_are_no_images(image, tmp_path):
    names = ["report.pdf", ".DS_Store", "study.json", "notes.txt"]
    for name in names:
        (tmp_path / name).write_bytes(b"%PDF-1.7")
    for beside, warning in (
        (names, "report.pdf and 1 other file are no images and were left out"),
        (names[:3], "report.pdf is no image and was left out"),
    ):
        (one,) = list_inputs([str(image), *(str(tmp_path / name) for name in beside)])
        assert read_input(decode(encode(one, [*one.files]), one.files)).warnings[-1] == warning


def test_folders_of_slices_in_a_zip_are_several_studies(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / "upload" / folder).mkdir(parents=True)
        copies(tmp_path / "upload" / folder, [f"case_{n}.png" for n in range(1, 4)], EXAMPLE)
    found = list_inputs([str(zip_of(tmp_path / "upload"))])
    assert [(one.kind, one.label, one.study, one.candidates) for one in found] == [
        (STUDY, "Study 1", 0, ()),
        (STUDY, "Study 2", 1, ()),
    ]


def test_pictures_of_different_sizes_are_single_slices_though_they_are_numbered(tmp_path):
    files = copies(tmp_path, [f"case_{number}.png" for number in range(1, 4)], EXAMPLE)
    with Image.open(EXAMPLE) as example:
        example.crop((2, 0, *example.size)).save(files[1])
    assert sort(*files) == [(SLICE, file.name, 1) for file in files]


@pytest.mark.slow
def test_pictures_in_a_zip_are_slices_as_if_each_were_uploaded_alone(tmp_path):
    files = copies(tmp_path, ["Y1.png", "Y2.png"], EXAMPLE)
    archive = zip_of(tmp_path)
    found = list_inputs([str(archive)])
    assert [(one.kind, one.label) for one in found] == [(SLICE, "Y1.png"), (SLICE, "Y2.png")]
    set_available_models([], False)
    rows = [
        analyse_input(one, "effunet-lgg", "effunet-lgg", None)
        for one in (decode(encode(found[1], [str(archive)]), [str(archive)]), *list_inputs([str(files[1])]))
    ]
    assert rows[0] == rows[1]
    assert rows[0]["verdict"] == "tumour"


@pytest.mark.slow
def test_a_row_of_what_is_no_brain_has_a_verdict_and_no_measurements(tmp_path):
    Image.fromarray(data.astronaut()).save(tmp_path / "astronaut.png")
    set_available_models([], False)
    row = analyse_input(*list_inputs([str(tmp_path / "astronaut.png")]), "effunet-lgg", "effunet-lgg", None)
    assert row["verdict"] == "review"
    assert {row[name] for name in ("size", *MEASURED)} == {None}


@pytest.mark.parametrize(
    ("name", "content"), [("notes.txt", b"nothing"), ("broken.zip", b"PK\3\4 broken"), ("empty.nii.gz", b"")]
)
def test_other_files_are_refused_with_a_reason(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImage, match="Please"):
        list_inputs([str(tmp_path / name)])


def test_values_of_an_earlier_input_do_not_assign_sequences():
    candidates = tuple(Candidate(label=name, channel=channel) for name, channel in (("a", PRE), ("b", FLAIR), ("c", None)))
    chosen = Input(kind=STUDY, label="study", files=("/tmp/a.zip",), candidates=candidates)
    item = encode(chosen, chosen.files)
    assert decode(item, chosen.files) == chosen
    earlier = encode(Input(kind=STUDY, label="earlier", files=("/tmp/a.zip",), candidates=candidates), chosen.files)
    found = (1, 0, ABSENT)  # FLAIR, pre-contrast T1, post-contrast T1
    assert selected([field_value(number, item) for number in (2, ABSENT, 1)], item, chosen) == (2, ABSENT, 1)
    assert selected([field_value(number, earlier) for number in (2, ABSENT, 1)], item, chosen) == found
    assert selected([None, "typed", field_value(3, item)], item, chosen) == found
    with pytest.raises(ValueError, match="expected an input from the list"):
        decode(item, ())
