"""Whether pictures follow one another in a head: neighbours are then more alike than pictures in random order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

FEWEST = 10  # with fewer slices, too many series of one head look like pictures of different people
SIDE = 64  # pixels of the reduced pictures
DETAIL = (1.5, 4.0)  # pixels, between the two standard deviations of the Gaussians that leave the details of a head
ORDERS = 999
MOST_CHANCE = 0.02  # share of random orders with neighbours more alike: 0 in 90 LGG studies, any in pictures of different people


def follow_one_another(slices: Sequence[np.ndarray]) -> bool:
    """Whether slices (H, W, 3) in [0, 1] seem to follow one another in a head; True for too few of them to tell.

    Pictures of different people are no more alike in their order than in any other one. The details are compared, because the
    outlines of different heads are alike too.
    """
    if len(slices) < FEWEST:
        return True
    details = _details(slices)
    likeness = details @ details.T  # (S, S), correlations
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(len(slices)), (ORDERS, 1)), axis=1)
    random = likeness[orders[:, :-1], orders[:, 1:]].mean(axis=1)  # (ORDERS,)
    return float((random > np.diagonal(likeness, 1).mean() + 1e-6).mean()) < MOST_CHANCE


def _details(slices: Sequence[np.ndarray]) -> np.ndarray:
    """(S, SIDE * SIDE) float32, the details of each slice, of mean 0 and length 1."""
    reduced = (F.interpolate(torch.from_numpy(pixels).movedim(2, 0)[None], (SIDE, SIDE), mode="area") for pixels in slices)
    small = torch.cat([one.mean(dim=1) for one in reduced]).numpy()  # (S, SIDE, SIDE)
    fine, coarse = (gaussian_filter(small, (0, sigma, sigma)) for sigma in DETAIL)
    details = (fine - coarse).reshape(len(slices), -1)
    details -= details.mean(axis=1, keepdims=True)
    return details / np.maximum(np.linalg.norm(details, axis=1, keepdims=True), 1e-6)
