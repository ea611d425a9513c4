"""DICOM MR images to scans: the choice of series, the order of slices, pixels and geometry.

Only the elements in `_ELEMENTS` are kept, so names, dates and numbers of patients never enter the program; the UIDs that
distinguish series never leave it. pydicom's messages quote values, so they are silenced, and its exceptions are not chained to an
`UnreadableImage`. `functional_group` and `frame_geometry` are also used for writing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from brainmri.io import dicom_codecs
from brainmri.io.dicom_log import quiet
from brainmri.io.files import StudyFile, digest
from brainmri.io.limits import MAX_STUDY_BYTES, UnreadableImage, check_extent, refuse_study
from brainmri.io.pixels import FLAIR, MAX_SIDE
from brainmri.io.scan import Geometry, Instance, Scan
from brainmri.io.sequences import HOW_TO_CHOOSE, SEQUENCES, Candidate, Choice, check_assignment, choose_single, sequence_of
from brainmri.io.stack import compose, refuse_other_grid, same_grid

if TYPE_CHECKING:
    from pydicom import Dataset

NAME = "study"  # instead of a file's or folder's name, which may name the patient
DEFLATED = "1.2.840.10008.1.2.1.99"  # the one transfer syntax that unpacks before its header can be checked
_ELEMENTS = [
    *("SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "InstanceNumber"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "RescaleSlope", "RescaleIntercept"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    "PixelData",  # without its extended offset table, which would let frames overlap; where there is one, a fragment is a frame
]
# a description is shown only when every word of it is one of these, so that it cannot name anybody
_HARMLESS = set(
    "t1 t2 t1w t2w flair dark fluid pre post without with contrast native gd gado ce km c +c c+ t1ce t1gd t1c dwi adc trace "
    "diff dti swi swan pd perf asl dsc dce bold mra mrv tof pc mip mpr mprage mp2rage spgr bravo space cube vista vibe tfe "
    "tse fse se gre ge ir stir fs fat sat fatsat ax axial tra transverse sag sagittal cor coronal obl oblique iso 2d 3d p2 "
    "brain head localizer loc scout survey and of sub".split()
)
# the standard's two-letter modalities; no other word of a header is shown as a modality
_MODALITIES = set("AR AU BI CR CT DG DX EC EM ES GM HC IO KO LS MG NM OP OT PR PT PX RF RG SC SM SR TG US XA XC".split())


@dataclass(frozen=True, kw_only=True)
class _Series:
    """The MR images of one series, headers only."""

    images: list[tuple[StudyFile, Dataset]]

    @property
    def description(self) -> str:
        return str(self.images[0][1].get("SeriesDescription") or "")

    @property
    def number(self) -> int:
        return int(self.images[0][1].get("SeriesNumber") or 0)

    @property
    def slices(self) -> int:
        return sum(_frame_count(header) for _, header in self.images)

    @property
    def label(self) -> str:
        return f"series {self}"

    @cached_property
    def stack(self) -> _Stack:
        """Its slices in order, checked; raises UnreadableImage."""
        return _stack(self)

    def __str__(self) -> str:
        words = self.description.lower().replace("_", " ").replace("-", " ").split()
        described = f" “{self.description}”" if words and set(words) <= _HARMLESS else ""
        number = f"number {self.number}" if 0 < self.number < 1000 else "without a short number"  # a long one may be a date
        return f"{number}{described} with {self.slices} slices"


@dataclass(frozen=True, kw_only=True)
class _Frame:
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


@dataclass(frozen=True, kw_only=True)
class _Stack:
    """A series' slices in order, checked; (slices, rows, columns) as they will be decoded."""

    frames: list[_Frame]
    shape: tuple[int, int, int]
    geometry: Geometry | None
    warnings: list[str]


def list_series(files: list[StudyFile]) -> tuple[Candidate, ...]:
    """The MR series among the DICOM files of one study, and what `read_dicom` reads each as; headers only.

    Raises:
        UnreadableImage: when there is none, or a header is damaged.
    """
    with _guarded():
        series, _ = _series(files)
        return _choose(series).candidates([one.label for one in series])


