"""Synthetic CT heads: a bright skull around a brain of little contrast, with the outline of the MR slice."""

import numpy as np
import pytest
from scipy import ndimage

from train.ood.synthetic_ct import synthetic_ct
from train.phantoms import phantom_slice
from train.uploads import head_mask


@pytest.mark.parametrize("seed", range(6))
def test_a_head_gets_a_bright_skull_and_a_brain_of_little_contrast(seed):
    grey = np.ascontiguousarray(phantom_slice(size=128, seed=seed)[0][..., 1])
    made = synthetic_ct(grey, np.random.default_rng(seed))
    assert (made.shape, made.dtype) == (grey.shape, np.uint8)
    assert np.array_equal(made, synthetic_ct(grey, np.random.default_rng(seed)))
    head = head_mask(grey)
    depth = ndimage.distance_transform_edt(head) / np.sqrt(head.sum())
    ring, brain = made[(depth > 0) & (depth < 0.1)], made[depth > 0.2]
    assert np.percentile(ring, 90) > 200
    assert np.percentile(brain, 75) < np.percentile(ring, 90) - 10
    assert np.subtract(*np.percentile(brain, (75, 25))) < 40
    assert made[~ndimage.binary_dilation(head, iterations=4)].mean() < 20


def test_a_picture_without_a_head_gives_none():
    assert synthetic_ct(np.zeros((64, 64), np.uint8), np.random.default_rng(0)) is None
