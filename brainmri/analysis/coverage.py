"""Whether models were evaluated on what an input shows: its sequence, its plane, and a single whole head of enough pixels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from brainmri.analysis.forward import Prediction
from brainmri.analysis.head import head_region
from brainmri.analysis.recognition import sequence_probabilities
from brainmri.io.scan import Scan
from brainmri.io.stack import MAX_TILT
from brainmri.zoo.attributes import THREE_SEQUENCES
from brainmri.zoo.calibration import Rules

READ_AS_FLAIR = "this model does not recognise sequences; it treats the image as FLAIR"
ONLY_AXIAL = "the model was trained on axial slices only"
SMALLEST = 80  # pixels of the longer side; the networks were trained on slices that had at least as many (`train.uploads`)
# share of the head's width or height along which it touches an edge of the picture: over this if it is cut off, and at the
# opposite or another edge under the second, else there is no background (1% of axial slices, the tops of heads)
CUT_OFF, BACKGROUND = 0.7, 0.1
# share of slices cut off at one edge in a study of a part of a head: up to 0.13 in 45 LGG studies, over 0.75 if halved
CUT_SLICES, ENOUGH_SLICES = 0.3, 32
SMALLEST_HEAD = 0.08  # share of the picture; a smaller head is not measured
# an unclear sequence may be any of at least the first probability; slices of it are decided if the models were evaluated on
# sequences that have the second one together, and if the rules for all of these give the same verdict
POSSIBLE, SURELY_POSSIBLE = 0.1, 0.9
LONGEST = 1.8  # longer side of a picture, as a multiple of the shorter one; 7,025 pictures of one head have up to 1.74


def not_evaluated(sequence: str | None) -> str:
    """That the rules do not cover a sequence; None for one that is unknown."""
    if sequence is None:
        return "segmenter and classifier were not evaluated on the same sequences"
    images = "images of three sequences" if sequence == THREE_SEQUENCES else f"{sequence} images"
    return f"the model was not evaluated on tumours in {images}"


def not_covered(rules: Rules, sequence: str | None, predicted: Prediction) -> str | None:
    """Why slices are for review because of their sequence, a clause; None if they are not.

    Args:
        rules: of the models.
        sequence: None if unknown.
        predicted: the prediction for slices that belong together.
    """
    if not rules.was_evaluated_on(sequence):
        return not_evaluated(sequence)
    probabilities = sequence_probabilities(predicted)
    if sequence is not None or not probabilities:
        return None
    if possible_sequences(rules, probabilities) and not like_other_images(predicted):
        return None
    return f"the sequence is unclear and {choose_sequence(probabilities)}"


def possible_sequences(rules: Rules, probabilities: Mapping[str, float]) -> tuple[str, ...]:
    """The sequences that slices of an unclear one may be; empty if the models were not evaluated on all of them.

    Args:
        rules: of the models.
        probabilities: of each sequence (`brainmri.analysis.recognition.sequence_probabilities`).
    """
    possible = tuple(name for name, value in probabilities.items() if value >= POSSIBLE and rules.was_evaluated_on(name))
    return possible if sum(probabilities[name] for name in possible) >= SURELY_POSSIBLE else ()


def like_other_images(predicted: Prediction) -> bool:
    """Whether slices look more like other images than like those of the training data, though not surely."""
    checks = predicted.ood or []
    return bool(checks) and float(np.median([check.other_log_odds for check in checks])) > 0


def choose_sequence(probabilities: Mapping[str, float]) -> str:
    """What an unclear sequence may be, and what to do, the end of a clause."""
    likeliest = sorted(probabilities, key=lambda name: -probabilities[name])[:2]
    return f"may be {' or '.join(likeliest)}; please choose the sequence"


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


def cut_off(*slices: np.ndarray) -> str | None:
    """Why axial slices (H, W, 3) in [0, 1] cannot be without tumour: a large part of the head is missing. None if it is not."""
    some = slices[:: max(1, len(slices) // ENOUGH_SLICES)]
    if np.mean([cut_edges(pixels) for pixels in some], axis=0).max() <= CUT_SLICES:
        return None
    shown = "the picture shows" if len(slices) == 1 else "the slices show"
    return f"{shown} only a part of the head, and a tumour may lie in the rest"


def cut_edges(pixels: np.ndarray) -> tuple[bool, bool, bool, bool]:
    """Whether the head of a slice (H, W, 3) in [0, 1] is cut off at the top, bottom, left and right edge."""
    head = head_region(pixels.mean(axis=2))
    if head.mean() < SMALLEST_HEAD:
        return False, False, False, False
    edges = (head[:2].any(axis=0), head[-2:].any(axis=0), head[:, :2].any(axis=1), head[:, -2:].any(axis=1))
    width, height = head.any(axis=0).sum(), head.any(axis=1).sum()
    touching = [edge.sum() / side for edge, side in zip(edges, (width, width, height, height), strict=True)]
    top, bottom, left, right = (bool(share > CUT_OFF and min(touching) <= BACKGROUND) for share in touching)
    return top, bottom, left, right
