"""Studies as real users met them, written from the phantom."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pydicom
import SimpleITK
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless

from tests.support.phantom import EXPECTED, PHANTOM, RAS, enhanced, images, nifti, save


def dicom(*series, prefix="IM") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for number, one in enumerate(series):
            save(folder, one() if callable(one) else one, prefix=f"{prefix}{number}_")
        return folder

    return make


def volume(name: str, data: bytes | Callable[[], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data if isinstance(data, bytes) else data())
        return folder / name

    return make


def changed(change: Callable, **elements):
    """A series, with a change to each image."""
    series = images(**elements)
    for number, ds in enumerate(series):
        change(number, ds)
    return series


def moved(count: int, by: tuple[float, float, float], **elements):
    """The first images of a series, elsewhere and without marker."""
    series = images(**elements)[:count]
    for ds in series:
        ds.ImagePositionPatient = [float(v) + shift for v, shift in zip(ds.ImagePositionPatient, by, strict=True)]
    return series


def jitter(number, ds):
    ds.ImageOrientationPatient = [1, 0.0015 * (-1) ** number, 0, 0, 1, 0.001 * (number % 3)]


def other_patient(description: str, series: int):
    return images(description=description, series=series, StudyInstanceUID="1.2.3", FrameOfReferenceUID="1.2.4", PatientID="Q")


def two_stacks():
    """An enhanced image of the phantom and, far below it, four of its slices."""
    ds = enhanced("axial", [*range(12), 0, 1, 2, 3])
    ds.NumberOfFrames = 16
    for group in ds.PerFrameFunctionalGroupsSequence[12:]:
        position = pydicom.Dataset()
        position.ImagePositionPatient = [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]
        position.ImagePositionPatient[2] -= 170
        group.PlanePositionSequence = [position]
    return [ds]


def repeated(group: str, keyword: str, *values):
    """An enhanced image with all its frames for each value of an element of a functional group."""
    ds = enhanced("axial", [*range(12)] * len(values))
    ds.NumberOfFrames = 12 * len(values)
    for number, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        item = pydicom.Dataset()
        setattr(item, keyword, values[number // 12])
        setattr(groups, group, [item])
    return ds


def tiled(creator: str, group: int, element: int, kind: str, value):
    """A series whose images hold several slices each, by a private element."""

    def change(number, ds):
        ds.private_block(group, creator, create=True).add_new(element, kind, value)

    return lambda: changed(change)[:1]


def fine_t1(folder: Path) -> Path:
    """A FLAIR, and a T1 with twice as many slices, half a voxel away."""
    folder.mkdir(exist_ok=True)
    nifti(folder / "flair.nii.gz")
    affine = RAS @ np.diag([1, 1, 0.5, 1])
    affine[2, 3] -= 1.25
    nifti(folder / "t1.nii.gz", np.repeat(PHANTOM, 2, axis=2), affine)
    return folder


def in_folders(folder: Path, *names: str) -> Path:
    """The phantom as NIfTI files with these names below the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True)
        nifti(folder / name)
    return folder


def in_unit(code: str, factor: float) -> bytes:
    affine = np.diag([1 / factor, 1 / factor, 1 / factor, 1]) @ RAS
    image = nibabel.Nifti1Image(PHANTOM, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units(code)
    return image.to_bytes()


def in_space(patch: dict[int, bytes]) -> bytes:
    """A NIfTI file with equal sform and qform, and a part of its header replaced."""
    image = nibabel.Nifti1Image(PHANTOM, RAS)
    image.set_sform(RAS, 1)
    image.set_qform(RAS, 1)
    data = bytearray(image.to_bytes())
    for start, value in patch.items():
        data[start : start + len(value)] = value
    return bytes(data)


def mgh() -> bytes:
    return nibabel.MGHImage(PHANTOM, RAS).to_bytes()


def nrrd(*fields: str) -> bytes:
    """An NRRD file with these fields beside those of the voxels."""
    lines = ("NRRD0005", "type: short", "dimension: 3", "sizes: 40 36 12", "endian: little", *fields)
    encoding = () if any(field.startswith("encoding") for field in fields) else ("encoding: raw",)
    return "\n".join([*lines, *encoding, "", ""]).encode() + PHANTOM.tobytes("F")


def commented(folder: Path) -> Path:
    """A MetaImage whose header starts with a comment."""
    path = itk("flair.mha")(folder)
    path.write_bytes(b"Comment = a phantom\n" + path.read_bytes())
    return path


def pair(folder: Path) -> Path:
    image = nibabel.Nifti1Pair(PHANTOM, RAS)
    image.set_sform(RAS, 1)
    nibabel.save(image, folder / "flair.hdr")
    return folder / "flair.hdr"


def itk(name: str) -> Callable[[Path], Path]:
    """A volume as SimpleITK writes it, in its coordinates towards left and posterior."""

    def make(folder: Path) -> Path:
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(PHANTOM.transpose(2, 1, 0)))
        image.SetSpacing([2, 2, 5])
        image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
        SimpleITK.WriteImage(image, str(folder / name), True)
        return folder / name

    return make


