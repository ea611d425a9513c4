"""Uploads that fail: the connection is cut, or the server refuses the files."""

import pytest

from brainmri.ui.blocks import DISK_FULL
from brainmri.ui.cache import limit_size
from tests.support.browsing import CHROMIUM, EXAMPLE, VERDICT, answer, layout_shift, open_tab, upload

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt install chromium)"),
]
SMALL = EXAMPLE.parent / "small-lesion.png"
MESSAGE = ".upload-message:visible"
CUT = "The upload failed: the connection was cut. Please check it and drop the files again."
FITS = "message => message.scrollHeight <= message.clientHeight"


@pytest.fixture
def open_page(browser, page_url):
    """The page in a window of a width; unlike in other tests, the browser may report errors."""
    contexts = []

    def open_page(width: int):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.goto(page_url)
        answer(page, "Large lesion")
        return page

    yield open_page
    for context in contexts:
        context.close()


def assert_nothing_changed(page) -> None:
    """The earlier result is shown and can be used."""
    page.wait_for_function("!document.querySelector('.replacing') && !document.querySelector('#results').inert", timeout=2000)
    assert "Tumour" in page.inner_text(VERDICT)
    assert page.inner_text("#current b") == "Large lesion"


@pytest.mark.parametrize("width", [1440, 390])
def test_a_cut_connection_is_explained_and_the_next_upload_works(open_page, width):
    page = open_page(width)
    shift = layout_shift(page)
    page.route("**/gradio_api/upload?*", lambda route: route.abort("connectionreset"))
    upload(page, SMALL)
    message = page.wait_for_selector(f"#drop {MESSAGE}")
    assert (message.inner_text(), message.get_attribute("role")) == (CUT, "alert")
    assert message.evaluate(FITS)
    assert_nothing_changed(page)
    page.wait_for_selector("[data-testid=toast-text] >> text=The connection was cut. Please check it and try again.")
    assert layout_shift(page) - shift < 0.01
    page.wait_for_timeout(3000)  # it stays
    assert page.inner_text(f"#drop {MESSAGE}") == CUT
    page.unroute_all()
    upload(page, SMALL)
    answer(page, SMALL.name)
    page.wait_for_selector(MESSAGE, state="hidden")
    assert "Error" not in page.inner_text("#drop")


def test_a_refusal_of_the_server_is_explained(open_page, tmp_path):
    page = open_page(390)
    (tmp_path / "upload").write_bytes(b"new")
    limit_size(tmp_path, max_bytes=0)  # files that may be in use exceed the limit, so uploads are refused
    upload(page, SMALL)
    message = page.wait_for_selector(f"#drop {MESSAGE}")
    assert message.inner_text() == f"The upload failed. {DISK_FULL}"
    assert message.evaluate(FITS)
    assert_nothing_changed(page)
    limit_size(tmp_path)
    open_tab(page, "Compare")
    page.route("**/gradio_api/upload?*", lambda route: route.fulfill(status=502, content_type="text/html", body="<h1>nginx"))
    page.set_input_files("#compare-drop input[type=file]", SMALL)
    page.wait_for_selector("#compare-drop >> text=The upload failed (error 502). Please try again later.")
