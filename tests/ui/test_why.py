"""The explanation of a result: after an analysis, behind a link, and on ZeroGPU."""

from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

import brainmri
from brainmri.analysis.findings import Decision
from brainmri.io.reading import read_study
from brainmri.ui import analyse_tab
from brainmri.ui.inference import likeliest_slice
from brainmri.ui.page import build
from brainmri.ui.result_panel import NOT_EXPLAINED
from brainmri.ui.results import keep_result, kept_path
from brainmri.ui.why import Question, keep_question, kept_question, kept_why
from brainmri.zoo.registry import DEFAULT
from tests.support.browsing import CHROMIUM, EXAMPLE, STUDY, answer, upload

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt install chromium)"),
]
EXPLAINED = "#explanation >> text=/strongest evidence/"
ASK = "button:has-text('Explain the result')"
# what the Why section shows: its sentence, and the captions of its pictures
SHOWN = "[...document.querySelectorAll('#explanation, #evidence .caption-label')].map(one => one.innerText)"


def explanation(page) -> list:
    page.wait_for_selector(EXPLAINED)
    page.wait_for_function("[...document.querySelectorAll('#evidence img')].filter(image => image.naturalWidth).length === 2")
    page.wait_for_selector(ASK, state="hidden")
    return page.evaluate(SHOWN)


def link_to_result(page) -> tuple[str, str]:
    """The link to the result that is shown, and its token."""
    link = page.evaluate("document.querySelector('#link a').href")
    return link, link.partition("result=")[2]


def test_a_link_shows_the_explanation_too(visit, short_study):
    page = visit(1440, 900)
    for path in (EXAMPLE, short_study):
        upload(page, path)
        answer(page, path.name)
        shown, (link, token) = explanation(page), link_to_result(page)
        kept = page.context.new_page()
        kept.goto(link)
        answer(kept, path.name)
        assert explanation(kept) == shown

        kept_path(token, "why.json").unlink()  # as when the link is opened before the explanation is computed
        kept.goto(link)
        kept.wait_for_selector("#explanation >> text=This result has not been explained yet.")
        kept.wait_for_selector("#evidence img", state="hidden")
        kept.click(ASK)
        assert explanation(kept) == shown

        kept_path(token, "why.json").unlink()
        kept_path(token, "question.npz").unlink()  # as when the result expires while the page is open
        kept.goto(link)
        answer(kept, path.name)
        kept.wait_for_selector("#why", state="hidden")
        kept.close()


def test_a_reopened_result_has_no_input_to_analyse(visit):
    page = visit(1440, 900)
    upload(page, EXAMPLE)
    verdict = answer(page, EXAMPLE.name)
    kept = page.context.new_page()
    kept.goto(link_to_result(page)[0])
    answer(kept, EXAMPLE.name)
    kept.wait_for_load_state("networkidle")
    kept.click("button:has-text('Analyse'):visible >> nth=-1")  # would be the first example, which the page starts with
    kept.wait_for_selector("[data-testid=toast-text] >> text=Please drop a file or pick an example first.")
    assert answer(kept, EXAMPLE.name) == verdict


def test_a_forged_result_is_answered_by_a_message():
    explain = next(one.fn for one in build().fns.values() if one.name == "explain")
    shown = explain([], None, "../../etc/passwd", SimpleNamespace(session_hash="forged"))
    assert NOT_EXPLAINED in shown.values()


def test_a_study_is_explained_with_its_analysis_on_zero_gpu(visit, short_study, monkeypatch):
    monkeypatch.setattr(analyse_tab, "ZERO_GPU", True)  # its calls run here instead
    page = visit(1440, 900)
    upload(page, short_study)
    answer(page, short_study.name)
    page.wait_for_function("document.querySelector('#link a').href")
    assert kept_why(link_to_result(page)[1]) is not None  # a call of its own would wait for a GPU again
    assert explanation(page)[0].startswith("Slice ")


def test_a_slice_is_explained_with_the_spacing_and_the_sequence_of_its_study(tmp_path):
    tall = tmp_path / "head_FLAIR.nii.gz"
    volume = nibabel.load(STUDY)
    nibabel.save(nibabel.Nifti1Image(np.asarray(volume.dataobj), volume.affine @ np.diag([1, 2, 1, 1])), tall)
    scan = read_study(tall)
    study = brainmri.Pipeline(device="cpu").study(scan)
    token = keep_result({})
    decision = Decision.of(study.findings[study.most_probable])
    likeliest = likeliest_slice(scan, study)
    keep_question(token, Question(scan=likeliest, decision=decision, segmenter=DEFAULT, classifier=DEFAULT, sequence="FLAIR"))
    kept = kept_question(token)
    one = kept.scan
    assert (kept.segmenter, kept.classifier, kept.sequence, kept.where) == (DEFAULT, DEFAULT, "FLAIR", "")
    assert kept.decision.probability == decision.probability
    assert one.geometry.spacing == scan.geometry.spacing == (5.0, 2.0, 1.0)
    assert one.single_sequence == "FLAIR"
    assert (one.pixels == scan.pixels[study.most_probable]).all()
    assert (kept.decision.mask == decision.mask).all()
