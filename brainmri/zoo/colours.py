"""Whether the colours of an image are those of a colour map: of one number per pixel, not of three MR sequences."""

from __future__ import annotations

import warnings

import numpy as np
from PIL import Image
from scipy.cluster.vq import kmeans2

GREY = 0.02  # largest distance of a channel from the brightness in a grey image, apart from JPEG artefacts
SAMPLE = 20_000  # approximate number of pixels that are compared with what one number predicts
# share of the colours' variance that one number leaves unexplained: near 0 in a colour map, over 0.005 in slices
UNEXPLAINED = 0.004
SIDE = 128  # pixels of the shorter side of an image in which JPEG's coarser colours no longer matter
DARK = 0.06  # a pixel that is darker than this in each channel has no colour
ENOUGH = 0.12  # share of bright pixels, without which the end of a head is too small to tell
CLUSTERS, POINTS = 12, 1_000
# share of the colours' variance within the clusters. 1.0% of 1,363 LGG slices of three sequences have less, and of slices in 14
# colour maps 97% as PNG, 89% as JPEG of quality 90, and 72% of quality 50
WITHIN_CLUSTERS = 0.05
OPPONENT = np.array([[1, -1, 0], [1, 1, -2]]).T / np.sqrt([2, 6])  # two axes of colour without brightness


def is_colour_mapped(pixels: np.ndarray) -> bool:
    """Whether an image (H, W, 3) in [0, 1] is coloured by a colour map or a tint."""
    points = _sample(pixels)
    if np.abs(points - points.mean(axis=1, keepdims=True)).max() < GREY:
        return False
    return _one_number_explains(points.T.astype(np.float64)) or _is_curve(pixels)


def _sample(pixels: np.ndarray) -> np.ndarray:
    """(n, 3) pixels of an image (H, W, 3)."""
    points = pixels.reshape(-1, 3)
    return points[:: max(1, len(points) // SAMPLE)]


def _one_number_explains(points: np.ndarray) -> bool:
    """Whether one number predicts the colour of pixels (3, n) in [0, 1]: the brightness, one of the channels, or the hue."""
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


def _is_curve(pixels: np.ndarray) -> bool:
    """Whether the colours of an image (H, W, 3) in [0, 1] lie along a curve, as those of a colour map do after JPEG, too.

    A few clusters (k-means) describe a curve well, but not the colours of three sequences, which fill a volume.
    """
    points = _bright_points(pixels)
    if points is None:
        return False
    points = points[:: max(1, len(points) // POINTS)].astype(np.float64)
    brightness, colours = points.mean(axis=1, keepdims=True), points @ OPPONENT
    scaled = [part - part.mean(axis=0) for part in (brightness, colours)]
    scaled = np.hstack([part / (np.sqrt(part.var(axis=0).sum()) + 1e-3) for part in scaled])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty cluster: fewer are enough
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
