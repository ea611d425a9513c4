"""Which DICOM images belong together: studies, and within a study the stacks of one series.

A series is not what shares a SeriesInstanceUID: some archives give each slice its own, and one series may hold several stacks,
echoes or a scout. Images form a stack if they share study, patient, frame of reference, orientation, grid and description.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from brainmri.io.dicom_copies import without_copies
from brainmri.io.dicom_headers import (
    DIRECTORY,
    MR_CLASSES,
    frame_count,
    frame_geometry,
    functional_group,
    image_types,
    is_mosaic,
    number_of,
    physics_of,
    read_header,
)
from brainmri.io.dicom_stacks import Frame, Stack, build_stack, is_one_stack, project_positions, split_runs
from brainmri.io.files import StudyFile
from brainmri.io.limits import MAX_STUDY_BYTES, NAME, describe_size, refuse
from brainmri.io.pixels import MAX_SIDE
from brainmri.io.sequence_names import identify

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_FRAMES = 32768  # of all files together
FRAGMENT = 1 / 3  # a smaller part of a series, against its largest part, is left out; a larger one is a stack of its own
MANY_FILES = 3  # with fewer, frames of reference of their own are no sign that a program made them up
MAX_PARTS = 12  # echoes or image types of a series that become separate stacks; with more, it is a time series
SAME_DIRECTION, SAME_SPACING = 5e-3, 1e-3  # of direction cosines; of mm
# a description is shown only if every word of it is in this list, so that it cannot name anybody
_SAFE_WORDS = set(
    "t1 t2 t1w t2w flair dark fluid pre post without with contrast native gd gado ce km c +c c+ t1ce t1gd t1c dwi adc trace "
    "diff dti swi swan pd perf asl dsc dce bold mra mrv tof pc mip mpr mprage mp2rage spgr bravo space cube vista vibe tfe "
    "tse fse se gre ge ir stir fs fat sat fatsat ax axial tra transverse sag sagittal cor coronal obl oblique iso 2d 3d p2 "
    "dir psir inv1 inv2 uni brain head localizer loc scout survey and of sub tirm wo w/o w".split()
)
# the standard's two-letter modalities; no other word of a header is shown as a modality
_MODALITIES = set("AR AU BI CR CT DG DX EC EM ES GM HC IO KO LS MG NM OP OT PR PT PX RF RG SC SM SR TG US XA XC".split())


@dataclass(frozen=True, kw_only=True)
class Series:
    """The frames of one stack, headers only.

    Attributes:
        frames: of one orientation, size and type.
        left_out: frames of the same series that are not part of a stack.
        fragments: how many series its frames come from.
    """

    frames: list[Frame]
    left_out: tuple[Frame, ...] = ()
    fragments: int = 1

    @property
    def header(self) -> Dataset:
        return self.frames[0].header

    @property
    def description(self) -> str:
        """What it is called; the name of the protocol or pulse sequence where the description is empty."""
        keywords = ("SeriesDescription", "ProtocolName", "SequenceName")
        return next((str(self.header.get(keyword)) for keyword in keywords if self.header.get(keyword)), "")

    @property
    def number(self) -> int:
        return int(self.header.get("SeriesNumber") or 0)

    @property
    def frame_of_reference(self) -> str:
        return str(self.header.get("FrameOfReferenceUID") or "")

    @property
    def label(self) -> str:
        return f"series {self}"

    @cached_property
    def sequence(self) -> str | None:
        """The sequence, by header and description."""
        return identify(self.description, physics_of(self.header, self.frames[0].index))

    @cached_property
    def stack(self) -> Stack:
        """Its slices in order, checked; raises UnreadableImage."""
        size = sum(file.size for file in {frame.file for frame in self.frames})
        if not 1 <= len(self.frames) <= MAX_SIDE or size > MAX_STUDY_BYTES:
            raise refuse(NAME, f"a series of {len(self.frames)} slices is too large: {describe_size(size)}")
        stack = build_stack(self.frames)
        if self.fragments > 1:
            stack.warnings.append(f"{self.fragments} series are parts of one stack and were joined")
        if self.left_out:
            whole = len(self.frames) + len(self.left_out)
            stack.warnings.append(
                f"{len(self.left_out)} of {whole} images of the series are left out: they differ from the others in orientation, "
                "size or spacing, or lie apart from them"
            )
        return stack

    def __str__(self) -> str:
        words = str(self.header.get("SeriesDescription") or "")
        separate = words.lower().replace("_", " ").replace("-", " ").split()
        described = f" “{words}”" if separate and set(separate) <= _SAFE_WORDS else ""
        number = f"number {self.number}" if 0 < self.number < 1000 else "without a short number"  # a long one may be a date
        count = len(self.frames)
        return f"{number}{described} with {count} slice{'s' * (count != 1)}"


@dataclass(frozen=True, kw_only=True)
class DicomStudy:
    """The series of one examination of one patient, by number and description, and what was left out."""

    series: list[Series]
    warnings: list[str] = field(default_factory=list)


def find_studies(files: list[StudyFile]) -> list[DicomStudy]:
    """The studies among DICOM files, in the order of the files; headers only.

    Raises:
        UnreadableImage: when there is no greyscale MR image, or too many.
    """
    frames: dict[Hashable, list[Frame]] = {}
    ignored: Counter[str] = Counter()
    modalities, total = set(), 0
    for file in files:
        header = read_header(file)
        problem = _problem(header)
        if problem is not None:
            ignored[problem] += 1
            modalities.add(str(header.get("Modality")))
            continue
        total += frame_count(header)
        if total > MAX_FRAMES:
            raise refuse(NAME, f"got more than {MAX_FRAMES} MR images. Please upload one study")
        study = frames.setdefault((str(header.get("StudyInstanceUID") or ""), header.PatientID), [])
        for index in range(frame_count(header)):
            position, orientation, spacing = frame_geometry(header, index)
            study.append(
                Frame(file=file, header=header, index=index, position=position, orientation=orientation, spacing=spacing)
            )
    if not frames:
        raise _refuse_files(len(files), ignored, modalities)
    kept = [without_copies(found) for found in frames.values()]
    if copies := total - sum(map(len, kept)):
        ignored["copies of others"] = copies
    warnings = [f"{count} DICOM files that are {problem} are ignored" for problem, count in sorted(ignored.items()) if problem]
    studies = []
    for found in kept:
        dropped = _drop_frames_of_reference(found)
        studies.append(DicomStudy(series=_find_series(found), warnings=[*warnings, *dropped]))
    return studies


def _drop_frames_of_reference(frames: list[Frame]) -> list[str]:
    """Remove frames of reference that differ in every file of a study, and say so: they relate no image to another."""
    headers = {id(frame.header): frame.header for frame in frames}
    found = {header.get("FrameOfReferenceUID") for header in headers.values()}
    if len(headers) < MANY_FILES or len(found) < len(headers):
        return []
    for header in headers.values():
        del header.FrameOfReferenceUID
    return [f"each of {len(headers)} files has a frame of reference of its own; these are ignored"]


def _problem(header: Dataset) -> str | None:
    """Why a file is ignored; "" for an index, which needs no warning; None if it is not ignored."""
    sop_class, modality = str(header.get("SOPClassUID")), header.get("Modality")
    grey = "Rows" in header and "Columns" in header and header.get("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
    if sop_class == DIRECTORY or str(header.file_meta.get("MediaStorageSOPClassUID")) == DIRECTORY:
        return ""
    if not grey or not (modality == "MR" or (not modality and sop_class in MR_CLASSES)):
        return "not greyscale MR images"
    if is_mosaic(header):
        return "mosaics"
    return "longer than a volume" if not 1 <= frame_count(header) <= MAX_SIDE else None


def _refuse_files(count: int, ignored: Counter[str], modalities: set[str]) -> Exception:
    """The error for files among which there is no study, to be raised."""
    if ignored["mosaics"]:
        return refuse(
            NAME,
            "got a mosaic, in which the scanner tiled the slices of a volume. Please convert it to NIfTI with dcm2niix, or "
            "export the slices one by one",
        )
    if ignored["longer than a volume"]:
        return refuse(NAME, "got a time series or a damaged file, expected one volume. Please export one")
    if ignored[""] == count:
        return refuse(NAME, "got a DICOMDIR, which is only an index. Please upload the folder with the images it lists")
    named = ", ".join(sorted(modalities & _MODALITIES))
    named = f" ({named})" if named else ""
    return refuse(NAME, f"expected greyscale MR images, got none among {count} DICOM files{named}. Please upload an MR series")


def _find_series(frames: list[Frame]) -> list[Series]:
    """The stacks among the frames of one study."""
    parts: list[list[Frame]] = []
    by_series: dict[str, list[Frame]] = {}
    for frame in frames:
        by_series.setdefault(str(frame.header.get("SeriesInstanceUID")), []).append(frame)
    stray: dict[int, list[Frame]] = {}  # by the id of a part, the frames of its series that are left out
    for series in by_series.values():
        found = [
            run
            for group in _group_frames(series)
            for part in _split_stacks(group)
            for moment in _split_collisions(part)
            for run in split_runs(moment)
        ]
        largest = max(found, key=len)
        kept = [part for part in found if len(part) >= FRAGMENT * len(largest)]
        stray[id(largest)] = [frame for part in found if len(part) < FRAGMENT * len(largest) for frame in part]
        parts += kept
    joined = _join(parts, stray)
    return sorted(joined, key=lambda series: (series.number, series.description))


def _group_frames(frames: list[Frame]) -> list[list[Frame]]:
    """Frames grouped by frame of reference, grid, description, and, within a tolerance, orientation and spacing."""
    groups: dict[Hashable, list[list[Frame]]] = {}
    for frame in frames:
        exact = (_description(frame), frame.grid, frame.header.get("FrameOfReferenceUID"), frame.placed)
        for group in groups.setdefault(exact, []):
            if _same_direction(frame, group[0]):
                group.append(frame)
                break
        else:
            groups[exact].append([frame])
    return [group for found in groups.values() for group in found]


def _split_stacks(frames: list[Frame]) -> list[list[Frame]]:
    """Frames split by StackID, unless the stacks are parts of one regular stack."""
    stacks: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        content = functional_group(frame.header, frame.index, "FrameContentSequence")
        stacks.setdefault(content.get("StackID"), []).append(frame)
    return [frames] if len(stacks) == 1 or is_one_stack(frames) else list(stacks.values())


def _description(frame: Frame) -> str:
    return str(frame.header.get("SeriesDescription") or "").strip().lower()


def _same_direction(one: Frame, other: Frame) -> bool:
    if one.orientation is None or other.orientation is None or one.spacing is None or other.spacing is None:
        return not one.placed
    turned, scaled = np.abs(one.orientation - other.orientation).max(), np.abs(one.spacing - other.spacing).max()
    return bool(turned <= SAME_DIRECTION and scaled <= SAME_SPACING)


def _split_collisions(frames: list[Frame]) -> list[list[Frame]]:
    """Frames split by echo, image type, inversion time, b-value or time, if several lie at the same position.

    Frames that nothing tells apart stay together, and are refused when they are read.
    """
    if not frames[0].placed or not _collide(frames):
        return [frames]
    keys: list[Callable[[Frame], Hashable]] = [
        lambda f: physics_of(f.header, f.index).echo_time,
        lambda f: image_types(f.header, f.index),
        lambda f: physics_of(f.header, f.index).inversion_time,
        lambda f: physics_of(f.header, f.index).b_value,
        lambda f: number_of(functional_group(f.header, f.index, "FrameContentSequence"), "TemporalPositionIndex"),
        lambda f: number_of(f.header, "TemporalPositionIdentifier"),
        lambda f: number_of(f.header, "AcquisitionNumber"),
    ]
    for key in [*keys, lambda f: tuple(key(f) for key in keys)]:
        groups: dict[Hashable, list[Frame]] = {}
        for frame in frames:
            groups.setdefault(key(frame), []).append(frame)
        if 2 <= len(groups) <= MAX_PARTS and not any(map(_collide, groups.values())):
            return list(groups.values())
    return [frames]


def _collide(frames: Iterable[Frame]) -> bool:
    """Whether two frames of one orientation lie at the same position along their normal."""
    along = np.sort(project_positions(list(frames)))
    return bool(len(along) > 1 and np.diff(along).min() < 0.01)


def _join(parts: list[list[Frame]], stray: dict[int, list[Frame]]) -> list[Series]:
    """Join the parts that are fragments of one stack, which have another series UID but the same description and geometry."""
    groups: list[tuple[list[Frame], list[Frame], int]] = []  # frames, frames left out, fragments

    def order(part: list[Frame]) -> tuple:
        first = part[0].header
        return tuple(number_of(first, keyword) or 0 for keyword in ("SeriesNumber", "AcquisitionNumber", "InstanceNumber"))

    for part in sorted(parts, key=order):
        out = stray.get(id(part), [])
        for number, (frames, other, fragments) in enumerate(groups):
            if _continues(part, frames):
                groups[number] = ([*frames, *part], [*other, *out], fragments + 1)
                break
        else:
            groups.append((part, out, 1))
    series = []
    for frames, out, fragments in groups:
        runs = sorted(split_runs(frames), key=len, reverse=True)
        kept = [run for run in runs if len(run) >= FRAGMENT * len(runs[0])]
        out = tuple([*out, *(frame for run in runs[len(kept) :] for frame in run)])
        series += [Series(frames=run, left_out=() if number else out, fragments=fragments) for number, run in enumerate(kept)]
    return series


def _continues(part: list[Frame], frames: list[Frame]) -> bool:
    """Whether two parts of different series are fragments of one stack."""
    one, other = part[0], frames[0]
    if not (one.placed and other.placed) or one.series == other.series or one.signature != other.signature:
        return False
    if not _same_direction(one, other):
        return False
    together = np.sort(project_positions([*frames, *part]))
    return bool(np.diff(together).min() >= 0.9 * min(_nominal_spacing(frames), _nominal_spacing(part)))


def _nominal_spacing(frames: list[Frame]) -> float:
    """The least distance between slices that are next to each other, by the header, else by the positions."""
    measures = functional_group(frames[0].header, frames[0].index, "PixelMeasuresSequence")
    named = [number_of(measures, keyword) for keyword in ("SpacingBetweenSlices", "SliceThickness")]
    known = [abs(value) for value in named if value]
    if known:
        return min(known)
    gaps = np.diff(np.sort(project_positions(frames)))
    return float(gaps.min()) if len(gaps) else 0.01
