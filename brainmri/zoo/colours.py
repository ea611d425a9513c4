"""Whether the colours of an image are those of a colour map: of one number per pixel, not of three MR sequences."""

from __future__ import annotations

import warnings

import numpy as np
from PIL import Image
from scipy.cluster.vq import kmeans2

SAMPLE = 20_000  # approximate number of pixels that are compared with what one number predicts
# share of the colours' variance that one number leaves unexplained: near 0 in a colour map, over 0.005 in slices
UNEXPLAINED = 0.004
SIDE = 128  # pixels of the shorter side of an image in which JPEG's coarser colours no longer matter
DARK = 0.06  # a pixel that is darker than this in each channel has no colour
ENOUGH = 0.12  # share of bright pixels, without which the end of a head is too small to tell
COLOURED = 0.05  # difference between the channels of a coloured pixel
COLOURED_SHARE = 0.95  # of the bright pixels of a colour map
CLUSTERS, POINTS = 12, 1_000
# share of the colours' variance within the clusters. Both rules hold for 1.1% of 900 LGG slices of three sequences, and for
# 97% of slices in 14 colour maps as PNG, 88% as JPEG of quality 90, 73% of 50
WITHIN_CLUSTERS = 0.05
OPPONENT = np.array([[1, -1, 0], [1, 1, -2]]).T / np.sqrt([2, 6])  # two axes of colour without brightness


def is_colour_mapped(pixels: np.ndarray) -> bool:
    """Whether an image (H, W, 3) in [0, 1] is coloured by a colour map or a tint.

    That is the case if one number predicts the colour: the brightness, one of the channels, or the hue.
    """
    points = pixels.reshape(-1, 3)
    points = points[:: max(1, len(points) // SAMPLE)]
    if _coloured_share(points[points.max(axis=1) > DARK]) < 0.5:  # grey, perhaps with marks
        return False
    points = points.T.astype(np.float64)
    brightness = points.mean(axis=0)
    colours = points - brightness
    variance = np.square(colours - colours.mean(axis=1, keepdims=True)).sum()
    rgb = (255 * points.T[None]).astype(np.uint8)
    hue = Image.fromarray(rgb).convert("HSV").getchannel("H")
    for level in (*(255 * np.stack([brightness, *points])).astype(np.uint8), np.asarray(hue)[0]):
        count = np.maximum(np.bincount(level, minlength=256), 1)
        predicted = np.stack([(np.bincount(level, channel, 256) / count)[level] for channel in colours])
        if np.square(colours - predicted).sum() < UNEXPLAINED * variance:
            return True
    return False


def lie_on_a_curve(pixels: np.ndarray) -> bool:
    """Whether the colours of an image (H, W, 3) in [0, 1] lie along a curve, as those of a colour map do after JPEG, too.

    A few clusters (k-means) describe a curve well, but not the colours of three sequences, which fill a volume.
    """
    points = _bright_points(pixels)
    if points is None or _coloured_share(points) < COLOURED_SHARE:
        return False
    points = points[:: max(1, len(points) // POINTS)].astype(np.float64)
    brightness, colours = points.mean(axis=1, keepdims=True), points @ OPPONENT
    scaled = [part - part.mean(axis=0) for part in (brightness, colours)]
    scaled = np.hstack([part / (np.sqrt(part.var(axis=0).sum()) + 1e-3) for part in scaled])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty cluster: fewer are enough
        centres, labels = kmeans2(scaled, CLUSTERS, iter=8, minit="++", rng=0)
    return float(np.square(scaled - centres[labels])[:, 1:].sum(axis=1).mean()) < WITHIN_CLUSTERS


def _coloured_share(points: np.ndarray) -> float:
    """The share in [0, 1] of pixels (n, 3) that are coloured; 0 of none."""
    return float((np.ptp(points, axis=1) > COLOURED).mean()) if len(points) else 0.0


def _bright_points(pixels: np.ndarray) -> np.ndarray | None:
    """(n, 3) bright pixels of the reduced image; None if they are too few."""
    step = max(2, round(min(pixels.shape[:2]) / SIDE))
    rows, columns = (side // step for side in pixels.shape[:2])
    whole = pixels[: rows * step, : columns * step]
    reduced = np.mean([whole[row::step, column::step] for row in range(step) for column in range(step)], axis=0)
    points = reduced[reduced.max(axis=2) > DARK]
    return points if len(points) >= max(ENOUGH * rows * columns, 4 * CLUSTERS) else None
