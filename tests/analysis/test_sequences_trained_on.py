"""Verdicts for the sequences that an entry was trained on, and review for all others."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import brainmri
from brainmri.analysis.coverage import READ_AS_FLAIR
from brainmri.analysis.pipeline import Pipeline
from brainmri.io.scan import Scan
from brainmri.zoo.records import Training
from brainmri.zoo.registry import LoadedModel, load
from train.phantoms import phantom_volume

pytestmark = pytest.mark.slow


def trained_on(model: LoadedModel, *sequences: str, ood: bool = True) -> LoadedModel:
    """The model as somebody's own, trained on these sequences."""
    training = Training(dataset="own data", sequences=sequences)
    entry = replace(model.entry, name="mine", training=training, ood=model.entry.ood if ood else None)
    return replace(model, entry=entry, ood=model.ood if ood else None)


@pytest.fixture(scope="module")
def lgg():
    return load("effunet-lgg", device="cpu")


@pytest.fixture(scope="module")
def images():
    """(S, H, W, 3) in [0, 1] of a head with a lesion, in three sequences."""
    return phantom_volume(slices=3, size=96, seed=3)[0].astype(np.float32) / 255


def study_of(images: np.ndarray, single_sequence: str | None) -> Scan:
    """A study whose only sequence has this name; of three sequences without one."""
    pixels = np.repeat(images[..., 1:2], 3, axis=3) if single_sequence else images
    return Scan(pixels=pixels, name="study", sha256="0" * 64, single_sequence=single_sequence)


INPUTS = {"FLAIR": "FLAIR", "T1c": "post-contrast T1", "susceptibility": "susceptibility", "three sequences": None}


@pytest.mark.parametrize("trained", [("T1c", "susceptibility"), ()])
def test_studies_are_decided_in_the_sequences_that_the_entry_was_trained_on(lgg, images, trained):
    pipe = Pipeline(trained_on(lgg, *trained))
    for sequence, name in INPUTS.items():
        study = pipe.study(study_of(images, name))
        if sequence in (trained or ("FLAIR", "three sequences")):
            assert study.verdict == "tumour", sequence
        else:
            assert study.verdict == "review", sequence
            kind = "images of three sequences" if name is None else f"{sequence} images"
            assert study.reason == f"The model was not evaluated on tumours in {kind}."
            assert {finding.verdict for finding in study.findings} == {"review"}


def test_slices_are_decided_in_the_sequences_that_the_entry_was_trained_on(lgg, images):
    slice_ = (images[1, ..., 1] * 255).astype(np.uint8)
    own, other = Pipeline(trained_on(lgg, "T1c")), Pipeline(lgg)
    assert own(slice_, sequence="T1c").verdict == other(slice_, sequence="FLAIR").verdict == "tumour"
    assert own(slice_, sequence="FLAIR").verdict == other(slice_, sequence="T1c").verdict == "review"
    unnamed = own(slice_), other(slice_)  # what it shows is not known
    assert {finding.verdict for finding in unnamed} == {"tumour"}
    assert [READ_AS_FLAIR in finding.warnings for finding in unnamed] == [False, True]
    assert not any(READ_AS_FLAIR in other(slice_, sequence=named).warnings for named in ("FLAIR", "T1c"))
    colours = (images[1] * 255).astype(np.uint8)
    assert own(colours).reason.startswith("The model was not evaluated on tumours in images of three sequences (")
    assert other(colours).verdict == "tumour"


def test_pictures_that_are_named_as_other_images_are_for_review(lgg, images, tmp_path):
    pipe, path = Pipeline(lgg), tmp_path / "t1_sub_1.png"
    Image.fromarray((images[1, ..., 1] * 255).astype(np.uint8)).save(path)
    finding = pipe(path)
    assert finding.verdict == "review"
    assert finding.reason.startswith("The model was not evaluated on tumours in subtraction images (")
    assert pipe.study(path).reason == finding.reason
    assert pipe(path, sequence="FLAIR").verdict == pipe.study(path, sequence="FLAIR").verdict == "tumour"


def test_both_networks_have_to_be_trained_on_the_sequence(lgg, images):
    scan = study_of(images, "post-contrast T1")
    segmenter = trained_on(lgg, "T1c", "T2")
    assert Pipeline(segmenter, trained_on(lgg, "T1c")).study(scan).verdict == "tumour"
    assert Pipeline(segmenter, lgg).study(scan).reason == "The model was not evaluated on tumours in T1c images."
    unknown = replace(scan, single_sequence=None)
    assert Pipeline(segmenter, lgg).study(unknown).reason == "Segmenter and classifier were not evaluated on the same sequences."


def test_slices_are_not_checked_by_a_detector_for_other_sequences(lgg, images):
    own = trained_on(lgg, "T1c", ood=False)
    study = Pipeline(own).study(study_of(images, "post-contrast T1"))
    assert {finding.ood for finding in study.findings} == {None}
    assert study.provenance["ood"] is None
    checked = trained_on(lgg, "FLAIR", ood=False)
    assert Pipeline(checked).ood_model.entry.name == brainmri.zoo.registry.AXIAL_OOD
    assert Pipeline(own, ood_model=lgg).ood_model is own
