"""The page in a browser, as a visitor uses it."""

import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.utils import Status
from PIL import Image

import brainmri
from brainmri.zoo.registry import DEFAULT
from tests.support.browsing import CAPTION, CHROMIUM, EXAMPLE, STUDY, VERDICT, open_studies, open_tab, study_verdict, upload

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt install chromium)"),
]


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
        page.wait_for_timeout(2000)  # images fade in
        page.screenshot(path=target)


def test_the_verdict_is_explained_and_its_stability_shown(visit):
    page = visit(1280, 900)
    upload(page, EXAMPLE)
    page.wait_for_selector("#explanation >> text=lies inside the outline")
    page.wait_for_selector("#explanation >> text=the area stays within")
    page.wait_for_function("document.querySelectorAll('#evidence img').length === 2")


def test_a_waiting_visitor_sees_the_queue_position(visit, page_url):
    page = visit(1280, 900)
    client = Client(page_url, verbose=False, analytics_enabled=False, download_files=False)
    before = [client.submit([handle_file(STUDY)], api_name="/study") for _ in range(2)]
    while before[0].status().code == Status.STARTING:
        page.wait_for_timeout(50)
    upload(page, EXAMPLE)
    page.wait_for_selector(r"#verdict >> text=/queue: \d+\/\d+/")
    page.wait_for_selector("#explanation >> text=the area stays within")


def test_an_example_is_analysed_on_click_and_cleared(visit):
    page = visit(1280, 900)
    page.click("#examples button >> nth=0")
    page.wait_for_selector(VERDICT)
    page.click("button[aria-label='Clear']")
    page.wait_for_selector(".verdict.empty")
    assert not page.is_visible("#pictures")


def test_a_refused_upload_shows_the_reason_and_no_earlier_result(visit, tmp_path):
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
    page.wait_for_timeout(2500)  # the page scrolls to the verdict
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    pane, verdict = page.locator("#panes").bounding_box(), page.locator("#verdict").bounding_box()
    assert -1 <= verdict["y"] <= 844 - verdict["height"]
    assert verdict["width"] > 0.9 * pane["width"]


# --- studies --------------------------------------------------------------------------------------------------------------


