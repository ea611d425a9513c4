"""Slices in uploaded pictures: pages around them, sheets, inverted greys, turned slices."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from brainmri.analysis.decision import decide_slices
from brainmri.analysis.forward import Prediction
from brainmri.analysis.frame import find_panels
from brainmri.analysis.picture import PictureDecision, decide_picture
from brainmri.analysis.preparation import INVERTED, PAGE_REMOVED, Prepared, prepare_picture
from brainmri.analysis.recognition import check_sequence
from brainmri.analysis.specialist import Decided
from brainmri.zoo.attributes import ATTRIBUTES, FLAIR, KIND, PLANE, SEQUENCE, T1C, TURN
from brainmri.zoo.calibration import UNKNOWN, Fusion, Rules, SequenceRules
from brainmri.zoo.ood import OodResult
from train.phantoms import phantom_slice


def make_slice(size: int = 128, seed: int = 0) -> np.ndarray:
    """(size, size, 3) float32 in [0, 1], one sequence in three channels."""
    pixels, _ = phantom_slice(size=size, seed=seed, lesion=(0.4, 0.4, 0.12))
    return np.repeat(pixels[..., 1:2] / np.float32(255), 3, axis=2)


@pytest.mark.parametrize("level", [1.0, 0.6])
def test_a_page_around_the_slice_is_left_out(level):
    one = make_slice()
    page = np.full((200, 260, 3), level, np.float32)
    page[30:158, 50:178] = one
    (panel,) = find_panels(page)
    assert panel.box == pytest.approx((30, 50, 128, 128), abs=2)
    cut = panel.cut(page)
    assert np.abs(cut[8:-8, 8:-8] - page[38:150, 58:170]).max() == 0


def test_a_white_background_becomes_black():
    one = make_slice()
    white = np.where(one.max(axis=2, keepdims=True) < 0.08, np.float32(1), one)
    (panel,) = find_panels(white)
    cut = panel.cut(white)
    assert cut[0, 0].max() == 0
    assert cut.shape[0] < 128  # cropped to the head


def test_a_plain_slice_is_taken_as_it_is():
    one = make_slice()
    (panel,) = find_panels(one)
    assert panel.box == (0, 0, 128, 128)
    assert panel.page is None
    assert (panel.cut(one) == one).all()


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (3, 4), (1, 5), (1, 2), (1, 3), (2, 1), (3, 1)])
def test_a_sheet_is_split_into_its_slices(rows, columns):
    sheet = np.concatenate(
        [np.concatenate([make_slice(96, seed=row * columns + column) for column in range(columns)], 1) for row in range(rows)]
    )
    panels = find_panels(sheet)
    assert len(panels) == rows * columns
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        assert panel.box == pytest.approx((96 * row, 96 * column, 96, 96), abs=6)


@pytest.mark.parametrize("sides", [(128, 128), (128, 192), (128, 256), (128, 384), (192, 128), (256, 128)], ids=str)
def test_halves_of_one_head_are_no_row(sides):
    height, width = sides
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    head = (np.hypot(rows, columns) < 0.9) & (np.abs(columns) > 0.04)  # a brain without skull and with a wide midline
    assert len(find_panels(np.repeat(head[..., None], 3, axis=2).astype(np.float32))) == 1
    padded = np.pad(make_slice(), ((0, 0), (0, 128 * (width // height)), (0, 0)))
    assert len(find_panels(padded)) == 1


def test_speckle_is_no_sheet():
    random = np.random.default_rng(0)
    picture = np.zeros((128, 128, 3), np.float32)
    for top, left in random.integers(0, 120, (30, 2)):
        picture[top : top + 6, left : left + 6] = 1
    assert len(find_panels(picture)) == 1


def bright_spot_rule(slices: np.ndarray) -> Prediction:
    """Rules in place of networks: bright parts are tumour, and an upright head has its bright spot in the upper left."""
    bright = slices.mean(axis=3) > 0.8  # (S, H, W)
    rows = np.array([np.flatnonzero(one.any(axis=1)).mean() if one.any() else 0 for one in bright])
    columns = np.array([np.flatnonzero(one.any(axis=0)).mean() if one.any() else 0 for one in bright])
    low, right = rows >= slices.shape[1] / 2, columns >= slices.shape[2] / 2
    corner = slices[:, :4, :4].mean(axis=(1, 2, 3))  # a black background
    attributes = {name: {one: np.zeros(len(slices)) for one in classes} for name, classes in ATTRIBUTES.items()}
    for name, one in ((SEQUENCE, T1C), (PLANE, "axial"), (KIND, "glioma")):
        attributes[name][one] += 1
    for turn, shown in (("0", ~low & ~right), ("90", low & ~right), ("180", low & right), ("270", ~low & right)):
        attributes[TURN][turn] += shown
    return Prediction(
        maps=bright.astype(np.float32),
        grid_share=np.ones(len(slices)),
        evidence=np.log1p(bright.sum(axis=(1, 2)).astype(float)),
        logits=np.where(bright.any(axis=(1, 2)), 6.0, -6.0),
        ood=[OodResult(distance=1 + float(c), other_log_odds=0.0, reason="far" if c > 0.5 else None) for c in corner],
        attributes=attributes,
    )


def head(spot: bool = True) -> np.ndarray:
    """(128, 128, 3): a grey head with a bright spot in its upper half."""
    pixels = np.zeros((128, 128, 3), np.float32)
    pixels[16:112, 24:104] = 0.4
    if spot:
        pixels[32:48, 40:56] = 0.95
    return pixels


FUSION = {mode: Fusion(logit=1.0, evidence=0.0, bias=0.0, review=(0.2, 0.8)) for mode in ("slice", "study")}
RULES = Rules(sequences={name: SequenceRules(mask_threshold=0.5, fusion=FUSION) for name in (UNKNOWN, T1C)})


def decide(part: Prepared) -> Decided:
    return Decided(decide_slices(part.predicted, RULES, part.mode, part.sequence), None)


def analyse(picture: np.ndarray, sequence: str | None = None) -> PictureDecision:
    return decide_picture(prepare_picture(picture, bright_spot_rule, sequence), decide, *picture.shape[:2])


def test_an_upside_down_slice_is_analysed_upright_and_the_mask_comes_back():
    turned = np.rot90(head(), 2).copy()
    found = analyse(turned)
    assert found.decisions.verdicts[0][0] == "tumour"
    assert found.recognition.turned == 180
    assert any("turned by 180" in warning for warning in found.warnings)
    assert (found.decisions.masks[0] == (turned[..., 0] > 0.8)).all()


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turned_slices_are_predicted_once_in_each_orientation(quarters):
    seen = []

    def predict(slices: np.ndarray) -> Prediction:
        seen.append(slices)
        return bright_spot_rule(slices)

    (part,) = prepare_picture(np.rot90(head(), quarters).copy(), predict)
    assert len(seen) == 4
    assert part.view.turned == 90 * quarters
    assert (part.slices[0] == head()).all()
    assert (part.predicted.maps == bright_spot_rule(part.slices).maps).all()


def test_inverted_greys_are_inverted_back():
    found = analyse(1 - head())
    assert found.warnings == (INVERTED,)
    assert np.allclose(found.prepared.slices[0], head(), atol=1e-6)
    assert found.decisions.verdicts[0][0] == "tumour"
    assert (found.decisions.masks[0] == (head()[..., 0] > 0.8)).all()


def test_a_negative_on_a_page_is_cut_out():
    page = np.pad(1 - head(), ((20, 20), (30, 10), (0, 0)), constant_values=1)
    page[2:8, 10:60] = 0  # text
    found = analyse(page)
    assert found.warnings == (PAGE_REMOVED, INVERTED)
    assert found.decisions.verdicts[0][0] == "tumour"
    assert (found.decisions.masks[0][20:-20, 30:-10] == (head()[..., 0] > 0.8)).all()


PICTURES = {
    "as it is": head(),
    "turned": np.rot90(head(), 1).copy(),
    "inverted and turned": np.rot90(1 - head(), 2).copy(),
    "on a page": np.pad(1 - head(), ((9, 3), (20, 5), (0, 0)), constant_values=1),
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_the_slice_in_a_picture_is_cut_upright_and_values_come_back_to_its_place(picture):
    found = analyse(picture)
    view, masks = found.prepared.view, found.decisions.masks
    upright, mask = view.cut(picture[None]), view.cut_masks(masks)
    assert (upright == found.prepared.slices).all()
    assert (mask == (upright[..., 0] > 0.8)).all()
    assert mask.sum() == 256
    assert (view.restore(mask, *masks.shape[1:]) == masks).all()


def test_the_likeliest_slice_of_a_sheet_is_explained():
    sheet = np.concatenate([np.concatenate([head(spot=number == 2) for number in row], 1) for row in ((0, 1), (2, 3))])
    shown = analyse(sheet).prepared
    assert shown.view.panel.box[:2] == (128, 0)
    assert (shown.slices > 0.8).any()


def test_a_sheet_is_decided_by_its_slices():
    sheet = np.concatenate([np.concatenate([head(spot=number == 2) for number in row], 1) for row in ((0, 1), (2, 3))])
    found = analyse(sheet)
    assert found.decisions.verdicts[0] == ("tumour", "The picture is a sheet of 4 slices; slice 3 shows a tumour.")
    assert found.decisions.masks.shape == (1, 256, 256)
    assert found.decisions.masks[0].sum() == 256
    assert found.recognition is None


def test_a_sequence_without_tumours_in_the_evaluation_is_for_review():
    found = analyse(head(), "T2")
    verdict, reason = found.decisions.verdicts[0]
    assert verdict == "review"
    assert "not evaluated on tumours in T2" in reason
    assert found.recognition.kind is None


def panel(width: int) -> np.ndarray:
    """(128, width, 3): a grey bar, as of a legend beside a slice."""
    pixels = np.zeros((128, width, 3), np.float32)
    pixels[56:72, 8:-8] = 0.3
    return pixels


@pytest.mark.parametrize("spot", [True, False])
@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize(("width", "several"), [(96, False), (102, False), (104, True), (280, True)])
def test_a_picture_too_long_for_one_head_is_for_review(spot, turned, width, several):
    picture = np.rot90(np.concatenate([head(spot), panel(width)], 1), turned).copy()
    assert len(find_panels(picture)) == 1
    verdict, reason = analyse(picture).decisions.verdicts[0]
    if not several:
        assert verdict == ("tumour" if spot else "no tumour")
        return
    sides = "high as wide" if turned else "wide as high"
    assert verdict == "review"
    ratio = f"{1 + width / 128:.1f}"
    assert reason == (
        f"The picture is {ratio} times as {sides}, so it probably shows several slices; please upload them one at a time."
    )


def test_a_page_does_not_make_a_slice_too_long():
    page = np.pad(head(), ((10, 10), (200, 90), (0, 0)), constant_values=1)
    assert analyse(page).decisions.verdicts[0][0] == "tumour"


def test_the_reason_of_an_image_that_is_no_slice_stays():
    white = np.full((128, 400, 3), 0.7, np.float32)
    white[40:80, 40:120] = 0.95
    assert analyse(white).decisions.verdicts[0] == ("review", "far")


@pytest.mark.parametrize(("side", "small"), [(40, True), (79, True), (80, False)])
def test_a_picture_smaller_than_those_trained_on_is_for_review(side, small):
    picture = np.asarray([Image.fromarray(channel).resize((side - 8, side), 0) for channel in np.moveaxis(head(), 2, 0)])
    verdict, reason = analyse(np.moveaxis(picture, 0, 2).copy()).decisions.verdicts[0]
    assert verdict == ("review" if small else "tumour")
    assert reason.startswith(f"The image has {side - 8} x {side} pixels") == small


def test_a_head_cut_off_at_the_edge_is_not_called_free_of_tumour():
    verdict, reason = analyse(head(spot=False)[:80]).decisions.verdicts[0]
    assert (verdict, reason) == ("review", "The picture shows only a part of the head, and a tumour may lie in the rest.")
    assert analyse(head()[:80]).decisions.verdicts[0][0] == "tumour"


def test_something_coloured_drawn_on_a_slice_is_for_review():
    marked = head()
    marked[60:64, 40:80] = (1, 0.9, 0)
    verdict, reason = analyse(marked).decisions.verdicts[0]
    assert (verdict, reason) == ("review", "Something coloured is drawn on the image; please upload it without marks.")


def test_a_slice_of_an_unclear_sequence_is_for_review():
    def unsure(slices: np.ndarray) -> Prediction:
        predicted = bright_spot_rule(slices)
        predicted.attributes[SEQUENCE][T1C] -= 0.5
        predicted.attributes[SEQUENCE]["T2"] += 0.5
        return predicted

    found = decide_picture(prepare_picture(head(), unsure), decide, 128, 128).decisions.verdicts[0]
    assert found[0] == "review"
    assert found[1].startswith("The sequence is unclear and may be T1c or T2; please choose the sequence")
    given = decide_picture(prepare_picture(head(), unsure, T1C), decide, 128, 128)
    assert given.decisions.verdicts[0][0] == "tumour"


@pytest.mark.parametrize(("highest", "verdict"), [(0.8, "tumour"), (0.999, "review")])
def test_a_slice_of_one_of_two_sequences_is_decided_if_the_rules_of_both_agree(highest, verdict):
    predicted = bright_spot_rule(head()[None])  # of probability 0.998
    predicted.attributes[SEQUENCE][T1C] -= 0.5
    predicted.attributes[SEQUENCE][FLAIR] += 0.5
    other = {mode: replace(fusion, review=(0.2, highest)) for mode, fusion in FUSION.items()}
    rules = replace(RULES, sequences={**RULES.sequences, FLAIR: SequenceRules(mask_threshold=0.5, fusion=other)})
    found = decide_slices(predicted, rules, "slice")
    assert found.verdicts[0][0] == verdict
    assert found.verdicts[0][1].startswith("The verdict depends on the sequence, which may be ") == (verdict == "review")
    assert decide_slices(predicted, rules, "slice", T1C).verdicts[0][0] == "tumour"


def test_the_kind_is_given_for_post_contrast_t1_only():
    assert analyse(head()).recognition.kind.name == "glioma"
    coloured = head()
    coloured[..., 1] *= 0.5
    found = analyse(coloured)
    assert found.recognition.sequence.name == "three sequences"
    assert found.recognition.kind is None


def test_an_unknown_sequence_is_refused():
    with pytest.raises(ValueError, match="unknown sequence 'flair'; choose from FLAIR, T1"):
        check_sequence("flair")
