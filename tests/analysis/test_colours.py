"""Marks drawn on slices, and colours of colour maps and of three sequences."""

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image, ImageDraw

from brainmri.analysis.colours import MAPPED, MARKED, strange_colours
from brainmri.io.reading import read_slice
from brainmri.zoo.ood import check_pixels
from train.phantoms import phantom_slice

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
COLOUR_MAPS = ("jet", "turbo", "hot", "viridis", "RdBu", "coolwarm", "rainbow", "Spectral", "seismic", "nipy_spectral")
COLOURS = {"red": (255, 0, 0), "yellow": (255, 255, 0), "green": (0, 200, 0), "cyan": (0, 255, 255), "blue": (40, 40, 255)}


def grey_slice(size: int = 256) -> np.ndarray:
    """(size, size, 3) uint8, one sequence in three channels."""
    return np.repeat(phantom_slice(size=size)[0][..., 1:2], 3, axis=2)


def arrow(draw: ImageDraw.ImageDraw, colour: tuple[int, int, int]) -> None:
    draw.line([128, 128, 170, 180], fill=colour, width=2)
    draw.polygon([(124, 124), (136, 126), (126, 136)], fill=colour)


def circle(draw: ImageDraw.ImageDraw, colour: tuple[int, int, int]) -> None:
    draw.ellipse([90, 90, 130, 130], outline=colour, width=2)


def region(draw: ImageDraw.ImageDraw, colour: tuple[int, int, int]) -> None:
    draw.ellipse([90, 90, 130, 130], fill=colour)


def text(draw: ImageDraw.ImageDraw, colour: tuple[int, int, int]) -> None:
    draw.text((90, 120), "tumour", fill=colour, font_size=16)


@pytest.mark.parametrize("quality", [None, 75])
@pytest.mark.parametrize("colour", COLOURS.values(), ids=COLOURS)
@pytest.mark.parametrize("mark", [arrow, circle, region, text], ids=lambda mark: mark.__name__)
def test_marks_on_a_grey_head_are_found(mark, colour, quality):
    image = Image.fromarray(grey_slice())
    mark(ImageDraw.Draw(image), colour)
    if quality:
        image.save(file := io.BytesIO(), "JPEG", quality=quality)
        image = Image.open(file)
    pixels = np.asarray(image) / np.float32(255)
    assert strange_colours(pixels) == MARKED
    assert check_pixels(pixels) == (False, None)


def test_captions_beside_the_head_are_no_marks():
    image = Image.fromarray(grey_slice())
    ImageDraw.Draw(image).text((2, 2), "R  Im: 12", fill=COLOURS["yellow"], font_size=12)
    assert strange_colours(np.asarray(image) / np.float32(255)) is None


def test_slices_of_one_or_three_sequences_are_without_marks():
    paths = [path for path in EXAMPLES.iterdir() if path.suffix in (".png", ".jpg", ".webp")]
    assert len(paths) >= 3
    for path in paths:
        assert strange_colours(read_slice(path).pixels) is None, path


@pytest.mark.parametrize("quality", [None, 90])
@pytest.mark.parametrize("name", COLOUR_MAPS)
def test_colour_maps_are_recognised_after_jpeg_too(name, quality):
    grey = read_slice(EXAMPLES / "large-lesion.png").pixels[..., 1]
    image = Image.fromarray((255 * colormaps[name](grey)[..., :3]).round().astype(np.uint8))
    if quality:
        image.save(file := io.BytesIO(), "JPEG", quality=quality)
        image = Image.open(file)
    assert strange_colours(np.asarray(image) / np.float32(255)) == MAPPED


@pytest.mark.parametrize("quality", [None, 90, 50])
def test_three_sequences_are_no_colour_map(quality):
    image = Image.open(EXAMPLES / "large-lesion.png").convert("RGB")
    if quality:
        image.save(file := io.BytesIO(), "JPEG", quality=quality)
        image = Image.open(file)
    pixels = np.asarray(image) / np.float32(255)
    assert check_pixels(pixels) == (False, None)
    assert strange_colours(pixels) is None


def test_grey_pixels_of_any_brightness_have_no_strange_colours():
    for level in (0, 0.3, 1):
        assert strange_colours(np.full((96, 96, 3), level, np.float32)) is None