def test_a_study_is_browsed_and_downloaded(visit, tmp_path):
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
    assert page.inner_text(CAPTION).startswith("Slice 1 of 16: no tumour")
    first = picture.get_attribute("src")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(CAPTION).startswith("Slice 2 of 16")
    assert picture.get_attribute("src") != first
    page.locator(".study-chart .hit[data-slice='8']").click()
    assert page.inner_text(CAPTION).startswith("Slice 8 of 16: tumour")
    layer = page.locator("#study-viewer .study-layer")
    outline = layer.get_attribute("src")
    page.click("#study-viewer button:has-text('Probability')")
    assert layer.get_attribute("src") != outline
    assert page.evaluate("Array.from(document.querySelectorAll('.study-stage img')).every(i => i.complete && i.naturalWidth > 0)")
    page.locator("#study-viewer .study-stage").focus()
    page.keyboard.press("ArrowUp")
    assert page.inner_text(CAPTION).startswith("Slice 9 of 16")
    with page.expect_download() as waiting:
        page.click("#study-downloads >> text=All files")
    waiting.value.save_as(tmp_path / "study.zip")
    with zipfile.ZipFile(tmp_path / "study.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    report = page.context.new_page()
    report.goto((tmp_path / "study-flair" / "report.html").as_uri())
    report.locator(".study-chart .hit[data-slice='3']").click()
    assert report.inner_text(".study-caption").startswith("Slice 3 of 16")


def test_an_unknown_sequence_has_to_be_selected(visit, tmp_path):
    page = visit(1280, 900)
    open_studies(page)
    for name in ("one.nii.gz", "two.nii.gz"):
        (tmp_path / name).write_bytes(STUDY.read_bytes())
    page.set_input_files("#study-upload input[type=file]", [tmp_path / "one.nii.gz", tmp_path / "two.nii.gz"])
    page.wait_for_selector("#study-verdict >> text=Cannot tell which sequence is the FLAIR")
    page.click("#sequences input >> nth=0")
    page.click("ul[role=listbox] >> text=two.nii.gz")
    page.click("button:has-text('Analyse'):visible")
    assert "Tumour" in study_verdict(page)


def test_a_refused_study_shows_no_earlier_result(visit, tmp_path):
    page = visit(1280, 900)
    open_studies(page)
    page.click("#study-example")
    study_verdict(page)
    page.click("#study-upload button[aria-label='Clear']")
    page.wait_for_selector("#study-verdict .verdict.empty")
    (tmp_path / "cut.nii.gz").write_bytes(STUDY.read_bytes()[:100_000])
    page.set_input_files("#study-upload input[type=file]", tmp_path / "cut.nii.gz")
    page.wait_for_selector("text=cut.nii.gz: got a damaged volume file")
    page.wait_for_selector("#study-verdict .verdict.empty")
    assert not page.is_visible(CAPTION)


def test_a_study_on_a_phone(visit):
    page = visit(390, 844)
    open_studies(page)
    page.click("#study-example")
    study_verdict(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    stage = page.locator("#study-viewer .study-stage").bounding_box()
    assert 300 <= stage["width"] <= 390


# --- models, one and several ----------------------------------------------------------------------------------------------


def comparison(page) -> dict[str, list[str]]:
    """The table of the Compare tab: cells by model."""
    page.wait_for_selector("#comparison-table table")
    rows = page.locator("#comparison-table tbody tr")
    return {cells[0]: cells[1:] for cells in (row.locator("th, td").all_inner_texts() for row in rows.all())}


def test_models_are_compared_side_by_side(visit):
    page = visit(1280, 900)
    open_tab(page, "Compare")
    page.click("#compare-example")
    cells_by_model = comparison(page)
    assert set(cells_by_model) == {entry.name for entry in brainmri.list_models()}
    assert re.fullmatch(r"\d+%", cells_by_model[DEFAULT][0])
    assert re.fullmatch(r"\d+ pixels", cells_by_model[DEFAULT][1])
    assert [cells_by_model["resnet50-lgg"][1], cells_by_model["resunet-lgg"][0]] == ["-", "-"]
    assert all(re.fullmatch(r"\d+ ms", cells[2]) for cells in cells_by_model.values())
    assert 0.5 < float(re.search(r"mean Dice of (0\.\d+)", page.inner_text("#comparison-table"))[1]) <= 1
    pictures = page.locator("#comparison-pictures button.thumbnail-item")
    pictures.nth(5).wait_for()
    assert [caption.split(":")[0] for caption in pictures.all_inner_texts()] == [
        *(entry.name for entry in brainmri.list_models("segmentation")), "Where the masks disagree",
    ]  # fmt: skip
    page.wait_for_function(
        "Array.from(document.querySelectorAll('#comparison-pictures img')).every(i => i.complete && i.naturalWidth === 256)"
    )

    for name in ("effunet-lgg", "effunet-lite2-lgg", "resunet-lgg", "resunet-paper"):
        page.get_by_role("checkbox", name=name).uncheck()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_function("document.querySelectorAll('#comparison-table tbody tr').length === 2")
    assert "Dice" not in page.inner_text("#comparison-table")
    page.wait_for_function("document.querySelectorAll('#comparison-pictures button.thumbnail-item').length === 1")

    page.click("button[aria-label='Clear']:visible")
    page.wait_for_selector("#comparison-table .verdict.empty")
    assert not page.is_visible("#comparison-pictures")
    page.locator("input[type=file]").nth(-1).set_input_files(EXAMPLE)
    assert set(comparison(page)) == {DEFAULT, "resnet50-lgg"}


def test_the_models_tab_shows_metrics_and_verifies_a_model(visit):
    page = visit(1280, 900)
    open_tab(page, "Models")
    assert page.inner_text("#model h2").startswith(DEFAULT)
    choice = page.get_by_label("Model", exact=True)
    choice.click()
    page.click("ul[role=listbox] >> text=resnet50-lgg")
    page.wait_for_selector("#model h2:has-text('resnet50-lgg')")
    row = page.locator("#model tr", has_text="verdict AUC, by slice").first
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]", row.locator("td").nth(1).inner_text())
    assert not page.is_visible("#model .card >> text=Intended use")
    page.click("#model .card summary")
    page.wait_for_selector("#model .card >> text=Intended use")
    assert "model-index" not in page.inner_text("#model .card")  # part of the front matter
    page.click("#selfcheck")
    page.wait_for_selector("#selfcheck-answer >> text=resnet50-lgg on")
    assert "gives the stored outputs, within" in page.inner_text("#selfcheck-answer")
