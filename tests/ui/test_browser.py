"""The page in a browser, as a visitor uses it."""

import os
import re
import shutil
import subprocess
import zipfile
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.utils import Status
from PIL import Image

import brainmri
from brainmri.zoo.registry import DEFAULT

EXAMPLE = Path(__file__).parents[2] / "assets" / "examples" / "large-lesion.png"
STUDY = EXAMPLE.parent / "study-flair.nii.gz"
CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
VERDICT = "section.verdict h2"
AXE = "4.14.1"  # of axe-core

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt install chromium)")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@contextmanager
def visiting(browser, page_url):
    """Opens the page in a window of a given width; afterwards checks that it was quiet and spoke to its own server only."""
    contexts, errors, hosts = [], [], set()

    def visit(width: int, height: int, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
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


@pytest.fixture
def visit(browser, page_url):
    with visiting(browser, page_url) as visit:
        yield visit


@pytest.fixture(scope="session")
def axe(pytestconfig) -> str:
    """The source of axe-core, installed by npm once and kept in pytest's cache."""
    folder = pytestconfig.cache.mkdir(f"axe-core-{AXE}")
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        if not (npm := shutil.which("npm")):
            pytest.skip("needs npm, which brings axe-core (apt install npm)")
        command = [npm, "install", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund", f"axe-core@{AXE}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            pytest.skip(f"npm could not install axe-core {AXE}: {done.stderr.strip()[-200:]}")
    return script.read_text(encoding="utf-8")


def upload(page, path: Path) -> None:
    page.set_input_files("input[type=file]", path)


def open_tab(page, name: str) -> None:
    page.click(f"button[role=tab]:has-text('{name}')")


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
    open_tab(page, "Study")


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


# --- models, one and several -----------------------------------------------------------------------------------------------


def answers(page) -> dict[str, list[str]]:
    """The compare tab's table: what each model says."""
    page.wait_for_selector("#answers table")
    rows = page.locator("#answers tbody tr")
    return {cells[0]: cells[1:] for cells in (row.locator("th, td").all_inner_texts() for row in rows.all())}


def test_models_are_compared_side_by_side(visit):
    page = visit(1280, 900)
    open_tab(page, "Compare")
    page.click("#compare-example")
    said = answers(page)
    assert set(said) == {entry.name for entry in brainmri.list_models()}
    assert re.fullmatch(r"\d+ %", said[DEFAULT][0])
    assert re.fullmatch(r"\d+ pixels", said[DEFAULT][1])
    assert [said["resnet50-lgg"][1], said["resunet-lgg"][0]] == ["-", "-"]
    assert all(re.fullmatch(r"\d+ ms", cells[2]) for cells in said.values())
    assert 0.5 < float(re.search(r"mean Dice of (0\.\d+)", page.inner_text("#answers"))[1]) <= 1
    pictures = page.locator("#opinions button.thumbnail-item")
    pictures.nth(5).wait_for()
    assert [caption.split(":")[0] for caption in pictures.all_inner_texts()] == [
        *(entry.name for entry in brainmri.list_models("segmentation")), "Where the masks disagree",
    ]  # fmt: skip
    page.wait_for_function(
        "Array.from(document.querySelectorAll('#opinions img')).every(i => i.complete && i.naturalWidth === 256)"
    )

    for name in ("effunet-lgg", "effunet-lite2-lgg", "resunet-lgg", "resunet-paper"):
        page.get_by_role("checkbox", name=name).uncheck()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_function("document.querySelectorAll('#answers tbody tr').length === 2")
    assert "Dice" not in page.inner_text("#answers")
    page.wait_for_function("document.querySelectorAll('#opinions button.thumbnail-item').length === 1")

    page.click("button[aria-label='Clear']:visible")
    page.wait_for_selector("#answers .verdict.empty")
    assert not page.is_visible("#opinions")
    page.locator("input[type=file]").nth(-1).set_input_files(EXAMPLE)
    assert set(answers(page)) == {DEFAULT, "resnet50-lgg"}


def test_a_model_tells_its_figures_and_whether_it_computes_here(visit):
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
    assert "model-index" not in page.inner_text("#model .card")  # of the front matter
    page.click("#selfcheck")
    page.wait_for_selector("#selfcheck-answer >> text=resnet50-lgg on")
    assert "answers as stored, within" in page.inner_text("#selfcheck-answer")


# --- for everybody ---------------------------------------------------------------------------------------------------------

TABS = ("Slice", "Study", "Compare", "Models")


def fill(page, tab: str) -> None:
    """Open a tab and have it show everything that it can show."""
    open_tab(page, tab)
    if tab == "Slice":
        upload(page, EXAMPLE)
        page.wait_for_selector("#why >> text=the outlined area stays within")
    elif tab == "Study":
        page.click("#study-example")
        study_verdict(page)
    elif tab == "Compare":
        page.click("#compare-example")
        page.wait_for_selector("#opinions img >> nth=2")
    else:
        page.click("#selfcheck")
        page.wait_for_selector("#selfcheck-answer p")
    folded = "button.label-wrap:not(.open):visible, #study-viewer summary:visible, #model summary:visible"
    page.locator(folded).evaluate_all("all => all.forEach(one => one.click())")


@pytest.fixture(scope="module")
def filled(browser, page_url):
    """The page with every tab filled, for those who don't want motion: nothing is half faded in."""
    with visiting(browser, page_url) as visit:
        page = visit(1280, 900, reduced_motion="reduce")
        for tab in TABS:
            fill(page, tab)
        yield page


def test_every_tab_is_accessible_in_light_and_dark(filled, axe):
    filled.evaluate(axe)
    found = []
    # what is dark differs in its colours alone
    for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        options = rules | {"resultTypes": ["violations"]}
        filled.emulate_media(color_scheme=scheme)
        filled.wait_for_function(f"document.body.classList.contains('dark') === {str(scheme == 'dark').lower()}")
        for tab in TABS:
            open_tab(filled, tab)
            report = filled.evaluate("options => axe.run(document, options)", options)
            assert report["passes"]
            for rule in report["violations"]:
                found += [(tab, scheme, rule["impact"], rule["id"], node["target"]) for node in rule["nodes"]]
    filled.emulate_media(color_scheme="light")
    assert [one for one in found if one[2] != "minor"] == []


def test_every_tab_fits_a_phone(filled):
    filled.set_viewport_size({"width": 390, "height": 844})
    wide = {}
    for tab in TABS:
        open_tab(filled, tab)
        wide[tab] = filled.evaluate("document.documentElement.scrollWidth")
    filled.set_viewport_size({"width": 1280, "height": 900})
    assert max(wide.values()) <= 390, wide


STOPS = """() => {
    const wanted = "button, input, select, textarea, summary, a[href], [tabindex='0']";
    return [...document.querySelectorAll(wanted)].filter((one, number) => {
        const box = one.getBoundingClientRect();
        const there = box.width && box.height && one.checkVisibility({ visibilityProperty: true }) && !one.disabled;
        if (!there || one.tabIndex < 0) return false;
        one.dataset.stop = number;
        return true;
    }).map(one => [one.dataset.stop, one.tagName + " " + (one.ariaLabel || one.innerText || one.className)]);
}"""
HERE = """() => {
    const one = document.activeElement, style = getComputedStyle(one);
    const marked = one === document.body || (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2);
    return [one.dataset.stop, marked || one.outerHTML.slice(0, 200)];
}"""


@pytest.mark.parametrize("tab", TABS)
def test_the_keyboard_reaches_everything_and_shows_where_it_is(tab, filled):
    open_tab(filled, tab)
    stops = dict(filled.evaluate(STOPS))
    assert len(stops) > 10
    filled.evaluate("document.activeElement.blur()")
    reached = {}
    for _ in range(len(stops) + 10):
        filled.keyboard.press("Shift+Tab")  # backwards, since leaving the threshold's field has Gradio ask for another analysis
        stop, marked = filled.evaluate(HERE)
        reached[stop] = marked
    assert [words for stop, words in stops.items() if stop not in reached] == []
    assert set(reached.values()) == {True}


def test_a_slice_is_analysed_by_keyboard_and_the_verdict_announced(visit):
    page = visit(1280, 900, reduced_motion="reduce")
    announced = page.locator("#verdict [role=status]")
    announced.evaluate("box => box.dataset.before = 'there'")  # only a region that was there before is read out
    page.get_by_role("button", name="Large lesion").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(VERDICT)
    assert "Tumour" in announced.inner_text()
    assert announced.get_attribute("data-before") == "there"
    page.wait_for_selector("#pictures img")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="↓ Mask").focus()
        page.keyboard.press("Space")
    assert waiting.value.suggested_filename == "large-lesion.mask.png"
    page.locator("button[aria-label='Clear']").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#verdict .verdict.empty")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=re.compile("^Slice .*Click to Upload")).focus()
        page.keyboard.press("Enter")
    chooser.value.set_files(EXAMPLE)
    page.wait_for_selector(VERDICT)


def test_who_wants_no_motion_gets_none(visit):
    page = visit(390, 844, reduced_motion="reduce")
    page.evaluate("void (Element.prototype.scrollIntoView = options => { window.scrolled = options?.behavior; })")
    upload(page, EXAMPLE)
    assert page.wait_for_function("window.scrolled").json_value() == "instant"
    slowest = """Math.max(...[...document.querySelectorAll(".gradio-container *")].flatMap(one => {
        const style = getComputedStyle(one);
        return (style.transitionDuration + "," + style.animationDuration).split(",").map(parseFloat);
    }))"""
    assert page.evaluate(slowest) <= 1e-4  # seconds
