"""Where things are on the page, and that they stay there."""

import pytest
from PIL import Image, ImageOps

from tests.support.browsing import CHROMIUM, EXAMPLE, REFUSED, STUDY, answer, drag, layout_shift, open_tab, upload

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt install chromium)"),
]
HEIGHT = "document.querySelector('#verdict').offsetHeight"
# counts how often a refusal is hidden again
COUNT_HIDDEN = """() => {
    const panes = document.querySelector("#panes");
    window.hidden = 0;
    new MutationObserver(() => {
        window.hidden += panes.matches(".replacing") && document.querySelector("#verdict .refused") !== null;
    }).observe(panes, { attributeFilter: ["class"] });
}"""

# the number of lines of text in each of some elements
LINES = """(elements) => elements.map((element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    return range.getClientRects().length;
})"""


@pytest.fixture
def pictures(tmp_path):
    """A photograph, and slices whose answers have two and four notes."""
    head = Image.open(EXAMPLE.parent / "flair-only.png").convert("L").rotate(180)
    head.save(tmp_path / "two-notes.png")
    page = Image.new("L", (700, 700), 128)
    page.paste(ImageOps.invert(head).resize((420, 420)), (140, 140))
    page.save(tmp_path / "four-notes.png")
    Image.effect_noise((256, 256), 80).convert("RGB").save(tmp_path / "noise.png")
    return tmp_path


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_an_answer_replaces_another_without_moving_what_is_below(width, height, visit, pictures, short_study, short_three):
    """The visitor sees the lower part of the box and the upper part of the viewer, where a move is largest."""
    page = visit(width, height)
    answer(page, "Large lesion")
    box, examples = page.evaluate(HEIGHT), EXAMPLE.parent
    for path, usual in (
        (examples / "small-lesion.png", True),
        (examples / "flair-only.png", True),  # with a note
        (examples / "healthy-high.png", True),
        (short_study, True),
        (short_three, True),
        (EXAMPLE, True),
        (pictures / "noise.png", True),  # for review, without facts
        (pictures / "two-notes.png", False),
        (short_study, True),
        (pictures / "four-notes.png", False),
        (examples / "healthy-high.png", True),
    ):
        page.evaluate("scrollTo(0, 450)")
        page.wait_for_timeout(100)
        before = layout_shift(page)
        upload(page, path)
        answer(page, path.name)
        page.wait_for_timeout(500)  # whatever moves next is counted
        assert layout_shift(page) - before < 0.1, path.name
        assert page.evaluate(HEIGHT) == box or not usual, path.name


def test_folded_notes_are_printed(visit, pictures):
    page = visit(1440, 900)
    upload(page, pictures / "four-notes.png")
    answer(page, "four-notes.png")
    last = page.locator("#verdict .warning >> text=turned by 180°")
    assert not last.is_visible()
    page.evaluate(
        "addEventListener('beforeprint', () => { window.open_notes = document.querySelector('#verdict details').open; })"
    )
    page.pdf()
    assert page.evaluate("window.open_notes")
    assert not last.is_visible()
    page.click("#verdict summary >> text=2 more notes")
    assert last.is_visible()


def test_a_refusal_stays_in_sight_while_an_earlier_explanation_ends(visit, tmp_path):
    page = visit(1440, 900)
    upload(page, STUDY)
    answer(page, STUDY.name)  # its explanation is still computed
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 broken")
    page.evaluate(COUNT_HIDDEN)
    upload(page, tmp_path / "broken.zip")
    page.wait_for_selector(f"{REFUSED} >> text=broken.zip is damaged")
    page.wait_for_timeout(2000)  # nothing else may follow
    assert page.evaluate("window.hidden") == 0
    upload(page, EXAMPLE)
    assert "Tumour" in answer(page, EXAMPLE.name)


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_a_comparison_neither_scrolls_the_page_nor_takes_the_focus(width, height, visit, short_study):
    page = visit(width, height)
    open_tab(page, "Compare")
    for path in (None, short_study):
        if path:
            page.set_input_files("#compare-drop input[type=file]", path)
            page.wait_for_selector(f"#comparison-table >> text={path.name}")
        else:
            page.click("#compare-example")
        page.wait_for_function("document.querySelector('#comparison-pictures img')?.naturalWidth")
        page.wait_for_timeout(500)  # nothing else may follow
        assert page.evaluate("[scrollY, document.activeElement.id]") == [0, "compare-example"]
        assert page.locator("#comparison-pictures .thumbnails").is_visible() == (path is not None)
        picture = page.locator("#comparison-pictures .preview > button").bounding_box()
        frame = page.locator("#comparison-pictures .preview").bounding_box()
        assert (picture["height"] > frame["height"] - 5) == (path is None)  # an only picture fills the frame
    page.click("#comparison-pictures .thumbnail-small >> nth=1")
    page.keyboard.press("ArrowRight")
    selected = "document.activeElement === document.querySelectorAll('#comparison-pictures .thumbnail-small')[2]"
    page.wait_for_function(f"{selected} && document.activeElement.matches('.selected')")


@pytest.mark.parametrize("width", [1250, 1099, 1000, 901, 700, 390])
def test_a_narrow_window_is_used_in_full_with_the_drop_zones_words_in_one_line(width, visit):
    page = visit(width, 900)
    answer(page, "Large lesion")
    places = page.evaluate("['#drop', '#verdict'].map((name) => document.querySelector(name).getBoundingClientRect().toJSON())")
    assert min(place["left"] for place in places) < 40
    assert max(place["right"] for place in places) > width - 40
    words = page.locator("#drop .upload-container .wrap")
    assert "click to choose" in words.inner_text()
    height, line = words.evaluate("""(element) => {
        const range = document.createRange();
        range.selectNodeContents(element);
        return [range.getBoundingClientRect().height, parseFloat(getComputedStyle(element).lineHeight)];
    }""")
    assert height < 1.5 * line


def test_the_pictures_of_a_folder_are_listed_in_the_order_of_their_numbers(visit, tmp_path):
    page = visit(1440, 900)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in (10, 1, 11, 2):
        Image.open(EXAMPLE).resize((256 + number, 256)).save(folder / f"image({number}).png")
    drag(page, folder)
    answer(page, "image(1).png")
    labels = page.locator("#items label").all_inner_texts()
    assert [label.strip() for label in labels] == [f"image({number}).png" for number in (1, 2, 10, 11)]
    page.click("button:has-text('Analyse all')")
    names = page.locator("#rows tbody th")
    names.first.wait_for()
    lines = names.evaluate_all(LINES)
    assert lines == [1, 1, 1, 1]  # no name is broken
