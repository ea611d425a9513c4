"""The outlines of several models in one picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from brainmri.report.render import flair_picture

# of Okabe and Ito, which colour-blind people can tell apart, without black and dark blue; used in turn
COLOURS = ("#e69f00", "#56b4e9", "#f0e442", "#cc79a7", "#009e73", "#d55e00", "#ffffff")
SIDE = 720  # pixels of the picture, the longer side
LINE, DASH = 3, 14  # pixels; width of the outlines, and the length after which coinciding ones change colour
MARGIN = 0.3  # around the outlined regions, as a share of their longer side
MIN_CROP = 96  # pixels of the slice
MAX_SLICES = 12  # pictures of a study


def outline_colour(number: int) -> str:
    """The colour of the outline of a model, by its place in the comparison."""
    return COLOURS[number % len(COLOURS)]


def outlined_slices(masks: list[np.ndarray]) -> tuple[list[int], int]:
    """At most `MAX_SLICES` slices to show of masks (S, H, W), spread over those with an outline; without any, the middle one.

    Returns:
        Their indices in order, and which of them has the largest outline.
    """
    areas = np.any(masks, axis=0).sum(axis=(1, 2))
    outlined = np.flatnonzero(areas)
    if not len(outlined):
        return [len(areas) // 2], 0
    shown = outlined[np.linspace(0, len(outlined) - 1, min(MAX_SLICES, len(outlined))).round().astype(int)]
    return shown.tolist(), int(areas[shown].argmax())


def outlines_picture(
    pixels: np.ndarray, masks: Mapping[int, np.ndarray], box: tuple[int, int, int, int] | None = None
) -> Image.Image:
    """FLAIR in grey, cropped to the outlined regions, with the outlines of all masks.

    All outlines have the same width. Where outlines coincide, they are dashed, so that every colour stays visible.

    Args:
        pixels: (H, W, 3) in [0, 1].
        masks: (H, W) bool by the model's place in the comparison.
        box: top, left, height and width to crop to; None for those of `crop_box`.
    """
    from skimage.measure import find_contours

    top, left, height, width = box or crop_box(list(masks.values()), pixels.shape[:2])
    scale = 2 * SIDE / max(height, width)  # drawn at twice the size, so that the lines become smooth
    cropped = flair_picture(pixels[top : top + height, left : left + width])
    half = round(width * scale / 2), round(height * scale / 2)
    picture = cropped.convert("RGB").resize((2 * half[0], 2 * half[1]), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    outlines = [
        (place, outline_colour(number), scale * (contour[:, ::-1] - 0.5 - (left, top)))  # padded by 1, pixels are 1 wide
        for place, (number, mask) in enumerate(masks.items())
        for contour in find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    ]
    for _, colour, points in outlines:
        draw.line(points.ravel().tolist(), fill=colour, width=2 * LINE, joint="curve")
    for place, colour, points in outlines:
        for dash in dashes(points, place, len(masks)):
            draw.line(dash.ravel().tolist(), fill=colour, width=2 * LINE, joint="curve")
    return picture.reduce(2)


def dashes(points: np.ndarray, turn: int, turns: int) -> list[np.ndarray]:
    """The parts of a line on which one of several equal lines is drawn; together their parts cover it.

    Args:
        points: (N, 2) in pixels of the picture at twice its size.
        turn: of this line, from 0 to `turns` - 1.
        turns: number of lines.

    Returns:
        Lines (M, 2), at least one.
    """
    at = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])  # length of the line up to each point
    length = min(2 * DASH, at[-1] / turns)
    parts = []
    for start in np.arange(turn * length, at[-1] - length / 2, turns * length):
        inside = at[(at > start) & (at < start + length)]
        where = np.concatenate([[start], inside, [start + length]])
        parts.append(np.stack([np.interp(where, at, column) for column in points.T], axis=-1))
    return parts


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