def packed_pair(folder: Path) -> Path:
    image = nibabel.Nifti1Pair(PHANTOM, RAS)
    image.set_sform(RAS, 1)
    nibabel.save(image, folder / "flair.img.gz")
    return folder / "flair.hdr.gz"


def compressed(make: Callable, pixels: Callable[[np.ndarray], np.ndarray]):
    series = make()
    for ds in series:
        stored = np.frombuffer(ds.PixelData, np.uint16).reshape(ds.Rows, ds.Columns)
        ds.PixelData = encapsulate([imagecodecs.jpegls_encode(np.ascontiguousarray(pixels(stored)))])
        ds["PixelData"].VR = "OB"
        ds.file_meta.TransferSyntaxUID = JPEGLSLossless
    return series


def set_bits(number, ds):
    ds.BitsStored, ds.HighBit = 12, 11


def shift_bits(number, ds):
    ds.BitsStored, ds.HighBit = 12, 15
    noise = np.random.default_rng(number).integers(0, 16, EXPECTED[number].shape)
    ds.PixelData = (EXPECTED[number].astype(np.uint16) * 16 + noise).astype(np.uint16).tobytes()


def with_overlay(stored: np.ndarray) -> np.ndarray:
    overlay = np.zeros_like(stored)
    overlay[:10, :10] = 0x8000
    return stored | overlay


def signed():
    series = changed(set_bits, PixelRepresentation=1)
    for number, ds in enumerate(series):
        ds.PixelData = (EXPECTED[number] - 500).astype(np.int16).tobytes()
    return series


def padded():
    series = images(PixelRepresentation=1)
    for number, ds in enumerate(series):
        pixels = EXPECTED[number].astype(np.int16)
        pixels[:, -3:] = -2000
        ds.PixelData = pixels.tobytes()
        ds.add_new("PixelPaddingValue", "SS", -2000)
    return series


def bare(folder: Path) -> Path:
    """Images without preamble and file meta information."""
    folder.mkdir(exist_ok=True)
    for number, ds in enumerate(images()):
        del ds.file_meta
        pydicom.dcmwrite(folder / f"IM{number}", ds, implicit_vr=True, little_endian=True, enforce_file_format=False)
    return folder


def windows_zip(folder: Path) -> Path:
    path = folder / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, ds in enumerate(images()):
            buffer = io.BytesIO()
            ds.save_as(buffer, enforce_file_format=True)
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = f"DICOM\\PA20\\IM{number}"
            archive.writestr(info, buffer.getvalue())
    return path


def directory():
    """An index of files, a DICOMDIR."""
    ds = images()[0]
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    return [ds]


def without_modality(number, ds):
    del ds.Modality


def own_series(number, ds):
    ds.SeriesInstanceUID = f"1.2.9.{number}"


def own_frame_of_reference(number, ds):
    ds.FrameOfReferenceUID = f"1.2.10.{number}"


def tse(echo: float, inversion: float | None = None) -> dict:
    return {
        "ScanningSequence": ["SE", "IR"] if inversion else "SE",
        "EchoTime": echo,
        "RepetitionTime": 9000,
        "InversionTime": inversion,
    }
