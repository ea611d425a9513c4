"""Marks on slices, and heads that are cut off."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from brainmri.analysis.coverage import cut_off, strange_colours, unfit_size
from brainmri.io.reading import read_slice
from brainmri.zoo.colours import is_colour_mapped
from train.phantoms import phantom_slice

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
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
    assert "something coloured is drawn" in (strange_colours(pixels) or "")
    assert not is_colour_mapped(pixels)


def test_captions_beside_the_head_are_no_marks():
    image = Image.fromarray(grey_slice())
    ImageDraw.Draw(image).text((2, 2), "R  Im: 12", fill=COLOURS["yellow"], font_size=12)
    assert strange_colours(np.asarray(image) / np.float32(255)) is None


def test_slices_of_one_or_three_sequences_are_without_marks():
    paths = [path for path in EXAMPLES.iterdir() if path.suffix in (".png", ".jpg", ".webp")]
    assert len(paths) >= 3
    for path in paths:
        assert strange_colours(read_slice(path).pixels) is None, path


@pytest.mark.parametrize("turns", range(4))
def test_a_head_without_its_lower_part_is_cut_off(turns):
    whole = np.rot90(grey_slice() / np.float32(255), turns)
    assert cut_off(whole) is None
    rows = np.flatnonzero(whole.mean(axis=2).any(axis=1))
    assert cut_off(whole[: int(rows[0] + 0.6 * np.ptp(rows))])
    assert cut_off(whole[: int(rows[-1] - 1)]) is None  # a tight crop


def test_pixels_that_fill_the_picture_say_nothing_about_the_head():
    assert cut_off(np.full((128, 128, 3), 0.5, np.float32)) is None
    assert cut_off(np.zeros((128, 128, 3), np.float32)) is None


def test_slices_with_a_geometry_are_never_too_long():
    assert unfit_size(100, 300, measured=True) is None
    assert "3.0 times as wide as high" in (unfit_size(100, 300, measured=False) or "")
    assert "64 x 64 pixels" in (unfit_size(64, 64, measured=True) or "")
