"""Intact files of every supported kind, from which `tests/support/mutants.py` makes damaged ones.

The files are taken from packages (pydicom, nibabel, scikit-image) or written here; none contains data of our patients.
"""

from __future__ import annotations

import gzip
import io
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import imagecodecs
import nibabel
import numpy as np
import pydicom
import SimpleITK
import skimage
import tifffile
from nibabel.testing import data_path as NIBABEL
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from brainmri.io.dicom_log import quiet
from tests.support import phantom

SUFFIX = {
    "png": ".png",
    "jpeg": ".jpg",
    "tiff": ".tif",
    "nifti": ".nii",
    "packed nifti": ".nii.gz",
    "other volume": ".mgz",
    "dicom": ".dcm",
    "zip": ".zip",
}
KINDS = tuple(SUFFIX)
LARGEST = 2**19  # bytes; larger files of packages are skipped
GREY = np.add.outer(np.arange(48) * 3, np.arange(40) * 2).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)


def _pictures(kind: str) -> list[bytes]:
    images = [Image.fromarray(COLOUR), Image.fromarray(GREY)]
    if kind == "PNG":
        images += [Image.fromarray(GREY.astype(np.uint16) * 99), *(images[0].convert(mode) for mode in ("1", "P", "LA", "RGBA"))]
    else:
        images.append(images[0].convert("CMYK"))
    variants = [{}, {"optimize": True}] + ([{"progressive": True}] if kind == "JPEG" else [])
    others = [_saved(images[0], other) for other in ("WEBP", "BMP")] if kind == "JPEG" else []
    return [_saved(image, kind, **options) for image in images for options in variants] + others


def _saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _shipped(*patterns: str) -> list[bytes]:
    """Sample images of scikit-image."""
    folder = Path(skimage.__file__).parent / "data"
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    return [file.read_bytes() for file in files if file.stat().st_size <= LARGEST // 4]


def _tiffs() -> list[bytes]:
    stack = np.stack([GREY] * 3)
    written = []
    for compression in (None, "lzw", "deflate", "packbits", "zstd", "jpeg", "jpeg2000", "lzma", "webp", "png", "jpegxl"):
        options = {"compression": compression, "photometric": "rgb"}
        written.append((COLOUR, options))
    for options in (
        {}, {"tile": (16, 16), "compression": "deflate"}, {"predictor": True, "compression": "lzw"}, {"bigtiff": True},
        {"byteorder": ">"}, {"imagej": True}, {"photometric": "miniswhite"},
    ):  # fmt: skip
        written += [
            (stack, {"photometric": "minisblack", **options}),
            (GREY.astype(np.uint16), {"photometric": "minisblack", **options}),
        ]
    written.append((GREY, {"photometric": "palette", "colormap": np.arange(768, dtype=np.uint16).reshape(3, 256)}))
    written.append((np.moveaxis(COLOUR, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}))
    written += [(GREY.astype(kind), {"photometric": "minisblack"}) for kind in (np.float32, np.float64, np.int16, bool)]
    files = []
    for pixels, options in written:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels, **options)
        files.append(buffer.getvalue())
    return files + _shipped("*.tif")


def _niftis() -> list[bytes]:
    volume = phantom.PHANTOM
    made = [
        volume,
        volume.astype(np.float32),
        volume.astype(np.float64),
        (volume // 8).astype(np.uint8),
        np.stack([volume] * 3, 3),
    ]
    files = [kind(one, phantom.RAS).to_bytes() for one in made for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image)]
    swapped = nibabel.Nifti1Image(volume, phantom.RAS, nibabel.Nifti1Header(endianness=">"))
    swapped.header.set_slope_inter(2.0, 10.0)
    shipped = [
        nibabel.load(Path(NIBABEL) / name).to_bytes() for name in ("anatomical.nii", "example4d.nii.gz", "standard.nii.gz")
    ]
    return [*files, swapped.to_bytes(), *(one for one in shipped if len(one) <= LARGEST)]


def _other_volumes() -> list[bytes]:
    """MGH, zstd, NRRD and MetaImage; readers recognise them by their bytes."""
    mgh = nibabel.MGHImage(phantom.PHANTOM, phantom.RAS).to_bytes()
    files = [mgh, gzip.compress(mgh, 1), imagecodecs.zstd_encode(nibabel.Nifti1Image(phantom.PHANTOM, phantom.RAS).to_bytes())]
    with TemporaryDirectory() as folder:
        for name, packed in (("a.nrrd", True), ("b.nrrd", False), ("a.mha", True), ("b.mha", False)):
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(phantom.PHANTOM), f"{folder}/{name}", packed)
            files.append(Path(folder, name).read_bytes())
    return files


def _dicoms() -> list[bytes]:
    shipped = sorted(Path(get_testdata_file("MR_small.dcm", download=False)).parent.glob("*.dcm"))
    files = [_as_mr(path.read_bytes()) for path in shipped if path.stat().st_size <= LARGEST // 2]
    files += [_stored(ds) for ds in (phantom.images()[3], phantom.images(bits=8)[3])] + [_bare(phantom.images()[3])]
    files += [
        _stored(phantom.enhanced(plane)) for plane in phantom.PLANES for _ in range(3)
    ]  # these have the most fields to damage
    codecs = {
        JPEG2000Lossless: lambda p: imagecodecs.jpeg2k_encode(p, codecformat="j2k"),
        HTJ2KLossless: imagecodecs.htj2k_encode,
        JPEGLSLossless: imagecodecs.jpegls_encode,
        JPEGLosslessSV1: lambda p: imagecodecs.ljpeg_encode(p, bitspersample=16),
        JPEGBaseline8Bit: lambda p: _saved(Image.fromarray((p // 8).astype(np.uint8)), "JPEG"),
    }  # fmt: skip
    for syntax, encode in codecs.items():
        ds = phantom.images()[3]
        ds.PixelData = encapsulate([encode(ds.pixel_array)])
        ds["PixelData"].VR = "OB"
        if syntax == JPEGBaseline8Bit:
            ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        ds.file_meta.TransferSyntaxUID = syntax
        files.append(_stored(ds))
    ds = phantom.images()[3]
    ds.compress(RLELossless, generate_instance_uid=False)
    return [*files, _stored(ds)]


def _as_mr(data: bytes) -> bytes:
    """Set the modality of a greyscale image to MR, so that the readers go on; return other files unchanged."""
    try:
        with quiet():
            ds = pydicom.dcmread(io.BytesIO(data))
            if ds.PhotometricInterpretation.startswith("MONOCHROME"):
                ds.Modality = "MR"
                return _stored(ds)
    except Exception:  # some sample files are damaged on purpose
        pass
    return data


def _bare(ds: pydicom.Dataset) -> bytes:
    """Without preamble and file meta information."""
    buffer = io.BytesIO()
    del ds.file_meta
    pydicom.dcmwrite(buffer, ds, implicit_vr=True, little_endian=True, enforce_file_format=False)
    return buffer.getvalue()


def _stored(ds: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@cache
def seeds(kind: str) -> tuple[bytes, ...]:
    """Intact files of a kind."""
    made = {
        "png": lambda: _pictures("PNG") + _shipped("*.png"),
        "jpeg": lambda: _pictures("JPEG") + _shipped("*.jpg"),
        "tiff": _tiffs,
        "nifti": _niftis,
        "packed nifti": lambda: [gzip.compress(data, 1) for data in _niftis()],
        "other volume": _other_volumes,
        "dicom": _dicoms,
    }
    return tuple(made[kind]())
