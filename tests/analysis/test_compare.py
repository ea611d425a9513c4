"""Several models on one input, each as an analysis by it alone: on the slices that the default model prepares."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage import data

import brainmri
from brainmri.analysis.colours import MARKED
from brainmri.analysis.compare import (
    Comparison,
    ModelResult,
    OutOfDistribution,
    _check,
    _not_covered,
    compare,
    disagreement,
    overlap,
)
from brainmri.analysis.coverage import ONLY_AXIAL
from brainmri.analysis.forward import Prediction
from brainmri.analysis.preparation import prepare_pictures
from brainmri.io.pixels import FLAIR
from brainmri.io.reading import read_slice, read_study
from brainmri.io.scan import Geometry, Scan
from brainmri.zoo.entry import rules_of
from brainmri.zoo.ood import NOT_MR, OodResult
from brainmri.zoo.registry import DEFAULT, LoadedModel

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
NAME = "effunet-lite2-lgg"
SLICE = read_slice(EXAMPLES / "large-lesion.png").pixels
# of the four slices of `stack`
CORONAL = Geometry(shape=(4, 256, 256), affine=np.array([[0, 0, -1.0, 90], [5.0, 0, 0, 80], [0, -1.0, 0, 60], [0, 0, 0, 1]]))
MARGIN = ((20, 40), (90, 50), (0, 0))


@pytest.fixture(scope="module")
def pipe() -> brainmri.Pipeline:
    """The default model, as the page prepares inputs with it."""
    return brainmri.Pipeline(device="cpu")


@pytest.fixture(scope="module")
def models(pipe) -> dict[str, LoadedModel]:
    others = {name: brainmri.load(name, device="cpu") for name in (NAME, "resunet-lgg", "resnet50-lgg")}
    return others | {DEFAULT: pipe.segmenter}


@pytest.fixture(scope="module")
def alone(models) -> dict[str, brainmri.Pipeline]:
    """An analysis by one model alone, of those with mask and verdict."""
    default = models[DEFAULT]
    without_specialist = replace(default, entry=replace(default.entry, specialist=None))
    return {NAME: brainmri.Pipeline(models[NAME]), DEFAULT: brainmri.Pipeline(without_specialist)}


def scan_of(pixels: np.ndarray) -> Scan:
    return Scan(pixels=np.ascontiguousarray(pixels, np.float32), name="input", sha256="")


def by_name(found: Comparison) -> dict[str, ModelResult]:
    return {result.name: result for result in found.results}


def test_a_slice_is_compared_as_it_is_analysed(models, pipe, alone):
    scan = scan_of(SLICE)
    results = by_name(compare(models, scan, pipe))
    assert [*results] == [*models]
    assert [name for name, result in results.items() if result.mask is None] == ["resnet50-lgg"]
    assert [name for name, result in results.items() if result.probability is None] == ["resunet-lgg"]
    for name, own in alone.items():
        finding = own(scan)
        assert np.array_equal(results[name].mask, finding.mask), name
        assert np.array_equal(results[name].probability_map, finding.probability_map), name
        assert results[name].probability == finding.probability, name


@pytest.mark.parametrize(
    ("changes", "warnings"),
    [
        ({"single_sequence": "FLAIR"}, ()),
        ({"single_sequence": "post-contrast T1"}, ("the model was not evaluated on tumours in T1c images",)),
        ({"single_sequence": "FLAIR", "geometry": CORONAL}, (ONLY_AXIAL,)),
    ],
)
def test_what_a_model_was_not_evaluated_on_is_reported(models, pipe, stack, changes, warnings):
    greyscale = np.repeat(stack[..., FLAIR, None], 3, axis=3)
    results = by_name(compare(models, replace(scan_of(greyscale), **changes), pipe))
    assert {name: result.warnings for name, result in results.items()} == {name: warnings for name in models} | {DEFAULT: ()}
    assert results[NAME].record()["warnings"] == list(warnings)


@pytest.mark.parametrize("name", [NAME, DEFAULT])
def test_an_unclear_sequence_is_reported(models, pipe, name):
    scan, model = scan_of(np.repeat(SLICE[..., FLAIR, None], 3, axis=2)), models[name]
    (part,) = pipe.prepare(scan)
    even = {sequence: np.full(1, 1 / 6) for sequence in part.predicted.attributes["sequence"]}
    unclear = replace(part, sequence=None, predicted=replace(part.predicted, attributes={"sequence": even}))
    rules = rules_of(model.entry, model.entry)
    assert _not_covered(model, rules, scan, (replace(unclear, sequence="FLAIR"),)) == ()
    (warning,) = _not_covered(model, rules, scan, (unclear, unclear))
    assert warning.startswith("the sequence is unclear and may be ")


@pytest.mark.parametrize(("example", "batches"), [("large-lesion.png", 1), ("study-flair.nii.gz", 4)])
def test_every_network_runs_once_and_its_time_is_counted(models, pipe, example, batches):
    """Also the one that prepares the slices."""
    scan = read_slice(EXAMPLES / example) if example.endswith(".png") else read_study(EXAMPLES / example)
    some = {name: models[name] for name in (NAME, DEFAULT)}
    spans: dict[str, list[float]] = {name: [] for name in some}  # start and end of every pass of the encoder

    def note(name: str) -> Callable[..., None]:
        return lambda *_: spans[name].append(time.perf_counter())

    encoders = [(name, model.net.unet.encoder) for name, model in some.items()]
    hooks = [encoder.register_forward_pre_hook(note(name)) for name, encoder in encoders]
    hooks += [encoder.register_forward_hook(note(name)) for name, encoder in encoders]
    results = by_name(compare(some, scan, pipe))
    for hook in hooks:
        hook.remove()
    assert {name: len(times) for name, times in spans.items()} == dict.fromkeys(some, 2 * batches)
    for name, times in spans.items():
        assert results[name].seconds > times[-1] - times[0], name


def test_masks_are_compared_pixel_by_pixel(models, pipe):
    results = compare({name: models[name] for name in (NAME, "resunet-lgg", "resnet50-lgg")}, scan_of(SLICE), pipe).results
    where = disagreement(results)
    assert np.array_equal(where == 1, results[0].mask ^ results[1].mask)
    assert where[results[0].mask == results[1].mask].max() == 0
    assert overlap(results) > 0.8
    assert (disagreement(results[:1]), overlap(results[2:])) == (None, None)


UPLOADS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "upside down": lambda values: values[::-1, ::-1],
    "screenshot with a white page": lambda values: np.pad(values, MARGIN[: values.ndim], constant_values=values.ndim == 3),
}


@pytest.mark.parametrize("upload", UPLOADS.values(), ids=UPLOADS)
def test_every_model_gets_the_prepared_slice_and_its_mask_comes_back_on_the_uploads_grid(models, pipe, alone, upload):
    scan = scan_of(upload(SLICE))
    plain, found = by_name(compare(models, scan_of(SLICE), pipe)), compare(models, scan, pipe)
    results = by_name(found)
    for name, result in results.items():
        assert result.probability == pytest.approx(plain[name].probability, abs=0.05), name
        if result.mask is not None:
            assert result.mask.shape == scan.pixels.shape[:2]
            assert overlap([result, replace(plain[name], mask=upload(plain[name].mask))]) > 0.95, name
    finding = alone[DEFAULT](scan)
    assert np.array_equal(results[DEFAULT].mask, finding.mask)
    assert results[DEFAULT].probability == finding.probability
    assert found.warnings == finding.warnings != ()


def test_what_sends_an_analysis_to_review_is_reported(models, pipe):
    """Marks, too few pixels and a head that is cut off."""
    some, grey = {NAME: models[NAME]}, np.repeat(SLICE[..., FLAIR, None], 3, axis=2)
    marked = grey.copy()
    marked[100:104, 100:140] = (1, 0.9, 0)
    rows = np.flatnonzero(grey.any(axis=(1, 2)))
    cut = grey[: int(rows[0] + 0.6 * np.ptp(rows))]
    for pixels, reason in ((marked, MARKED), (SLICE[::4, ::4], "64 x 64 pixels"), (cut, "only a part of the head")):
        (warning,) = compare(some, scan_of(pixels), pipe).warnings
        assert warning.startswith("the results may be wrong: ")
        assert reason in warning
    assert compare(some, scan_of(grey), pipe).warnings == ()


def test_a_sheet_is_compared_as_it_is_analysed(models, pipe, alone):
    one, healthy = SLICE, read_slice(EXAMPLES / "healthy-high.png").pixels
    scan = scan_of(np.concatenate([np.concatenate([healthy, one], 1), np.concatenate([healthy, healthy], 1)]))
    results = by_name(compare(models, scan, pipe))
    finding = alone[DEFAULT](scan)
    assert "sheet of 4 slices" in finding.reason
    assert np.array_equal(results[DEFAULT].mask, finding.mask)
    assert results[DEFAULT].probability == finding.probability
    assert results["resunet-lgg"].mask[:256, 256:].any()


@pytest.mark.parametrize(("strange", "expected"), [(1, []), (4, [0])])
def test_a_sheet_among_pictures_counts_if_one_of_its_slices_does(strange, expected):
    def predict(slices: np.ndarray) -> Prediction:
        reason = "This is dark." if slices.max() < 0.6 else None
        return Prediction(ood=[OodResult(distance=1.0, other_log_odds=0.0, reason=reason)])

    tiles = [SLICE * (0.5 if number < strange else 1) for number in range(4)]
    sheet = np.concatenate([np.concatenate(tiles[:2], 1), np.concatenate(tiles[2:], 1)])
    scan = scan_of(np.stack([sheet, *[np.pad(SLICE, ((128, 128), (128, 128), (0, 0)))] * 2]))
    parts = tuple(prepare_pictures(scan, predict))
    assert [part.view.numbers.tolist() for part in parts] == [[0]] * 4 + [[1], [2]]
    assert _check(parts, scan) == expected


def test_a_picture_that_is_no_brain_is_refused_as_in_an_analysis(models, pipe):
    scan = scan_of(data.astronaut() / 255)
    with pytest.raises(OutOfDistribution, match=NOT_MR):
        compare(models, scan, pipe)
    assert pipe(scan).reason == NOT_MR


def test_a_study_is_compared_as_it_is_analysed(models, pipe, alone):
    scan = read_study(EXAMPLES / "study-flair.nii.gz")
    results = by_name(compare(models, scan, pipe))
    for name, own in alone.items():
        study, result = own.study(scan), results[name]
        assert np.array_equal(result.mask, study.mask), name
        assert result.volume_mm3 == study.volume_mm3
        assert result.likeliest == study.most_probable
        assert result.probability == study.findings[study.most_probable].probability
    assert overlap([results[NAME], results["resunet-lgg"]]) > 0.8
    verdict_alone, mask_alone = results["resnet50-lgg"].record(), results["resunet-lgg"].record()
    assert (verdict_alone["voxels"], mask_alone["probability"]) == (None, None)
    assert "volume_ml" in mask_alone
    assert "volume_ml" not in verdict_alone


@pytest.fixture(scope="module")
def stack() -> np.ndarray:
    """(4, H, W, 3), slices without a geometry."""
    return np.ascontiguousarray(read_study(EXAMPLES / "study-flair.nii.gz").pixels[5:9])


def test_a_study_turned_upside_down_is_compared_upright(models, pipe, stack):
    some = {name: models[name] for name in (NAME, "resunet-lgg")}
    upright, turned = (by_name(compare(some, scan_of(one), pipe)) for one in (stack, np.rot90(stack, 2, axes=(1, 2))))
    assert upright[NAME].mask.any()
    for name, result in turned.items():
        assert (result.probability, result.likeliest) == (upright[name].probability, upright[name].likeliest), name
        assert np.array_equal(np.rot90(result.mask, 2, axes=(1, 2)), upright[name].mask), name


def test_slices_of_a_study_that_are_no_brain_do_not_count(models, pipe, alone, stack):
    few, many = stack.copy(), stack.copy()
    few[0] = many[:3] = np.random.default_rng(0).random(stack.shape[1:])  # noise
    found, study = compare({DEFAULT: models[DEFAULT]}, scan_of(few), pipe), alone[DEFAULT].study(scan_of(few))
    (result,) = found.results
    assert [finding.out_of_distribution for finding in study.findings] == [True, False, False, False]
    assert (result.probability, result.likeliest) == (study.findings[study.most_probable].probability, study.most_probable)
    assert found.warnings == study.warnings
    assert found.warnings[-1].startswith("slice 1 left out")
    with pytest.raises(OutOfDistribution) as caught:
        compare(models, scan_of(many), pipe)
    assert str(caught.value) == pipe.study(scan_of(many)).reason
    assert str(caught.value).startswith("Most slices (3 of 4) do not look like")
