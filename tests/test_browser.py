"""The page in a browser, as a visitor uses it."""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "assets" / "examples" / "large-lesion.png"
CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
VERDICT = "section.verdict h2"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt install chromium)")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, page_url):
    """Opens the page in a window of a given width; afterwards checks that it was quiet and spoke to its own server only."""
    contexts, errors, hosts = [], [], set()

    def visit(width: int, height: int):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: hosts.add(urlparse(request.url).hostname) if request.url.startswith("http") else None)
        page.goto(page_url)
        page.wait_for_selector("#verdict")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert errors == []
    assert hosts == {urlparse(page_url).hostname}


def upload(page, path: Path) -> None:
    page.set_input_files("input[type=file]", path)


def test_upload_verdict_download(visit, tmp_path):
    page = visit(1280, 900)
    upload(page, EXAMPLE)
    assert re.search("Tumour|No tumour|Please review", page.inner_text(VERDICT))
    assert page.locator(VERDICT).bounding_box()["y"] < 450
    with page.expect_download() as waiting:
        page.click("#downloads >> text=Mask")
    assert waiting.value.suggested_filename == "large-lesion_mask.png"
    waiting.value.save_as(tmp_path / "mask.png")
    mask = Image.open(tmp_path / "mask.png")
    assert (mask.mode, mask.size) == ("L", Image.open(EXAMPLE).size)
    assert set(np.unique(mask)) <= {0, 255}
    if target := os.environ.get("BRAINMRI_SCREENSHOT"):
        page.wait_for_timeout(2000)  # the pictures fade in
        page.screenshot(path=target)


def test_an_example_is_a_click_and_clearing_takes_the_result_away(visit):
    page = visit(1280, 900)
    page.click("#examples button >> nth=0")
    page.wait_for_selector(VERDICT)
    page.click("button[aria-label='Clear']")
    page.wait_for_selector(".verdict.empty")
    assert not page.is_visible("#pictures")


def test_a_refused_upload_says_why_and_leaves_no_earlier_result(visit, tmp_path):
    page = visit(1280, 900)
    upload(page, EXAMPLE)
    page.wait_for_selector(VERDICT)
    page.click("button[aria-label='Clear']")
    page.wait_for_selector(".verdict.empty")
    path = tmp_path / "notes.png"
    path.write_text("not a picture", encoding="utf-8")
    upload(page, path)
    page.wait_for_selector("text=notes.png: this is not an image in an accepted format")
    page.wait_for_selector(".verdict.empty")


def test_a_phone_shows_the_verdict_without_scrolling_sideways(visit):
    page = visit(390, 844)
    upload(page, EXAMPLE)
    page.wait_for_selector(VERDICT)
    page.wait_for_timeout(2500)  # the page scrolls to it by itself
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    pane, verdict = page.locator("#panes").bounding_box(), page.locator("#verdict").bounding_box()
    assert -1 <= verdict["y"] <= 844 - verdict["height"]
    assert verdict["width"] > 0.9 * pane["width"]
