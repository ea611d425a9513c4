"""Colours that a slice has neither in grey nor from three MR sequences: of marks drawn on it, and of colour maps."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.cluster.vq import kmeans2

from brainmri.analysis.head import head_region
from brainmri.zoo.ood import CHROMA, DARK

MARKED = "something coloured is drawn on the image; please upload it without marks"
MAPPED = "the image seems to be coloured by a colour map; please upload it in grey"

# a grey slice with marks: most bright pixels are grey and a few coloured; none of 3,000 LGG slices with colours is like that
GREY, MARK = 0.03, 0.16  # differences between the channels of a pixel
GREY_SHARE, MARK_SHARE = 0.7, 0.0005  # of the bright pixels
SIDE = 128  # least pixels of the shorter side that are compared; then JPEG's coarser colours no longer matter
ENOUGH = 0.12  # share of bright pixels, without which the end of a head is too small to tell a colour map
COLOURED_SHARE = 0.95  # of the bright pixels of a colour map
CLUSTERS, POINTS = 12, 1_000
# share of the colours' variance within the clusters. Both rules hold for 1.1% of 900 LGG slices of three sequences, and for
# 97% of slices in 14 colour maps as PNG, 88% as JPEG of quality 90, 73% of 50
WITHIN_CLUSTERS = 0.05
OPPONENT = np.array([[1, -1, 0], [1, 1, -2]]).T / np.sqrt([2, 6])  # two axes of colour without brightness


def strange_colours(pixels: np.ndarray) -> str | None:
    """Why a slice (H, W, 3) in [0, 1] is for review because of its colours; None if it is grey or of three sequences.

    Something drawn on the head, an arrow or an outline, changes what the networks see, and may be what someone else found.
    """
    step = max(1, min(pixels.shape[:2]) // SIDE)
    sampled = pixels[::step, ::step]
    brightest = sampled.max(axis=2)
    chroma, bright = brightest - sampled.min(axis=2), brightest > DARK
    if bright.any() and (chroma[bright] < GREY).mean() < GREY_SHARE:
        return MAPPED if lie_on_a_curve(pixels) else None
    marks, fewest = chroma > MARK, max(1, MARK_SHARE * bright.sum())
    if marks.sum() < fewest:
        return None
    return MARKED if (marks & head_region(sampled.mean(axis=2))).sum() >= fewest else None


def lie_on_a_curve(pixels: np.ndarray) -> bool:
    """Whether the colours of an image (H, W, 3) in [0, 1] lie along a curve, as those of a colour map do after JPEG, too.

    A few clusters (k-means) describe a curve well, but not the colours of three sequences, which fill a volume.
    """
    points = _bright_points(pixels)
    if points is None or (np.ptp(points, axis=1) > CHROMA).mean() < COLOURED_SHARE:
        return False
    points = points[:: max(1, len(points) // POINTS)].astype(np.float64)
    brightness, colours = points.mean(axis=1, keepdims=True), points @ OPPONENT
    scaled = [part - part.mean(axis=0) for part in (brightness, colours)]
    scaled = np.hstack([part / (np.sqrt(part.var(axis=0).sum()) + 1e-3) for part in scaled])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer colours than clusters, or an empty one: fewer are enough
        centres, labels = kmeans2(scaled, CLUSTERS, iter=8, minit="++", rng=0)
    return float(np.square(scaled - centres[labels])[:, 1:].sum(axis=1).mean()) < WITHIN_CLUSTERS


def _bright_points(pixels: np.ndarray) -> np.ndarray | None:
    """(n, 3) bright pixels of the reduced image; None if they are too few."""
    step = max(2, round(min(pixels.shape[:2]) / SIDE))
    rows, columns = (side // step for side in pixels.shape[:2])
    whole = pixels[: rows * step, : columns * step]
    reduced = np.mean([whole[row::step, column::step] for row in range(step) for column in range(step)], axis=0)
    points = reduced[reduced.max(axis=2) > DARK]
    return points if len(points) >= max(ENOUGH * rows * columns, 4 * CLUSTERS) else None
