"""The outlines of several models in one picture."""

import numpy as np
from PIL import ImageColor

from brainmri.report.comparison import LINE, MAX_SLICES, SIDE, crop_box, dashes, outline_colour, outlined_slices, outlines_picture


def square(top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((200, 160), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_the_crop_holds_every_region_with_a_margin():
    top, left, height, width = crop_box([square(100, 40, 40), square(110, 70, 50)], (200, 160))
    assert (height, width) == (128, 128)  # 80 columns, and 30% on both sides
    assert top < 100 - 20
    assert top + height > 160
    assert left < 40
    assert left + width > 120


def test_the_crop_stays_within_the_slice():
    assert crop_box([square(0, 0, 10)], (200, 160)) == (0, 0, 96, 96)
    assert crop_box([square(190, 150, 10)], (200, 160)) == (104, 64, 96, 96)
    assert crop_box([], (200, 160)) == (0, 0, 200, 160)
    assert crop_box([np.zeros((200, 160), bool)], (200, 160)) == (0, 0, 200, 160)


def test_every_outline_is_visible_in_its_colour_at_its_place():
    masks = {0: square(80, 60, 40), 2: square(80, 60, 40), 3: square(90, 70, 20)}
    picture = np.asarray(outlines_picture(np.zeros((200, 160, 3), np.float32), masks))
    top, left, height, _ = crop_box(list(masks.values()), (200, 160))
    scale = SIDE / height
    for number, mask in masks.items():
        drawn = np.argwhere((picture == ImageColor.getrgb(outline_colour(number))).all(axis=-1)) / scale + (top, left)
        edge = np.argwhere(mask)
        assert len(drawn) > 100
        assert np.abs(drawn.min(axis=0) - edge.min(axis=0)).max() < 1
        assert np.abs(drawn.max(axis=0) - edge.max(axis=0) - 1).max() < 1


def test_outlines_are_equally_thin_however_many_there_are():
    masks = {number: square(80, 60, 40) for number in range(6)}
    picture = np.asarray(outlines_picture(np.zeros((200, 160, 3), np.float32), masks))
    rows = np.flatnonzero(picture[:, picture.shape[1] // 2].any(axis=-1))
    assert len(rows) <= 2 * (LINE + 1)  # the upper and the lower edge


def test_the_dashes_of_coinciding_lines_cover_the_line_in_turns():
    line = np.array([[0, 0], [300, 0], [300, 40]], float)
    for turns, size in ((1, 1.0), (3, 1.0), (6, 0.1)):  # the last is too short for a whole dash of each
        parts = [dashes(size * line, turn, turns) for turn in range(turns)]
        assert all(parts)
        lengths = [np.hypot(*np.diff(part, axis=0).T).sum() for own in parts for part in own]
        assert abs(sum(lengths) - 340 * size) < 28


def test_slices_of_a_study_are_spread_over_its_outlines():
    masks = np.zeros((2, 40, 8, 8), bool)
    masks[0, 5:20, 2:4, 2:4] = True
    masks[1, 15:35, 2:4, 2:4] = True
    masks[1, 21, 1:6, 1:6] = True
    shown, front = outlined_slices(list(masks))
    assert (shown[0], shown[-1], len(shown)) == (5, 34, MAX_SLICES)
    assert sorted(shown) == shown
    assert shown[front] == 21 or 21 not in shown
    assert outlined_slices([np.zeros((9, 8, 8), bool)]) == ([4], 0)
