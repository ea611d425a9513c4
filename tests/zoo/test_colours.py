"""Colours of colour maps and of three sequences."""

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from brainmri.io.reading import read_slice
from brainmri.zoo.colours import is_colour_mapped, lie_on_a_curve

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
COLOUR_MAPS = ("jet", "turbo", "hot", "viridis", "RdBu", "coolwarm", "rainbow", "Spectral", "seismic", "nipy_spectral")


@pytest.mark.parametrize("quality", [None, 90])
@pytest.mark.parametrize("name", COLOUR_MAPS)
def test_colour_maps_are_recognised_after_jpeg_too(name, quality):
    grey = read_slice(EXAMPLES / "large-lesion.png").pixels[..., 1]
    image = Image.fromarray((255 * colormaps[name](grey)[..., :3]).round().astype(np.uint8))
    if quality:
        image.save(file := io.BytesIO(), "JPEG", quality=quality)
        image = Image.open(file)
    assert lie_on_a_curve(np.asarray(image) / np.float32(255))


@pytest.mark.parametrize("quality", [None, 90, 50])
def test_three_sequences_are_no_colour_map(quality):
    image = Image.open(EXAMPLES / "large-lesion.png").convert("RGB")
    if quality:
        image.save(file := io.BytesIO(), "JPEG", quality=quality)
        image = Image.open(file)
    pixels = np.asarray(image) / np.float32(255)
    assert not is_colour_mapped(pixels)
    assert not lie_on_a_curve(pixels)


def test_grey_pixels_of_any_brightness_are_no_colour_map():
    for level in (0, 0.3, 1):
        pixels = np.full((96, 96, 3), level, np.float32)
        assert not is_colour_mapped(pixels)
        assert not lie_on_a_curve(pixels)
