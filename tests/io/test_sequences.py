"""Sequences: recognised by the readers, listed for the page, and assigned by the caller."""

import nibabel
import numpy as np
import pytest
import tifffile

import brainmri.io.dicom
import brainmri.io.nifti
from brainmri.io.pixels import FLAIR
from brainmri.io.reading import UnreadableImage, list_sequences, read_study
from brainmri.io.sequences import HOW_TO_CHOOSE, ONE_SEQUENCE, POST, PRE, Candidate, sequence_of
from tests.support.phantom import EXPECTED, PHANTOM, PLANTED, RAS, header, images, nifti, save, stored, zip_of
from tests.support.studies import MARKER, marker, png, read, refusal, zip_of_bytes

ELSEWHERE = RAS + np.eye(4, k=3) * 60  # 60 mm to the right, of 80


def listed(source) -> list[tuple[str, int | None]]:
    return [(candidate.label, candidate.channel) for candidate in list_sequences(source)]


def refused(source, assign) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_study(source, assign)
    return str(caught.value)


def three_series(folder, descriptions=("AX T1", "AX FLAIR", "AX T1 POST")):
    """A series for each description: the phantom mirrored left to right, as it is, and mirrored front to back."""
    for number, (description, volume) in enumerate(zip(descriptions, (PHANTOM[::-1], PHANTOM, PHANTOM[:, ::-1]), strict=True), 1):
        save(folder, images(pixels=stored(volume, "SPL"), description=description, series=number), prefix=f"S{number}_")
    return folder


def three_files(folder, names=("t1", "flair", "t1ce")):
    folder.mkdir(exist_ok=True)
    for name, volume in zip(names, (PHANTOM[::-1], PHANTOM, PHANTOM[:, ::-1]), strict=True):
        nifti(folder / f"{name}.nii.gz", volume)
    return folder


@pytest.mark.parametrize(
    ("words", "channel"),
    [
        ("AX FLAIR", FLAIR), ("t2_tirm_tra_dark-fluid", FLAIR), ("T2W_FLAIR +C", FLAIR), ("flair_in_T1_space", FLAIR),
        ("AX T1 FLAIR", PRE), ("T1FLAIR post", POST), ("AX T1 SE", PRE), ("sub-01_T1w", PRE), ("T1 pre contrast", PRE),
        ("T1 without contrast", PRE), ("Sag 3D MPRAGE", PRE), ("T1 MPRAGE +C", POST), ("AX T1 POST GD", POST),
        ("sT1W_3D_TFE_KM", POST), ("t1_c+", POST), ("ce-gadolinium_T1w", POST), ("t1gd", POST), ("T1 postop", PRE),
        ("AX T2", None), ("AX T2 POST", None), ("DWI", None), ("localizer", None), ("patient1", None), ("", None),
        ("presurgery", None), ("T10", None),
    ],
)  # fmt: skip
def test_sequence_of_a_description(words, channel):
    assert sequence_of(words) == channel


# --- listing --------------------------------------------------------------------------------------------------------------


def test_nifti_files_are_listed_by_name(tmp_path):
    folder = three_files(tmp_path / "case")
    nifti(folder / "t2.nii")
    nifti(folder / "seg.nii")
    expected = [("flair.nii.gz", FLAIR), ("t1.nii.gz", PRE), ("t1ce.nii.gz", POST), ("t2.nii", None)]
    assert listed(folder) == listed(zip_of(folder)) == expected
    assert read(folder).sequences == ("t1.nii.gz", "flair.nii.gz", "t1ce.nii.gz")
    nifti(folder / "t1ce.nii.gz", affine=ELSEWHERE)
    assert ("t1ce.nii.gz", None) in listed(folder)
    assert read(folder).sequences == ("t1.nii.gz", "flair.nii.gz", None)


