"""Slices like a specialist's training data are decided by the specialist, all others by the default model."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import brainmri
from brainmri.batch.cohort import process
from brainmri.io.reading import read_study
from brainmri.zoo.ood import OodDetector
from brainmri.zoo.records import SpecialistConfig
from brainmri.zoo.registry import LoadedModel

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
SLICE = EXAMPLES / "large-lesion.png"
GENERAL, SPECIAL = "effunet-any", "effunet-lite2-lgg"


@pytest.fixture(scope="module")
def special() -> LoadedModel:
    return brainmri.load(SPECIAL, device="cpu")


@pytest.fixture(scope="module")
def general() -> LoadedModel:
    return brainmri.load(GENERAL, device="cpu")


@pytest.fixture(scope="module")
def slices() -> np.ndarray:
    """(S, H, W, 3), some slices of the example study."""
    pixels = read_study(EXAMPLES / "study-flair.nii.gz").pixels
    return np.ascontiguousarray(pixels[len(pixels) // 4 : -len(pixels) // 4 : 4])


def with_scope(general: LoadedModel, distance: float) -> LoadedModel:
    """The model, leaving to the specialist the slices up to a distance."""
    assert general.ood is not None
    assert general.entry.ood is not None
    scope: OodDetector = replace(general.ood, distance_threshold=distance, other_threshold=np.inf)
    config = SpecialistConfig(name=SPECIAL, scope=replace(general.entry.ood, distance_threshold=distance), measured={})
    return replace(general, scope=scope, entry=replace(general.entry, specialist=config))


@pytest.fixture(scope="module")
def always(general, special) -> brainmri.Pipeline:
    return brainmri.Pipeline(with_scope(general, np.inf), specialist=special)


@pytest.fixture(scope="module")
def never(general, special) -> brainmri.Pipeline:
    return brainmri.Pipeline(with_scope(general, 0.0), specialist=special)


def test_the_specialist_decides_slices_like_its_training_data(always, special):
    finding, own = always(SLICE, "FLAIR"), brainmri.Pipeline(special)(SLICE)
    assert finding.provenance["specialist"]["decided"]
    assert finding.provenance["specialist"]["name"] == SPECIAL
    assert (finding.mask == own.mask).all()
    assert (finding.verdict, finding.probability) == (own.verdict, own.probability)
    for field in ("mask_threshold", "review_band"):
        assert finding.provenance[field] == own.provenance[field]
    assert finding.recognition.sequence.name == "FLAIR"  # the default model recognises it


def test_the_default_model_decides_all_others(never, general):
    alone = brainmri.Pipeline(replace(general, entry=replace(general.entry, specialist=None)))
    finding, own = never(SLICE, "FLAIR"), alone(SLICE, "FLAIR")
    assert not finding.provenance["specialist"]["decided"]
    assert own.provenance["specialist"] is None
    assert (finding.probability_map == own.probability_map).all()
    assert finding.provenance["review_band"] == own.provenance["review_band"]


@pytest.mark.parametrize("sequence", ["T1", "T1c", "T2"])
def test_a_sequence_that_the_specialist_does_not_read_is_not_left_to_it(always, sequence):
    assert not always(SLICE, sequence).provenance["specialist"]["decided"]


def test_contradicting_models_lead_to_review(general, special):
    fusion = {mode: replace(one, logit=0.0, evidence=0.0, bias=-9.0) for mode, one in special.entry.fusion.items()}
    blind = replace(special, entry=replace(special.entry, fusion=fusion, mask_threshold=1 - 1e-9))
    finding = brainmri.Pipeline(with_scope(general, np.inf), specialist=blind)(SLICE, "FLAIR")
    assert finding.verdict == "review"
    says = r"Two models disagree: Gliomas only \(effunet-lite2-lgg\) gives a probability of tumour of under 1%, "
    assert re.fullmatch(says + r"Any sequence and plane \(effunet-any\) of (over )?\d+%\.", finding.reason)


def test_the_specialist_decides_a_study_as_a_whole(always, special, slices):
    study, own = always.study(slices, sequence="FLAIR"), brainmri.Pipeline(special).study(slices)
    assert study.provenance["specialist"]["decided"]
    assert (study.mask == own.mask).all()
    assert study.verdict == own.verdict


def test_an_error_of_the_progress_ends_the_passes_of_every_network(always, slices):
    """A visitor's newer input so ends an analysis; the next one is not affected."""

    class NoLongerWanted(Exception):
        pass

    finished = []
    always.study(slices, lambda *done: finished.append(done), "FLAIR")
    passes = len(finished) // 2
    assert finished[:passes] == finished[passes:]  # the default model, then its specialist
    for ended_after in (1, passes + 1):
        calls = []

        def end(*done: int, calls: list = calls, ended_after: int = ended_after) -> None:
            calls.append(done)
            if len(calls) == ended_after:
                raise NoLongerWanted

        with pytest.raises(NoLongerWanted):
            always.study(slices, end, "FLAIR")
        assert calls == finished[:ended_after]


@pytest.mark.slow
def test_a_turned_study_comes_back_on_its_own_grid(always, slices):
    turned_slices = np.ascontiguousarray(np.rot90(slices, 2, axes=(1, 2)))
    upright, turned = (always.study(some, sequence="FLAIR") for some in (slices, turned_slices))
    assert turned.recognition.turned == 180
    assert turned.provenance["specialist"]["decided"]
    assert (np.rot90(turned.mask, 2, axes=(1, 2)) == upright.mask).all()


@pytest.mark.slow
def test_evidence_and_stability_are_the_specialists(always, never, special):
    found, own = always.explain(SLICE, "FLAIR"), brainmri.Pipeline(special).explain(SLICE)
    assert (found[0].saliency == own[0].saliency).all()
    assert found[1].area == own[1].area
    assert (never.explain(SLICE, "FLAIR")[0].saliency != own[0].saliency).any()


def test_a_finished_study_is_not_analysed_again(always, tmp_path):
    statuses = [process(always, SLICE, tmp_path, "slice", "FLAIR")[0]["status"] for _ in range(2)]
    assert statuses == ["done", "done before"]
