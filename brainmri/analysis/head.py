"""Where the head is in a slice, by its brightness."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

FOREGROUND = 0.15  # of the bright pixels' grey value, above which a pixel belongs to a head
CLOSING = 3  # pixels; half the width of gaps in the head's edge that are closed, and of specks that are removed


def head_region(grey: np.ndarray) -> np.ndarray:
    """The largest bright region of a slice (H, W) in [0, 1], filled, (H, W) bool: how far the head reaches."""
    from skimage.measure import label

    bright = ndimage.binary_opening(grey > FOREGROUND * np.percentile(grey, 99))
    labels = np.asarray(label(np.asarray(ndimage.binary_fill_holes(bright)), connectivity=1))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (labels == sizes.argmax()) & (labels > 0)


def head_mask(pixels: np.ndarray) -> np.ndarray:
    """What is not dark in a slice (H, W, 3) in [0, 1], and what it encloses, (H, W) bool; all of a dark slice."""
    grey = pixels.mean(axis=2)
    bright = np.pad(grey > FOREGROUND * np.percentile(grey, 99), CLOSING)  # closing erodes at the border
    closed = ndimage.binary_fill_holes(ndimage.binary_closing(bright, iterations=CLOSING))
    head = np.asarray(ndimage.binary_opening(closed, iterations=CLOSING))[CLOSING:-CLOSING, CLOSING:-CLOSING]
    return head if head.any() else np.ones_like(head)
