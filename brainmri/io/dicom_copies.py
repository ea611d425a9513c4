"""Copies among DICOM images: the same image of the same series, uploaded twice."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from functools import cache

from brainmri.io.dicom_headers import frame_count
from brainmri.io.dicom_pixels import read_frames
from brainmri.io.dicom_stacks import Frame
from brainmri.io.files import StudyFile
from brainmri.io.limits import MAX_STUDY_BYTES

PIXEL = 4  # bytes, at most, of a decoded pixel


def without_copies(frames: list[Frame]) -> list[Frame]:
    """The frames that are no copies of earlier ones, in their order.

    UIDs alone do not tell: programs leave them out or give many images the same one. So frames that are named alike are copies
    only if their files or their pixels are equal, which is read for such frames only.
    """
    digest_file, digest_frames = cache(StudyFile.digest), cache(_digest_frames)  # a file is decoded once for all its frames

    def digest_pixels(frame: Frame) -> str | int:
        digests = digest_frames(frame.file, frame.grid[:2], frame_count(frame.header))
        return digests[frame.index] if frame.index < len(digests) else id(frame)

    named: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        named.setdefault(_name(frame), []).append(frame)
    kept: set[Frame] = set()
    for namesakes in named.values():
        for digest in (lambda frame: digest_file(frame.file), digest_pixels):
            if len(namesakes) > 1:  # of equal ones the first
                namesakes = list({digest(frame): frame for frame in reversed(namesakes)}.values())
        kept.update(namesakes)
    return [frame for frame in frames if frame in kept]


def _name(frame: Frame) -> Hashable:
    """What copies of a frame share in their headers."""
    keywords = ("StudyInstanceUID", "PatientID", "SeriesInstanceUID", "SOPInstanceUID", "InstanceNumber")
    position = None if frame.position is None else frame.position.tobytes()
    return (*(str(frame.header.get(keyword) or "") for keyword in keywords), frame.index, position)


def _digest_frames(file: StudyFile, shape: tuple[int, int], count: int) -> list[str]:
    """Digests of the pixels of a file's frames; none if they cannot be read, or are too many to be decoded."""
    if shape[0] * shape[1] * count * PIXEL > MAX_STUDY_BYTES:
        return []
    try:
        frames = read_frames(file, shape)[1]
    except Exception:  # damaged files raise exceptions of many types; they are refused when they are read
        return []
    return [hashlib.sha256(values.astype("<i8").tobytes()).hexdigest() for values in frames]
