"""What is printed from the page is what the visitor sees."""

import re

import pytest

from tests.support.browsing import CAPTION, CHROMIUM, EXAMPLE, STUDY, answer, upload
from tests.support.viewing import SET_THRESHOLD

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt install chromium)"),
]
PRINT = "button:has-text('Print or PDF')"
# a dialog would block the browser; the report's frame tells its page when it prints
NO_DIALOG = "window.print = () => { parent.printed = true; }"
# share of the pixels of the picture, and of the marks on it, that differ between the page and the report
DIFFERENCES = """() => {
    const report = document.querySelector("iframe[title=Report]").contentDocument;
    return [".viewer-image", ".viewer-marks"].map((name) => {
        const [first, second] = [document.querySelector(`#viewer ${name}`), report.querySelector(name)].map((canvas) => {
            const context = Object.assign(document.createElement("canvas"), { width: 128, height: 128 }).getContext("2d");
            context.drawImage(canvas, 0, 0, 128, 128);
            return context.getImageData(0, 0, 128, 128).data;
        });
        return first.reduce((count, value, n) => count + (Math.abs(value - second[n]) > 40), 0) / first.length;
    });
}"""


def paint(page) -> None:
    """Paint in the viewer's picture, near its upper left corner."""
    page.click("#viewer summary:has-text('Correct the mask')")
    page.click("#viewer [data-tool=brush]")
    page.click("#viewer .viewer-pane >> nth=0", position={"x": 60, "y": 60})


def test_a_study_is_printed_with_the_mask_that_is_shown(visit):
    page = visit(1440, 900)
    upload(page, STUDY)
    answer(page, STUDY.name)
    models_own = page.inner_text("#viewer .viewer-total")
    page.evaluate(SET_THRESHOLD, 0.2)
    paint(page)
    page.click("#viewer .viewer-next")
    page.wait_for_timeout(300)  # it is drawn
    shown = {name: page.inner_text(f"#viewer .viewer-{name}") for name in ("caption", "total", "note")}
    assert shown["total"] != models_own
    page.add_init_script(NO_DIALOG)
    page.click(PRINT)
    page.wait_for_function("window.printed")
    assert max(page.evaluate(DIFFERENCES)) < 0.01
    page.emulate_media(media="print")
    report = page.frame_locator("iframe[title=Report]")
    assert {name: report.locator(f".viewer-{name}").inner_text() for name in shown} == shown
    printed = report.locator("main").inner_text()
    assert "The threshold was moved to 0.2. The mask was edited by hand." in printed
    assert re.findall(r"[\d.]+ mL", printed) == re.findall(r"[\d.]+ mL", shown["total"])  # no volume of the model's mask
    assert report.locator(":is(.model-mask, .montage):visible").count() == 0

    assert page.locator("#answer :is(.model-mask, .montage, #why):visible").count() == 0  # the page itself, printed
    legend = "getComputedStyle(document.querySelector('#viewer .study-legend b'), '::before').printColorAdjust"
    assert page.evaluate(legend) == "exact"  # with its colours


def test_a_slice_is_printed_with_the_mask_that_is_shown(visit):
    page = visit(1440, 900, color_scheme="dark")
    upload(page, EXAMPLE)
    answer(page, EXAMPLE.name)
    page.wait_for_selector("#explanation >> text=/outlin/")
    page.emulate_media(media="print")
    models_own = page.inner_text("#verdict .model-mask:has(dt:text('Size'))")
    assert page.is_visible("#why")
    page.emulate_media(media="screen")
    page.evaluate(SET_THRESHOLD, 0.9)
    paint(page)
    page.emulate_media(media="print")
    assert "The threshold was moved to 0.9. The mask was edited by hand." in page.inner_text("#viewer")
    assert re.search(r"[\d,]+ pixels outlined", page.inner_text(CAPTION))[0] not in models_own
    assert page.locator(":is(.model-mask, #why):visible").count() == 0

    # one sheet, dark on white, without what is for the screen
    assert page.pdf().count(b"/Type /Page\n") == 1
    assert page.locator(":is(footer, #record, #about, .viewer-bar, .viewer-row, button, input):visible").count() == 0
    for name in ("#verdict h2", "#verdict dd", CAPTION, "#current b"):
        assert page.locator(name).first.evaluate("one => getComputedStyle(one).color") == "rgb(31, 41, 55)", name
