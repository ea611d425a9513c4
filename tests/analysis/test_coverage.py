"""Heads that are cut off, and pictures that are too small or too long."""

import numpy as np
import pytest

from brainmri.analysis.coverage import cut_edges, cut_off, not_covered, unfit_size
from brainmri.analysis.forward import Prediction
from brainmri.analysis.lesions import midline
from brainmri.io.reading import read_study
from brainmri.zoo.attributes import SEQUENCE
from brainmri.zoo.calibration import Rules
from brainmri.zoo.ood import OodResult
from train.phantoms import phantom_slice


@pytest.mark.parametrize("turns", range(4))
def test_a_head_without_its_lower_part_is_cut_off(turns):
    grey = phantom_slice(size=256)[0][..., 1:2] / np.float32(255)
    whole = np.rot90(np.repeat(grey, 3, axis=2), turns)
    assert cut_off(whole) is None
    rows = np.flatnonzero(whole.mean(axis=2).any(axis=1))
    assert cut_off(whole[: int(rows[0] + 0.6 * np.ptp(rows))])
    assert cut_off(whole[: int(rows[-1] - 1)]) is None  # a tight crop


def test_a_study_is_cut_off_where_many_of_its_slices_are():
    volume = read_study("assets/examples/study-healthy.nii.gz").pixels
    assert cut_off(*volume) is None
    assert cut_off(*volume[:, :, :90]) == "the slices show only a part of the head, and a tumour may lie in the rest"
    assert cut_off(*volume[:3, :, :90], *volume[3:]) is None


@pytest.mark.parametrize(("columns", "lost"), [(slice(90), "right"), (slice(90, None), "left"), (slice(None), None)])
def test_the_edge_where_the_head_is_cut_off(columns, lost):
    whole = read_study("assets/examples/study-healthy.nii.gz").pixels.max(axis=0)[:, columns]
    assert cut_edges(whole) == (False, False, lost == "left", lost == "right")
    assert (midline(whole[None]) is None) == (lost is not None)


def test_pixels_that_fill_the_picture_say_nothing_about_the_head():
    assert cut_off(np.full((128, 128, 3), 0.5, np.float32)) is None
    assert cut_off(np.zeros((128, 128, 3), np.float32)) is None


def test_slices_with_a_geometry_are_never_too_long():
    assert unfit_size(100, 300, measured=True) is None
    assert "3.0 times as wide as high" in (unfit_size(100, 300, measured=False) or "")
    assert "64 x 64 pixels" in (unfit_size(64, 64, measured=True) or "")


@pytest.mark.parametrize(
    ("sequence", "probabilities", "log_odds", "expected"),
    [
        ("FLAIR", {"T2": 0.4}, -5, None),
        ("T2", {}, -5, "the model was not evaluated on tumours in T2 images"),
        (None, {"T1": 0.55, "T1c": 0.4, "T2": 0.05}, -5, None),
        (None, {"T1": 0.5, "T1c": 0.35, "T2": 0.15}, -5, "the sequence is unclear and may be T1 or T1c"),
        (None, {"T1": 0.5, "T2": 0.3, "PD": 0.2}, -5, "the sequence is unclear and may be T1 or T2"),
        (None, {"FLAIR": 0.5, "T1": 0.5}, -5, None),
        (None, {"FLAIR": 0.5, "T1": 0.5}, 1, "the sequence is unclear and may be FLAIR or T1"),
        ("FLAIR", {"FLAIR": 0.5, "T1": 0.5}, 1, None),
        (None, None, -5, None),
    ],
)
def test_slices_of_an_unclear_sequence_are_for_review_unless_the_models_know_all_that_it_may_be(
    sequence, probabilities, log_odds, expected
):
    rules = Rules(evaluated_on=frozenset({"FLAIR", "T1", "T1c"}))
    predicted = Prediction(
        attributes=probabilities and {SEQUENCE: {name: np.array([value, value]) for name, value in probabilities.items()}},
        ood=[OodResult(distance=1, other_log_odds=log_odds, reason=None)] * 2,
    )
    reason = not_covered(rules, sequence, predicted)
    assert reason == (f"{expected}; please choose the sequence" if expected and "unclear" in expected else expected)