def test_volumes_of_a_fourth_axis_are_listed_in_order(tmp_path):
    path = nifti(tmp_path / "study.nii.gz", np.stack([PHANTOM[::-1], PHANTOM, PHANTOM[:, ::-1]], axis=3))
    assert listed(path) == [("volume 1 of 3", PRE), ("volume 2 of 3", FLAIR), ("volume 3 of 3", POST)]
    assert read(path).sequences == ("volume 1 of 3", "volume 2 of 3", "volume 3 of 3")
    nifti(tmp_path / "t2.nii")
    path.rename(tmp_path / "flair.nii.gz")
    names = [f"flair.nii.gz, volume {number} of 3" for number in (1, 2, 3)]
    assert listed(tmp_path) == [(names[0], PRE), (names[1], FLAIR), (names[2], POST), ("t2.nii", None)]
    assert read(tmp_path).sequences == tuple(names)


def test_unreadable_nifti_files_beside_the_sequences_are_not_listed(tmp_path):
    nifti(tmp_path / "flair.nii")
    nifti(tmp_path / "dwi.nii", np.zeros((40, 36, 12, 6), np.int16))
    (tmp_path / "notes.nii").write_bytes(b"Dear doctor,")
    assert listed(tmp_path) == [("flair.nii", FLAIR)]
    assert read(tmp_path).sequences == (None, "flair.nii", None)
    nifti(tmp_path / "t1.nii", np.zeros((40, 36, 12, 6), np.int16))
    assert "shape (40, 36, 12, 6)" in refusal(tmp_path)
    (tmp_path / "flair.nii").unlink()
    (tmp_path / "t1.nii").unlink()
    assert "shape (40, 36, 12, 6)" in refusal(tmp_path)


@pytest.mark.slow
def test_series_are_listed_without_identifying_text(tmp_path):
    folder = three_series(tmp_path / "study", ("AX T1", "AX FLAIR", "Planted T1 POST"))
    save(folder, images("sagittal", description="SAG FLAIR", series=19991231), prefix="b")
    save(folder, [header(Modality="SR")], prefix="report")
    expected = [
        ("series number 1 “AX T1” with 12 slices", PRE),
        ("series number 2 “AX FLAIR” with 12 slices", FLAIR),
        ("series number 3 with 12 slices", POST),
        ("series without a short number “SAG FLAIR” with 40 slices", None),
    ]
    assert listed(folder) == listed(zip_of(folder)) == expected
    assert not [word for word in PLANTED if word in repr(list_sequences(folder))]
    assert read(folder).sequences == tuple(label for label, _ in expected[:3])


@pytest.mark.parametrize("make", [three_files, three_series])
def test_listing_decodes_no_pixels(tmp_path, make, monkeypatch):
    monkeypatch.setattr(brainmri.io.nifti, "load_voxels", lambda *_: pytest.fail("voxels were read"))
    monkeypatch.setattr(brainmri.io.dicom, "decode", lambda *_: pytest.fail("pixels were decoded"))
    assert {channel for _, channel in listed(make(tmp_path / "study"))} == {PRE, FLAIR, POST}


def test_slices_stacks_and_arrays_have_no_sequences(tmp_path):
    (tmp_path / "case").mkdir()
    for number in (1, 2):
        (tmp_path / "case" / f"case_{number}.png").write_bytes(png(number))
    tifffile.imwrite(tmp_path / "stack.tif", EXPECTED.astype(np.uint16), photometric="minisblack")
    for source in (tmp_path / "case", tmp_path / "stack.tif", np.zeros((2, 32, 32), np.uint8)):
        assert list_sequences(source) == ()
        assert read(source).sequences == (None, None, None)
        assert "Please leave them out" in refused(source, {FLAIR: 0})