def read_dicom(files: list[StudyFile], assign: Mapping[int, int | None] | None = None) -> Scan:
    """DICOM files of one study to a scan: its FLAIR series, with the T1 series on the same grid.

    Args:
        files: DICOM files of any number of series, in any order, single or multi-frame; other objects are ignored.
        assign: by channel, an index into `list_series`, instead of the choice by description.

    Raises:
        UnreadableImage: when no series can be chosen as FLAIR, an assigned series lies on another grid than the FLAIR, or slices
            are damaged, duplicated or outside the limits.
    """
    with _guarded():
        return _read(files, assign)


def study_uid(file: StudyFile) -> str:
    """The StudyInstanceUID of a DICOM file, to tell studies apart by; never to be shown. Empty where there is none.

    Raises:
        UnreadableImage: when the header is damaged.
    """
    from pydicom import dcmread

    with _guarded(), file.open() as handle:
        return str(dcmread(handle, stop_before_pixels=True, specific_tags=["StudyInstanceUID"]).get("StudyInstanceUID") or "")


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """Every failure becomes an `UnreadableImage` without any value of a header."""
    try:
        with quiet():
            yield
    except UnreadableImage:
        raise
    except Exception as error:  # a broken file fails in many ways, all of them the file's fault
        raise refuse_study(NAME, f"got a damaged or unsupported DICOM file ({type(error).__name__})") from None


def _read(files: list[StudyFile], assign: Mapping[int, int | None] | None) -> Scan:
    series, aside = _series(files)
    labels = [one.label for one in series]
    choice = _choose(series) if assign is None else check_assignment(assign, labels, NAME)
    if choice.problem:
        raise refuse_study(NAME, choice.problem)
    flair = series[choice.indices[FLAIR]]
    stacks = {FLAIR: flair.stack}
    for channel in sorted(set(choice.indices) - {FLAIR}):
        one = series[choice.indices[channel]]
        if not _same_place(one.stack, flair.stack):
            raise refuse_other_grid(NAME, channel, one.label)
        stacks[channel] = one.stack
    sequences = {channel: _decode(stack) for channel, stack in stacks.items()}
    read = dict.fromkeys(frame.file for channel in sorted(stacks) for frame in stacks[channel].frames)
    return compose(
        sequences,
        flair.stack.geometry,
        name=NAME,
        sha256=digest(list(read)),
        warnings=[*choice.warnings, *aside, *flair.stack.warnings],
        labels=choice.labels(labels),
    )


def _series(files: list[StudyFile]) -> tuple[list[_Series], list[str]]:
    """The greyscale MR series among the files, by number and description, and warnings about ignored files."""
    by_uid: dict[str, list[tuple[StudyFile, Dataset]]] = {}
    modalities = set()
    for file in files:
        header = _header(file)
        if _is_grey(header) and header.get("Modality") == "MR":
            by_uid.setdefault(str(header.get("SeriesInstanceUID")), []).append((file, header))
        else:
            modalities.add(str(header.get("Modality")))
    series = sorted((_Series(images=images) for images in by_uid.values()), key=lambda s: (s.number, s.description))
    if not series:
        named = ", ".join(sorted(modalities & _MODALITIES))
        modalities = f"; they hold {named}, and the networks know only MR" if named else ""
        raise refuse_study(NAME, f"expected greyscale MR images, got none among {len(files)} DICOM files{modalities}")
    aside = len(files) - sum(len(s.images) for s in series)
    return series, [f"{aside} DICOM files that are not greyscale MR images are ignored"] if aside else []


