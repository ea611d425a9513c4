"""The limits of an input, and the error that refuses what is outside them."""

from __future__ import annotations

from brainmri.io.pixels import MAX_SIDE, MIN_SIDE

MAX_BYTES = 64 * 2**20  # of a slice's file
MAX_SLICES = 512
MAX_STUDY_BYTES = 2**30  # of the files unpacked, and of the pixels as float32 in three channels
MAX_RATIO = 200  # of unpacked to packed size; images pack to about a tenth
RATIO_COUNTS = 64 * 2**20  # bytes; below it the ratio is not checked
ACCEPTED = (
    f"PNG, JPEG, TIFF, WebP and BMP slices (8 or 16 bit, one page, {MIN_SIDE} to {MAX_SIDE} pixels a side, up to "
    f"{MAX_BYTES // 2**20} MiB)"
)
ACCEPTED_STUDIES = (
    "slices named <case>_<number> (PNG, JPEG, TIFF, WebP, BMP), a multi-page TIFF, NIfTI (.nii, .nii.gz, .nii.zst, .hdr and "
    ".img), MGH (.mgz), NRRD, MetaImage (.mha) or DICOM MR images, as files, a folder or a zip; up to "
    f"{MAX_SLICES} slices of {MIN_SIDE} to {MAX_SIDE} pixels a side and {MAX_STUDY_BYTES // 2**20} MiB"
)


def describe_os_error(error: OSError) -> str:
    """An error of the operating system as a sentence without a full stop: the path and the reason.

    >>> describe_os_error(PermissionError(13, "Permission denied", "/data/head.nii"))
    '/data/head.nii: permission denied'
    """
    if not error.strerror:  # raised with a message of its own
        return str(error)
    reason = error.strerror[:1].lower() + error.strerror[1:]
    return f"{error.filename}: {reason}" if error.filename else reason


class UnreadableImage(ValueError):
    """The input cannot be read. The message says why, in words that the page can show."""


def refuse_image(name: str, problem: str) -> UnreadableImage:
    """The error for a slice that cannot be read, to be raised: the problem, then the accepted inputs."""
    return UnreadableImage(f"{name}: {problem}. Accepted: {ACCEPTED}.")


def refuse_study(name: str, problem: str) -> UnreadableImage:
    """The error for a study that cannot be read, to be raised: the problem, then the accepted inputs."""
    return UnreadableImage(f"{name}: {problem}. Accepted: {ACCEPTED_STUDIES}.")


def check_extent(name: str, slices: int, height: int, width: int) -> None:
    """Refuse a study with too many pixels or too small slices, before they are decoded.

    Raises:
        UnreadableImage: outside the limits.
    """
    if not 1 <= slices <= MAX_SLICES:
        raise refuse_study(name, f"got {slices} slices, expected 1 to {MAX_SLICES}")
    if not (MIN_SIDE <= min(height, width) and max(height, width) <= MAX_SIDE):
        raise refuse_study(name, f"got slices of {width} x {height} pixels")
    if slices * height * width * 3 * 4 > MAX_STUDY_BYTES:
        raise refuse_study(name, f"got {slices} slices of {width} x {height} pixels, too many together")


def check_ratio(name: str, packed: int, unpacked: int) -> None:
    """Refuse a file whose header announces many times its packed size, before it is unpacked.

    Raises:
        UnreadableImage: beyond the limit.
    """
    if unpacked > max(RATIO_COUNTS, MAX_RATIO * packed):
        raise refuse_study(name, f"got {packed} bytes that unpack to {unpacked / 2**20:.0f} MiB, more than an image can")
