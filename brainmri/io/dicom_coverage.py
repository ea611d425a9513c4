"""Whether the series that is read covers the head, or images of its sequence at other positions are left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from brainmri.io.dicom_grouping import Series
from brainmri.io.dicom_stacks import PARTLY, Frame

REPLANNED = 10.0  # mm; a repeated series may end so much further up or down and still show the same head
SAME_PLACE = 0.01  # mm
PARALLEL = 0.9  # cosine; slices that are turned further against each other are of another plane


def describe_uncovered(used: Series, series: Sequence[Series]) -> str | None:
    """That images of the used series' sequence lie above or below its slices and are left out; None if there are none.

    Args:
        used: the series that is read.
        series: those of its study.
    """
    if not used.frames[0].placed:
        return None
    normal = _normal(used.frames[0])
    along = [float(_centre(frame) @ normal) for frame in used.stack.frames]
    count = 0
    for one in series:
        if one is not used and not _is_same_sequence(one, used):
            continue
        others = one.left_out if one is used else (*one.frames, *one.left_out)
        places = [float(_centre(frame) @ normal) for frame in others if _is_parallel(frame, normal)]
        beyond = np.array([max(along[0] - place, place - along[-1]) for place in places])
        of_one_series = one.frames[0].series == used.frames[0].series
        if (beyond > (SAME_PLACE if of_one_series else REPLANNED)).any():
            count += int((beyond > SAME_PLACE).sum())
    if not count:
        return None
    images = (
        "1 image of this sequence at another position was"
        if count == 1
        else f"{count} images of this sequence at other positions were"
    )
    return f"{PARTLY}: {images} left out"


def _is_same_sequence(one: Series, other: Series) -> bool:
    """Whether two series show the same sequence, in a frame of reference that may be the same."""
    if one.frame_of_reference != other.frame_of_reference and one.frame_of_reference and other.frame_of_reference:
        return False
    return one.sequence == other.sequence and (other.sequence is not None or one.description == other.description)


def _normal(frame: Frame) -> np.ndarray:
    """(3,) of length 1."""
    assert frame.orientation is not None
    return np.cross(frame.orientation[:3], frame.orientation[3:])


def _is_parallel(frame: Frame, normal: np.ndarray) -> bool:
    return frame.placed and bool(abs(_normal(frame) @ normal) >= PARALLEL)


def _centre(frame: Frame) -> np.ndarray:
    """(3,) of the middle of a slice, in mm; its corner moves if the slice is turned or has another field of view."""
    assert frame.position is not None
    assert frame.orientation is not None
    assert frame.spacing is not None
    rows, columns, _ = frame.grid
    along_row, along_column = frame.orientation[:3], frame.orientation[3:]
    return frame.position + along_row * frame.spacing[1] * (columns - 1) / 2 + along_column * frame.spacing[0] * (rows - 1) / 2
