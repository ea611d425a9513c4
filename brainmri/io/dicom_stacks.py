"""From the frames of one series to a stack: their order, true spacing, missing slices and geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from brainmri.io.dicom_headers import functional_group, image_types, number_of
from brainmri.io.files import StudyFile
from brainmri.io.limits import NAME, check_extent, refuse
from brainmri.io.scan import Geometry, Instance

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_GAP = 4.5  # spacings; a larger gap is a hole of one stack only if few slices are missing, else it lies between two stacks
MAX_PLACES = 4  # where slices are missing that a warning lists
OFF_GRID = 0.2  # spacings; how far a gap may differ from a whole number of them
LEAST_CROSS = 0.5  # length of the cross product of an image's two directions, which is 1 as they are perpendicular
SHIFTED = 1.0  # mm or pixels, whichever is larger; a slice further from the line through the others is left out
PARTLY = "only part of the head was analysed"


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One slice: which frame of which file, and where it lies (mm, towards left, posterior and superior)."""

    file: StudyFile
    header: Dataset
    index: int
    position: np.ndarray | None  # (3,) of the first pixel
    orientation: np.ndarray | None  # (6,) direction along a row, direction along a column
    spacing: np.ndarray | None  # (2,) between rows, between columns

    @property
    def grid(self) -> tuple:
        return int(self.header.Rows), int(self.header.Columns), str(self.header.get("PhotometricInterpretation"))

    @property
    def placed(self) -> bool:
        """Whether position, orientation and spacing are known."""
        return self.position is not None and self.orientation is not None and self.spacing is not None

    @property
    def series(self) -> str:
        return str(self.header.get("SeriesInstanceUID"))

    @property
    def signature(self) -> tuple:
        """What fragments of one stack share, but for orientation and spacing."""
        header = self.header
        times = (number_of(header, keyword) for keyword in ("EchoTime", "InversionTime", "DiffusionBValue"))
        words = str(header.get("SeriesDescription") or "").strip().lower()
        agent = bool(header.get("ContrastBolusAgent"))
        return (words, self.grid, header.get("FrameOfReferenceUID"), image_types(header, self.index), *times, agent)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Slices in order, checked.

    Attributes:
        frames: of the slices, without missing ones.
        shape: (slices, rows, columns), with missing slices.
        geometry: None where the files have no positions.
        warnings: what was assumed or left out.
        incomplete: why a part of the head is missing that could hide a tumour; None where none is.
    """

    frames: list[Frame]
    shape: tuple[int, int, int]
    geometry: Geometry | None
    warnings: list[str]
    incomplete: str | None = None


def project_positions(frames: list[Frame]) -> np.ndarray:
    """(N,) position in mm of frames with one orientation along the normal of the first."""
    orientation = frames[0].orientation
    assert orientation is not None
    return np.array([frame.position for frame in frames]) @ np.cross(orientation[:3], orientation[3:])


def estimate_spacing(along: np.ndarray) -> float:
    """The distance between slices that are next to each other, from sorted positions; of two typical gaps the smaller."""
    gaps = np.diff(along)
    typical = float(np.quantile(gaps, 0.5, method="lower"))
    return float(gaps[np.abs(gaps - typical) <= OFF_GRID * typical].mean())


def find_breaks(frames: list[Frame], along: np.ndarray) -> np.ndarray:
    """The indices of frames, in the order of their different positions `along`, that begin another stack.

    A gap that is not a whole number of spacings is a break. A gap of more than `MAX_GAP` is a hole of one stack if the slices
    beyond it lie on the line of the others and, with smaller such gaps, no more slices are missing than present. So slices
    missing from a head are a hole, and a stray slice or a second slab far away is a stack of its own.
    """
    spacing = estimate_spacing(along)
    steps = np.diff(along) / spacing
    slots = np.maximum(1, np.rint(steps))
    off_grid = np.abs(steps - slots) > OFF_GRID
    moves = np.diff(np.array([frame.position for frame in frames]), axis=0)
    pixel = float(np.median(np.array([frame.spacing for frame in frames])))
    off_line = np.linalg.norm(moves - slots[:, None] * np.median(moves / slots[:, None], axis=0), axis=1)
    large = steps > MAX_GAP
    ascending = np.argsort(np.where(large, slots, 0), kind="stable")
    missing = np.empty(len(slots))
    missing[ascending] = np.cumsum(np.where(large, slots - 1, 0)[ascending])
    apart = large & ((missing > len(frames)) | (off_line > max(SHIFTED * max(1.0, pixel), 1.5 * OFF_GRID * spacing)))
    return np.flatnonzero(off_grid | apart) + 1


def is_one_stack(frames: list[Frame]) -> bool:
    """Whether frames of one orientation lie at different positions of one regular grid, of which some may be missing."""
    if not frames[0].placed:
        return False
    along = project_positions(frames)
    order = np.argsort(along, kind="stable")
    if len(frames) < 2 or np.diff(along[order]).min() < 0.01:
        return len(frames) == 1
    return not len(find_breaks([frames[number] for number in order], along[order]))


def split_runs(frames: list[Frame]) -> list[list[Frame]]:
    """Split frames at the breaks between stacks, unless that leaves no run with half of them."""
    if len(frames) < 3 or not frames[0].placed:
        return [frames]
    along = project_positions(frames)
    order = np.argsort(along, kind="stable")
    if np.diff(along[order]).min() < 0.01:  # several at one position, which is refused when it is read
        return [frames]
    breaks = find_breaks([frames[number] for number in order], along[order])
    runs = [[frames[number] for number in run] for run in np.split(order, breaks)]
    return runs if 2 * max(map(len, runs)) >= len(frames) else [frames]


def spans_no_plane(orientation: np.ndarray | None) -> bool:
    """Whether the two directions (6,) of an image are zero or parallel, as some converters write them."""
    return orientation is not None and float(np.linalg.norm(np.cross(orientation[:3], orientation[3:]))) < LEAST_CROSS


def build_stack(frames: list[Frame]) -> Stack:
    """Put frames in order and check that they are one stack, before any is decoded.

    Raises:
        UnreadableImage: when two lie at one position, the gaps are irregular, or a limit is exceeded.
    """
    rows, columns, _ = frames[0].grid
    if not all(frame.placed for frame in frames):
        check_extent(NAME, len(frames), rows, columns)
        if all(frame.position is not None and frame.orientation is not None for frame in frames):
            frames = sorted(frames, key=dict(zip(frames, project_positions(frames), strict=True)).__getitem__)
            note = "the files have no pixel size; the slices are read as axial, in the order of their positions"
        elif located := _sort_by_location(frames):
            frames = located
            note = "the files have no slice positions; the slices are read as axial, in the order of their slice locations"
        else:
            frames = _sort_by_number(frames)
            note = "the files have no slice positions; the slices are read as axial, numbered from the neck upwards"
        return Stack(frames=frames, shape=(len(frames), rows, columns), geometry=None, warnings=[note])
    if any(spans_no_plane(frame.orientation) for frame in frames):
        raise refuse(NAME, "the orientation of the images is damaged: it spans no plane. Please export the series again")
    along = project_positions(frames)
    order = np.argsort(along, kind="stable")
    frames, along = [frames[number] for number in order], along[order]
    if len(frames) == 1:
        return _stack_on_slots(frames, np.zeros(1, int), _step_from_header(frames[0]))
    gaps = np.diff(along)
    if gaps.min() < 0.01:
        raise refuse(
            NAME, "the series has several slices at the same position (echoes, phases or copies). Please export one of them"
        )
    spacing = estimate_spacing(along)
    slots = np.concatenate([[0], np.cumsum(np.maximum(1, np.rint(gaps / spacing)).astype(int))])
    drift = along - np.polyval(np.polyfit(slots, along, 1), slots)
    if len(find_breaks(frames, along)) or np.abs(drift).max() > 1.5 * OFF_GRID * spacing:
        raise refuse(
            NAME,
            f"the slices have unequal gaps, {gaps.min():.2f} to {gaps.max():.2f} mm. Please export one stack of equal gaps",
        )
    return _stack_on_slots(frames, slots, None)


def _step_from_header(frame: Frame) -> np.ndarray:
    """(3,) the step to the next slice of a stack of one; of 1 mm if the header has no thickness."""
    assert frame.orientation is not None
    return np.cross(frame.orientation[:3], frame.orientation[3:]) * (_thickness(frame) or 1.0)


def _thickness(frame: Frame) -> float | None:
    """How far the next slice is away, in mm, by the header; None where it has no thickness."""
    measures = functional_group(frame.header, frame.index, "PixelMeasuresSequence")
    length = number_of(measures, "SpacingBetweenSlices") or number_of(measures, "SliceThickness")
    return abs(length) if length else None


def _stack_on_slots(frames: list[Frame], slots: np.ndarray, step: np.ndarray | None) -> Stack:
    """A stack from sorted frames and their places on a regular grid; frames that are shifted within their plane are left out."""
    warnings: list[str] = []
    incomplete = None
    positions = np.array([frame.position for frame in frames])
    spacing = np.median(np.array([frame.spacing for frame in frames]), axis=0)
    if step is None:
        kept = _find_aligned(positions, slots, SHIFTED * max(1.0, float(spacing.max())))
        if shifted := int((~kept).sum()):
            warnings.append(f"{shifted} of {len(kept)} slices are left out: they are shifted against the others")
            if shifted >= MAX_GAP - 1:
                incomplete = f"{PARTLY}: {shifted} of {len(kept)} slices are shifted against the others and were left out"
        frames = [frame for frame, keep in zip(frames, kept, strict=True) if keep]
        positions, slots = positions[kept], slots[kept] - slots[kept][0]
        step = (positions[-1] - positions[0]) / slots[-1] if slots[-1] else _step_from_header(frames[0])
    assert step is not None
    orientation = np.median(np.array([frame.orientation for frame in frames]), axis=0)
    along_row, along_column = (axis / np.linalg.norm(axis) for axis in (orientation[:3], orientation[3:]))
    affine = np.eye(4)
    affine[:3] = np.stack([step, along_column * spacing[0], along_row * spacing[1], positions[0]], axis=1)
    affine[:2] *= -1  # DICOM counts towards left and posterior, NIfTI towards right and anterior
    instances = tuple(
        Instance(uid=str(f.header.get("SOPInstanceUID")), frame=f.index + 1, path=f.file.path, member=f.file.member)
        for f in frames
    )
    missing = tuple(int(slot) for slot in np.setdiff1d(np.arange(slots[-1] + 1), slots))
    shape = (int(slots[-1]) + 1, *frames[0].grid[:2])
    sized = len(frames) > 1 or _thickness(frames[0]) is not None
    if not sized:
        warnings.append("the file has no slice thickness; volumes are in voxels and distances in pixels")
    geometry = Geometry(shape=shape, affine=affine, instances=instances, missing=missing, sized=sized)
    check_extent(NAME, *geometry.scan_shape)
    distance = float(np.linalg.norm(step))
    if missing:
        largest = distance * float(np.diff(slots).max())
        lacking = f"{len(missing)} of {shape[0]} slices are missing"
        warnings.append(
            f"the slices have unequal gaps, {distance:.2f} to {largest:.2f} mm: {lacking}"
            f"{_list_holes(slots, geometry)} and count as without lesion. Please upload the missing slices"
        )
        if np.diff(slots).max() > MAX_GAP:
            incomplete = f"{PARTLY}: {lacking}"
    return Stack(frames=frames, shape=shape, geometry=geometry, warnings=warnings, incomplete=incomplete)


def _list_holes(slots: np.ndarray, geometry: Geometry) -> str:
    """Where slices are missing, by the numbers of the scan's slices; "" where the scan is read in another plane."""
    if geometry.axes[0] != 0:
        return ""
    after = np.flatnonzero(np.diff(slots) > 1) + 1  # the number from 1 of the slice before each hole
    counts = np.diff(slots)[after - 1] - 1
    if geometry.directions[0] == -1:
        after, counts = (len(slots) - after)[::-1], counts[::-1]
    listed = [f"{count} between slices {one} and {one + 1}" for one, count in zip(after, counts, strict=True)]
    more = ", and others" if len(listed) > MAX_PLACES else ""
    return f" ({', '.join(listed[:MAX_PLACES])}{more})"


