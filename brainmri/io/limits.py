"""What is accepted as input, and the error that refuses the rest."""

from __future__ import annotations

from brainmri.io.pixels import MAX_SIDE, MIN_SIDE

MAX_SLICES = 512
MAX_STUDY_BYTES = 2**30  # of the files unpacked, and of the pixels as float32 in three channels
MAX_RATIO, RATIO_COUNTS = (
    200,
    64 * 2**20,
)  # how much larger packed files may unpack, from so many bytes on; images pack to a tenth
ACCEPTED_STUDIES = (
    "slices named <case>_<number> (PNG, JPEG, TIFF), a multi-page TIFF, NIfTI (.nii, .nii.gz) or DICOM MR images, as files, "
    f"a folder or a zip; up to {MAX_SLICES} slices of {MIN_SIDE} to {MAX_SIDE} pixels a side and {MAX_STUDY_BYTES // 2**20} MiB"
)


class UnreadableImage(ValueError):
    """An input that is refused; the message is fit for the page."""


def refuse_study(name: str, came: str) -> UnreadableImage:
    """The refusal of a study, to be raised: what came, and what is accepted."""
    return UnreadableImage(f"{name}: {came}. Accepted: {ACCEPTED_STUDIES}.")


def check_extent(name: str, slices: int, height: int, width: int) -> None:
    """Refuse a study whose pixels are too many or its slices too small, before they are decoded.

    Raises:
        UnreadableImage: outside the limits.
    """
    if not 1 <= slices <= MAX_SLICES:
        raise refuse_study(name, f"{slices} axial slices came")
    if not (MIN_SIDE <= min(height, width) and max(height, width) <= MAX_SIDE):
        raise refuse_study(name, f"axial slices of {width} x {height} pixels came")
    if slices * height * width * 3 * 4 > MAX_STUDY_BYTES:
        raise refuse_study(name, f"{slices} slices of {width} x {height} pixels came, too many together")


def check_ratio(name: str, packed: int, unpacked: int) -> None:
    """Refuse what says that it unpacks to many times its bytes, before it is unpacked.

    Raises:
        UnreadableImage: beyond the limit.
    """
    if unpacked > max(RATIO_COUNTS, MAX_RATIO * packed):
        raise refuse_study(name, f"{packed} bytes came that unpack to {unpacked / 2**20:.0f} MiB, as no image does")
