"""Halves of heads and their mirror images."""

import numpy as np
import pytest

from brainmri.zoo.attributes import KINDS
from train.examples import UNKNOWN, Example, mirrored
from train.mirroring import find_axis, mirror_half


def head(tumour_column: int | None = None, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric head whose axis is at column 50, (H, W, 1) uint8, and the mask of a tumour around a column."""
    rows, columns = np.mgrid[:size, :size]
    pixels = np.where((rows - 48) ** 2 / 40**2 + (columns - 50) ** 2 / 32**2 < 1, 120, 0)
    pixels = np.where((rows - 40) ** 2 / 12**2 + (abs(columns - 50) - 12) ** 2 / 5**2 < 1, 40, pixels)  # two ventricles
    mask = np.zeros((size, size), np.float32)
    if tumour_column is not None:
        mask[(rows - 60) ** 2 + (columns - tumour_column) ** 2 < 49] = 1
        pixels = np.where(mask > 0, 220, pixels)
    return pixels[..., None].astype(np.uint8), mask


def test_the_axis_of_a_head_beside_the_middle_is_found():
    total, symmetry = find_axis(head(tumour_column=68)[0][..., 0])
    assert total == pytest.approx(100, abs=2)
    assert symmetry > 0.72


def test_the_half_without_the_tumour_is_doubled_as_often_as_the_other():
    pixels, mask = head(tumour_column=68)
    areas = []
    for seed in range(40):
        doubled, doubled_mask = mirror_half(pixels, mask, np.random.default_rng(seed))
        assert (doubled_mask.any()) == (doubled == 220).any()
        areas.append(doubled_mask.sum() / mask.sum())
    assert set(areas) == {0, 2}
    assert 10 < areas.count(0) < 30


@pytest.mark.parametrize("column", [50, 56])
def test_a_tumour_on_or_near_the_axis_stays(column):
    pixels, mask = head(tumour_column=column)
    for seed in range(5):
        same, same_mask = mirror_half(pixels, mask, np.random.default_rng(seed))
        assert (same == pixels).all()
        assert (same_mask == mask).all()


def test_a_head_that_is_not_symmetric_stays():
    rows, columns = np.mgrid[:96, :96]
    pixels = np.where((rows - 48) ** 2 + (columns - 48) ** 2 < 38**2, 30 + 2 * columns, 0).astype(np.uint8)[..., None]
    same, _ = mirror_half(pixels, np.zeros((96, 96), np.float32), np.random.default_rng(0))
    assert (same == pixels).all()


def test_a_black_picture_stays():
    pixels = np.zeros((96, 96, 1), np.uint8)
    assert (mirror_half(pixels, np.zeros((96, 96), np.float32), np.random.default_rng(0))[0] == 0).all()


def test_a_doubled_half_has_the_labels_of_what_it_shows():
    pixels, mask = head(tumour_column=68)
    kind = KINDS.index("glioma")
    example = Example(pixels=pixels, mask=mask > 0, source="figshare", collection="figshare", group="g", tumour=1, kind=kind)
    found = {(one.tumour, one.kind) for one in (mirrored(example, np.random.default_rng(seed)) for seed in range(20))}
    assert found == {(1, kind), (0, UNKNOWN)}
