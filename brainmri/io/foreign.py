"""Formats that are recognised only to say what to do with them."""

from __future__ import annotations

# by the first bytes, from an offset
_MAGIC: list[tuple[int, bytes, str]] = [
    (0, b"<!DOCTYPE", "a web page; the download failed, perhaps because it needs a login"),
    (0, b"<html", "a web page; the download failed, perhaps because it needs a login"),
    (0, b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with git lfs pull"),
    (0, b"\x89HDF", "an HDF5 file (MINC, MATLAB or others); convert MINC to NIfTI with mnc2nii"),
    (0, b"CDF\x01", "a MINC volume; convert it to NIfTI with mnc2nii"),
    (0, b"# === DATA DESCRIPTION FILE", "a Philips PAR file; convert PAR and REC to NIfTI with dcm2niix"),
    (0, b"\x93NUMPY", "a NumPy array; pass it to read_study in Python, or save it as NIfTI"),
    (0, b"MATLAB 5.0", "a MATLAB file; save the volume as NIfTI with niftiwrite"),
    (0, b"GIF8", "a GIF image; save it as PNG"),
    (4, b"ftypheic", "a HEIC photo; save it as JPEG or PNG"),
    (4, b"ftypmif1", "a HEIC photo; save it as JPEG or PNG"),
    (4, b"ftypheix", "a HEIC photo; save it as JPEG or PNG"),
    (4, b"ftypavif", "an AVIF image; save it as PNG"),
    (4, b"ftyp", "a video; export the slices as DICOM or PNG"),
    (4, b"jP  ", "a JPEG 2000 image; save it as PNG or TIFF"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image; save it as PNG or TIFF"),
    (0, b"8BPS", "a Photoshop file; save it as PNG or TIFF"),
    (0, b"%PDF", "a PDF; export the images as DICOM or PNG"),
    (0, b"<svg", "an SVG drawing, not an image of pixels"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it, or pack the study as a zip"),
    (0, b"Rar!", "a RAR archive; unpack it, or pack the study as a zip"),
    (257, b"ustar", "a tar archive; unpack it, or pack the study as a zip"),
    (0, b"\xfd7zXZ", "an xz archive; unpack it, or pack the study as a zip"),
    (0, b"BZh", "a bzip2 archive; unpack it, or pack the study as a zip"),
    (0, b"\x1f\x8b", "a gzip archive without a volume in it; unpack it, or pack the study as a zip"),
    (0, b"PK\x03\x04", "a zip; read it as a study"),
]


def describe_foreign(start: bytes) -> str | None:
    """A format and the way out of it, from the first bytes of a file; None if it is not known."""
    if not start:
        return "an empty file"
    return next((words for offset, magic, words in _MAGIC if start[offset : offset + len(magic)] == magic), None)
