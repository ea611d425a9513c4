"""Find the slices in an uploaded picture: remove the page around a slice, and split a sheet of several slices.

People upload screenshots, slices on a white page, and sheets of several slices. The functions here use the pixels alone, before
any network runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from brainmri.analysis.head import FOREGROUND, head_region

DARK_PAGE = 0.25  # a page darker than this needs no removal: slices have a dark background themselves
PAGE_TOLERANCE = 0.08  # largest difference of a page's pixels from its grey value
PAGE_SHARE = 0.6  # of the picture's border that must have the page's grey value
SMALLEST_SLICE = 0.08  # share of the picture that the largest region must fill, else the picture is taken as it is
SPECK = 0.0005  # share of a sheet below which a region is no part of a head
SHEET_SLICES = (4, 64)  # number of heads on a sheet; fewer are a row or a column
SIMILAR = 0.5  # smallest size of a head on a sheet, as a share of the median
ROW_SLICES = (2, 3)  # number of heads in a single row or column, of cells of one size
CELL_SIDES = 0.7  # smallest ratio of a cell's shorter side to its longer one; half a head is narrower
CELL_FILLED = 0.4  # share of a cell's height and of its width that its head must fill
CELL_GAP = 0.3  # largest share of head on the line between two cells; over 0.38 where such a line cuts a head in two
CELL_OVERLAP = 0.6  # smallest overlap (IoU) of the heads in two cells, laid over each other; 0 to 0.2 for parts of a head
ALIGNED = 0.25  # largest distance of a head from its row's or column's median position, as a share of its size


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """One slice in a picture.

    Attributes:
        box: top, left, height, width in pixels of the picture.
        page: (height, width) bool, the pixels of the page within the box; None where the picture has no page.
    """

    box: tuple[int, int, int, int]
    page: np.ndarray | None = None

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """The slice of a picture (..., H, W, 3) in [0, 1], (..., height, width, 3), with a black background, not the page."""
        top, left, height, width = self.box
        part = pixels[..., top : top + height, left : left + width, :]
        return part if self.page is None else np.where(self.page[..., None], np.float32(0), part)

    def cut_inverted(self, pixels: np.ndarray) -> np.ndarray:
        """As `cut`, with inverted grey values."""
        return self.cut(1 - pixels)

    def negative(self, picture: np.ndarray) -> Panel:
        """What to invert: the whole picture (H, W, 3) where only white surrounds the slice, so that its faint edge is kept."""
        top, left, height, width = self.box
        around = np.ones(picture.shape[:2], bool)
        around[top : top + height, left : left + width] = False if self.page is None else self.page
        around = np.asarray(ndimage.binary_erosion(around, border_value=1), bool)
        only_white = bool((picture[around] >= 1 - PAGE_TOLERANCE).all())
        return Panel(box=(0, 0, *picture.shape[:2])) if only_white else self


def find_panels(pixels: np.ndarray) -> tuple[Panel, ...]:
    """The slices in a picture (H, W, 3) in [0, 1]: one, or those of a sheet in reading order."""
    grey = pixels.mean(axis=2)
    height, width = grey.shape
    whole = Panel(box=(0, 0, height, width))
    panel = _without_page(grey) or whole
    cut = panel.cut(pixels).mean(axis=2)
    sheet = _split_sheet(cut) or _split_row(cut)
    top, left = panel.box[:2]
    return tuple(Panel(box=(top + y, left + x, h, w)) for y, x, h, w in sheet) if sheet else (panel,)


def _without_page(grey: np.ndarray) -> Panel | None:
    """The largest region that is not of the border's grey value; None where the border is dark or not uniform."""
    from skimage.measure import label  # slow to import

    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    level = float(np.median(border))
    if level < DARK_PAGE or (np.abs(border - level) < PAGE_TOLERANCE).mean() < PAGE_SHARE:
        return None
    content = np.asarray(ndimage.binary_opening(np.abs(grey - level) >= PAGE_TOLERANCE, iterations=1))
    labels = np.asarray(label(content, connectivity=1))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    region = np.asarray(ndimage.binary_fill_holes(labels == sizes.argmax()))
    if region.mean() < SMALLEST_SLICE:
        return None
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    top, left, height, width = rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    inside = region[top : top + height, left : left + width]
    return Panel(box=(int(top), int(left), int(height), int(width)), page=~inside)


