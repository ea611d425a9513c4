"""The box with the answer, and the stored result of the first example."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from brainmri.analysis.coverage import READ_AS_FLAIR
from brainmri.analysis.decision import decide_slice
from brainmri.analysis.findings import NO_TUMOUR, REVIEW, TUMOUR, Finding
from brainmri.analysis.frame import Panel
from brainmri.analysis.preparation import View
from brainmri.analysis.recognition import Recognised, Recognition
from brainmri.io.scan import Geometry, Scan
from brainmri.report.viewer import slice_viewer
from brainmri.ui.answer import (
    head_share,
    probability_scale,
    refusal,
    slice_answer,
    slice_size,
    study_answer,
    study_size,
    study_view,
)
from brainmri.ui.examples import EXAMPLES, first_result
from brainmri.ui.inference import set_available_models
from brainmri.ui.results import pack_study
from brainmri.zoo.ood import OodResult
from tests.support.viewing import results

ROLES = {role: {"name": "effunet-any"} for role in ("segmenter", "classifier")}
PROVENANCE = {"review_band": [0.1, 0.9]} | ROLES


def words(html: str) -> str:
    return unescape(" ".join(re.sub("<[^>]+>", " ", html).split()))


@pytest.fixture
def slice_result():
    """Return a function that makes a slice with a head of 60 x 60 pixels, and a finding of 10 x 10 on the image's left."""

    def make(**changes) -> tuple[Scan, Finding]:
        pixels, mask = np.zeros((100, 100, 3), np.float32), np.zeros((100, 100), bool)
        pixels[20:80, 20:80], mask[40:50, 25:35] = 0.5, True
        fields = {
            "verdict": TUMOUR, "reason": "Because.", "probability": 0.97, "mask": mask,
            "probability_map": mask.astype(np.float32), "area_px": 100, "area_mm2": None, "recognition": None,
            "ood": None, "warnings": ("<b>note</b>",), "provenance": PROVENANCE, "view": View.whole(100, 100),
        }  # fmt: skip
        return Scan(pixels=pixels, name="slice.png", sha256="0" * 64), Finding(**fields | changes)

    return make


def test_a_slice_is_answered_at_a_glance(slice_result):
    scan, finding = slice_result(warnings=("<b>note</b>", READ_AS_FLAIR))
    shown = words(slice_answer(scan, finding))
    assert shown.startswith("▲ Tumour 97% probability of tumour no tumour review: 10 to 90% tumour")
    assert "Size 100 pixels, 3% of the head in this slice" in shown
    assert '<div class="model-mask"><dt>Size</dt>' in slice_answer(scan, finding)  # not printed beside another mask's area
    assert "Side left half of the image (usually the patient's right)" in shown
    assert "Sequence FLAIR (assumed for a greyscale image)" in shown
    assert "Note: <b>note</b>." in shown  # escaped in the HTML


def test_notes_beyond_the_first_ones_are_folded_if_there_are_many(slice_result):
    notes = tuple(f"note {number}" for number in range(1, 7))
    for number in (2, 3):
        shown = slice_answer(*slice_result(warnings=notes[:number]))
        assert "<details>" not in shown
        assert words(shown).count("Note: ") == number
    open_part, folded = slice_answer(*slice_result(warnings=notes)).split("<details>")
    assert words(open_part).endswith("Note: note 1. Note: note 2.")
    assert words(folded) == "4 more notes Note: note 3. Note: note 4. Note: note 5. Note: note 6."


def test_the_deciding_model_is_shown_by_the_name_people_know(slice_result):
    default, mixed = "Any sequence and plane (effunet-any)", {"classifier": {"name": "resnet50-lgg"}}
    special = [{"specialist": {"name": "effunet-lite2-lgg", "decided": decided}} for decided in (False, True)]
    for changes, name in (
        ({}, default),
        (mixed, f"{default}, verdict by The paper's classifier (resnet50-lgg)"),
        (special[0], default),
        (special[1], "Gliomas only (effunet-lite2-lgg)"),
    ):
        assert f"Model {name} Because." in words(slice_answer(*slice_result(provenance=PROVENANCE | changes)))


def test_size_and_side_are_those_of_the_slice_on_a_page_and_inverted(slice_result):
    scan, finding = slice_result()
    shown = words(slice_answer(scan, finding))
    page = np.ones((140, 400, 3), np.float32)
    page[20:120, 240:340] = scan.pixels  # in the right half of the page
    mask = np.zeros(page.shape[:2], bool)
    mask[20:120, 240:340] = finding.mask
    view = View(head=np.ones(1, bool), panel=Panel(box=(20, 240, 100, 100), page=np.zeros((100, 100), bool)))
    for pixels, taken in ((page, view), (1 - page, replace(view, inverted=True))):
        found = words(slice_answer(replace(scan, pixels=pixels), replace(finding, mask=mask, view=taken)))
        assert found == shown
    sheet = words(slice_answer(scan, replace(finding, view=None)))
    assert "Size 100 pixels Sequence" in sheet  # neither a share of one head nor a side


