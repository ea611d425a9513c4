"""The head in a slice, by its brightness."""

import numpy as np

from brainmri.analysis.head import head_mask, head_region


def test_the_head_includes_dark_brain_and_excludes_the_background():
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    radius = np.hypot(x, y)
    skull, speck = (radius < 0.8) & (radius > 0.7), (np.abs(x + 0.9) < 0.02) & (np.abs(y + 0.9) < 0.02)
    skull &= ~((np.abs(x) < 0.03) & (y < 0))  # a gap
    head = head_mask(np.repeat((skull | speck)[..., None], 3, axis=2).astype(np.float32))
    assert np.mean(head == (radius < 0.8)) > 0.99
    assert not head[speck].any()
    assert head_mask(np.zeros((40, 40, 3), np.float32)).all()


def test_the_head_is_the_largest_region_without_holes():
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    radius = np.hypot(x, y)
    caption = (np.abs(x) < 0.5) & (y > 0.93)
    assert (head_region(np.where((radius < 0.8) & (radius > 0.7) | caption, 0.8, 0.0)) == (radius < 0.8)).all()
    assert not head_region(np.zeros((40, 40), np.float32)).any()
