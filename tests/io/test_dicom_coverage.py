"""DICOM images of one head at several positions are one stack, or the scan says that only part of the head is read."""

import pydicom
import pytest

from brainmri.io.reading import list_sequences
from tests.support.cases import moved, two_stacks
from tests.support.phantom import enhanced, images, save
from tests.support.studies import MARKER, marker, read

PARTLY = "only part of the head was analysed"


def shifted(series, by):
    """Images whose positions are moved by (x, y, z) mm."""
    for ds in series:
        ds.ImagePositionPatient = [float(v) + shift for v, shift in zip(ds.ImagePositionPatient, by, strict=True)]
    return series


def halves(stack_ids=("1", "2"), apart=0.0):
    """An enhanced image whose frames belong to two stacks, the lower and the upper half of one head."""
    ds = enhanced()
    for number, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        content = pydicom.Dataset()
        content.StackID = stack_ids[number >= 6]
        group.FrameContentSequence = [content]
        position = pydicom.Dataset()
        position.ImagePositionPatient = [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]
        position.ImagePositionPatient[2] += apart * (number >= 6)
        group.PlanePositionSequence = [position]
    return [ds]


def test_a_large_hole_leaves_one_stack_that_is_incomplete(tmp_path):
    folder = save(tmp_path / "one", images()[:3] + images()[7:])
    assert len(list_sequences(folder)) == 1
    scan = read(folder)
    assert scan.warnings[0] == (
        "the slices have unequal gaps, 5.00 to 25.00 mm: 4 of 12 slices are missing (4 between slices 3 and 4) and count as "
        "without lesion. Please upload the missing slices"
    )
    assert scan.incomplete == f"{PARTLY}: 4 of 12 slices are missing"
    assert scan.geometry.missing == (3, 4, 5, 6)
    assert marker(scan) == [[4, 2, 2], [6, 7, 6]]


@pytest.mark.parametrize("missing", [1, 3])
def test_a_small_hole_is_only_a_warning(tmp_path, missing):
    scan = read(save(tmp_path / "one", images()[:4] + images()[4 + missing :]))
    assert f"{missing} of 12 slices are missing ({missing} between slices 4 and 5)" in scan.warnings[0]
    assert scan.incomplete is None


def test_holes_are_counted_by_the_slices_of_the_scan(tmp_path):
    """The rows of these images point to the right, so their normal points down and slices are stored from the crown."""
    series = images()
    del series[2], series[7:9]
    for ds in series:
        ds.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    scan = read(save(tmp_path / "one", series))
    assert "3 of 12 slices are missing (1 between slices 2 and 3, 2 between slices 7 and 8)" in scan.warnings[0]


def test_a_small_part_beyond_a_hole_is_kept(tmp_path):
    scan = read(save(tmp_path / "one", images()[:5] + images()[9:10]))
    assert len(scan.pixels) == 6
    assert scan.geometry.missing == (5, 6, 7, 8)


def test_a_series_uid_for_each_slice_and_a_hole(tmp_path):
    series = images()[:3] + images()[7:]
    for number, ds in enumerate(series):
        ds.SeriesInstanceUID = f"1.2.9.{number}"
    assert read(save(tmp_path / "one", series)).geometry.missing == (3, 4, 5, 6)


def test_stacks_of_an_enhanced_image_that_are_parts_of_one_head_are_joined(tmp_path):
    scan = read(save(tmp_path / "one", halves()))
    assert marker(scan) == MARKER
    assert len(scan.pixels) == 12
    assert scan.incomplete is None


def test_stacks_of_an_enhanced_image_on_different_grids_are_not_joined(tmp_path):
    scan = read(save(tmp_path / "one", halves(apart=12.5)))
    assert scan.incomplete == f"{PARTLY}: 6 images of this sequence at other positions were left out"
    assert scan.incomplete in scan.warnings


@pytest.mark.parametrize("name", ["AX FLAIR UPPER", "AX FLAIR"])
def test_another_series_that_covers_more_of_the_head_makes_the_scan_incomplete(tmp_path, name):
    upper = shifted(images(description=name, series=2)[:10], (0, 0, 7.5 + 30))
    scan = read(save(tmp_path / "one", [*images(), *upper]))
    assert scan.incomplete == f"{PARTLY}: 6 images of this sequence at other positions were left out"
    assert scan.incomplete in scan.warnings


@pytest.mark.parametrize(
    "other",
    [
        lambda: images(description="AX FLAIR REPEAT", series=2),
        lambda: shifted(images(description="AX FLAIR REPEAT", series=2), (0, 0, 8)),
        lambda: images("sagittal", description="SAG FLAIR", series=2),
        lambda: shifted(images(description="AX T2", series=2), (0, 0, 37.5)),
        lambda: shifted(images(description="AX FLAIR", series=2, FrameOfReferenceUID="1.2.3"), (0, 0, 37.5)),
    ],
    ids=["repeated", "planned anew", "another plane", "another sequence", "another frame of reference"],
)
def test_other_series_leave_the_scan_complete(tmp_path, other):
    assert read(save(tmp_path / "one", [*images(), *other()])).incomplete is None


@pytest.mark.parametrize(
    ("series", "count"),
    [
        (lambda: [*images(), *moved(1, (0, 0, -120))], "1 image of this sequence at another position was"),
        (two_stacks, "4 images of this sequence at other positions were"),
    ],
)
def test_images_far_away_are_left_out_and_named(tmp_path, series, count):
    scan = read(save(tmp_path / "one", series()))
    assert len(scan.pixels) == 12
    assert scan.incomplete == f"{PARTLY}: {count} left out"


def test_a_slab_beside_the_line_of_the_others_is_not_joined(tmp_path):
    scan = read(save(tmp_path / "one", images()[:7] + shifted(images()[11:], (15, 0, 0))))
    assert len(scan.pixels) == 7
    assert scan.incomplete == f"{PARTLY}: 1 image of this sequence at another position was left out"


def test_many_slices_shifted_in_their_plane_make_the_scan_incomplete(tmp_path):
    scan = read(save(tmp_path / "one", images()[:8] + shifted(images()[8:], (15, 0, 0))))
    assert scan.incomplete == f"{PARTLY}: 4 of 12 slices are shifted against the others and were left out"


def test_a_t1_with_a_hole_is_left_out(tmp_path):
    t1 = images(description="AX T1", series=2)
    scan = read(save(tmp_path / "one", [*images(), *t1[:3], *t1[7:]]))
    assert "the pre-contrast T1 lacks slices and was left out" in scan.warnings
    assert scan.incomplete is None
    scan = read(save(tmp_path / "two", [*images()[:3], *images()[7:], *t1[:3], *t1[7:]]))
    assert scan.sequences[0] is not None
