"""Metrics and calibration: golden numbers."""

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from brainmri.zoo.calibration import Rules
from train.evaluation.calibrate import (
    MASK_NEIGHBOURS,
    NEIGHBOURS,
    THRESHOLDS,
    choose_review_band,
    choose_threshold,
    cross_fitted,
    fit_rules,
    fit_temperature,
)
from train.evaluation.evaluate import public_unet_dice
from train.evaluation.metrics import auc, bootstrap_interval, dice, expected_calibration_error, reliability
from train.evaluation.predictions import SlicePrediction


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        ([1, 1, 1, 0], [1, 1, 0, 0], 0.8),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),  # nothing there, nothing found
        ([1, 0, 0, 0], [0, 0, 0, 0], 0.0),  # a false alarm must cost
        ([0, 0, 0, 0], [1, 0, 0, 0], 0.0),
    ],
)
def test_dice(predicted, true, expected):
    assert dice(np.array(predicted, bool), np.array(true, bool)) == pytest.approx(expected)


def test_dice_as_the_public_unet_measures_it():
    """Two islands that join in a diagonal from slice to slice, a smaller one apart, and false alarms on the outer slices."""
    true = np.zeros((6, 8, 8), bool)
    true[1, 1:3, 1:3] = true[2, 3:5, 3:5] = True
    outlined = true.copy()
    outlined[4, 6:8, 6:8] = outlined[0] = True
    true[5] = True  # missed, but left out
    assert public_unet_dice(outlined, true) == 1.0
    outlined[3:5] = True  # the largest now, with what it touches: 4 + 4 + 128 voxels
    assert public_unet_dice(outlined, true) == pytest.approx(2 * 8 / (136 + 8))
    outlined[1:3] = False  # the rest is gone for good
    assert public_unet_dice(outlined, true) == 0.0
    nothing = np.zeros_like(true)
    assert public_unet_dice(nothing, true) == 0.0
    assert public_unet_dice(nothing, nothing) == 1.0
    assert public_unet_dice(outlined[:2], true[:2]) == 1.0  # no slice is left to compare


def test_auc():
    assert auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == pytest.approx(0.75)
    generator = np.random.default_rng(0)
    probability, tumour = generator.random(500).round(2), generator.random(500) < 0.4  # with ties
    assert auc(probability, tumour) == pytest.approx(roc_auc_score(tumour, probability))
    assert math.isnan(auc([0.1, 0.2], [0, 0]))


def test_expected_calibration_error_is_golden():
    # one bin of 0.9 with half of them right: 0.4 off; one of 0.1 with none: 0.1 off
    assert expected_calibration_error([0.9, 0.9, 0.1, 0.1], [1, 0, 0, 0]) == pytest.approx(0.25)
    assert expected_calibration_error([1.0, 0.0], [1, 0]) == 0


def test_the_bins_of_the_reliability_diagram_are_golden():
    # two patients of four slices each: in the bin from 0.8 on one has a tumour in both, the other in neither
    patients = [np.array([(0.1, 0), (0.1, 0), (0.9, 1), (0.86, 1)]), np.array([(0.1, 0), (0.1, 0), (0.84, 0), (0.8, 0)])]
    low, high = reliability(patients, bins=5)
    assert low == {"range": [0, 0.2], "slices": 4, "probability": pytest.approx(0.1), "tumour": 0}  # all agree: no interval
    assert high == {
        "range": [0.8, 1], "slices": 4, "probability": pytest.approx(0.85), "tumour": 0.5, "interval_95": [0, 1],
    }  # fmt: skip


def test_the_reliability_diagram_is_scikit_learns_and_the_calibration_errors():
    generator = np.random.default_rng(0)
    probability = generator.random(600) ** 3
    tumour = generator.random(600) < probability
    bins = reliability(np.split(np.stack([probability, tumour], axis=1), 20))
    shares, probabilities = calibration_curve(tumour, probability, n_bins=15)
    assert np.allclose([one["tumour"] for one in bins], shares)
    assert np.allclose([one["probability"] for one in bins], probabilities)
    assert sum(one["slices"] for one in bins) == 600
    error = sum(one["slices"] / 600 * abs(one["tumour"] - one["probability"]) for one in bins)
    assert expected_calibration_error(probability, tumour) == pytest.approx(error)
    assert all(one["interval_95"][0] <= one["tumour"] <= one["interval_95"][1] for one in bins if "interval_95" in one)


