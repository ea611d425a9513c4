"""Predictions kept as records and on disk, and the rules applied to them."""

from dataclasses import replace

import numpy as np
import pytest

import brainmri
from brainmri.zoo.backends import TORCH
from brainmri.zoo.calibration import Rules
from brainmri.zoo.metrics import FLAIR_ONLY
from train.datasets.lgg import find_slices
from train.evaluation import predictions
from train.evaluation.predictions import SlicePrediction, apply_rules, predict_case, source_hash, stack
from train.phantoms import write_phantom_dataset


@pytest.fixture(scope="module")
def model():
    return brainmri.load("effunet-lgg", device="cpu", runtime=TORCH)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """One phantom's slices."""
    root = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(root, patients=1, slices=8, size=64)
    (found,) = find_slices(root).values()
    return found


@pytest.mark.slow
def test_stored_predictions_are_used_until_the_network_changes(model, slices, tmp_path):
    unflipped = replace(model, entry=replace(model.entry, flips=False))
    first = predict_case(slices, model, model, keep=tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    written = file.stat().st_mtime_ns
    plain, again = predict_case(slices, model, model), predict_case(slices, model, model, keep=tmp_path)
    assert file.stat().st_mtime_ns == written
    for new, kept, once_more in zip(plain, first, again, strict=True):
        assert np.array_equal(kept.map, once_more.map)
        assert once_more.map == pytest.approx(new.map, abs=2**-12)
        for name in ("case", "number", "head", "logit", "evidence", "grid_share", "probability", "verdict"):
            assert getattr(kept, name) == getattr(once_more, name) == getattr(new, name)
    other = predict_case(slices, unflipped, unflipped, keep=tmp_path)
    assert file.stat().st_mtime_ns > written
    assert [one.logit for one in other] != [one.logit for one in plain]
    predict_case(slices, model, model, FLAIR_ONLY, keep=tmp_path)
    assert len(list(tmp_path.rglob("*.npz"))) == 2


def test_stored_predictions_are_replaced_when_the_code_changes(model, slices, tmp_path, monkeypatch):
    predict_case(slices, model, None, keep=tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    written = file.stat().st_mtime_ns
    monkeypatch.setattr(predictions, "source_hash", lambda package: "other code")
    predict_case(slices, model, None, keep=tmp_path)
    assert file.stat().st_mtime_ns > written


def test_the_source_hash_covers_subpackages(tmp_path):
    module = tmp_path / "sub" / "deep" / "module.py"
    module.parent.mkdir(parents=True)
    module.write_text("value = 1")
    (tmp_path / "__init__.py").write_text("")
    before = source_hash(tmp_path)
    source_hash.cache_clear()
    assert source_hash(tmp_path) == before
    module.write_text("value = 2")
    source_hash.cache_clear()
    changed = source_hash(tmp_path)
    assert changed != before
    module.rename(module.with_name("renamed.py"))
    source_hash.cache_clear()
    assert source_hash(tmp_path) not in (before, changed)


def test_the_source_hash_sees_every_package_of_the_product():
    hashed = source_hash(predictions.Path(brainmri.__file__).parent)
    for module in ("zoo/nets/effunet.py", "analysis/pipeline.py", "io/pixels.py", "__init__.py"):
        assert f"{module}:" in hashed


def test_without_a_segmenter_there_is_a_probability_and_no_mask(model, slices):
    one, *_ = predict_case(slices, None, model)
    assert one.map is None
    assert one.verdict is None
    assert 0 <= one.probability <= 1
    with pytest.raises(ValueError, match="expected a prediction with a map"):
        one.mask  # noqa: B018


def test_without_a_classifier_there_is_a_mask_and_no_probability(model, slices):
    one, *_ = predict_case(slices, model, None)
    assert one.mask.shape == one.annotation.shape
    assert (one.logit, one.probability, one.verdict) == (None, None, None)


def test_rules_change_masks_and_probabilities_but_not_the_outputs(model, slices):
    before = predict_case(slices, model, model)
    after = apply_rules(before, Rules(mask_threshold=0.95, temperature=5.0))
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one.map, other.map)
        assert other.mask.sum() <= one.mask.sum()
        assert other.probability == pytest.approx(1 / (1 + np.exp(-other.logit / 5)))


def test_predictions_are_stacked_field_by_field():
    empty = np.zeros((2, 2), bool)
    both = [SlicePrediction(case="a", number=n, annotation=empty, logit=float(n), map=np.full((2, 2), n / 4)) for n in (1, 2)]
    stacked = stack(both)
    assert stacked.logits.tolist() == [1, 2]
    assert stacked.maps[:, 0, 0].tolist() == [0.25, 0.5]
    assert stacked.evidence is None
