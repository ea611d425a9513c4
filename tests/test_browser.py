"""The page in a browser, as a visitor uses it."""

import os
import re
import shutil
import zipfile
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.utils import Status
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "assets" / "examples" / "large-lesion.png"
STUDY = EXAMPLE.parent / "study-flair.nii.gz"
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
    assert waiting.value.suggested_filename == "large-lesion.mask.png"
    waiting.value.save_as(tmp_path / "mask.png")
    mask = Image.open(tmp_path / "mask.png")
    assert (mask.mode, mask.size) == ("L", Image.open(EXAMPLE).size)
    assert set(np.unique(mask)) <= {0, 255}
    if target := os.environ.get("BRAINMRI_SCREENSHOT"):
        page.wait_for_timeout(2000)  # the pictures fade in
        page.screenshot(path=target)


def test_the_verdict_is_explained_and_its_outline_questioned(visit):
    page = visit(1280, 900)
    upload(page, EXAMPLE)
    page.wait_for_selector("#why >> text=lies in the outline")
    page.wait_for_selector("#why >> text=the outlined area stays within")
    page.wait_for_function("document.querySelectorAll('#reasons img').length === 2")


def test_who_waits_sees_the_place_in_the_queue(visit, page_url):
    page = visit(1280, 900)
    client = Client(page_url, verbose=False, analytics_enabled=False, download_files=False)
    before = [client.submit([handle_file(STUDY)], api_name="/study") for _ in range(2)]
    while before[0].status().code == Status.STARTING:
        page.wait_for_timeout(50)
    upload(page, EXAMPLE)
    page.wait_for_selector(r"#verdict >> text=/queue: \d+\/\d+/")
    page.wait_for_selector("#why >> text=the outlined area stays within")


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


# --- studies --------------------------------------------------------------------------------------------------------------

WORDS = "#study-viewer .study-words"


def open_studies(page) -> None:
    page.click("button[role=tab]:has-text('Study')")


def study_verdict(page) -> str:
    page.wait_for_selector("#study-verdict section.verdict h2")
    page.wait_for_selector(WORDS)
    return page.inner_text("#study-verdict h2")


def test_a_study_is_flipped_through_and_taken_away(visit, tmp_path):
    page = visit(1280, 900)
    open_studies(page)
    page.set_input_files("#study-upload input[type=file]", STUDY)
    assert "Tumour" in study_verdict(page)
    assert page.input_value("#sequences input >> nth=0") == STUDY.name
    if target := os.environ.get("BRAINMRI_SCREENSHOT"):
        page.wait_for_timeout(2000)
        page.screenshot(path=Path(target).with_stem(Path(target).stem + "-study"), full_page=True)
    slider, picture = page.locator("#study-viewer .study-number"), page.locator("#study-viewer .study-flair")
    slider.focus()
    page.keyboard.press("Home")
    assert page.inner_text(WORDS).startswith("Slice 1 of 16: no tumour")
    first = picture.get_attribute("src")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(WORDS).startswith("Slice 2 of 16")
    assert picture.get_attribute("src") != first
    page.locator(".study-chart .hit[data-slice='8']").click()
    assert page.inner_text(WORDS).startswith("Slice 8 of 16: tumour")
    layer = page.locator("#study-viewer .study-layer")
    outline = layer.get_attribute("src")
    page.click("#study-viewer button:has-text('Probability')")
    assert layer.get_attribute("src") != outline
    assert page.evaluate("Array.from(document.querySelectorAll('.study-stage img')).every(i => i.complete && i.naturalWidth > 0)")
    page.locator("#study-viewer .study-stage").focus()
    page.keyboard.press("ArrowUp")
    assert page.inner_text(WORDS).startswith("Slice 9 of 16")
    with page.expect_download() as waiting:
        page.click("#study-downloads >> text=Everything")
    waiting.value.save_as(tmp_path / "study.zip")
    with zipfile.ZipFile(tmp_path / "study.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    report = page.context.new_page()
    report.goto((tmp_path / "study-flair" / "report.html").as_uri())
    report.locator(".study-chart .hit[data-slice='3']").click()
    assert report.inner_text(".study-words").startswith("Slice 3 of 16")


def test_what_cannot_be_told_is_asked(visit, tmp_path):
    page = visit(1280, 900)
    open_studies(page)
    for name in ("one.nii.gz", "two.nii.gz"):
        (tmp_path / name).write_bytes(STUDY.read_bytes())
    page.set_input_files("#study-upload input[type=file]", [tmp_path / "one.nii.gz", tmp_path / "two.nii.gz"])
    page.wait_for_selector("#study-verdict >> text=cannot be told which of these is the FLAIR")
    page.click("#sequences input >> nth=0")
    page.click("ul[role=listbox] >> text=two.nii.gz")
    page.click("button:has-text('Analyse'):visible")
    assert "Tumour" in study_verdict(page)


def test_a_refused_study_leaves_no_earlier_result(visit, tmp_path):
    page = visit(1280, 900)
    open_studies(page)
    page.click("#study-example")
    study_verdict(page)
    page.click("#study-upload button[aria-label='Clear']")
    page.wait_for_selector("#study-verdict .verdict.empty")
    (tmp_path / "cut.nii.gz").write_bytes(STUDY.read_bytes()[:100_000])
    page.set_input_files("#study-upload input[type=file]", tmp_path / "cut.nii.gz")
    page.wait_for_selector("text=cut.nii.gz: a damaged NIfTI file came")
    page.wait_for_selector("#study-verdict .verdict.empty")
    assert not page.is_visible(WORDS)


def test_a_study_on_a_phone(visit):
    page = visit(390, 844)
    open_studies(page)
    page.click("#study-example")
    study_verdict(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    stage = page.locator("#study-viewer .study-stage").bounding_box()
    assert 300 <= stage["width"] <= 390
