"""Formats that are recognised only to say what to do with them."""

from __future__ import annotations

import re

# by the first bytes, from an offset
_MAGIC: list[tuple[int, bytes, str]] = [
    (0, b"<!DOCTYPE", "a web page. Please download the file again; this may need a login"),
    (0, b"<html", "a web page. Please download the file again; this may need a login"),
    (0, b"version https://git-lfs", "a Git LFS pointer. Please fetch the file itself with git lfs pull"),
    (0, b"\x89HDF", "an HDF5 file (MINC, MATLAB or others). Please convert MINC to NIfTI with mnc2nii"),
    (0, b"CDF\x01", "a MINC volume. Please convert it to NIfTI with mnc2nii"),
    (0, b"# === DATA DESCRIPTION FILE", "a Philips PAR file. Please convert PAR and REC to NIfTI with dcm2niix"),
    (0, b"\x93NUMPY", "a NumPy array. Please pass it to read_study in Python, or save it as NIfTI"),
    (0, b"MATLAB 5.0", "a MATLAB file. Please save the volume as NIfTI with niftiwrite"),
    (0, b"GIF8", "a GIF image. Please save it as PNG"),
    (4, b"ftypheic", "a HEIC photo. Please save it as JPEG or PNG"),
    (4, b"ftypmif1", "a HEIC photo. Please save it as JPEG or PNG"),
    (4, b"ftypheix", "a HEIC photo. Please save it as JPEG or PNG"),
    (4, b"ftypavif", "an AVIF image. Please save it as PNG"),
    (4, b"ftyp", "a video. Please export the slices as DICOM or PNG"),
    (0, b"\xff\xd8\xff", "a damaged JPEG, or one that is lossless or has more than 8 bits. Please save it as PNG"),
    (4, b"JXL ", "a JPEG XL image. Please save it as PNG"),
    (0, b"\xff\x0a", "a JPEG XL image. Please save it as PNG"),
    (4, b"jP  ", "a JPEG 2000 image. Please save it as PNG or TIFF"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image. Please save it as PNG or TIFF"),
    *((0, b"P%d" % kind + end, "a PNM image. Please save it as PNG") for kind in range(1, 8) for end in (b"\n", b" ", b"\r")),
    (0, b"\0\0\1\0", "an icon. Please save it as PNG"),
    (128, b"DICM", "a DICOM file. Please upload it as a study"),
    (0, b"# vtk DataFile", "a VTK volume. Please convert it to NIfTI with 3D Slicer"),
    (0, b"!INTERFILE", "an Interfile volume. Please convert it to NIfTI with 3D Slicer"),
    (0, b"MATRIX7", "an ECAT volume. Please convert it to NIfTI with nibabel"),
    (0, b"type  = ", "the header of an AFNI volume. Please convert it to NIfTI with 3dAFNItoNIFTI"),
    (0, b"<PRIDE_V5", "a Philips XML header. Please convert XML and REC to NIfTI with dcm2niix"),
    (0, b"8BPS", "a Photoshop file. Please save it as PNG or TIFF"),
    (0, b"%PDF", "a PDF. Please export the images as DICOM or PNG"),
    (0, b"<svg", "an SVG drawing. Please save it as PNG"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive. Please unpack it, or pack the study as a zip"),
    (0, b"Rar!", "a RAR archive. Please unpack it, or pack the study as a zip"),
    (257, b"ustar", "a tar archive. Please unpack it, or pack the study as a zip"),
    (0, b"\xfd7zXZ", "an xz archive. Please unpack it, or pack the study as a zip"),
    (0, b"BZh", "a bzip2 archive. Please unpack it, or pack the study as a zip"),
    (0, b"\x1f\x8b", "a gzip archive without a volume in it. Please unpack it, or pack the study as a zip"),
    (0, b"PK\x03\x04", "a zip. Please upload it as a study"),
]


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def describe_foreign(start: bytes) -> str | None:
    """A format and the way out of it, from the first bytes of a file; None if it is not known."""
    if not start:
        return "an empty file. Please copy or download it again"
    text = start.removeprefix(_BYTE_ORDER_MARK).lstrip()
    text = re.sub(rb"^<\?xml[^>]*>\s*", b"", text)
    for offset, magic, words in _MAGIC:
        if start[offset : offset + len(magic)] == magic or (not offset and text[: len(magic)].lower() == magic.lower()):
            return words
    return None
