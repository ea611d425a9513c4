"""Synthetic CT heads, made from axial MR slices: a white ring for the skull around a brain of little contrast.

There are few CT heads to fit a detector on, all of one source, and a detector that knows none lets nearly all of them pass. These
have the contrast of CT in a brain window, in many variants: thin and thick skulls, with and without visible scalp, dark fluid,
blood, infarcts and noise.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.morphology import convex_hull_image

from train.uploads import SMALLEST_BRAIN, SMALLEST_HEAD, head_mask


def synthetic_ct(grey: np.ndarray, random: np.random.Generator) -> np.ndarray | None:
    """A head on CT with the outline and the anatomy of one on MRI.

    Lengths are shares of the square root of the head's area, and values are in [0, 1] until the end.

    Args:
        grey: (H, W) uint8, an axial MR slice.
        random: what the variant is drawn from.

    Returns:
        (H, W) uint8; None if the slice shows too little of a head.
    """
    head = head_mask(grey)
    if head.mean() < SMALLEST_HEAD:
        return None
    side = float(np.sqrt(head.sum()))
    head = convex_hull_image(ndimage.binary_opening(head, iterations=max(1, int(0.08 * side))))  # without nose and ears
    head = ndimage.gaussian_filter(head.astype(float), random.uniform(0.02, 0.05) * side) > 0.5
    depth = np.asarray(ndimage.distance_transform_edt(head)) / side
    scalp = random.uniform(0, 0.04) if random.random() < 0.6 else 0.0
    skull = random.uniform(0.03, 0.1) * np.clip(1 + 0.25 * noise(head.shape, 0.12 * side, random), 0.4, 2)
    below_skull = depth - scalp - skull
    brain = below_skull > 0
    if brain.mean() < SMALLEST_BRAIN:
        return None
    tissue = _add_lesions(_brain(grey, brain, below_skull, random), brain, side, random)
    tissue += random.uniform(0, 0.07) * noise(head.shape, random.uniform(0.3, 1), random)
    bone = random.uniform(0.85, 1.2) + random.uniform(0, 0.1) * noise(head.shape, 0.02 * side, random)
    skin = random.uniform(0, 0.55) + 0.05 * noise(head.shape, 2, random)
    values = np.where(brain, tissue, np.where(depth > scalp, bone, skin))
    smooth = ndimage.gaussian_filter(np.where(head, np.clip(values, 0, 1), 0), random.uniform(0.3, 1))
    values = np.maximum(smooth, random.uniform(0, 0.04))
    if random.random() < 0.4:
        values = np.where(_head_rest(head, side, random), random.uniform(0.3, 1), values)
    return np.asarray(255 * np.clip(values, 0, 1)).astype(np.uint8)


def noise(shape: tuple[int, ...], sigma: float, random: np.random.Generator) -> np.ndarray:
    """Noise of deviation 1, smoothed by a Gaussian of deviation `sigma` in pixels."""
    smooth = ndimage.gaussian_filter(random.standard_normal(shape), sigma)
    return smooth / smooth.std()


def _brain(grey: np.ndarray, brain: np.ndarray, below_skull: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(H, W) the brain: tissue of little contrast, darker fluid in ventricles and sulci, sometimes a bright midline."""
    low, median, high = np.percentile(grey[brain], (25, 50, 75))
    contrast = np.clip((grey - median) / max(high - low, 8), -2, 2)
    base = random.uniform(0.2, 0.75)
    values = base + random.uniform(-0.06, 0.06) * ndimage.gaussian_filter(contrast, random.uniform(0.3, 1.5))
    fluid = ndimage.gaussian_filter((contrast < -random.uniform(0.8, 1.6)).astype(float), random.uniform(0.5, 1.5))
    sulci = np.clip(1 - below_skull / 0.03, 0, 1) * (noise(grey.shape, 1.5, random) > 0.3)
    values -= random.uniform(0.05, 0.6) * base * np.maximum(fluid, random.uniform(0, 0.6) * sulci)
    if random.random() < 0.3:
        _, middle = np.asarray(ndimage.center_of_mass(brain))
        line = np.abs(np.arange(grey.shape[1]) - middle) < random.uniform(0.3, 1)
        values = np.where(line, np.maximum(values, base + random.uniform(0.05, 0.2)), values)
    return values


def _add_lesions(values: np.ndarray, brain: np.ndarray, side: float, random: np.random.Generator) -> np.ndarray:
    """(H, W) the brain with up to three bright or dark regions, each with a rim: blood, calcifications, infarcts."""
    rows, columns = np.nonzero(ndimage.binary_erosion(brain, iterations=3))
    tissue, (down, right) = float(np.median(values[brain])), np.indices(brain.shape)
    for _ in range(random.integers(0, 4) if len(rows) else 0):
        place = random.integers(len(rows))
        distance = np.hypot((down - rows[place]) / random.uniform(0.6, 1.6), right - columns[place])
        distance = distance / (side * random.uniform(0.01, 0.16)) + 0.25 * noise(brain.shape, 0.05 * side, random)
        lesion = random.uniform(tissue + 0.1, 1.1) if random.random() < 0.7 else tissue * random.uniform(0.3, 0.8)
        values = np.where(distance < 1, lesion, np.where(distance < 1.4, values * random.uniform(0.7, 1), values))
    return values


def _head_rest(head: np.ndarray, side: float, random: np.random.Generator) -> np.ndarray:
    """(H, W) bool: a thin arc below the head."""
    row, column = np.asarray(ndimage.center_of_mass(head))
    down, right = np.indices(head.shape)
    distance = np.hypot(down - row, (right - column) * random.uniform(0.9, 1.2))
    arc = np.abs(distance - side * random.uniform(0.6, 0.75)) < random.uniform(0.5, 2)
    return arc & (down > row + 0.3 * side) & ~head
