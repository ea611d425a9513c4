"""The results of a study as files that a viewer opens: NIfTI, DICOM segmentations and TIFF stacks.

The files hold the result and its position, and nothing else of the input: no name, date or number of a patient, no description
and no file name. Only a DICOM segmentation references its source images, by UIDs, as the standard requires; some manufacturers
derive UIDs from dates and device numbers.
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brainmri.io.dicom_headers import frame_geometry, functional_group, read_elements
from brainmri.io.dicom_log import quiet
from brainmri.io.files import reopen
from brainmri.io.limits import NAME, UnreadableImage, refuse
from brainmri.io.orientation import TAG, turn_as_stored
from brainmri.io.scan import Geometry, Instance

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from nibabel import Nifti1Image
    from pydicom import Dataset

SERIES_NUMBER = 9000  # beyond a scanner's own, so that viewers list the segmentation last
_UIDS = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"]
# the only elements that are read from a source image; of its functional groups, only the geometry is written
_ELEMENTS = [
    *_UIDS,
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "LossyImageCompression"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
# elements that a segmentation must have, but may leave empty
_EMPTY = [
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
]


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentationTemplate:
    """A DICOM segmentation without its pixels, to which a browser appends those of a corrected mask.

    Attributes:
        header: the file up to its pixels, which follow with one bit each, frame by frame, the lowest bit first.
        uids: of the instance and its series; each copy of the file needs its own, of the same length.
        frames: for each frame, the index of its slice along the first axis of the stored array.
    """

    header: bytes
    uids: tuple[str, str]
    frames: tuple[int, ...]


def _check_dtype(volume: np.ndarray, *accepted: type) -> None:
    if volume.dtype not in accepted:
        names = " or ".join(np.dtype(kind).name for kind in accepted)
        raise ValueError(f"expected a volume of {names}, got {volume.dtype}")


def write_nifti(path: str | Path, volume: np.ndarray, geometry: Geometry) -> None:
    """A mask or probability map as a packed NIfTI file, `nifti_image`; equal volumes give equal bytes.

    Args:
        path: to write, ending in `.nii.gz`.
        volume: (S, H, W) on the scan's grid, a bool mask, written as uint8, or a float32 map.
        geometry: the scan's.

    Raises:
        ValueError: when the volume is of another type or on another grid.
    """
    image = nifti_image(volume, geometry)
    with Path(path).open("wb") as handle, gzip.GzipFile("", "wb", compresslevel=6, fileobj=handle, mtime=0) as packed:
        packed.write(image.to_bytes())


def nifti_image(volume: np.ndarray, geometry: Geometry) -> Nifti1Image:
    """A mask or probability map as a NIfTI image, on the grid of the array that was read.

    The header is new, with the transforms, codes and unit of a NIfTI input, else the grid's affine in millimetres.

    Args:
        volume: (S, H, W) on the scan's grid, a bool mask, stored as uint8, or a float32 map.
        geometry: the scan's.

    Raises:
        ValueError: when the volume is of another type or on another grid.
    """
    import nibabel

    _check_dtype(volume, bool, np.float32)
    stored = geometry.to_original(volume)
    image = nibabel.Nifti1Image(stored.astype(np.uint8) if stored.dtype == bool else stored, geometry.affine)
    if geometry.nifti and any(geometry.nifti.codes):
        space = geometry.nifti
        image.set_sform(space.sform, code=space.codes[0])
        image.set_qform(space.qform, code=space.codes[1])
        image.header.set_xyzt_units("mm" if space.unit == "unknown" else space.unit)
    else:
        code = "scanner" if geometry.oriented else "unknown"  # no orientation in the input, none in the output
        image.set_sform(geometry.affine, code=code)
        image.set_qform(geometry.affine, code=code)
        if geometry.oriented and not np.allclose(image.get_qform(), geometry.affine, atol=1e-3):
            image.set_qform(None)  # a quaternion cannot express shear (a stack of shifted slices); the sform is enough
        image.header.set_xyzt_units("mm")
    return image


def write_tiff(path: str | Path, mask: np.ndarray, orientation: int = 1) -> None:
    """A mask as a TIFF stack of black and white pages, compressed without loss.

    Args:
        path: to write, ending in `.tif`.
        mask: (S, H, W) bool, one page per slice, upright.
        orientation: of the input's stored pixels (`Scan.orientation`); the pages get the same one.

    Raises:
        ValueError: when the mask is of another type.
    """
    import tifffile

    _check_dtype(mask, bool)
    pages = turn_as_stored(mask.astype(np.uint8) * 255, orientation, (1, 2))
    tags = [(TAG, "H", 1, orientation, True)] if orientation != 1 else []
    options = {"photometric": "minisblack", "compression": "deflate", "metadata": None, "software": False, "extratags": tags}
    tifffile.imwrite(path, np.ascontiguousarray(pages), **options)


def write_png(path: str | Path, mask: np.ndarray, orientation: int = 1) -> None:
    """A slice's mask as a PNG image of 0 and 255.

    Args:
        path: to write, ending in `.png`.
        mask: (H, W) bool, upright.
        orientation: of the input's stored pixels (`Scan.orientation`); the PNG gets the same one.

    Raises:
        ValueError: when the mask is of another type.
    """
    from PIL import Image

    _check_dtype(mask, bool)
    image = Image.fromarray(np.ascontiguousarray(turn_as_stored(mask.astype(np.uint8) * 255, orientation)), "L")
    if orientation == 1:
        image.save(path)
        return
    tags = Image.Exif()
    tags[TAG] = orientation
    image.save(path, exif=tags)


def write_segmentation(path: str | Path, mask: np.ndarray, geometry: Geometry, algorithm_version: str) -> None:
    """A mask as a DICOM segmentation of one segment, which references the images that were segmented.

    Frames without lesion are left out. An empty mask keeps all frames, because a segmentation has at least one. Attributes of the
    patient and the study are empty: an archive that files by patient stores the segmentation beside the study, and viewers match
    the two by their UIDs.

    Args:
        path: to write, ending in `.dcm`.
        mask: (S, H, W) bool on the scan's grid.
        geometry: the scan's, read from DICOM; its source files are opened again.
        algorithm_version: of the program and its networks, ASCII, 1 to 64 characters.

    Raises:
        ValueError: when the mask is of another type or on another grid, the version is too long, or the scan was not read
            from DICOM.
        UnreadableImage: when the source files are missing or changed, or lack an element that a reference needs.
    """
    _check_dtype(mask, bool)
    if not geometry.instances:
        raise ValueError("expected a scan read from DICOM images, which a segmentation references; write NIfTI or TIFF")
    if not (algorithm_version.isascii() and 1 <= len(algorithm_version) <= 64):
        raise ValueError(f"expected a version of 1 to 64 ASCII characters, got {algorithm_version!r}")
    with quiet():
        _segmentation(geometry.to_original(mask), geometry, algorithm_version).save_as(path)


def segmentation_template(geometry: Geometry, algorithm_version: str) -> SegmentationTemplate:
    """A DICOM segmentation of all slices whose mask a person changes, `write_segmentation` without pixels.

    Args:
        geometry: the scan's, read from DICOM; its source files are opened again.
        algorithm_version: of the program and its networks, ASCII, 1 to 64 characters.

    Raises:
        UnreadableImage: when the source files are missing or changed, or lack an element that a reference needs.
    """
    present = np.setdiff1d(np.arange(geometry.shape[0]), geometry.missing)
    slices = {(one.uid, one.frame): int(number) for one, number in zip(geometry.instances, present, strict=True)}
    with quiet():
        made = _segmentation(np.zeros(geometry.shape, bool), geometry, algorithm_version, corrected=True)
        stream = io.BytesIO()
        made.save_as(stream)
    sources = [frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in made.PerFrameFunctionalGroupsSequence]
    return SegmentationTemplate(
        header=stream.getvalue()[: -len(made.PixelData)],
        uids=(str(made.SOPInstanceUID), str(made.SeriesInstanceUID)),
        frames=tuple(slices[source.ReferencedSOPInstanceUID, int(source.get("ReferencedFrameNumber", 1))] for source in sources),
    )


def _refuse(problem: str) -> UnreadableImage:
    return refuse(
        NAME,
        f"{problem}. A DICOM segmentation can be written for single-frame images of a series, or a multi-frame image, with a "
        "frame of reference",
    )


def _segmentation(mask: np.ndarray, geometry: Geometry, version: str, corrected: bool = False) -> Segmentation:
    """The segmentation of a mask (slices, rows, columns) on the stored grid; slice n belongs to instance n.

    Args:
        corrected: whether a person changed the mask.
    """
    from highdicom import UID, AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.coding import Code

    algorithm = AlgorithmIdentificationSequence(
        name="brainmri", version=version, family=Code("123110", "DCM", "Artificial Intelligence")
    )
    # "lesion", not "neoplasm": the mask includes oedema and whatever else is bright on FLAIR
    segment = SegmentDescription(
        segment_number=1,
        segment_label="Lesion",
        segmented_property_category=Code("49755003", "SCT", "Morphologically Abnormal Structure"),
        segmented_property_type=Code("52988006", "SCT", "Lesion"),
        algorithm_type="SEMIAUTOMATIC" if corrected else "AUTOMATIC",
        algorithm_identification=algorithm,
        anatomic_regions=[Code("12738006", "SCT", "Brain")],
    )
    present = np.setdiff1d(np.arange(geometry.shape[0]), geometry.missing)
    order = np.argsort([instance.frame for instance in geometry.instances], kind="stable")  # the order within a multi-frame image
    try:
        return Segmentation(
            source_images=_sources([geometry.instances[number] for number in order], geometry),
            pixel_array=mask[present][order],
            segmentation_type="BINARY",
            segment_descriptions=[segment],
            series_instance_uid=UID(),
            series_number=SERIES_NUMBER,
            series_description=f"brainmri, {'corrected by hand, ' if corrected else ''}research use only",
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer="brainmri",
            manufacturer_model_name="brainmri",
            software_versions=version,
            device_serial_number="none",  # required, though software has no serial number
            content_label="LESION",
            omit_empty_frames=bool(mask.any()),
        )
    except UnreadableImage:
        raise
    except Exception as error:  # missing files and headers that highdicom cannot reference raise many types
        raise _refuse(f"got DICOM files that a segmentation cannot reference ({type(error).__name__})") from None


def _sources(instances: list[Instance], geometry: Geometry) -> list[Dataset]:
    """The source images in order, with only the elements that a segmentation needs."""
    frames: dict[str, list[Instance]] = {}
    for instance in instances:
        frames.setdefault(instance.uid, []).append(instance)
    locations = [(first.path, first.member) for first, *_ in frames.values()]
    gap = float(np.linalg.norm(geometry.affine[:3, 0]))
    orientation = None  # of the first frame, for all: they may differ by rounding, which highdicom refuses
    sources = []
    for handle, (uid, members) in zip(reopen(locations), frames.items(), strict=True):
        header = read_elements(handle, _ELEMENTS, stop_before_pixels=True)
        if str(header.get("SOPInstanceUID")) != uid:
            raise _refuse("the DICOM files have changed since the study was read; analyse it again")
        indices = [instance.frame - 1 for instance in members]
        orientation = frame_geometry(header, indices[0])[1] if orientation is None else orientation
        source = _source(header, indices, gap, orientation)
        _, source.Rows, source.Columns = geometry.shape
        sources.append(source)
    return sources


def _source(header: Dataset, indices: list[int], gap: float, directions: np.ndarray | None) -> Dataset:
    """One source image for highdicom, with the elements of both single-frame and multi-frame images; its SOP class decides."""
    from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence
    from pydicom import Dataset
    from pydicom.uid import UID

    source = Dataset()
    for keyword in _UIDS:
        uid = UID(str(header.get(keyword)))
        if not uid.is_valid:
            raise _refuse(f"got DICOM files without a valid {keyword}")
        setattr(source, keyword, uid)
    for keyword in _EMPTY:
        setattr(source, keyword, None)
    if header.get("LossyImageCompression") == "01":
        source.LossyImageCompression = "01"
    found = [frame_geometry(header, index) for index in indices]
    spacing = found[0][2]
    if directions is None or spacing is None:
        raise _refuse("got DICOM files without orientation or pixel spacing")
    positions = [PlanePositionSequence("PATIENT", position.tolist()) for position, _, _ in found if position is not None]
    if len(positions) < len(found):
        raise _refuse("got DICOM files without slice positions")
    orientation = PlaneOrientationSequence("PATIENT", directions.tolist())
    # highdicom derives the spacing between slices from the positions
    thickness = functional_group(header, indices[0], "PixelMeasuresSequence").get("SliceThickness") or gap
    measures = PixelMeasuresSequence(spacing.tolist(), thickness)
    source.ImagePositionPatient = positions[0][0].ImagePositionPatient
    source.ImageOrientationPatient = orientation[0].ImageOrientationPatient
    source.PixelSpacing, source.SliceThickness = measures[0].PixelSpacing, measures[0].SliceThickness
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = orientation, measures
    source.SharedFunctionalGroupsSequence = [shared]
    source.PerFrameFunctionalGroupsSequence = [Dataset() for _ in positions]
    for frame, position in zip(source.PerFrameFunctionalGroupsSequence, positions, strict=True):
        frame.PlanePositionSequence = position
    return source
