"""The limits of an input, and the error that refuses what is outside them."""

from __future__ import annotations

from brainmri.io.pixels import MAX_SIDE, MIN_SIDE

MAX_BYTES = 64 * 2**20  # of a slice's file
MAX_SLICES = 512
MAX_STUDY_BYTES = 2**30  # of the files unpacked, and of the pixels as float32 in three channels
MAX_RATIO = 200  # of unpacked to packed size; images pack to about a tenth
NAME = "study"  # instead of a file's or folder's name, which may name the patient
FORMATS = "a PNG, JPEG, TIFF, WebP or BMP slice, a NIfTI, NRRD, MetaImage or MGH volume, or DICOM"
RESIZE = "Please export it in another size"
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
    """The input cannot be read. The message says why, in words that the page can show.

    >>> str(UnreadableImage("is damaged. Please copy or download it again", "head.zip"))
    'head.zip is damaged. Please copy or download it again.'
    >>> str(UnreadableImage("got slices of different sizes", "head.zip"))
    'head.zip: got slices of different sizes.'

    Attributes:
        problem: what is wrong and what to do, without the last full stop; begins with "is" where it continues the name.
        name: of the file; "" where the reader leaves it out, since it may identify the patient.
    """

    def __init__(self, problem: str, name: str = "") -> None:
        super().__init__(problem, name)
        self.problem, self.name = problem, name

    def __str__(self) -> str:
        if self.problem.startswith("is "):
            return f"{self.name or 'the file'} {self.problem}."
        return f"{self.name}: {self.problem}." if self.name else f"{self.problem}."

    def named(self, name: str) -> UnreadableImage:
        """The error with the name by which the user knows the input, unless the reader names a file of it."""
        return UnreadableImage(self.problem, self.name or name)

    def beside(self, name: str) -> str:
        """The message to show beside the name of the input."""
        return str(UnreadableImage(self.problem, "" if self.name == name else self.name))


def refuse(name: str, problem: str) -> UnreadableImage:
    """The error for an input that cannot be read, to be raised; `NAME` is left out of the message."""
    return UnreadableImage(problem, "" if name == NAME else name)


def describe_size(size: int, of: str = "", most: int = MAX_STUDY_BYTES) -> str:
    """The problem of a file of too many bytes; `of` is what they are of."""
    return f"got {size / 2**20:,.0f} MiB{of}, expected at most {most // 2**20:,} MiB. Please upload a smaller file"


def check_extent(name: str, slices: int, height: int, width: int) -> None:
    """Refuse a study with too many pixels or too small slices, before they are decoded.

    Raises:
        UnreadableImage: outside the limits.
    """
    if not 1 <= slices <= MAX_SLICES:
        raise refuse(name, f"got {slices} slices, expected 1 to {MAX_SLICES}. Please upload fewer")
    if not (MIN_SIDE <= min(height, width) and max(height, width) <= MAX_SIDE):
        raise refuse(name, f"got slices of {width} x {height} pixels, expected {MIN_SIDE} to {MAX_SIDE} a side. {RESIZE}")
    if slices * height * width * 3 * 4 > MAX_STUDY_BYTES:
        raise refuse(name, f"got {slices} slices of {width} x {height} pixels, too many together. Please upload fewer")


def check_ratio(name: str, packed: int, unpacked: int) -> None:
    """Refuse a file whose header announces many times its packed size, before it is unpacked.

    Raises:
        UnreadableImage: beyond the limit.
    """
    if unpacked > max(RATIO_COUNTS, MAX_RATIO * packed):
        raise refuse(name, f"got {packed} bytes that unpack to {unpacked / 2**20:.0f} MiB, unlike images. Please export it again")
