"""What the page shows beside the verdict, by the kind of input and result."""

import re

import pytest
from PIL import Image
from skimage import data

from tests.support.browsing import CAPTION, CHROMIUM, EXAMPLE, REFUSED, STUDY, VERDICT, answer, upload

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt install chromium)"),
]

# what can be pressed for any input
EVER = {"Full screen", "Three planes", "‹", "›", "Display", "Print or PDF", "Record and provenance"}


# pixels between the end of the results and the last of them
ROOM_BELOW = """(() => {
    const results = document.querySelector("#results"), bottom = (element) => element.getBoundingClientRect().bottom;
    return bottom(results) - Math.max(...[...results.children].map(bottom));
})()"""


def test_what_is_no_brain_is_shown_without_tools_that_suggest_a_result(visit, tmp_path):
    page = visit(1440, 900)
    for name in ("one", "case_1", "case_2", "case_3"):
        Image.fromarray(data.astronaut()).save(tmp_path / f"{name}.png")
    for names, caption in ((["one"], "Please review"), (["case_1", "case_2", "case_3"], "Slice")):
        upload(page, *(tmp_path / f"{name}.png" for name in names))
        assert "review" in answer(page, names[0].split("_")[0])
        assert re.search("does not look like|do not look like", page.inner_text("#verdict"))
        assert page.inner_text(CAPTION).startswith(caption)
        assert "outlined" not in page.inner_text(CAPTION)
        page.wait_for_selector("#downloads >> text=All files", state="hidden")
        texts = page.locator("#answer :is(button, summary):visible").all_inner_texts()
        offered = {text.removesuffix("\n▼") for text in texts}
        assert offered <= EVER, offered
        assert page.locator("#answer :is(.scale, .study-chart, .viewer-rotation, .montage, table):visible").count() == 0
        page.wait_for_function(ROOM_BELOW + " < 20")  # none is kept for the longer result before
        page.focus("#viewer .viewer-pane")
        for _ in range(3):
            page.keyboard.press("v")
        assert page.get_attribute("#viewer [data-view=heat]", "aria-pressed") == "false"
    upload(page, EXAMPLE)  # the tools return
    answer(page, EXAMPLE.name)
    page.wait_for_selector("#viewer [data-view=heat]")
    page.wait_for_selector("#downloads >> text=All files")


def test_an_example_keeps_its_label_and_shows_its_file_name(visit):
    page = visit(1440, 900)
    answer(page, "Large lesion")
    assert page.inner_text("#current b") == "Large lesion"
    assert "large-lesion.png" in page.inner_text("#current")
    for number, label, name in ((1, "Small lesion", "small-lesion.png"), (4, "Study, large lesion", STUDY.name)):
        page.click(f"#examples button >> nth={number}")
        answer(page, name)
        assert page.inner_text("#current b") == label


def test_a_file_with_an_examples_name_gets_neither_its_label_nor_its_mark(visit, tmp_path):
    page = visit(1440, 900)
    own, copy = tmp_path / "large-lesion.png", tmp_path / "renamed.png"
    own.write_bytes((EXAMPLE.parent / "flair-only.png").read_bytes())
    Image.open(own).rotate(3).save(own)  # a visitor's own picture
    copy.write_bytes(EXAMPLE.read_bytes())
    upload(page, own)
    page.wait_for_selector("#current b:text('large-lesion.png')")
    page.wait_for_selector("#examples .selected", state="detached")
    upload(page, copy)
    page.wait_for_selector("#current >> text=renamed.png")
    assert page.inner_text("#current b") == "Large lesion"
    assert page.locator("#examples .selected").get_attribute("aria-label") == "Large lesion"


def test_the_verdict_has_no_large_gap_on_one_side(visit, tmp_path):
    page = visit(1440, 900)
    Image.fromarray(data.astronaut()).save(tmp_path / "one.png")
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 broken")
    for path in (EXAMPLE, STUDY, tmp_path / "one.png", tmp_path / "broken.zip"):
        upload(page, path)
        page.wait_for_selector(f"#current >> text={path.name}")
        page.wait_for_function("!document.querySelector('.replacing')")
        box, head = page.locator("#verdict .verdict").bounding_box(), page.locator(VERDICT).bounding_box()
        last = page.locator("#verdict .verdict > :last-child").bounding_box()
        above, below = head["y"] - box["y"], box["y"] + box["height"] - last["y"] - last["height"]
        assert abs(above - below) < 20, path.name


def test_a_phone_shows_the_chosen_card_and_does_not_scroll_the_page(visit):
    page = visit(390, 844)
    answer(page, "Large lesion")
    strip, edge = page.locator("#examples .grid-container"), 390 - 16 - 3.5 * 16  # where the fade begins
    for name, label in (("study-three.zip", "Study, three sequences"), ("large-lesion.png", "Large lesion")):
        upload(page, EXAMPLE.parent / name)
        page.wait_for_selector(f"#examples .selected[aria-label='{label}']")
        page.wait_for_timeout(200)
        card = page.locator("#examples .selected").bounding_box()
        assert card["x"] >= 16
        assert card["x"] + card["width"] <= edge + 1
    assert strip.evaluate("strip => strip.scrollLeft") == 0  # back at the first card
    half = page.locator("#examples button >> nth=4").bounding_box()
    page.mouse.click(half["x"] + 10, half["y"] + 10)
    page.wait_for_selector("#examples .selected[aria-label='Study, large lesion']")
    page.wait_for_timeout(200)
    card = page.locator("#examples .selected").bounding_box()
    assert card["x"] + card["width"] <= edge + 1
    assert page.evaluate("scrollY") == 0


def test_refusals_stand_in_the_box_and_stay(visit, tmp_path):
    page = visit(1440, 900)
    (tmp_path / "notes.png").write_text("not a picture", encoding="utf-8")
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 broken")
    (tmp_path / "notes (1) <b>&.txt").write_text("Dear doctor,", encoding="utf-8")
    (tmp_path / "cut.nii.gz").write_bytes(STUDY.read_bytes()[:100_000])
    for name, reason in (
        ("notes.png", "notes.png is not an image. Please upload a PNG, JPEG, TIFF, WebP or BMP slice."),
        ("broken.zip", "broken.zip is damaged. Please copy or download it again."),
        ("notes (1) <b>&.txt", "notes (1) <b>&.txt is not an MRI file. Please upload a PNG,"),
        ("cut.nii.gz", "cut.nii.gz: got a damaged volume file"),
    ):
        upload(page, tmp_path / name)
        page.wait_for_selector(f"{REFUSED} >> text={reason}")
        page.wait_for_selector(f"#current >> text={name}")
        page.wait_for_selector(CAPTION, state="hidden")
        page.wait_for_selector("#examples .selected", state="detached")
    page.click("button:has-text('Analyse'):visible >> nth=-1")  # the same file again
    page.wait_for_timeout(1000)
    assert page.is_visible(REFUSED)
    upload(page, tmp_path / "broken.zip")
    page.wait_for_selector(damaged := f"{REFUSED} >> text=broken.zip is damaged")
    page.click("button:has-text('Analyse'):visible >> nth=-1")
    page.wait_for_selector("[data-testid=toast-text] >> text=Please drop a file or pick an example first")
    assert page.is_visible(damaged)
    upload(page, EXAMPLE)
    assert "Tumour" in answer(page, EXAMPLE.name)
