"""Whether models were evaluated on what an input shows: its sequence, its plane and a single head."""

from __future__ import annotations

from brainmri.io.scan import Scan
from brainmri.io.stack import MAX_TILT
from brainmri.zoo.attributes import THREE_SEQUENCES

READ_AS_FLAIR = "this model does not recognise sequences; it treats the image as FLAIR"
ONLY_AXIAL = "the model was trained on axial slices only"
LONGEST = 1.8  # longer side of a picture, as a multiple of the shorter one; 7,025 pictures of one head have up to 1.74


def not_evaluated(sequence: str | None) -> str:
    """That the rules do not cover a sequence; None for one that is unknown."""
    if sequence is None:
        return "segmenter and classifier were not evaluated on the same sequences"
    images = "images of three sequences" if sequence == THREE_SEQUENCES else f"{sequence} images"
    return f"the model was not evaluated on tumours in {images}"


def is_axial(scan: Scan) -> bool:
    """Whether the slices of a study are axial. Slices without a geometry are assumed to be axial."""
    return scan.geometry is None or (scan.geometry.plane == "axial" and scan.geometry.tilt <= MAX_TILT)


def several_heads(height: int, width: int) -> str | None:
    """Why a picture, or the part of it that is analysed, is too long to be a slice of one head; None if it is not."""
    ratio = max(height, width) / min(height, width)
    if ratio <= LONGEST:
        return None
    sides = "wide as high" if width > height else "high as wide"
    return f"the picture is {ratio:.1f} times as {sides}, so it probably shows several slices; please upload them one at a time"
