"""Whether models were evaluated on what an input shows: its sequence and its plane."""

from __future__ import annotations

from brainmri.io.scan import Scan
from brainmri.io.stack import MAX_TILT
from brainmri.zoo.attributes import THREE_SEQUENCES

READ_AS_FLAIR = "this model does not recognise sequences; it treats the image as FLAIR"
ONLY_AXIAL = "the model was trained on axial slices only"


def not_evaluated(sequence: str | None) -> str:
    """That the rules do not cover a sequence; None for one that is unknown."""
    if sequence is None:
        return "segmenter and classifier were not evaluated on the same sequences"
    images = "images of three sequences" if sequence == THREE_SEQUENCES else f"{sequence} images"
    return f"the model was not evaluated on tumours in {images}"


def is_axial(scan: Scan) -> bool:
    """Whether the slices of a study are axial. Slices without a geometry are assumed to be axial."""
    return scan.geometry is None or (scan.geometry.plane == "axial" and scan.geometry.tilt <= MAX_TILT)
