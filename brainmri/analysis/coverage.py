"""Whether models were evaluated on what an input shows: its sequence, its plane, and a single whole head without marks."""

from __future__ import annotations

import numpy as np

from brainmri.analysis.frame import head_region
from brainmri.io.scan import Scan
from brainmri.io.stack import MAX_TILT
from brainmri.zoo.attributes import THREE_SEQUENCES
from brainmri.zoo.colours import DARK, lie_on_a_curve

READ_AS_FLAIR = "this model does not recognise sequences; it treats the image as FLAIR"
ONLY_AXIAL = "the model was trained on axial slices only"
SMALLEST = 80  # pixels of the longer side; the networks were trained on slices that had at least as many (`train.uploads`)
# a grey slice with marks: most bright pixels are grey and a few coloured; none of 3,000 LGG slices with colours is like that
GREY, COLOURED = 0.03, 0.16  # differences between the channels of a pixel
GREY_SHARE, MARK_SHARE = 0.7, 0.0005  # of the bright pixels
SAMPLED_SIDE = 128  # every second pixel and so on is compared, so that at least as many are left a side
# share of the head's width or height along which it touches an edge of the picture: over this if it is cut off, and at the
# opposite or another edge under the second, else there is no background (1% of axial slices, the tops of heads)
CUT_OFF, BACKGROUND = 0.7, 0.1
SMALLEST_HEAD = 0.08  # share of the picture; a smaller head is not measured
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


def unfit_size(height: int, width: int, measured: bool) -> str | None:
    """Why slices are too small to be analysed, or too long to be of one head; None if they are neither.

    Args:
        height, width: in pixels; of a picture, those of the part that is analysed.
        measured: whether the slices have a geometry; these are never too long.
    """
    if max(height, width) < SMALLEST:
        return (
            f"the image has {width} x {height} pixels, and the models were trained on images of at least {SMALLEST}; "
            "please upload it in its full size"
        )
    ratio = max(height, width) / min(height, width)
    if measured or ratio <= LONGEST:
        return None
    sides = "wide as high" if width > height else "high as wide"
    return f"the picture is {ratio:.1f} times as {sides}, so it probably shows several slices; please upload them one at a time"


def strange_colours(pixels: np.ndarray) -> str | None:
    """Why a slice (H, W, 3) in [0, 1] is for review because of its colours; None if it is grey or of three sequences.

    Something drawn on the head, an arrow or an outline, changes what the networks see, and may be what someone else found.
    """
    if _has_marks(pixels):
        return "something coloured is drawn on the image; please upload it without marks"
    return "the image seems to be coloured by a colour map; please upload it in grey" if lie_on_a_curve(pixels) else None


def _has_marks(pixels: np.ndarray) -> bool:
    """Whether something coloured is on the head of a grey slice."""
    step = max(1, min(pixels.shape[:2]) // SAMPLED_SIDE)
    pixels = pixels[::step, ::step]
    brightest = pixels.max(axis=2)
    chroma = brightest - pixels.min(axis=2)
    bright = brightest > DARK
    coloured = chroma > COLOURED
    fewest = max(1, MARK_SHARE * bright.sum())
    if coloured.sum() < fewest or (chroma[bright] < GREY).mean() < GREY_SHARE:
        return False
    return bool((coloured & head_region(pixels.mean(axis=2))).sum() >= fewest)


def cut_off(pixels: np.ndarray) -> str | None:
    """Why an axial slice (H, W, 3) in [0, 1] cannot be without tumour: a large part of the head is missing. None if it is not."""
    head = head_region(pixels.mean(axis=2))
    if head.mean() < SMALLEST_HEAD:
        return None
    edges = (head[:2].any(axis=0), head[-2:].any(axis=0), head[:, :2].any(axis=1), head[:, -2:].any(axis=1))
    width, height = head.any(axis=0).sum(), head.any(axis=1).sum()
    touching = [edge.sum() / side for edge, side in zip(edges, (width, width, height, height), strict=True)]
    if max(touching) <= CUT_OFF or min(touching) > BACKGROUND:
        return None
    return "the picture shows only a part of the head, and a tumour may lie in the rest"
