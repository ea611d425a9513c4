"""The results of a study as files that a viewer opens: NIfTI, DICOM segmentations and TIFF stacks.

They hold the result and what lays it over the images, nothing else of the input: no name, date or number of a patient, no
description and no file name. Only a DICOM segmentation names its source, by UIDs, as it must; some makers build theirs of
dates and device numbers.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brainmri.io.dicom import NAME, frame_geometry, functional_group
from brainmri.io.dicom_log import quiet
from brainmri.io.files import reopened
from brainmri.io.limits import UnreadableImage
from brainmri.io.scan import Geometry, Instance

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from pydicom import Dataset

SERIES_NUMBER = 9000  # beyond a scanner's own, so that viewers list the segmentation last
_UIDS = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"]
# of a source image nothing else is read, and of its functional groups nothing but places is written
_ELEMENTS = [
    *_UIDS,
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "LossyImageCompression"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
# what a segmentation may not lack but may leave empty
_EMPTY = [
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
]


def _check_dtype(volume: np.ndarray, *accepted: type) -> None:
    if volume.dtype not in accepted:
        names = " or ".join(np.dtype(kind).name for kind in accepted)
        raise ValueError(f"expected a volume of {names}, got {volume.dtype}")


def write_nifti(path: str | Path, volume: np.ndarray, geometry: Geometry) -> None:
    """A mask or probability map as a packed NIfTI file, on the grid of the array that was read.

    The header is made anew, with the grid's affine in millimetres; equal volumes give equal bytes.

    Args:
        path: to write, ending in `.nii.gz`.
        volume: (S, H, W) on the scan's grid, a bool mask, written as uint8, or a float32 map.
        geometry: the scan's.

    Raises:
        ValueError: when the volume is of another type or on another grid.
    """
    import nibabel

    _check_dtype(volume, bool, np.float32)
    stored = geometry.to_original(volume)
    image = nibabel.Nifti1Image(stored.astype(np.uint8) if stored.dtype == bool else stored, geometry.affine)
    known = "scanner" if geometry.oriented else "unknown"  # a file that told no orientation gets a mask that tells none
    image.set_sform(geometry.affine, code=known)
    image.set_qform(geometry.affine, code=known)
    if geometry.oriented and not np.allclose(image.get_qform(), geometry.affine, atol=1e-3):
        image.set_qform(None)  # a quaternion cannot shear, as a stack whose slices are shifted asks; the sform stands alone
    image.header.set_xyzt_units("mm")
    with Path(path).open("wb") as handle, gzip.GzipFile("", "wb", compresslevel=6, fileobj=handle, mtime=0) as packed:
        packed.write(image.to_bytes())


def write_tiff(path: str | Path, mask: np.ndarray) -> None:
    """A mask as a stack of black and white pages, packed without loss.

    Args:
        path: to write, ending in `.tif`.
        mask: (S, H, W) bool, a page a slice.

    Raises:
        ValueError: when the mask is of another type.
    """
    import tifffile

    _check_dtype(mask, bool)
    pages = mask.astype(np.uint8) * 255
    tifffile.imwrite(path, pages, photometric="minisblack", compression="deflate", metadata=None, software=False)


def write_segmentation(path: str | Path, mask: np.ndarray, geometry: Geometry, algorithm_version: str) -> None:
    """A mask as a DICOM segmentation of one segment, which references the images it was found in.

    Frames without lesion are left out. A mask without any keeps them all: a segmentation has at least one frame, so viewers
    open it, over every slice, and show nothing. The patient's and the study's attributes are empty, so an archive that
    files by patient puts the segmentation beside the study, not into it; viewers join them by their UIDs.

    Args:
        path: to write, ending in `.dcm`.
        mask: (S, H, W) bool on the scan's grid.
        geometry: the scan's, read from DICOM; the files it names are opened once more.
        algorithm_version: of the program and its networks, ASCII, 1 to 64 characters.

    Raises:
        ValueError: when the mask is of another type or on another grid, the version is too long, or the scan was not read
            from DICOM.
        UnreadableImage: when the source files have gone or changed, or lack what a reference needs.
    """
    _check_dtype(mask, bool)
    if not geometry.instances:
        raise ValueError("expected a scan read from DICOM images, which a segmentation references; write NIfTI or TIFF")
    if not (algorithm_version.isascii() and 1 <= len(algorithm_version) <= 64):
        raise ValueError(f"expected a version of 1 to 64 ASCII characters, got {algorithm_version!r}")
    with quiet():
        _segmentation(geometry.to_original(mask), geometry, algorithm_version).save_as(path)


def _refuse(problem: str) -> UnreadableImage:
    return UnreadableImage(
        f"{NAME}: {problem}. A DICOM segmentation can be written for single-frame images of a series, or a multi-frame image, "
        "with a frame of reference."
    )


def _segmentation(mask: np.ndarray, geometry: Geometry, version: str) -> Segmentation:
    """The segmentation of a mask (slices, rows, columns) on the stored grid, each slice of the instance with its index."""
    from highdicom import UID, AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.coding import Code

    algorithm = AlgorithmIdentificationSequence(
        name="brainmri", version=version, family=Code("123110", "DCM", "Artificial Intelligence")
    )
    # a lesion rather than a neoplasm: what is bright on FLAIR is marked, oedema and all
    segment = SegmentDescription(
        segment_number=1,
        segment_label="Lesion",
        segmented_property_category=Code("49755003", "SCT", "Morphologically Abnormal Structure"),
        segmented_property_type=Code("52988006", "SCT", "Lesion"),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        anatomic_regions=[Code("12738006", "SCT", "Brain")],
    )
    order = np.argsort([instance.frame for instance in geometry.instances], kind="stable")  # a multi-frame image's as it has them
    try:
        return Segmentation(
            source_images=_sources([geometry.instances[number] for number in order], geometry),
            pixel_array=mask[order],
            segmentation_type="BINARY",
            segment_descriptions=[segment],
            series_instance_uid=UID(),
            series_number=SERIES_NUMBER,
            series_description="brainmri, research use only",
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer="brainmri",
            manufacturer_model_name="brainmri",
            software_versions=version,
            device_serial_number="none",  # has to be there, and software has none
            content_label="LESION",
            omit_empty_frames=bool(mask.any()),
        )
    except UnreadableImage:
        raise
    except Exception as error:  # files that have gone, and headers that highdicom cannot reference, in many ways
        raise _refuse(f"got DICOM files that a segmentation cannot reference ({type(error).__name__})") from None


def _sources(instances: list[Instance], geometry: Geometry) -> list[Dataset]:
    """The source images in order, bare of everything that a segmentation does not need."""
    from pydicom import dcmread

    frames: dict[str, list[Instance]] = {}
    for instance in instances:
        frames.setdefault(instance.uid, []).append(instance)
    places = [(parts[0].path, parts[0].member) for parts in frames.values()]
    gap = float(np.linalg.norm(geometry.affine[:3, 0]))
    sources = []
    for handle, (uid, parts) in zip(reopened(places), frames.items(), strict=True):
        header = dcmread(handle, stop_before_pixels=True, specific_tags=_ELEMENTS)
        if str(header.get("SOPInstanceUID")) != uid:
            raise _refuse("the DICOM files are not the ones that the study was read from")
        source = _source(header, [part.frame - 1 for part in parts], gap)
        _, source.Rows, source.Columns = geometry.shape
        sources.append(source)
    return sources


def _source(header: Dataset, indices: list[int], gap: float) -> Dataset:
    """One source image as highdicom asks for it, as a single frame and as a multi-frame image at once; its class decides."""
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
    _, directions, spacing = found[0]
    if directions is None or spacing is None:
        raise _refuse("got DICOM files without orientation or pixel spacing")
    positions = [PlanePositionSequence("PATIENT", position.tolist()) for position, _, _ in found if position is not None]
    if len(positions) < len(found):
        raise _refuse("got DICOM files without slice positions")
    orientation = PlaneOrientationSequence("PATIENT", directions.tolist())
    # the spacing between slices is highdicom's to find out, from the positions
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
