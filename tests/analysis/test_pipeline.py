"""From an image to a finding with the embedded weights: examples, other sizes, stacks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import brainmri
from brainmri.io.reading import UnreadableImage
from brainmri.report import render
from brainmri.zoo.entry import save_entry
from brainmri.zoo.nets import ResNet50Classifier
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.registry import AXIAL_OOD, EMBEDDED, find_entry
from train.evaluation.metrics import dice
from train.phantoms import phantom_slice

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
WITH_LESION = ("large-lesion", "small-lesion", "frontal-lesion", "flair-only")
HEALTHY = ("healthy-ventricles", "healthy-high")


@pytest.fixture(scope="module")
def pipe():
    return brainmri.Pipeline(device="cpu")


@pytest.fixture(scope="module")
def pair():
    """The pipeline of the most accurate entry for axial slices."""
    return brainmri.Pipeline("effunet-pair-lgg", device="cpu")


@pytest.mark.parametrize("name", WITH_LESION)
def test_examples_with_a_lesion_are_found(pipe, name):
    finding = pipe(EXAMPLES / f"{name}.png")
    truth = np.asarray(Image.open(EXAMPLES / "truth" / f"{name}.mask.png")) > 0
    # a lesion of about 500 pixels may be flagged for review, but must not be missed
    assert finding.verdict in (("tumour", "review") if name == "small-lesion" else ("tumour",))
    assert dice(finding.mask, truth) > 0.8


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_examples_are_called_healthy(pair, name):
    assert pair(EXAMPLES / f"{name}.png").verdict == "no tumour"


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_outlined_in_healthy_examples(pipe, name):
    finding = pipe(EXAMPLES / f"{name}.png")
    assert finding.area_px == 0
    assert finding.verdict != "tumour"


@pytest.fixture(scope="module")
def models():
    return {entry.name: brainmri.load(entry.name, device="cpu") for entry in brainmri.list_models()}


@pytest.mark.slow
@pytest.mark.parametrize("segmenter", [e.name for e in brainmri.list_models("segmentation")])
@pytest.mark.parametrize("classifier", [e.name for e in brainmri.list_models("classification")])
def test_every_pair_works(models, segmenter, classifier):
    pipe = brainmri.Pipeline(models[segmenter], models[classifier], ood_model=models[AXIAL_OOD])
    finding = pipe(EXAMPLES / "large-lesion.png")
    assert finding.verdict in ("tumour", "review")
    assert finding.area_px > 500
    assert finding.provenance["segmenter"]["name"] == segmenter
    assert finding.provenance["classifier"]["name"] == classifier


def test_the_fields_of_a_finding_are_consistent(pipe):
    image, _ = phantom_slice(256)
    finding = pipe(image)
    assert finding.mask.shape == finding.probability_map.shape == (256, 256)
    assert finding.mask.dtype == bool
    assert finding.probability_map.dtype == np.float32
    assert 0 <= finding.probability_map.min() <= finding.probability_map.max() <= 1
    assert np.array_equal(finding.mask, finding.probability_map > finding.provenance["mask_threshold"])
    assert finding.area_px == finding.mask.sum()
    assert isinstance(finding.probability, float)
    assert json.loads(json.dumps(finding.record()))["provenance"]["input"]["sha256"] == finding.provenance["input"]["sha256"]


@pytest.mark.parametrize("size", [(512, 512), (300, 256), (256, 420), (181, 217)])
def test_other_sizes_find_the_same_lesion(pipe, size):
    height, width = size
    image = Image.open(EXAMPLES / "large-lesion.png").convert("RGB")
    truth = Image.open(EXAMPLES / "truth" / "large-lesion.mask.png")
    scale = min(height / 256, width / 256)
    side = round(256 * scale)
    canvas, mask = Image.new("RGB", (width, height)), Image.new("L", (width, height))
    canvas.paste(image.resize((side, side), Image.Resampling.BICUBIC), ((width - side) // 2, (height - side) // 2))
    mask.paste(truth.resize((side, side)), ((width - side) // 2, (height - side) // 2))
    finding = pipe(canvas)
    assert finding.mask.shape == size
    assert dice(finding.mask, np.asarray(mask) > 127) > 0.8


def test_gain_and_bit_depth_do_not_matter(pipe):
    image = np.asarray(Image.open(EXAMPLES / "large-lesion.png").convert("RGB"))
    eight, sixteen = pipe(image), pipe(image.astype(np.uint16) * 16)
    assert dice(eight.mask, sixteen.mask) > 0.98


@pytest.mark.slow
def test_a_blank_slice_has_no_tumour(pipe):
    for value in (0, 128, 255):
        assert pipe(np.full((256, 256), value, np.uint8)).area_px == 0


def test_without_smoothing_a_study_equals_its_slices(tmp_path):
    model = brainmri.load("effunet-lgg", device="cpu")
    pipe = brainmri.Pipeline(replace(model, entry=replace(model.entry, fusion={}, mask_neighbours=0.0)))
    stack = np.stack([phantom_slice(96, lesion=None, seed=1)[0], phantom_slice(96, seed=2)[0]])
    study = pipe.study(stack)
    assert study.mask.shape == study.probability_map.shape == (2, 96, 96)
    single = [pipe(s) for s in stack]
    assert [f.verdict for f in study.findings] == [f.verdict for f in single]
    assert np.allclose(study.probability_map, np.stack([f.probability_map for f in single]), atol=1e-4)
    for number, pixels in enumerate(stack, 1):
        Image.fromarray(pixels).save(tmp_path / f"case_{number}.tif")
    assert np.array_equal(pipe.study(tmp_path).mask, study.mask)
    assert np.array_equal(pipe.study(stack[..., 1]).mask, pipe.study(np.repeat(stack[..., 1:2], 3, axis=3)).mask)


@pytest.fixture(scope="module")
def untrained_classifier(tmp_path_factory):
    """An entry with an untrained ResNet50 and another input size than the segmenters."""
    folder = tmp_path_factory.mktemp("resnet50")
    config = json.loads((find_entry("effunet-lgg").folder / "config.json").read_text())
    arguments = {"image_size": 64, "pool": 2}
    preprocess = Preprocess(size=64).config()
    config |= {"name": "resnet50-untrained", "net": "ResNet50Classifier", "arguments": arguments, "preprocess": preprocess}
    save_entry(folder, ResNet50Classifier(**arguments), config | {"tasks": ["classification"]}, {"train": []}, half=True)
    return brainmri.load("resnet50-untrained", weights=folder, device="cpu")


@pytest.mark.slow
def test_another_classifier_changes_the_probability_but_not_the_mask(untrained_classifier):
    image, _ = phantom_slice(128)
    segmenter = brainmri.load("effunet-lgg", device="cpu")
    own, other = brainmri.Pipeline(segmenter)(image), brainmri.Pipeline(segmenter, untrained_classifier)(image)
    assert np.array_equal(own.mask, other.mask)
    assert own.probability != other.probability
    assert other.provenance["classifier"] == {
        "name": "resnet50-untrained", "sha256": untrained_classifier.entry.sha256, "device": "cpu", "runtime": "torch",
    }  # fmt: skip


def test_a_folder_given_for_both_roles_is_one_model():
    folder = str(EMBEDDED / "effunet-lgg")
    pipe = brainmri.Pipeline(folder, folder, device="cpu")
    assert pipe.classifier is pipe.segmenter
    assert pipe.rules.fusion


def test_wrong_tasks_and_thresholds_are_refused(untrained_classifier):
    with pytest.raises(ValueError, match="expected a model for segmentation, got resnet50-untrained"):
        brainmri.Pipeline(segmenter=untrained_classifier)
    with pytest.raises(ValueError, match="expected a model for classification, got resunet-lgg"):
        brainmri.Pipeline(classifier="resunet-lgg")
    for threshold in (0, 1, -1, 2):
        with pytest.raises(ValueError, match="between 0 and 1"):
            brainmri.Pipeline(mask_threshold=threshold)


@pytest.mark.slow
def test_a_higher_threshold_outlines_less():
    areas = [brainmri.Pipeline(mask_threshold=t, device="cpu")(EXAMPLES / "large-lesion.png").area_px for t in (0.1, 0.5, 0.9)]
    assert areas[0] > areas[1] > areas[2] > 0


def test_the_contour_lies_inside_the_mask():
    mask = np.zeros((40, 40), bool)
    mask[10:20, 0:15] = True  # touches the border
    line = render.contour(mask)
    assert not (line & ~mask).any()
    assert line[10, 0:15].all()
    assert line[10:20, 0].all()
    assert not line[12:18, 2:13].any()
    assert not render.contour(np.zeros((8, 8), bool)).any()


def test_the_gallery_is_on_the_slices_own_grid(pipe):
    pixels = np.random.default_rng(0).random((64, 80, 3), np.float32)
    pictures = render.gallery(pixels, pipe(pixels))
    assert [p.size for p, _ in pictures] == [(80, 64)] * 5
    assert len({caption for _, caption in pictures}) == 5


def test_unreadable_inputs_raise(pipe):
    with pytest.raises(UnreadableImage, match="array: expected 32 to 4096 pixels a side, got 10 x 10"):
        pipe(np.zeros((10, 10), np.uint8))
    with pytest.raises(ValueError, match="use study"):
        pipe(brainmri.analysis.pipeline.read_study(np.zeros((2, 32, 32), np.uint8)))
