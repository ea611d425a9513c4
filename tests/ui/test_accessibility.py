"""The page by keyboard and for screen readers, on a phone, in light and dark, and without motion."""

import re

import pytest

from tests.support.browsing import CHROMIUM, EXAMPLE, VERDICT, open_tab, study_verdict, upload, visiting

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt install chromium)"),
]


TABS = ("Slice", "Study", "Compare", "Models")


def fill(page, tab: str) -> None:
    """Open a tab and show every result it has."""
    open_tab(page, tab)
    if tab == "Slice":
        upload(page, EXAMPLE)
        page.wait_for_selector("#explanation >> text=the area stays within")
    elif tab == "Study":
        page.click("#study-example")
        study_verdict(page)
    elif tab == "Compare":
        page.click("#compare-example")
        page.wait_for_selector("#comparison-pictures img >> nth=2")
    else:
        page.click("#selfcheck")
        page.wait_for_selector("#selfcheck-answer p")
    folded = "button.label-wrap:not(.open):visible, #study-viewer summary:visible, #model summary:visible"
    page.locator(folded).evaluate_all("all => all.forEach(one => one.click())")


@pytest.fixture(scope="module")
def filled(browser, page_url):
    """The page with every tab filled, with reduced motion, so that nothing is half faded in."""
    with visiting(browser, page_url) as visit:
        page = visit(1280, 900, reduced_motion="reduce")
        for tab in TABS:
            fill(page, tab)
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
def test_the_keyboard_reaches_every_control_with_visible_focus(tab, filled):
    open_tab(filled, tab)
    stops = dict(filled.evaluate(STOPS))
    assert len(stops) > 10
    filled.evaluate("document.activeElement.blur()")
    reached = {}
    for _ in range(len(stops) + 10):
        filled.keyboard.press("Shift+Tab")  # backwards, since leaving the threshold's field starts another analysis
        stop, marked = filled.evaluate(HERE)
        reached[stop] = marked
    assert [words for stop, words in stops.items() if stop not in reached] == []
    assert set(reached.values()) == {True}


def test_a_slice_is_analysed_by_keyboard_and_the_verdict_announced(visit):
    page = visit(1280, 900, reduced_motion="reduce")
    announced = page.locator("#verdict [role=status]")
    announced.evaluate("box => box.dataset.before = 'there'")  # screen readers announce only changes of an existing region
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


def test_reduced_motion_is_respected(visit):
    page = visit(390, 844, reduced_motion="reduce")
    page.evaluate("void (Element.prototype.scrollIntoView = options => { window.scrolled = options?.behavior; })")
    upload(page, EXAMPLE)
    assert page.wait_for_function("window.scrolled").json_value() == "instant"
    slowest = """Math.max(...[...document.querySelectorAll(".gradio-container *")].flatMap(one => {
        const style = getComputedStyle(one);
        return (style.transitionDuration + "," + style.animationDuration).split(",").map(parseFloat);
    }))"""
    assert page.evaluate(slowest) <= 1e-4  # seconds
