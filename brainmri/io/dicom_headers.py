"""Headers of DICOM files: the elements that are read, where a frame's elements are, and errors without values of a header.

Only the elements in `ELEMENTS` are kept, so names, dates and numbers of patients never enter the program: the patient's number is
replaced by a digest, to tell patients apart, and UIDs are never shown. pydicom's messages quote values, so they are silenced, and
its exceptions are not chained to an `UnreadableImage`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, BinaryIO, cast

import numpy as np

from brainmri.io.dicom_log import quiet
from brainmri.io.extras import explain_missing
from brainmri.io.files import StudyFile
from brainmri.io.limits import NAME, UnreadableImage, refuse
from brainmri.io.sequence_names import Physics

if TYPE_CHECKING:
    from pydicom import Dataset

DEFLATED = "1.2.840.10008.1.2.1.99"  # the only transfer syntax that is decompressed before its header can be checked
MR_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.4.4",
)  # single, enhanced, legacy
DIRECTORY = "1.2.840.10008.1.3.10"  # DICOMDIR
_DESCRIPTION = ["SeriesDescription", "ProtocolName", "SequenceName", "ImageType", "ComplexImageComponent"]
_PHYSICS = [
    *("ScanningSequence", "RepetitionTime", "EchoTime", "InversionTime", "DiffusionBValue", "ContrastBolusAgent"),
    *("AcquisitionContrast", "ContrastBolusAgentSequence", "EchoNumbers", "TemporalPositionIdentifier", "AcquisitionNumber"),
]
ELEMENTS = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"),
    *("SeriesNumber", "Modality", "InstanceNumber", *_DESCRIPTION, *_PHYSICS),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "SliceLocation",
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "NumberOfFrames"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "RescaleSlope", "RescaleIntercept"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    "PixelData",  # without its extended offset table, with which frames could overlap; where there is one, a fragment is a frame
]
# by the creator of a block of private elements, how many slices of a volume one image shows side by side
_TILES = {(0x0019, "SIEMENS MR HEADER"): 0x0A, (0x0065, "Image Private Header"): 0x50}
_TILE_TAGS = [tag for (group, _), element in _TILES.items() for tag in (group << 16 | 0x10, group << 16 | 0x1000 | element)]
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# how scanners and their users write that no contrast agent was given
_NO_AGENT = re.compile(
    r"[-. ]*|0|N|NA|N/A|OFF|FALSE|UNKNOWN|(?:NO|NON|NONE|NOT|NIL|NULL|WITHOUT|W/O|SANS|OHNE|SIN|SENZA|SEM)\b.*"
)
_VRS = set("AE AS AT CS DA DS DT FD FL IS LO LT OB OW PN SH SL SQ SS ST TM UI UL UN US UT".split())


def is_dicom(file: StudyFile) -> bool:
    """Whether a file starts like a DICOM file, with or without preamble."""
    with file.open() as handle:
        start = handle.read(132)
    return start[128:] == b"DICM" or _is_bare(start)


def _is_bare(start: bytes) -> bool:
    """Whether bytes are the start of a dataset without preamble: an element of group 2 or 8 with a sensible length."""
    if start[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08") or len(start) < 16:
        return False
    order = "big" if start[0] == 0 else "little"
    if int.from_bytes(start[2:4], order) > 0x18:
        return False
    explicit = start[4:6].decode("ascii", "replace") in _VRS
    return explicit or (order == "little" and int.from_bytes(start[4:8], "little") <= 64)


@contextlib.contextmanager
def errors_as_refusals() -> Iterator[None]:
    """Turn every exception into an `UnreadableImage` without any value of a header."""
    try:
        with quiet():
            yield
    except UnreadableImage:
        raise
    except Exception as error:  # damaged files raise exceptions of many types
        raise refuse(NAME, f"got a damaged or unsupported DICOM file ({type(error).__name__}). Please export it again") from None


def read_header(file: StudyFile) -> Dataset:
    """The elements of `ELEMENTS` without pixels. `PatientID` is replaced by its digest.

    Raises:
        UnreadableImage: for a deflated file.
    """
    with file.open() as handle:
        header = read_elements(handle, [*ELEMENTS, *_TILE_TAGS], stop_before_pixels=True)
    header.PatientID = hashlib.sha256(str(header.get("PatientID") or "").strip().encode()).hexdigest()
    return header


def read_elements(handle: IO[bytes], elements: Sequence[str | int], stop_before_pixels: bool = False) -> Dataset:
    """Elements of a DICOM file, with or without preamble and file meta information; a missing transfer syntax is filled in.

    Raises:
        UnreadableImage: for a deflated file, or if pydicom is not installed.
    """
    try:
        from pydicom import dcmread
        from pydicom.filereader import read_dataset
        from pydicom.tag import Tag
        from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
    except ImportError:
        raise refuse(NAME, explain_missing("reading DICOM", "pydicom", "dicom")) from None

    handle.seek(128)
    bare = handle.read(4) != b"DICM"
    handle.seek(0 if bare else 132)
    meta = read_dataset(cast(BinaryIO, handle), False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if str(meta.get("TransferSyntaxUID")) == DEFLATED:
        raise refuse(NAME, "got a deflated DICOM file. Please save it uncompressed, or as a zip")
    handle.seek(0)
    dataset = dcmread(handle, stop_before_pixels=stop_before_pixels, specific_tags=[Tag(one) for one in elements], force=bare)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        )
    return dataset


def study_uid(file: StudyFile) -> str:
    """The StudyInstanceUID of a DICOM file, to tell studies apart; never to be shown. Empty where there is none.

    Raises:
        UnreadableImage: when the header is damaged.
    """
    with errors_as_refusals(), file.open() as handle:
        return str(read_elements(handle, ["StudyInstanceUID"], stop_before_pixels=True).get("StudyInstanceUID") or "")


def is_mosaic(header: Dataset) -> bool:
    """Whether an image shows the slices of a volume side by side, by its type or by private elements."""
    if "MOSAIC" in image_types(header, 0):
        return True
    for (group, creator), element in _TILES.items():
        try:
            value = header.private_block(group, creator)[element].value
        except KeyError:
            continue
        words = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        if words.strip("\0 ") not in ("", "0", "1", "\x01", "None"):
            return True
    return False


def frame_count(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def functional_group(header: Dataset, index: int, name: str) -> Dataset:
    """The dataset with a frame's elements: its own functional group, else the one shared by all frames, else the header."""
    for groups, item in ((_GROUPS[1], index), (_GROUPS[0], 0)):
        sequence = header.get(groups) or []
        if len(sequence) > item and sequence[item].get(name):
            return sequence[item].get(name)[0]
    return header