def _find_aligned(positions: np.ndarray, slots: np.ndarray, tolerance: float) -> np.ndarray:
    """(N,) bool: which positions (N, 3) lie on the line that most of them follow."""
    steps = np.diff(positions, axis=0) / np.diff(slots)[:, None]
    step = np.median(steps, axis=0)
    origins = positions - slots[:, None] * step
    off = np.linalg.norm(origins - np.median(origins, axis=0), axis=1)
    # a step of few slices is uncertain, so the line is fitted again to the slices that are close
    close = off <= max(tolerance, float(np.median(off)))
    if close.sum() > 2:
        design = np.stack([slots, np.ones(len(slots))], axis=1)
        fitted, *_ = np.linalg.lstsq(design[close], positions[close], rcond=None)
        off = np.linalg.norm(positions - design @ fitted, axis=1)
    kept = off <= tolerance
    return kept if kept.sum() >= max(1, len(kept) // 2) else np.ones(len(kept), bool)


def _sort_by_location(frames: list[Frame]) -> list[Frame] | None:
    """Frames by SliceLocation, which numbers in the order of an interleaved acquisition do not follow; None if it is no order."""
    located = {location: frame for frame in frames if (location := number_of(frame.header, "SliceLocation")) is not None}
    return [located[location] for location in sorted(located)] if len(located) == len(frames) > 1 else None


def _sort_by_number(frames: list[Frame]) -> list[Frame]:
    numbers = [(int(frame.header.get("InstanceNumber") or 0), frame.index) for frame in frames]
    if len(set(numbers)) < len(numbers):
        raise refuse(NAME, "the slices of the series have neither positions nor numbers. Please export them again")
    return [frame for _, frame in sorted(zip(numbers, frames, strict=True), key=lambda pair: pair[0])]
