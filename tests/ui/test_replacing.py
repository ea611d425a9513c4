"""A newer input replaces an earlier one, whatever the page is doing."""

import logging
import re
import shutil
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.support.browsing import CHROMIUM, EXAMPLE, REFUSED, STUDY, VERDICT, answer, drag, layout_shift, upload

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


# what is seen of an earlier result, taken at one moment, once the text beside the verdict matches
REPLACED = """(pattern) => {
    const verdict = document.querySelector("#verdict"), results = document.querySelector("#results");
    if (!RegExp(pattern).test(verdict.innerText)) return null;
    const place = (name) => {
        const { x, y, width, height } = document.querySelector(name).getBoundingClientRect();
        return [x, y, width, height];
    };
    return {
        message: verdict.querySelector(".replacing-message")?.innerText,
        verdict: verdict.querySelector("section.verdict h2").checkVisibility({ visibilityProperty: true }),
        inert: results.inert,
        opacity: Number(getComputedStyle(results).opacity),
        places: ["#verdict", "#viewer", "#downloads"].map(place),
    };
}"""
LONG = 480  # slices; long beside the time in which a busy machine receives the next input
PROGRESS = re.compile(r"(\d+)/(\d+) slices")


def long_study(path: Path, volume: Path = STUDY, length: int = LONG) -> Path:
    """A volume of an example many times over."""
    slices = np.asarray(nibabel.load(volume).dataobj)
    nibabel.save(nibabel.Nifti1Image(np.concatenate([slices] * (length // slices.shape[2]), 2), np.diag([1, 1, 1, 1])), path)
    return path


def long_study_of_three_sequences(folder: Path) -> Path:
    """A zip of the three volumes of the example, each many times over."""
    shutil.unpack_archive(EXAMPLE.parent / "study-three.zip", folder / "example")
    (folder / "long").mkdir()
    for volume in (folder / "example").rglob("*.nii.gz"):
        long_study(folder / "long" / volume.name, volume, LONG // 3)
    return Path(shutil.make_archive(str(folder / "study-three"), "zip", folder / "long"))


def shown_progress(page, after: int) -> str:
    """The progress of an analysis once more slices than a number are finished."""
    found = "/(\\d+)\\/\\d+ slices/.exec(document.querySelector('#verdict').innerText)"
    page.wait_for_function(f"(after) => {{ const found = {found}; return found && Number(found[1]) > after; }}", arg=after)
    return page.inner_text("#verdict")


def outcomes(caplog, outcome: str) -> list[str]:
    """The lines of the server's log about requests with an outcome."""
    return [line for line in caplog.messages if line.startswith(f"analyse_tab.analyse {outcome}:")]


def test_files_dropped_during_an_analysis_replace_its_input(visit, tmp_path):
    """Neither the waiting analysis nor the fields of an earlier study's sequences get in the way."""
    page = visit(1440, 900)
    answer(page, "Large lesion")
    page.evaluate(NAMES)
    upload(page, long_study_of_three_sequences(tmp_path))
    shown_progress(page, 0)
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
    assert page.evaluate("window.names") == ["No lesion"]


def test_a_newer_input_ends_a_long_analysis_and_a_visitor_who_waits_is_next(visit, tmp_path, caplog):
    """The visitor who waits sees the position in the queue.

    The remaining time is computed from the progress, so that a busy processor changes both times alike.
    """
    caplog.set_level(logging.INFO, "brainmri")
    pages = [visit(1440, 900) for _ in range(2)]
    for page in pages:
        answer(page, "Large lesion")
    upload(pages[0], long_study(tmp_path / "long.nii.gz"))
    first, (began, _) = PROGRESS.search(shown_progress(pages[0], 0)), (time.monotonic(), upload(pages[1], STUDY))
    pages[1].wait_for_selector(r"#verdict >> text=/queue: \d+\/\d+/")
    later = PROGRESS.search(shown_progress(pages[0], int(first[1])))
    per_slice = (time.monotonic() - began) / (int(later[1]) - int(first[1]))
    remaining = per_slice * (LONG - int(later[1]))
    dropped = time.monotonic()
    upload(pages[0], EXAMPLE.parent / "small-lesion.png")
    while not outcomes(caplog, "superseded") and time.monotonic() - dropped < remaining:
        pages[0].wait_for_timeout(100)
    assert time.monotonic() - dropped < remaining / 2
    assert answer(pages[1], "study-flair.nii.gz").endswith("Tumour")
    assert answer(pages[0], "Small lesion").endswith("Tumour")
    assert len(outcomes(caplog, "superseded")) == 1
    assert not outcomes(caplog, "failed")


@pytest.mark.parametrize("width", [1440, 390])
def test_an_earlier_result_is_dimmed_and_cannot_be_used_while_it_is_replaced(visit, width):
    page, uploads = visit(width, 900), []
    answer(page, "Large lesion")
    before = page.evaluate(REPLACED, "")["places"]
    shift = layout_shift(page)
    page.route("**/gradio_api/upload?*", lambda route: uploads.append(route))
    upload(page, EXAMPLE.parent / "study-three.zip")
    for state in ("being replaced", "Analysing|Writing"):
        seen = page.wait_for_function(REPLACED, arg=state).json_value()
        assert seen["message"].startswith("The earlier result is being replaced"), state
        assert seen["inert"], state
        assert seen["opacity"] < 0.5, state
        assert not seen["verdict"], state
        assert seen["places"] == before, state
        if state == "being replaced":
            while not uploads:
                page.wait_for_timeout(20)
            uploads[0].continue_()
    assert layout_shift(page) - shift < 0.01
    answer(page, "study-three.zip")
    page.wait_for_function("!document.querySelector('#results').inert")
    assert page.is_visible(VERDICT)
    assert page.inner_text("#verdict .replacing-message") == ""
    with page.expect_download():
        page.click("#downloads >> text=All files")


def test_an_analysis_that_begins_after_the_next_drop_shows_nothing(visit, caplog):
    """Its input is not in the list any more, which Gradio's own radio would refuse."""
    caplog.set_level(logging.INFO, "brainmri")
    page, held = visit(1440, 900), []
    answer(page, "Large lesion")

    def hold_analysis(route) -> None:
        wanted = not held and "study-three.zip" in str(route.request.post_data) and "effunet" in str(route.request.post_data)
        held.append(route) if wanted else route.continue_()

    page.route("**/gradio_api/queue/join?*", hold_analysis)
    page.evaluate(NAMES)
    upload(page, EXAMPLE.parent / "study-three.zip")
    while not held:
        page.wait_for_timeout(20)
    upload(page, EXAMPLE.parent / "frontal-lesion.png", EXAMPLE.parent / "healthy-high.png")
    answer(page, "frontal-lesion.png")
    held[0].continue_()
    page.wait_for_timeout(2000)  # nothing may follow
    assert page.evaluate("window.names") == ["frontal-lesion.png"]
    assert answer(page, "frontal-lesion.png").endswith("Tumour")