def frame_geometry(header: Dataset, index: int) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """A frame's position (3,), orientation (6,) and pixel spacing (2,) in mm, None where the header has none.

    A position that all frames of a file share is none, and so is a spacing of 0. The two directions of the orientation
    have length 1.
    """
    found = []
    for name, keyword, length in (
        ("PlanePositionSequence", "ImagePositionPatient", 3),
        ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        ("PixelMeasuresSequence", "PixelSpacing", 2),
    ):
        group = functional_group(header, index, name)
        value = None if name == "PlanePositionSequence" and group is header and frame_count(header) > 1 else group.get(keyword)
        vector = np.array(value if value is not None else [], np.float64)
        found.append(vector if vector.shape == (length,) and np.isfinite(vector).all() else None)
    position, orientation, spacing = found
    if spacing is not None and not (spacing > 0).all():
        spacing = None
    if orientation is not None:
        lengths = np.linalg.norm(orientation.reshape(2, 3), axis=1).repeat(3)
        orientation = orientation / np.where(lengths > 0, lengths, 1)
    return position, orientation, spacing


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """A number of a header, the first of several; None where it is missing, empty or damaged."""
    value = dataset.get(keyword)
    try:
        number = float(value if isinstance(value, str | int | float) else value[0])  # pyright: ignore[reportOptionalSubscript]
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None


def _count(value: object) -> int:
    """How many values an element has."""
    return len(value) if isinstance(value, Sequence) and not isinstance(value, str) else 1


def image_types(header: Dataset, index: int) -> frozenset[str]:
    """The values of a frame's ImageType or FrameType, and whether it is magnitude or phase, in upper case."""
    group = functional_group(header, index, "MRImageFrameTypeSequence")
    frame = group.get("FrameType") or header.get("ImageType") or []
    component = group.get("ComplexImageComponent") or "MAGNITUDE"
    return frozenset(str(value).upper() for value in (*([frame] if isinstance(frame, str) else frame), component))


def physics_of(header: Dataset, index: int = 0) -> Physics:
    """How a frame was acquired, of a single-frame or an enhanced image."""
    timing = functional_group(header, index, "MRTimingAndRelatedParametersSequence")
    echo = functional_group(header, index, "MREchoSequence")
    modifier = functional_group(header, index, "MRModifierSequence")
    diffusion = functional_group(header, index, "MRDiffusionSequence")
    scanning = str(header.get("ScanningSequence") or "")
    inversion = "IR" in scanning if scanning else None
    if modifier.get("InversionRecovery"):
        inversion = modifier.InversionRecovery == "YES"
    agent = str(header.get("ContrastBolusAgent") or "").strip().upper()
    return Physics(
        repetition_time=number_of(timing, "RepetitionTime"),
        echo_time=number_of(echo, "EffectiveEchoTime") or number_of(echo, "EchoTime"),
        inversion_time=number_of(modifier, "InversionTimes") or number_of(modifier, "InversionTime"),
        b_value=number_of(diffusion, "DiffusionBValue"),
        contrast=not _NO_AGENT.fullmatch(agent) or bool(header.get("ContrastBolusAgentSequence")),
        inversion=inversion,
        inversions=_count(modifier.get("InversionTimes")),
        image_type=image_types(header, index),
        acquisition_contrast=functional_group(header, index, "MRImageFrameTypeSequence").get("AcquisitionContrast"),
    )
