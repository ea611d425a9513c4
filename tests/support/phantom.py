"""The phantom that volume tests read and write, and functions that store it in real files.

Intensity rises towards the patient's right, anterior and superior. The marker is the only part brighter than half of the
maximum. It lies far right, anterior and superior, so axial slices show it at high slice numbers in the upper left.
"""

import zipfile

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

SHAPE = (40, 36, 12)
SPACING = (2.0, 2.0, 5.0)
RAS = np.diag([*SPACING, 1.0])
PHANTOM = np.add.outer(np.add.outer(np.arange(40) * 5, np.arange(36) * 3), np.arange(12) * 7).astype(np.int16)
PHANTOM[33:38, 28:34, 8:11] = 1000
EXPECTED = PHANTOM.transpose(2, 1, 0)[:, ::-1, ::-1]  # slices from inferior to superior, anterior at the top, right on the left

# how scanners store DICOM: ImageOrientationPatient, and where slices, rows and columns point
PLANES = {"axial": ([1, 0, 0, 0, 1, 0], "SPL"), "sagittal": ([0, 1, 0, 0, 0, -1], "RIP"), "coronal": ([1, 0, 0, 0, 0, -1], "PIL")}
ROOT = "1.2.826.0.1.3680043.8.498.4711"
PLANTED = ("Planted", "4711", "19700102", "19991231", "0815", "Hospital", "235959")


def stored(volume: np.ndarray, code: str) -> np.ndarray:
    """Reorient a RAS volume to the axis code."""
    return apply_orientation(volume, ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code)))


def affine_of(code: str) -> np.ndarray:
    return RAS @ inv_ornt_aff(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code)), SHAPE)


def nifti(path, volume=PHANTOM, affine=RAS, kind=nibabel.Nifti1Image, code=1, slope=None):
    image = kind(volume, affine)
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=code)
    if slope:
        image.header.set_slope_inter(*slope)
    nibabel.save(image, path)
    return path


def header(sop_class=MRImageStorage, uid: str | None = None, series=1, description="AX FLAIR", **elements) -> Dataset:
    """An MR image without pixels, full of data that identifies a patient."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uid or generate_uid(ROOT + ".")
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Planted^Patient", "ID4711", "19700102"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = "19991231"
    ds.StudyTime, ds.AccessionNumber, ds.InstitutionName = "235959.4711", "ACC0815", "Planted Hospital"
    ds.PatientSex, ds.PatientAge, ds.PatientComments, ds.StudyID = "O", "047Y", "Planted comment", "ID4711"
    ds.ReferringPhysicianName, ds.StudyDescription, ds.ProtocolName = "Planted^Physician", "Planted study", "Planted protocol"
    ds.Manufacturer, ds.DeviceSerialNumber, ds.SoftwareVersions = "Planted Scanners", "SN4711", "Planted 1"
    ds.PositionReferenceIndicator = "Planted"
    ds.StudyInstanceUID, ds.FrameOfReferenceUID = ROOT + ".1", ROOT + ".2"
    ds.SeriesInstanceUID = f"{ROOT}.3.{series}"
    ds.SeriesNumber, ds.SeriesDescription, ds.Modality = series, description, "MR"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def positions(plane: str) -> tuple[np.ndarray, list[list[float]], list[float]]:
    """The phantom stored in a plane, (slices, rows, columns); the position of each slice; the pixel spacing."""
    code = PLANES[plane][1]
    array, affine = stored(PHANTOM, code), affine_of(code)
    corners = [(affine @ [number, 0, 0, 1])[:3] * (-1, -1, 1) for number in range(len(array))]
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return array, [[float(v) for v in corner] for corner in corners], [float(v) for v in lengths[1:]]


def images(plane="axial", pixels=None, bits=16, **elements) -> list[Dataset]:
    """A series of single-frame images."""
    array, corners, spacing = positions(plane)
    array = (array if pixels is None else pixels).astype(f"u{bits // 8}")
    made = []
    for number, (slice_, corner) in enumerate(zip(array, corners, strict=True), 1):
        ds = header(**elements)
        ds.InstanceNumber = number
        ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing = corner, PLANES[plane][0], spacing
        ds.Rows, ds.Columns = slice_.shape
        ds.BitsAllocated = ds.BitsStored = bits
        ds.HighBit = bits - 1
        ds.PixelData = slice_.tobytes()
        made.append(ds)
    return made


def enhanced(plane="axial", order=None) -> Dataset:
    """The phantom as one enhanced multi-frame image, with frames in the given order."""
    array, corners, spacing = positions(plane)
    order = list(order or range(len(array)))
    ds = header(EnhancedMRImageStorage)
    ds.NumberOfFrames, (ds.Rows, ds.Columns) = len(array), array.shape[1:]
    shared, measures, orientation, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = spacing, 5
    orientation.ImageOrientationPatient = PLANES[plane][0]
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 2, 10, "US"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    shared.PixelValueTransformationSequence = [rescale]
    ds.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for number in order:
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = corners[number]
        group.PlanePositionSequence = [position]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    ds.PixelData = array[order].astype(np.uint16).tobytes()
    return ds


def save(folder, datasets, prefix="Planted_Patient_"):
    """Save datasets under shuffled file names, as archives do."""
    folder.mkdir(exist_ok=True)
    names = np.random.default_rng(0).permutation(len(datasets))
    for number, ds in zip(names, datasets, strict=True):
        ds.save_as(folder / f"{prefix}{number}", enforce_file_format=True)
    return folder


def zip_of(folder):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path
