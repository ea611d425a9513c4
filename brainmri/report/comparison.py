"""The outlines of several models in one picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from brainmri.report.render import flair_picture

# of Okabe and Ito, which colour-blind people can tell apart, without black and dark blue; used in turn
COLOURS = ("#e69f00", "#56b4e9", "#f0e442", "#cc79a7", "#009e73", "#d55e00", "#ffffff")
SIDE = 720  # pixels of the picture, the longer side
MARGIN = 0.3  # around the outlined regions, as a share of their longer side
MIN_CROP = 96  # pixels of the slice


def outline_colour(number: int) -> str:
    """The colour of the outline of a model, by its place in the comparison."""
    return COLOURS[number % len(COLOURS)]


def outlines_picture(pixels: np.ndarray, masks: Mapping[int, np.ndarray]) -> Image.Image:
    """FLAIR in grey, cropped to the outlined regions, with the outlines of all masks.

    Equal outlines stay visible: earlier ones are drawn wider, below later ones.

    Args:
        pixels: (H, W, 3) in [0, 1].
        masks: (H, W) bool by the model's place in the comparison.
    """
    from skimage.measure import find_contours

    top, left, height, width = crop_box(list(masks.values()), pixels.shape[:2])
    scale = SIDE / max(height, width)
    cropped = flair_picture(pixels[top : top + height, left : left + width])
    size = (round(width * scale), round(height * scale))
    picture = cropped.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for place, (number, mask) in enumerate(masks.items()):
        for contour in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
            points = [((x - 0.5 - left) * scale, (y - 0.5 - top) * scale) for y, x in contour]  # padded by 1, pixels are 1 wide
            draw.line(points, fill=outline_colour(number), width=2 + 2 * (len(masks) - 1 - place), joint="curve")
    return picture


def crop_box(masks: list[np.ndarray], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """The square around the regions of (H, W) bool masks, with a margin; the whole slice if nothing is outlined.

    Returns:
        top, left, height, width in pixels, within the slice.
    """
    any_mask = np.any(masks, axis=0) if masks else np.zeros(shape, bool)
    rows, columns = (np.flatnonzero(any_mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, *shape
    longest = max(np.ptp(rows), np.ptp(columns)) + 1
    side = max(MIN_CROP, round((1 + 2 * MARGIN) * longest))
    box = []
    for found, extent in ((rows, shape[0]), (columns, shape[1])):
        length = min(side, extent)
        start = int(np.clip(round((found[0] + found[-1] + 1 - length) / 2), 0, extent - length))
        box.append((start, length))
    (top, height), (left, width) = box
    return top, left, height, width
