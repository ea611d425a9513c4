"""The orientation tag of EXIF and TIFF: how stored pixels are turned to be upright, and back."""

from __future__ import annotations

import numpy as np

TAG = 274  # in EXIF and TIFF
_INVERSE = {6: 8, 8: 6}  # the other values are their own inverse


def turn_upright(pixels: np.ndarray, orientation: int, axes: tuple[int, int] = (0, 1)) -> np.ndarray:
    """Stored pixels as a viewer shows them; a view.

    Args:
        orientation: 1 to 8, as of EXIF 2.32, section 4.6.4; another value counts as 1, upright.
        axes: of rows and columns.
    """
    rows, columns = axes
    if orientation == 2:
        return np.flip(pixels, columns)
    if orientation == 3:
        return np.flip(pixels, axes)
    if orientation == 4:
        return np.flip(pixels, rows)
    if orientation == 5:
        return np.swapaxes(pixels, rows, columns)
    if orientation == 7:
        return np.swapaxes(np.flip(pixels, axes), rows, columns)
    if orientation in (6, 8):
        return np.rot90(pixels, 3 if orientation == 6 else 1, axes)
    return pixels


def turn_as_stored(pixels: np.ndarray, orientation: int, axes: tuple[int, int] = (0, 1)) -> np.ndarray:
    """The inverse of `turn_upright`."""
    return turn_upright(pixels, _INVERSE.get(orientation, orientation), axes)


def orientation_warnings(orientation: int) -> tuple[str, ...]:
    """What to say about an orientation that was applied."""
    if not 2 <= orientation <= 8:
        return ()
    note = f"the file's orientation tag ({orientation}) was applied; the mask file has the input's order of pixels and its tag"
    return (note,)