def _header(file: StudyFile) -> Dataset:
    """What of a file's header is needed here."""
    from pydicom import dcmread
    from pydicom.filereader import read_dataset

    with file.open() as handle:
        handle.seek(132)
        meta = read_dataset(handle, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        if str(meta.get("TransferSyntaxUID")) == DEFLATED:
            raise refuse_study(NAME, "got a deflated DICOM file; save it uncompressed, or as a zip")
        handle.seek(0)
        return dcmread(handle, stop_before_pixels=True, specific_tags=_ELEMENTS)


def _is_grey(header: Dataset) -> bool:
    return "Rows" in header and "Columns" in header and header.get("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")


def _choose(series: list[_Series]) -> Choice:
    """What the descriptions tell: of several FLAIR series an axial one, of several T1 series the one on the FLAIR's grid."""
    if len(series) == 1:
        return choose_single(series[0].description, "the series is described as")
    named = {channel: [i for i, s in enumerate(series) if sequence_of(s.description) == channel] for channel in SEQUENCES}
    flairs, indices, warnings, problem = named[FLAIR], {}, [], None
    if flairs:
        indices[FLAIR] = max(flairs, key=lambda index: (_is_axial(series[index]), series[index].slices))
        if len(flairs) > 1:
            warnings.append(f"got {len(flairs)} FLAIR series; the one {series[indices[FLAIR]]} is used")
    else:
        listed = "; ".join(map(str, series[:12])) + ("; and more" if len(series) > 12 else "")
        problem = f"none of {len(series)} series is described as FLAIR ({listed}); {HOW_TO_CHOOSE}"
    for channel in sorted(set(SEQUENCES) - {FLAIR}):
        fitting = [i for i in named[channel] if not flairs or _fits(series[i], series[indices[FLAIR]])]
        if len(fitting) == 1:
            indices[channel] = fitting[0]
        elif named[channel]:
            why = "is there several times" if fitting else "lies on another grid than the FLAIR"
            warnings.append(f"the {SEQUENCES[channel]} {why} and was left out")
    return Choice(indices=indices, warnings=tuple(warnings), problem=problem)


def _is_axial(series: _Series) -> bool:
    _, orientation, _ = frame_geometry(series.images[0][1], 0)
    return orientation is not None and int(np.abs(np.cross(orientation[:3], orientation[3:])).argmax()) == 2


def _frame_count(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def functional_group(header: Dataset, index: int, name: str) -> Dataset:
    """Where a frame's elements stand: in its own functional group, in the one all frames share, or in the header itself."""
    for groups, item in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        sequence = header.get(groups) or []
        if len(sequence) > item and sequence[item].get(name):
            return sequence[item].get(name)[0]
    return header


def frame_geometry(header: Dataset, index: int) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """A frame's position (3,), orientation (6,) and pixel spacing (2,) in mm, None where the header has none."""
    found = []
    for name, keyword, length in (
        ("PlanePositionSequence", "ImagePositionPatient", 3),
        ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        ("PixelMeasuresSequence", "PixelSpacing", 2),
    ):
        value = functional_group(header, index, name).get(keyword)
        vector = np.array(value if value is not None else [], np.float64)
        found.append(vector if vector.shape == (length,) and np.isfinite(vector).all() else None)
    position, orientation, spacing = found
    return position, orientation, spacing


def _stack(series: _Series) -> _Stack:
    """Put a series' slices in order and check that they are one stack, before any is decoded."""
    size = sum(file.size for file, _ in series.images)
    if not 1 <= series.slices <= MAX_SIDE or size > MAX_STUDY_BYTES:
        raise refuse_study(NAME, f"got a series of {series.slices} slices and {size / 2**20:.0f} MiB")
    frames = []
    for file, header in series.images:
        for index in range(_frame_count(header)):
            position, orientation, spacing = frame_geometry(header, index)
            frame = _Frame(file=file, header=header, index=index, position=position, orientation=orientation, spacing=spacing)
            frames.append(frame)
    if len({frame.grid for frame in frames}) > 1:
        raise refuse_study(NAME, "the slices of the series differ in size or type")
    shape = (len(frames), *frames[0].grid[:2])
    if any(v is None for frame in frames for v in (frame.position, frame.orientation, frame.spacing)):
        check_extent(NAME, *shape)
        note = "the files have no slice positions; the slices are read as axial, numbered from the neck upwards"
        return _Stack(frames=_numbered(frames), shape=shape, geometry=None, warnings=[note])
    first = frames[0]
    if any(
        np.abs(f.orientation - first.orientation).max() > 1e-3 or np.abs(f.spacing - first.spacing).max() > 1e-3 for f in frames
    ):
        raise refuse_study(NAME, "the slices of the series differ in orientation or pixel size")
    along_row, along_column = first.orientation[:3], first.orientation[3:]
    normal = np.cross(along_row, along_column)
    frames.sort(key=lambda frame: frame.position @ normal)
    gaps = np.diff([frame.position @ normal for frame in frames])
    warnings = []
    if len(gaps):
        if gaps.min() < 0.01:
            raise refuse_study(NAME, "the series has several slices at the same position (echoes, phases or copies)")
        if np.ptp(gaps) > 0.1 * np.median(gaps):
            warnings.append(
                f"the gaps between slices are unequal, {gaps.min():.2f} to {gaps.max():.2f} mm; slices may be missing, and "
                "positions along the head are approximate"
            )
        step = (frames[-1].position - frames[0].position) / len(gaps)
    else:
        measures = functional_group(first.header, first.index, "PixelMeasuresSequence")
        step = normal * float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1)
    affine = np.eye(4)
    affine[:3] = np.stack([step, along_column * first.spacing[0], along_row * first.spacing[1], frames[0].position], axis=1)
    affine[:2] *= -1  # DICOM counts towards left and posterior, NIfTI towards right and anterior
    instances = tuple(
        Instance(uid=str(f.header.get("SOPInstanceUID")), frame=f.index + 1, path=f.file.path, member=f.file.member)
        for f in frames
    )
    geometry = Geometry(shape=shape, affine=affine, instances=instances)
    check_extent(NAME, *geometry.axial_shape)
    return _Stack(frames=frames, shape=shape, geometry=geometry, warnings=warnings)


def _numbered(frames: list[_Frame]) -> list[_Frame]:
    numbers = [(int(frame.header.get("InstanceNumber") or 0), frame.index) for frame in frames]
    if len(set(numbers)) < len(numbers):
        raise refuse_study(NAME, "the slices of the series have neither positions nor numbers to sort them by")
    return [frame for _, frame in sorted(zip(numbers, frames, strict=True), key=lambda pair: pair[0])]


def _fits(series: _Series, flair: _Series) -> bool:
    """Whether both are stacks and lie in the same place."""
    try:
        return _same_place(series.stack, flair.stack)
    except UnreadableImage:
        return False


def _same_place(one: _Stack, other: _Stack) -> bool:
    return one.geometry is not None and other.geometry is not None and same_grid(one.geometry, other.geometry)


def _decode(stack: _Stack) -> np.ndarray:
    """A stack's pixels, (slices, rows, columns), rescaled as the header asks: float32, or uint8 where it asks nothing."""
    from pydicom import dcmread

    volume = np.empty(stack.shape, np.float32)
    plain = True
    for file in dict.fromkeys(frame.file for frame in stack.frames):  # one file at a time is held, and decoded once
        with file.open() as handle:
            dataset = dcmread(handle, specific_tags=_ELEMENTS)
        dicom_codecs.check_frame_sizes(dataset, NAME)
        decoded = dataset.pixel_array.reshape(-1, *stack.shape[1:])
        for number, frame in enumerate(stack.frames):
            if frame.file is file:
                rescale = functional_group(frame.header, frame.index, "PixelValueTransformationSequence")
                slope, intercept = float(rescale.get("RescaleSlope", 1)), float(rescale.get("RescaleIntercept", 0))
                plain &= decoded.dtype == np.uint8 and (slope, intercept) == (1, 0)
                volume[number] = decoded[frame.index] * np.float32(slope) + np.float32(intercept)
    if stack.frames[0].grid[2] == "MONOCHROME1":  # low values are bright
        volume = 255 - volume if plain else -volume
    return volume.astype(np.uint8) if plain else volume


def is_dicom(file: StudyFile) -> bool:
    """Whether a file starts as a DICOM file."""
    with file.open() as handle:
        return handle.read(132)[128:] == b"DICM"


class DicomReader:
    """DICOM, recognised by its first bytes."""

    format = "DICOM"
    preview = False

    def sniff(self, file: StudyFile) -> bool:
        return is_dicom(file)

    def list_sequences(self, files: list[StudyFile], name: str) -> tuple[Candidate, ...]:
        return list_series(files)

    def read(self, files: list[StudyFile], name: str, assign: Mapping[int, int | None] | None = None) -> Scan:
        return read_dicom(files, assign)
