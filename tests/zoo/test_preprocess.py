"""Preprocessing and its inverse, on shapes and pixel types a user may bring."""

import numpy as np
import pytest
import torch

from brainmri.io.pixels import to_unit
from brainmri.zoo.preprocess import Placement, Preprocess, head_box

SHAPES = [(32, 32), (33, 47), (64, 200), (256, 256), (240, 155), (512, 512), (181, 217), (1024, 300), (700, 2048), (32, 640)]


def corners(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], rows[-1], columns[0], columns[-1]


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_square_survives_the_round_trip_within_a_pixel(shape, crop):
    height, width = shape
    # a grid as fine as the image, so that only the geometry is on trial and not the grid's coarseness
    preprocess = Preprocess(size=-(-max(shape) // 32) * 32, crop=crop)
    unit = np.zeros((*shape, 3), np.float32)
    unit[height // 8 : -height // 8, width // 8 : -width // 8] = 0.5
    square = np.zeros(shape, bool)
    square[height // 4 : height // 2, width // 3 : 2 * width // 3] = True
    placement = preprocess.placement(unit)
    there = preprocess.place(torch.from_numpy(square)[None].float(), placement)
    back = preprocess.restore(there, placement).numpy()
    assert back.shape == shape
    assert np.abs(np.subtract(corners(back > 0.5), corners(square))).max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shipped_grid_keeps_a_square_within_its_own_pixel(shape):
    height, width = shape
    preprocess = Preprocess(size=160, crop=False)
    square = np.zeros(shape, bool)
    square[height // 4 : height // 2 + 1, width // 3 : 2 * width // 3] = True
    placement = preprocess.placement(np.ones((*shape, 3), np.float32))
    back = preprocess.restore(preprocess.place(torch.from_numpy(square)[None].float(), placement), placement).numpy()
    grid_pixel = max(1.0, max(shape) / 160)
    assert np.abs(np.subtract(corners(back > 0.5), corners(square))).max() <= np.ceil(grid_pixel)


def test_aspect_ratio_is_kept():
    placement = Preprocess(size=160, crop=False).placement(np.ones((200, 100, 3), np.float32))
    assert placement == Placement(image=(200, 100), crop=(0, 0, 200, 100), placed=(0, 40, 160, 80))


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.full((32, 32), 51, np.uint8), 0.2),  # 8-bit: the declared range
        (np.full((32, 32, 3), 255, np.uint8), 1.0),
        (np.full((32, 32), 7, np.uint16), 0.0),  # constant, no declared range: nothing there
    ],
)
def test_declared_ranges(pixels, expected):
    unit = to_unit(pixels)
    assert unit.shape == (32, 32, 3)
    assert unit.dtype == np.float32
    assert np.allclose(unit, expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_wide_pixels_span_their_own_range(dtype):
    ramp = np.linspace(3, 3003, 1024).reshape(32, 32).astype(dtype)
    unit = to_unit(ramp)
    assert (unit.min(), unit.max()) == (0.0, 1.0)
    assert np.allclose(unit[..., 0], np.linspace(0, 1, 1024).reshape(32, 32), atol=1e-3)


def test_the_widest_floats_do_not_overflow():
    pixels = np.zeros((32, 32))
    pixels[0, 0], pixels[0, 1] = np.finfo(np.float64).max, -np.finfo(np.float64).max
    unit = to_unit(pixels)
    assert np.isfinite(unit).all()
    assert (unit.min(), unit.max()) == (0.0, 1.0)


def test_alpha_is_composited_on_black():
    pixels = np.full((32, 32, 4), 255, np.uint8)
    pixels[..., 3] = 51
    assert np.allclose(to_unit(pixels), 0.2)


@pytest.mark.parametrize("shape", [(32, 32, 2), (2, 2, 2, 2), (31, 64), (64, 4097), (0, 0), (32,)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="got"):
        to_unit(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_pixels_are_refused(bad):
    pixels = np.zeros((32, 32), np.float32)
    pixels[4, 4] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        to_unit(pixels)


def test_normalisation_is_golden():
    batch = torch.tensor([0.0, 1.0, 2.0, 5.0]).reshape(1, 1, 2, 2).repeat(1, 3, 1, 1)
    # mean 2, population variance (4 + 1 + 0 + 9) / 4 = 3.5
    expected = (torch.tensor([-2.0, -1.0, 0.0, 3.0]) / 3.5**0.5).reshape(2, 2)
    assert torch.allclose(Preprocess().normalise(batch)[0, 0], expected, atol=1e-6)


def test_normalisation_by_slice_does_not_depend_on_neighbours():
    batch = torch.rand(2, 3, 32, 32) * torch.tensor([1.0, 100.0]).reshape(2, 1, 1, 1)
    alone = Preprocess().normalise(batch[:1])
    assert torch.allclose(Preprocess().normalise(batch)[:1], alone)
    assert not torch.allclose(Preprocess(normalise_over="volume").normalise(batch)[:1], alone)


def test_a_constant_slice_becomes_zeros():
    assert Preprocess().normalise(torch.full((1, 3, 32, 32), 0.7)).abs().max() < 1e-6


def test_the_head_box_ignores_speckle_and_keeps_a_margin():
    unit = np.zeros((200, 200, 3), np.float32)
    unit[50:150, 60:160] = 0.6
    unit[3, 5] = unit[197, 190] = 1.0
    top, left, tall, wide = head_box(unit)
    assert top <= 50 <= 150 <= top + tall
    assert left <= 60 <= 160 <= left + wide
    assert tall < 120
    assert wide < 120


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_blank_image_keeps_a_usable_frame(value):
    top, left, tall, wide = head_box(np.full((64, 96, 3), value, np.float32))
    assert (top, left, tall, wide) == (0, 0, 64, 96)


def test_a_configuration_survives_json():
    preprocess = Preprocess(size=128, crop=False)
    assert Preprocess(**preprocess.config()) == preprocess


def test_a_bad_configuration_is_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        Preprocess(size=100)
    with pytest.raises(ValueError, match="'slice' or 'volume'"):
        Preprocess(normalise_over="head")