def test_single_volume_is_listed_as_flair(tmp_path):
    path = nifti(tmp_path / "t1ce.nii", code=0)
    assert list_sequences(path) == (Candidate(label="t1ce.nii", channel=FLAIR),)
    scan = read(path)
    assert scan.warnings[0].startswith("the file is post-contrast T1, not FLAIR")
    assert scan.warnings[1] == ONE_SEQUENCE
    folder = save(tmp_path / "study", [*images(description="AX T1"), header(Modality="SR")])
    assert listed(folder) == [("series number 1 “AX T1” with 12 slices", FLAIR)]
    assert read(folder).warnings[0].startswith("the series is pre-contrast T1, not FLAIR")
    assert read(folder).single_sequence == "pre-contrast T1"


# --- assignment -----------------------------------------------------------------------------------------------------------


def test_nifti_files_of_any_name_are_read_as_assigned(tmp_path):
    folder = three_files(tmp_path / "case", ("a", "b", "c"))
    assert listed(folder) == [("a.nii.gz", None), ("b.nii.gz", None), ("c.nii.gz", None)]
    message = refusal(folder)
    assert "none of 3 NIfTI files is named as FLAIR" in message
    assert HOW_TO_CHOOSE in message
    scan = read_study(folder, {PRE: 0, FLAIR: 1, POST: 2})
    assert np.array_equal(scan.pixels, read(three_files(tmp_path / "named")).pixels)
    assert scan.warnings == ()
    assert scan.sequences == ("a.nii.gz", "b.nii.gz", "c.nii.gz")
    swapped = read_study(zip_of(folder), {PRE: 2, FLAIR: 1, POST: 0})
    assert np.array_equal(swapped.pixels[..., ::-1], scan.pixels)


def test_unassigned_channels_show_flair(tmp_path):
    folder = three_files(tmp_path / "case")
    scan = read_study(folder, {FLAIR: 0, PRE: None, POST: 2})
    assert scan.warnings == ("FLAIR is used in place of the pre-contrast T1",)
    assert scan.sequences == (None, "flair.nii.gz", "t1ce.nii.gz")
    assert np.array_equal(scan.pixels[..., PRE], scan.pixels[..., FLAIR])
    scan = read_study(folder, {FLAIR: 2})  # a T1, but assignments are trusted
    assert scan.warnings == ("only FLAIR was provided; it is used for all three channels",)
    assert scan.sequences == (None, "t1ce.nii.gz", None)


def test_assignment_overrides_the_file_name(tmp_path):
    path = nifti(tmp_path / "t1.nii", PHANTOM)
    assert read_study(path, {FLAIR: 0}).warnings == ("only FLAIR was provided; it is used for all three channels",)
    nifti(tmp_path / "a_flair.nii", PHANTOM[::-1])
    nifti(tmp_path / "b_flair.nii", PHANTOM)
    assert listed(tmp_path) == [("a_flair.nii", None), ("b_flair.nii", None), ("t1.nii", PRE)]
    assert HOW_TO_CHOOSE in refusal(tmp_path)
    assert marker(read_study(tmp_path, {FLAIR: 1})) == MARKER


def test_volumes_of_a_fourth_axis_are_read_as_assigned(tmp_path):
    path = nifti(tmp_path / "study.nii.gz", np.stack([PHANTOM, PHANTOM[::-1], PHANTOM[:, ::-1]], axis=3))
    scan = read_study(path, {FLAIR: 0, POST: 2})
    assert marker(scan) == MARKER
    assert np.array_equal(scan.pixels[..., POST], scan.pixels[:, ::-1, :, FLAIR])
    assert scan.sequences == (None, "volume 1 of 3", "volume 3 of 3")
    assert scan.sha256 == read(path).sha256


def test_series_of_any_description_are_read_as_assigned(tmp_path):
    folder = three_series(tmp_path / "study", ("Planted", "AX T2", ""))
    labels = ["series number 1 with 12 slices", "series number 2 “AX T2” with 12 slices", "series number 3 with 12 slices"]
    assert listed(folder) == [(label, None) for label in labels]
    message = refusal(folder)
    assert "none of 3 series is a FLAIR" in message
    assert HOW_TO_CHOOSE in message
    scan = read_study(folder, {PRE: 0, FLAIR: 1, POST: 2})
    assert np.array_equal(scan.pixels, read(three_series(tmp_path / "named")).pixels)
    assert scan.warnings == ()
    assert scan.sequences == tuple(labels)


