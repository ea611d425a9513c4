"""Changes that turn dataset slices into uploads: shapes, types, and what each one must keep."""

import numpy as np
import pytest

from train.phantoms import phantom_slice
from train.uploads import CHANGES, as_upload, head_mask, invert, remove_skull, whiten_background


@pytest.fixture(scope="module")
def phantom():
    """A slice with a lesion: (H, W, 3) uint8 and its mask (H, W) float32."""
    pixels, mask = phantom_slice(size=192)
    return pixels, mask.astype(np.float32)


@pytest.mark.parametrize("change", [remove_skull, *(change for change, _ in CHANGES)], ids=lambda change: change.__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_change_keeps_types_and_the_lesion(phantom, change, channels):
    pixels, mask = phantom
    for seed in range(5):
        changed, target = change(pixels[..., :channels], mask, np.random.default_rng(seed))
        assert changed.dtype == np.uint8
        assert changed.shape == (*target.shape, channels)
        assert target.dtype == np.float32
        assert 0 <= target.min() <= target.max() <= 1
        assert (target > 0.5).sum() >= 0.7 * (mask > 0.5).sum()  # squeezing takes up to a quarter


def test_skull_removal_blackens_the_edge_of_the_head_and_nothing_of_the_lesion(phantom):
    pixels, mask = phantom
    stripped, target = remove_skull(pixels, mask, np.random.default_rng(1))
    assert (stripped > 0).any(axis=2).sum() < 0.9 * head_mask(pixels.max(axis=2)).sum()
    assert (target > 0.5).sum() == (mask > 0.5).sum()


def test_a_black_picture_passes_through_every_change():
    black, mask = np.zeros((64, 48, 1), np.uint8), np.zeros((64, 48), np.float32)
    for change in [remove_skull, *(change for change, _ in CHANGES)]:
        changed, target = change(black, mask, np.random.default_rng(0))
        assert changed.shape[:2] == target.shape


def test_inverting_twice_gives_the_original(phantom):
    pixels, mask = phantom
    random = np.random.default_rng(0)
    np.testing.assert_array_equal(invert(invert(pixels, mask, random)[0], mask, random)[0], pixels)


def test_a_white_background_leaves_the_head_as_it_is(phantom):
    pixels, mask = phantom
    for seed in range(6):
        changed, _ = whiten_background(pixels, mask, np.random.default_rng(seed))
        if changed.shape == pixels.shape:
            head = head_mask(pixels.max(axis=2))
            np.testing.assert_array_equal(changed[head], pixels[head])
            assert (changed[~head] >= 200).all()
            return
    pytest.fail("no seed drew the variant that fills the background")


def test_the_same_seed_gives_the_same_upload(phantom):
    first, second = (as_upload(*phantom, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