def test_flair_is_shown_only_where_the_model_takes_the_slice_for_it(slice_result):
    # a model of another single sequence, which gives no such warning
    assert "Sequence not recognised" in words(slice_answer(*slice_result()))


def test_the_sequence_is_the_one_that_the_visitor_named(slice_result):
    shown = words(slice_answer(*slice_result(provenance=PROVENANCE | {"sequence": "T1c"})))
    assert "Sequence post-contrast T1 Side" in shown


def test_what_a_network_recognises_is_shown(slice_result):
    recognition = Recognition(
        sequence=Recognised(name="T1c", probability=0.83), plane=Recognised(name="sagittal", probability=0.9),
        kind=Recognised(name="meningioma", probability=0.7),
    )  # fmt: skip
    shown = words(slice_answer(*slice_result(recognition=recognition)))
    assert "Sequence post-contrast T1 (83%) change Plane sagittal (90%) Kind meningioma (70%)" in shown
    pituitary = Recognition(sequence=Recognised(name="T1c", probability=1), kind=Recognised(name="pituitary", probability=0.7))
    assert "Kind pituitary tumour (70%)" in words(slice_answer(*slice_result(recognition=pituitary)))
    assert "Side" not in shown  # a sagittal slice has none
    assert "Sequence not recognised change" in words(slice_answer(*slice_result(recognition=Recognition())))
    three = Recognition(sequence=Recognised(name="three sequences", probability=1.0))
    assert "change" not in words(slice_answer(*slice_result(recognition=three)))


def test_nothing_is_measured_and_recognised_in_what_is_no_brain(slice_result):
    strange = OodResult(distance=9.0, other_log_odds=9.0, reason="No brain.")
    seen = Recognition(sequence=Recognised(name="FLAIR", probability=0.77), plane=Recognised(name="axial", probability=0.99))
    shown = words(slice_answer(*slice_result(ood=strange, verdict="review", recognition=seen)))
    for name in ("probability", "Size", "Sequence", "Plane"):
        assert name not in shown


def test_a_study_is_answered_at_a_glance():
    scan, study = results(slices=10, side=64)
    shown = words(study_answer(scan, study, ["a note of writing"]))
    assert re.search(r"Highest probability: (over |under )?\d+% ?, in slice \d+ of 10", shown)
    assert f"Size {study.volume_mm3 / 1000:.1f} mL, largest diameter {max(study.diameters):.0f} mm" in shown
    assert f"Side {study.lesions[0].side}" in shown
    assert "Sequence pre-contrast T1, FLAIR, post-contrast T1 Plane axial" in shown
    assert "Note: a note of writing." in shown


def test_slices_are_counted_as_they_lie_in_the_head():
    scan, study = results(slices=10, side=64)
    affine = np.array([[0, 0, -1.0, 30], [5.0, 0, 0, 0], [0, -1.0, 0, 30], [0, 0, 0, 1]])
    coronal = replace(study, geometry=Geometry(shape=(10, 64, 64), affine=affine))
    pictures = replace(study, geometry=None, apart=True)
    for one, counted in ((study, "from the neck upwards"), (coronal, "from the back to the front"), (pictures, "in their order")):
        shown = study_view(scan, one)
        assert f"tumour in 10 slices, {counted}" in shown  # the chart
        assert f"the slices, numbered {counted}" in shown  # the overlays


