"""The viewer's stage in a browser: the projection beside the slices, and full screen."""

import pytest

from tests.support.browsing import CHROMIUM
from tests.support.viewing import SET_THRESHOLD, SIDE, SLICES

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt install chromium)"),
]

# mean column and row, and number, of the projection's pixels that show the mask
PROJECTED = """async (angle) => {
    const slider = document.querySelector(".viewer-angle"), canvas = document.querySelector(".viewer-rotation canvas");
    slider.value = angle;
    slider.dispatchEvent(new Event("input"));
    await new Promise(requestAnimationFrame);
    const { width } = canvas, { data } = canvas.getContext("2d").getImageData(0, 0, width, width);
    const found = Array.from({ length: width * width }, (_, n) => n).filter((n) => data[4 * n] - data[4 * n + 2] > 60);
    const mean = (place) => found.reduce((sum, n) => sum + place(n), 0) / found.length + 0.5;
    return [mean((n) => n % width), mean((n) => Math.floor(n / width)), found.length];
}"""


def test_the_projection_turns_and_follows_the_mask(open_report):
    page = open_report()
    page.wait_for_timeout(300)
    scale = 192 / 1.1 / SIDE
    tall = scale * 3 * SLICES + 192 * (1 - 1 / 1.1)  # the head's slices of 3 mm, and the margin
    for angle, column in ((0, 0.6), (6, 0.42), (12, 0.4), (18, 0.58)):  # the lesion's place, as a share of the head
        across, down, count = page.evaluate(PROJECTED, angle)
        assert (across, down) == (pytest.approx(96 + (column - 0.5) * SIDE * scale, abs=1), pytest.approx(tall / 2, abs=1.5))
        assert count > 500
    page.evaluate(SET_THRESHOLD, 0.3)  # outlines the island too
    assert page.evaluate(PROJECTED, 18)[2] > 1.3 * count
    page.click("text=Original")
    assert page.evaluate(PROJECTED, 18)[2] == 0


@pytest.mark.parametrize(("width", "least"), [(1440, 0.4), (390, 0.9)])
def test_the_projection_takes_its_share_of_the_stage(open_report, width, least):
    page = open_report(width, 900)
    stage, head = (page.locator(f".viewer-{name}").bounding_box() for name in ("panes", "rotation canvas"))
    assert head["width"] > least * stage["width"]
    assert head["height"] / head["width"] == pytest.approx(140 / 192, abs=0.01)  # without empty rows
    assert page.locator(".viewer-pane").first.bounding_box()["width"] >= head["width"]


def test_full_screen_shows_picture_and_controls_side_by_side(open_report):
    page = open_report()
    page.click(".viewer-fullscreen")
    page.wait_for_selector(".viewer:fullscreen")
    assert page.get_attribute(".viewer-fullscreen", "aria-pressed") == "true"
    for planes in (False, True):
        if planes:
            page.click(".viewer-planes")
        panes, controls = (page.locator(f".viewer-{name}").bounding_box() for name in ("panes", "controls"))
        assert panes["height"] > 700
        assert panes["y"] + panes["height"] <= 900
        assert panes["x"] + panes["width"] <= controls["x"]
        assert controls["x"] + controls["width"] <= 1440
        note = page.locator(".viewer-disclaimer").bounding_box()
        assert (note["x"], note["y"], note["width"]) == (0, 0, 1440)
        slider, reset = (page.locator(f".viewer-{name}").bounding_box() for name in ("threshold", "reset"))
        assert abs(slider["y"] + slider["height"] / 2 - reset["y"] - reset["height"] / 2) < 8  # in one row
    page.click(".viewer-planes")
    page.click(".viewer-fullscreen")
    page.wait_for_selector(".viewer:fullscreen", state="detached")
    assert not page.is_visible(".viewer-disclaimer")
    page.set_viewport_size({"width": 390, "height": 844})
    page.click(".viewer-fullscreen")
    page.wait_for_selector(".viewer:fullscreen")
    assert page.locator(".viewer-disclaimer").bounding_box()["height"] < 40  # one line
    page.evaluate("document.querySelector('.viewer').scrollTo(0, 600)")
    assert page.locator(".viewer-disclaimer").bounding_box()["y"] == 0
    assert page.evaluate("document.querySelector('.viewer').scrollTop") > 100
