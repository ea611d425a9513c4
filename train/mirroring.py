"""Slices made of one half of a head and its mirror image: slices without tumour for collections that have none.

Every slice of some collections shows a tumour, so a network could learn the hospital instead of the tumour. If the tumour lies in
one half of the head, the other half twice is a slice of the same hospital without it. The half with the tumour is doubled as
often, so that the symmetry says nothing.
"""

from __future__ import annotations

import numpy as np

from train.uploads import Slice, head_mask

FARTHEST = 0.12  # of the mirror axis from the middle of the head, as a share of the head's width
LEAST_SYMMETRY = 0.72  # correlation of the grey values with their mirror image; sagittal slices are below it
EVERY = 4  # row is compared
MARGIN = 0.03  # of a tumour from the axis, as a share of the head's width


def find_axis(grey: np.ndarray) -> tuple[int, float]:
    """The vertical axis about which a head is most symmetric.

    Args:
        grey: (H, W) grey values.

    Returns:
        The sum of two columns that mirror each other, and the correlation of the head with its mirror image about that axis, in
        [-1, 1]; 0 where there is no head.
    """
    head = head_mask(grey)
    if not head.any():
        return grey.shape[1] - 1, 0.0
    rows, columns = np.flatnonzero(head.any(axis=1)), np.flatnonzero(head.any(axis=0))
    middle, farthest = int(columns[0] + columns[-1]), int(2 * FARTHEST * len(columns))
    inside = np.where(head, grey, 0)[rows[0] : rows[-1] + 1 : EVERY].astype(np.float32)
    correlations = {}
    for total in range(middle - farthest, middle + farthest + 1):
        first, last = max(0, total - inside.shape[1] + 1), min(inside.shape[1] - 1, total)
        part = inside[:, first : last + 1]
        correlations[total] = float(np.corrcoef(part.ravel(), part[:, ::-1].ravel())[0, 1])
    best = max(correlations, key=lambda total: correlations[total])
    return best, correlations[best]


def mirror_half(pixels: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> Slice:
    """One half of the head, chosen at random, and its mirror image.

    A slice that is not symmetric enough, or whose tumour is not in one half, is returned as it is.

    Args:
        pixels: (H, W, C) uint8.
        mask: (H, W) float32 in [0, 1].
        random: what chooses the half.
    """
    total, symmetry = find_axis(pixels.mean(axis=2))
    if symmetry < LEAST_SYMMETRY:
        return pixels, mask
    width = mask.shape[1]
    columns = np.arange(width)
    tumour = columns[(mask > 0.5).any(axis=0)]
    margin = MARGIN * width
    if len(tumour) and tumour[0] < total / 2 + margin and tumour[-1] > total / 2 - margin:
        return pixels, mask
    mirrored = np.clip(total - columns, 0, width - 1)
    kept = columns <= total / 2 if random.random() < 0.5 else columns >= total / 2
    source = np.where(kept, columns, mirrored)
    return pixels[:, source], mask[:, source]