def test_the_bootstrap_covers_the_mean_and_repeats_itself():
    values = np.arange(50) / 50
    interval = bootstrap_interval(lambda drawn: values[drawn].mean(), 50)
    assert interval[0] < values.mean() < interval[1]
    assert interval[1] - interval[0] == pytest.approx(4 * values.std() / 50**0.5, rel=0.15)
    assert interval == bootstrap_interval(lambda drawn: values[drawn].mean(), 50)


def test_the_temperature_undoes_overconfidence():
    generator = np.random.default_rng(0)
    logit = generator.normal(0, 2, 20_000)
    tumour = generator.random(20_000) < 1 / (1 + np.exp(-logit))
    assert fit_temperature(3 * logit, tumour) == pytest.approx(3, rel=0.05)
    assert fit_temperature(logit, tumour) == pytest.approx(1, rel=0.05)


def test_the_review_band_covers_the_errors():
    probability = np.concatenate([np.full(99, 0.99), np.full(99, 0.01), np.full(7, 0.62)])
    tumour = np.concatenate([np.ones(99), np.zeros(99), np.zeros(7)]).astype(bool)
    assert choose_review_band(probability, tumour) == (0.5, 0.65)  # no wider than it has to be, on either side
    assert choose_review_band(probability[:198], tumour[:198]) == (0.5, 0.5)
    assert choose_review_band(np.full(9, 0.99), np.zeros(9, bool)) == (0.1, 0.9)  # hopeless: the widest
    outlined = tumour | (probability == 0.01)  # the mask contradicts every clear case without tumour
    assert choose_review_band(probability, tumour, outlined) == (0.5, 0.5)  # and no mask where the probability errs


def rows_of(generator, slices: int = 40) -> list[SlicePrediction]:
    """A patient with a tumour in the middle slices, a noisy verdict head and an accurate mask."""
    rows = []
    for number in range(slices):
        tumour = slices // 4 <= number < slices // 2
        found, mask = np.zeros((8, 8), np.float32), np.zeros((8, 8), bool)
        found[:6, :6] = 0.9 if tumour and generator.random() < 0.9 else 0.01
        mask[:6, :6] = tumour
        logit, evidence = generator.normal(1.5 if tumour else -1.5, 1.5), np.log1p(found.sum())
        rows.append(
            SlicePrediction(
                case="patient", number=number, annotation=mask, map=found, logit=logit, evidence=evidence, grid_share=1.0
            )
        )
    return rows


def test_the_mask_threshold_is_chosen_on_the_other_folds():
    def patient(beside: float) -> list[dict]:
        rows = rows_of(np.random.default_rng(0))
        for row in rows:
            row.map[6:] = beside  # where there is no tumour
        return rows

    folds = [[patient(0.42)], [patient(0.42)], [patient(0.62)]]
    each, everything = cross_fitted(folds, Rules(), fused=False)
    assert [rules.mask_threshold for rules in each] == [0.65, 0.65, 0.5]  # of equals the one in the middle
    assert everything.mask_threshold == 0.65
    assert cross_fitted(folds[2:], Rules(), fused=False)[1].mask_threshold == 0.5  # a single part leaves it as it is


def test_the_threshold_leaves_one_half_only_for_a_significant_gain():
    slope = np.linspace(-1, 1, len(THRESHOLDS))  # from 0.30 to 0.90
    mixed = 0.8 + np.repeat([-0.02, 0.02], 20)[:, None] * slope  # what helps one half of the patients costs the other
    assert choose_threshold(mixed + 0.001 * slope) == 0.5
    assert choose_threshold(mixed + 0.02 * slope) > 0.7


def test_rules_are_fitted_on_the_other_folds():
    generator = np.random.default_rng(0)
    folds = [[rows_of(generator) for _ in range(4)] for _ in range(3)]
    each, everything = cross_fitted(folds, Rules(), fused=True)
    assert len(each) == 3
    assert len({rules.fusion["slice"].bias for rules in [*each, everything]}) == 4
    assert each[0].fusion["slice"] == fit_rules([rows for fold in folds[1:] for rows in fold], Rules(), True).fusion["slice"]
    assert everything.fusion["slice"].evidence > 0.3
    assert everything.fusion["study"].neighbours == NEIGHBOURS
    assert everything.mask_neighbours == MASK_NEIGHBOURS
    logits, evidence, tumour = (
        np.array([getattr(row, key) for fold in folds for rows in fold for row in rows])
        for key in ("logit", "evidence", "tumour")
    )
    alone = auc(logits, tumour)
    fused = auc(everything.probability(logits, evidence, "slice"), tumour)
    assert fused > alone + 0.05
    (single,), same = cross_fitted(folds[:1], Rules(), fused=False)
    assert single == same
    assert single.fusion == {}
