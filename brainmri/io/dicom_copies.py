"""Copies among DICOM images: the same image of the same series, uploaded twice."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field

from brainmri.io.dicom_headers import frame_count
from brainmri.io.dicom_pixels import read_frames
from brainmri.io.dicom_stacks import Frame
from brainmri.io.files import StudyFile
from brainmri.io.limits import MAX_STUDY_BYTES

PIXEL = 4  # bytes, at most, of a decoded pixel


@dataclass(kw_only=True, eq=False)
class _Namesakes:
    """Frames that their headers name alike: those with pixels not yet compared, and the digests of files and pixels."""

    waiting: list[Frame] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    pixels: set[str] = field(default_factory=set)


class Copies:
    """Finds frames that are copies of earlier ones.

    UIDs alone do not tell: programs leave them out or give many images the same one. So frames that are named alike are copies
    only if their files or their pixels are equal, which is read for such frames only.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, _Namesakes] = {}
        self._files: dict[StudyFile, str] = {}
        self._pixels: dict[StudyFile, list[str]] = {}

    def add(self, frame: Frame) -> bool:
        """Whether a frame is a copy of one that was added before."""
        names = self._found.setdefault(_name(frame), _Namesakes())
        if not (names.waiting or names.files):  # the first of its name
            names.waiting.append(frame)
            return False
        names.files |= {self._digest(other.file) for other in names.waiting}
        if (file := self._digest(frame.file)) in names.files:
            return True
        names.pixels |= {digest for other in names.waiting if (digest := self._digest_pixels(other))}
        names.waiting.clear()
        names.files.add(file)
        pixels = self._digest_pixels(frame)
        if pixels in names.pixels:
            return True
        if pixels:
            names.pixels.add(pixels)
        return False

    def _digest(self, file: StudyFile) -> str:
        if file not in self._files:
            self._files[file] = file.digest()
        return self._files[file]

    def _digest_pixels(self, frame: Frame) -> str | None:
        """The digest of a frame's decoded pixels; None if they cannot be read. A file is decoded once for all its frames."""
        if frame.file not in self._pixels:
            self._pixels[frame.file] = _digest_frames(frame)
        digests = self._pixels[frame.file]
        return digests[frame.index] if frame.index < len(digests) else None


def _name(frame: Frame) -> Hashable:
    """What copies of a frame share in their headers."""
    keywords = ("StudyInstanceUID", "PatientID", "SeriesInstanceUID", "SOPInstanceUID", "InstanceNumber")
    position = None if frame.position is None else frame.position.tobytes()
    return (*(str(frame.header.get(keyword) or "") for keyword in keywords), frame.index, position)


def _digest_frames(frame: Frame) -> list[str]:
    """Digests of the pixels of all frames of a file; none if they cannot be read, or are too many to be decoded."""
    rows, columns, _ = frame.grid
    if rows * columns * frame_count(frame.header) * PIXEL > MAX_STUDY_BYTES:
        return []
    try:
        frames = read_frames(frame.file, (rows, columns))[1]
    except Exception:  # damaged files raise exceptions of many types; they are refused when they are read
        return []
    return [hashlib.sha256(values.astype("<i8").tobytes()).hexdigest() for values in frames]
