"""A newer input replaces an earlier one, whatever the page is doing."""

import pytest

from tests.support.browsing import CHROMIUM, EXAMPLE, REFUSED, answer, drag, upload

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt install chromium)"),
]

# collects the names of the inputs whose results are shown after the present one
NAMES = """() => {
    const name = () => document.querySelector("#current b")?.textContent, present = name();
    window.names = [];
    new MutationObserver(() => { if (![present, ...window.names].includes(name())) window.names.push(name()); })
        .observe(document.querySelector("#current"), { subtree: true, childList: true, characterData: true });
}"""


def test_files_dropped_during_an_analysis_replace_its_input(visit):
    """Neither the waiting analysis nor the fields of an earlier study's sequences get in the way."""
    page = visit(1440, 900)
    answer(page, "Large lesion")
    page.evaluate(NAMES)
    upload(page, EXAMPLE.parent / "study-three.zip")
    page.wait_for_selector("#verdict >> text=/Reading|Analysing|queue/")
    upload(page, EXAMPLE.parent / "frontal-lesion.png", EXAMPLE.parent / "healthy-high.png")
    page.wait_for_selector("#current >> text=frontal-lesion.png")
    page.wait_for_timeout(2000)  # nothing else may follow
    assert "Tumour" in answer(page, "frontal-lesion.png")
    assert not page.is_visible(REFUSED)
    assert page.evaluate("window.names") == ["frontal-lesion.png"]


def test_the_last_of_several_drops_during_an_upload_is_analysed(visit):
    page, uploads = visit(1440, 900), []
    answer(page, "Large lesion")
    page.evaluate(NAMES)
    page.route("**/gradio_api/upload?*", lambda route: uploads.append(route) if not uploads else route.continue_())
    drag(page, EXAMPLE.parent / "small-lesion.png")
    page.wait_for_selector("#drop input[type=file]", state="detached")
    for name in ("flair-only.png", "healthy-high.png"):
        drag(page, EXAMPLE.parent / name)
    page.wait_for_timeout(300)
    uploads[0].continue_()
    assert answer(page, "healthy-high.png").endswith("No tumour")
    page.wait_for_selector("#explanation >> text=/outlin/")
    assert page.evaluate("window.names") == ["healthy-high.png"]