def test_other_flair_series_is_read_when_assigned(tmp_path):
    folder = save(tmp_path / "study", images("axial", pixels=EXPECTED[:, ::-1], series=1), prefix="a")
    save(folder, images("axial", series=2), prefix="b")
    assert [channel for _, channel in listed(folder)] == [FLAIR, None]
    assert marker(read(folder)) != MARKER
    scan = read_study(folder, {FLAIR: 1})
    assert marker(scan) == MARKER
    assert scan.warnings == ("only FLAIR was provided; it is used for all three channels",)


def test_t1_series_are_recognised_without_flair(tmp_path):
    folder = three_series(tmp_path / "study", ("AX T1", "AX T2", "AX T1 POST"))
    assert [channel for _, channel in listed(folder)] == [PRE, None, POST]


def test_assignment_can_skip_a_damaged_flair_series(tmp_path):
    doubled = save(tmp_path / "study", [*images(series=1), *images(series=1)], prefix="a")
    save(doubled, images(description="AX T1", series=2), prefix="b")
    save(doubled, images(description="T2 tra", series=3), prefix="c")
    assert [channel for _, channel in listed(doubled)] == [None if n else FLAIR for n in range(3)]
    assert "several slices at the same position" in refusal(doubled)
    assert marker(read_study(doubled, {FLAIR: 2, PRE: 1})) == MARKER


@pytest.mark.parametrize(
    ("assign", "reason"),
    [
        ({}, "no FLAIR was assigned"),
        ({FLAIR: None, PRE: 0}, "no FLAIR was assigned"),
        ({FLAIR: 1, PRE: 1}, "the same one was assigned to the pre-contrast T1 and the FLAIR"),
        ({FLAIR: 3}, "3 was assigned to the FLAIR. Please choose 0 to 2"),
        ({FLAIR: 1, POST: -1}, "-1 was assigned to the post-contrast T1"),
        ({FLAIR: "flair"}, "'flair' was assigned to the FLAIR"),
        ({FLAIR: 1, 3: 0}, "channel 3 was assigned. Please use 0 (pre-contrast T1), 1 (FLAIR), 2 (post-contrast T1)"),
    ],
)
@pytest.mark.parametrize("make", [three_files, three_series])
def test_invalid_assignments_are_refused(tmp_path, make, assign, reason):
    assert reason in refused(make(tmp_path / "study"), assign)


@pytest.mark.slow
def test_a_t1_on_another_grid_is_refused_when_it_was_assigned(tmp_path):
    nifti(tmp_path / "flair.nii")
    nifti(tmp_path / "t1.nii", affine=ELSEWHERE)
    message = refused(tmp_path, {FLAIR: 0, PRE: 1})
    assert "t1.nii, assigned to the pre-contrast T1, lies on another grid than the FLAIR and covers only 25% of it" in message
    folder = three_series(tmp_path / "study", ("AX T2", "AX FLAIR", "AX T1 POST"))
    save(folder, images("sagittal", description="SAG T1 Planted", series=4, FrameOfReferenceUID="1.2.3"), prefix="d")
    message = refused(folder, {FLAIR: 1, POST: 3})
    assert "series number 4 with 40 slices, assigned to the post-contrast T1, lies in another frame of reference" in message
    series = images(description="AX T1", series=5)
    for ds in series:
        del ds.ImagePositionPatient
    save(folder, series, prefix="e")
    assert "lies on another grid" in refused(folder, {FLAIR: 1, PRE: 4})


# --- several files --------------------------------------------------------------------------------------------------------