def _split_sheet(grey: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes (top, left, height, width) of the heads on a sheet, in reading order; empty where there is only one head."""
    from skimage.measure import label, regionprops

    bright = np.asarray(ndimage.binary_opening(grey > FOREGROUND * np.percentile(grey, 99), iterations=1))
    boxes = _merge([r.bbox for r in regionprops(np.asarray(label(bright))) if r.area >= SPECK * grey.size])
    if not SHEET_SLICES[0] <= len(boxes) <= SHEET_SLICES[1]:
        return []
    sizes = boxes[:, 2:] - boxes[:, :2]
    typical = np.median(sizes, axis=0)
    similar = (sizes >= SIMILAR * typical).all(axis=1) & (sizes <= typical / SIMILAR).all(axis=1)
    centres = (boxes[similar, :2] + boxes[similar, 2:]) / 2
    if len(centres) < SHEET_SLICES[0] or similar.mean() < 0.7:
        return []
    rows, columns = (_group(centres[:, axis], typical[axis]) for axis in (0, 1))
    if len(rows) * len(columns) > 1.5 * len(centres) or any(
        np.abs(centres[:, axis, None] - lines).min(axis=1).max() > ALIGNED * typical[axis]
        for axis, lines in ((0, rows), (1, columns))
    ):
        return []
    edges = [_edges(lines, side) for lines, side in ((rows, grey.shape[0]), (columns, grey.shape[1]))]
    found = []
    for row, column in ((np.abs(rows - y).argmin(), np.abs(columns - x).argmin()) for y, x in centres):
        (top, bottom), (left, right) = edges[0][row : row + 2], edges[1][column : column + 2]
        found.append((int(top), int(left), int(bottom - top), int(right - left)))
    return sorted(found)


def _split_row(grey: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes (top, left, height, width) of 2 or 3 heads in a row or a column, in order; empty where there is only one head.

    Two regions may be the halves of one head, so more is asked than of a sheet: cells of one size, about as wide as high, with a
    gap between them and with heads that cover each other when the cells are laid over each other.
    """
    for number in ROW_SLICES:
        if found := _cells(grey, number):
            return [(0, left, len(grey), right - left) for left, right in found]
        if found := _cells(grey.T, number):
            return [(top, 0, bottom - top, grey.shape[1]) for top, bottom in found]
    return []


def _cells(grey: np.ndarray, number: int) -> list[tuple[int, int]]:
    """The left and right ends of this many cells with a head each, side by side; empty if there are none."""
    height, width = grey.shape
    side = width // number
    if min(side, height) < CELL_SIDES * max(side, height):
        return []
    edges = np.round(np.linspace(0, width, number + 1)).astype(int)
    lines = [grey[:, edge - 1 : edge + 1].max(axis=1) > FOREGROUND * np.percentile(grey, 99) for edge in edges[1:-1]]
    if max(line.mean() for line in lines) > CELL_GAP:
        return []
    heads = [head_region(grey[:, left : left + side]) for left in edges[:-1]]
    filled = all(_extent(head, axis) >= CELL_FILLED for head in heads for axis in (0, 1))
    overlaps = ((one & other).sum() / max(1, (one | other).sum()) for n, one in enumerate(heads) for other in heads[:n])
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)) if filled and min(overlaps) >= CELL_OVERLAP else []


def _extent(head: np.ndarray, axis: int) -> float:
    """The share of a cell's rows (axis 0) or columns (axis 1) from the first to the last of its head."""
    places = np.flatnonzero(head.any(axis=1 - axis))
    return float(np.ptp(places) + 1) / head.shape[axis] if len(places) else 0.0


def _merge(boxes: list[tuple[int, int, int, int]]) -> np.ndarray:
    """Join boxes (top, left, bottom, right) that overlap, such as those of a brain and of the scalp around it; (n, 4)."""
    merged: list[np.ndarray] = []
    for box in map(np.array, sorted(boxes)):
        while overlapping := [other for other in merged if (np.maximum(box, other)[:2] < np.minimum(box, other)[2:]).all()]:
            merged = [other for other in merged if not any(other is one for one in overlapping)]
            corners = np.stack([box, *overlapping])
            box = np.concatenate([corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)])
        merged.append(box)
    return np.array(merged, float).reshape(-1, 4)


def _group(positions: np.ndarray, size: float) -> np.ndarray:
    """The mean positions of groups that are at least half a head apart, in order."""
    ordered = np.sort(positions)
    groups = np.split(ordered, np.flatnonzero(np.diff(ordered) > 0.5 * size) + 1)
    return np.array([group.mean() for group in groups])


def _edges(centres: np.ndarray, side: int) -> np.ndarray:
    """Lines halfway between rows or columns, and the two ends."""
    return np.round(np.concatenate([[0], (centres[1:] + centres[:-1]) / 2, [side]])).astype(int)