def test_a_studys_files_are_named_as_the_study(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    scan, study = results(slices=4, side=64)
    packed, *_ = pack_study(replace(scan, name="sub-01.ses-2.nii.gz"), study)
    assert Path(packed).name == "sub-01.ses-2.zip"


def test_neither_different_people_nor_other_images_have_a_size(slice_result):
    scan, study = results(slices=4, side=64)
    strange = OodResult(distance=9.0, other_log_odds=9.0, reason="This is a photograph.")
    other = replace(study, findings=tuple(replace(finding, ood=strange) for finding in study.findings))
    assert study_size(scan.pixels, study)
    assert [study_size(scan.pixels, one) for one in (replace(study, apart=True), other)] == [None, None]
    picture, finding = slice_result(ood=strange)
    assert slice_size(picture.pixels, finding) is None


def test_what_is_recognised_slice_by_slice_is_counted():
    scan, study = results(slices=4, side=64)
    seen = [Recognition(sequence=Recognised(name=name, probability=0.9)) for name in ("FLAIR", "T1c", "T1c")]
    findings = [replace(one, recognition=own) for one, own in zip(study.findings, [*seen, Recognition()], strict=True)]
    pictures = replace(study, findings=tuple(findings), recognition=None, geometry=None, apart=True)
    shown = words(study_answer(replace(scan, sequences=(None, None, None), geometry=None), pictures, []))
    assert "Sequence post-contrast T1 (2), FLAIR (1), not recognised (1) Plane not recognised (4)" in shown
    assert "Size" not in shown


def test_a_study_tells_the_slices_of_the_outline_from_those_of_the_verdict():
    scan, study = results(slices=10, side=64)
    outlined = np.flatnonzero(study.mask.any(axis=(1, 2)))
    first, last = outlined[0] + 1, outlined[-1] + 1
    assert "The outline" not in words(study_answer(scan, study, []))  # the reason of the verdict names the same slices
    findings = [*study.findings]
    findings[last - 1] = replace(findings[last - 1], verdict="review")
    reason = f"Slices {first} to {last - 1} of 10 show a tumour."
    narrower = replace(study, findings=tuple(findings), reason=reason, carried_by=tuple(outlined[:-1]))
    expected = f"{reason} The outline covers slices {first} to {last}; alone, slice {last} would not be called tumour."
    assert expected in words(study_answer(scan, narrower, []))


def test_the_scale_is_drawn_from_the_review_band():
    html = probability_scale(0.25, [0.1, 0.4])
    assert 'class="clear" style="width:10.00%"' in html
    assert 'class="review" style="width:30.00%"' in html
    assert '<b style="left:25.00%">' in html
    assert "review" not in words(probability_scale(0.25, [0.5, 0.5]))


@pytest.mark.parametrize(
    ("probability", "shown", "verdict"),
    [
        (0.0962, "9.6%", NO_TUMOUR),
        (0.0998, "under 10%", NO_TUMOUR),
        (0.1, "10%", REVIEW),
        (0.9, "90%", REVIEW),
        (0.9004, "over 90%", TUMOUR),
        (0.904, "90.4%", TUMOUR),
    ],
)
def test_box_caption_and_reason_show_a_probability_on_its_side_of_the_review_band(slice_result, probability, shown, verdict):
    decided, reason = decide_slice(probability, 500 if verdict == TUMOUR else 0, (0.1, 0.9))
    provenance = PROVENANCE | {"mask_threshold": 0.5}
    scan, finding = slice_result(verdict=decided, reason=reason, probability=probability, provenance=provenance)
    box = words(slice_answer(scan, finding))
    assert decided == verdict
    assert f"{shown} probability of tumour no tumour review: 10 to 90% tumour" in box
    assert f"(probability{'' if verdict == TUMOUR else ' of tumour'} {shown})" in box
    assert f"{shown})" in slice_viewer(scan, finding)


def test_the_ends_of_a_review_band_are_shown_with_all_digits():
    assert "review: 12.5 to 89.6%" in words(probability_scale(0.25, [0.125, 0.896]))
    assert "review: 29 to 57%" in words(probability_scale(0.25, [0.29, 0.57]))


def test_a_refusal_is_escaped_once():
    shown = refusal("Could not analyse <this>", "&lt;b&gt;.png: damaged")
    assert "Could not analyse &lt;this&gt;" in shown
    assert "<p>&lt;b&gt;.png: damaged</p>" in shown


def test_the_share_of_the_head_ignores_the_background():
    pixels, mask = np.zeros((40, 40, 3)), np.zeros((40, 40), bool)
    pixels[10:30, 10:30], mask[12:16, 12:17] = 1, True
    pixels[18:22, 18:22] = 0  # dark inside the head, as fluid is
    assert head_share(pixels, mask) == pytest.approx(20 / 400, rel=0.1)  # 20 / 384 without the fluid; corners are rounded


def test_the_stored_example_is_the_result_of_the_default_model():
    """If this fails after a change of the default model, run python -m brainmri.ui.examples."""
    set_available_models([])
    stored = first_result()
    assert stored is not None
    finding = stored.finding
    assert np.array_equal(finding.probability_map > finding.provenance["mask_threshold"], finding.mask)
    assert finding.area_px == finding.mask.sum()
    assert finding.provenance["input"]["sha256"] == stored.scan.sha256
    assert all(picture.size == (256, 256) for picture, _ in stored.evidence)


def test_every_example_is_installed():
    assert [example.label for example in EXAMPLES if not (example.file.is_file() and example.card.is_file())] == []