def in_separate_folders(folder, files: dict[str, bytes]) -> list[str]:
    """Save files as a browser uploads them: each in its own temporary folder."""
    paths = []
    for number, (name, data) in enumerate(files.items()):
        path = folder / f"upload{number}" / ("deeper" if number % 2 else "") / name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        paths.append(str(path))
    return paths


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_slices_from_different_folders_are_ordered(tmp_path):
    names = [f"TCGA_CS_4941_{number}.png" for number in (10, 2, 1, 9)]
    paths = in_separate_folders(tmp_path, {name: png(int(name[13:-4])) for name in names} | {"TCGA_CS_4941_1_mask.png": png(255)})
    scan = read(paths)
    assert np.rint(scan.pixels[:, 0, 0, 0] * 255).tolist() == [1, 2, 9, 10]
    assert scan.name == "study"
    together = tmp_path / "together"
    together.mkdir()
    for name in names:
        (together / name).write_bytes(png(int(name[13:-4])))
    assert scan.sha256 == read(together).sha256


def test_halves_of_a_pair_in_separate_folders_are_read_together(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(PHANTOM, moved := RAS + np.eye(4, k=3)), tmp_path / "flair.hdr")
    nibabel.save(nibabel.Nifti1Pair(PHANTOM[::-1], moved), tmp_path / "t1.hdr")
    halves = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    scan = read(in_separate_folders(tmp_path / "uploads", halves))
    assert marker(scan) == MARKER
    assert np.array_equal(scan.pixels[..., PRE], scan.pixels[:, :, ::-1, FLAIR])
    twice = [path for folder in "ab" for path in in_separate_folders(tmp_path / folder, halves)]
    assert "header of a pair without its voxels" in refusal(twice)  # which voxels belong to which header is unknown


def test_slices_of_different_cases_are_refused(tmp_path):
    paths = in_separate_folders(tmp_path, {"a_1.png": png(1), "b_2.png": png(2)})
    assert "got 2 studies, of different folders or cases" in refusal(paths)
    assert "got 2 studies, of different" in refusal(zip_of_bytes(tmp_path, {"a_1.png": png(1), "b_2.png": png(2)}))


@pytest.mark.slow
@pytest.mark.parametrize("make", [three_files, three_series])
def test_several_volume_files_are_read_like_their_folder(tmp_path, make):
    folder = make(tmp_path / "study")
    paths = in_separate_folders(tmp_path / "uploads", contents(folder))
    assert listed(paths) == listed(folder)
    scan = read(tuple(paths))
    assert np.array_equal(scan.pixels, read(folder).pixels)
    assert scan.sequences == read(folder).sequences
    assert scan.sha256 == read(folder).sha256
    assert scan.name == "study"
    chosen = read_study(paths, {PRE: 2, FLAIR: 0, POST: 1})
    assert chosen.sequences == tuple(list_sequences(paths)[index].label for index in (2, 0, 1))


def test_list_of_one_path_is_read_like_the_path(tmp_path):
    folder = three_files(tmp_path / "case")
    for path in (folder, zip_of(folder), folder / "flair.nii.gz"):
        one, alone = read([path]), read(path)
        assert (one.name, one.sha256, one.sequences) == (alone.name, alone.sha256, alone.sequences)


def test_invalid_lists_of_files_are_refused(tmp_path):
    folder = three_files(tmp_path / "Planted")
    flair, zipped = folder / "flair.nii.gz", zip_of(folder)
    assert "got 0 files" in refusal([])
    assert "got a zip among several files. Please upload it alone" in refusal([flair, zipped])
    assert "got a folder among several files" in refusal([folder, flair])
    dicom = save(tmp_path / "study", images()[:1])
    assert "got DICOM and NIfTI files together" in refusal([flair, *dicom.iterdir()])
    with pytest.raises(FileNotFoundError):
        read_study([flair, tmp_path / "nothing"])
    large = tmp_path / "case_1.tif"
    with large.open("wb") as handle:
        handle.truncate(2**30 + 1)  # sparse: nothing is written
    assert "got 1,024 MiB, expected at most" in refusal([large, flair])
