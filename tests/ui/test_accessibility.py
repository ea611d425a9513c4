"""The page by keyboard and for screen readers, on a phone, in light and dark, and without motion."""

import re
from pathlib import Path

import pytest

from tests.support.browsing import CHROMIUM, EXAMPLE, REFUSED, VERDICT, answer, open_tab, upload, visiting

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt install chromium)"),
]


TABS = ("Analyse", "Compare", "Models")


def fill(page, tab: str, *studies: Path) -> None:
    """Open a tab and show every result it has."""
    open_tab(page, tab)
    if tab == "Analyse":
        upload(page, *studies)  # a list of two studies; the last one is shown, with the fields of its sequences
        answer(page, studies[-1].name)
    elif tab == "Compare":
        page.click("#compare-example")
        page.wait_for_selector("#comparison-pictures img")
    else:
        page.wait_for_selector("#overview >> text=/ ms/")
        page.click("#selfcheck")
        page.wait_for_selector("#selfcheck-answer p")
    folded = "button.label-wrap:not(.open):visible, #viewer summary:visible, #model summary:visible"
    page.locator(folded).evaluate_all("all => all.forEach(one => one.click())")


@pytest.fixture(scope="module")
def filled(browser, page_url, short_study, short_three):
    """The page with every tab filled, with reduced motion, so that nothing is half faded in."""
    with visiting(browser, page_url) as visit:
        page = visit(1440, 900, reduced_motion="reduce")
        for tab in TABS:
            fill(page, tab, short_study, short_three)
        yield page


def test_every_tab_is_accessible_in_light_and_dark(filled, axe):
    filled.evaluate(axe)
    found = []
    # dark mode differs in colours only
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
    assert found == []


def test_first_screen_refusal_and_list_are_accessible(visit, axe, tmp_path):
    page = visit(1440, 900, reduced_motion="reduce")

    def violations() -> list[tuple]:
        page.evaluate(axe)
        report = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        return [(rule["id"], node["target"]) for rule in report["violations"] for node in rule["nodes"]]

    answer(page, "Large lesion")
    assert violations() == []
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 broken")
    upload(page, tmp_path / "broken.zip")
    page.wait_for_selector(REFUSED)
    page.wait_for_selector(".replacing", state="detached")  # until then the earlier input is dimmed
    assert violations() == []
    upload(page, EXAMPLE, EXAMPLE.parent / "healthy-high.png")
    answer(page, EXAMPLE.name)
    assert violations() == []


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
        if (one.type === "radio" && !one.checked) return false; // arrow keys reach the others of a group
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
def test_the_keyboard_reaches_every_control_with_visible_focus(tab, filled):
    open_tab(filled, tab)
    stops = dict(filled.evaluate(STOPS))
    assert len(stops) > 10
    filled.evaluate("document.activeElement.blur()")
    reached = {}
    for _ in range(len(stops) + 10):
        filled.keyboard.press("Shift+Tab")
        stop, marked = filled.evaluate(HERE)
        reached[stop] = marked
    assert [words for stop, words in stops.items() if stop not in reached] == []
    assert set(reached.values()) == {True}


def test_a_slice_is_analysed_by_keyboard_and_the_verdict_announced(visit):
    page = visit(1440, 900, reduced_motion="reduce")
    announced = page.locator("#verdict [role=status]")
    announced.evaluate("box => box.dataset.before = 'there'")  # screen readers announce only changes of an existing region
    page.get_by_role("button", name="No lesion", exact=True).focus()
    page.keyboard.press("Enter")
    assert answer(page, "healthy-high.png").endswith("No tumour")
    assert "No tumour" in announced.inner_text()
    assert announced.get_attribute("data-before") == "there"
    with page.expect_download() as waiting:
        page.locator("#downloads a, #downloads button").first.focus()
        page.keyboard.press("Enter")
    assert waiting.value.suggested_filename == "healthy-high.zip"
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=re.compile("^Slice, volume.*click to choose")).focus()
        page.keyboard.press("Enter")
    chooser.value.set_files(EXAMPLE)
    answer(page, EXAMPLE.name)
    assert "Tumour" in announced.inner_text()


def test_reduced_motion_is_respected(visit):
    page = visit(390, 844, reduced_motion="reduce")
    page.wait_for_selector(VERDICT)
    slowest = """Math.max(...[...document.querySelectorAll(".gradio-container *")].flatMap(one => {
        const style = getComputedStyle(one);
        return (style.transitionDuration + "," + style.animationDuration).split(",").map(parseFloat);
    }))"""
    assert page.evaluate(slowest) <= 1e-4  # seconds
