"""Run networks over slices: probability maps, verdict logits and out-of-distribution results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from brainmri.analysis.fallback import run_or_fall_back
from brainmri.io.pixels import FLAIR
from brainmri.zoo import ood
from brainmri.zoo.attributes import split_logits
from brainmri.zoo.calibration import evidence
from brainmri.zoo.ood import OodResult
from brainmri.zoo.preprocess import SQUARE, Placement
from brainmri.zoo.registry import LoadedModel

BATCH, ACCELERATED_BATCH = 4, 64  # on a CPU, larger batches are no faster and need more memory
DARK = 0.1  # a slice shows no head if its brightest parts are below this share of the brightest slice's

Progress = Callable[[int, int], None]


class RanOn(NamedTuple):
    """What a network ran on: the type of the device, for example "cuda", and the backend (`brainmri.zoo.backends`)."""

    device: str
    runtime: str

    @classmethod
    def of(cls, model: LoadedModel) -> RanOn:
        """What a model runs on."""
        return cls(device=model.device.type, runtime=model.backend.kind)

    def record(self, model: LoadedModel) -> dict:
        """The model and what it ran on, for JSON."""
        return {"name": model.entry.name, "sha256": model.entry.sha256, **self._asdict()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The networks' output for S slices, before any rule is applied; a field is None if no network computes it.

    Attributes:
        maps: (S, H, W) float32 in [0, 1], probability of tumour by pixel, on the slices' own grid.
        grid_share: (S,) float64, pixels of the network's grid per pixel of the slice.
        evidence: (S,) float64, `brainmri.zoo.calibration.evidence` of the maps.
        logits: (S,) float64, the verdict's logits, tumour against no tumour.
        ood: the out-of-distribution result for each slice.
        in_scope: (S,) bool, whether each slice is like the training data of the segmenter's specialist.
        attributes: by attribute (`brainmri.zoo.attributes`) and class, (S,) float64 probabilities.
        segmenter: what the segmenter ran on.
        classifier: what the classifier ran on.
        seconds: how long it took to compute all of this.
    """

    maps: np.ndarray | None = None
    grid_share: np.ndarray | None = None
    evidence: np.ndarray | None = None
    logits: np.ndarray | None = None
    ood: list[OodResult] | None = None
    in_scope: np.ndarray | None = None
    attributes: dict[str, dict[str, np.ndarray]] | None = None
    segmenter: RanOn | None = None
    classifier: RanOn | None = None
    seconds: float | None = None


def with_head(pixels: np.ndarray) -> np.ndarray:
    """Which slices of (S, H, W, 3) pixels show a head, (S,) bool; all of them if the whole study is black."""
    bright = np.percentile(pixels[..., FLAIR].reshape(len(pixels), -1), 99, axis=1)
    return bright >= DARK * bright.max()


def predict_slices(
    segmenter: LoadedModel | None,
    classifier: LoadedModel | None,
    slices: np.ndarray,
    spacing: tuple[float, float] = SQUARE,
    normalise_over: str | None = None,
    progress: Progress | None = None,
    ood_model: LoadedModel | None = None,
) -> Prediction:
    """Run a segmenter, a classifier or both on slices; on the CPU if an accelerator fails.

    Args:
        segmenter: the model that computes the maps, if any.
        classifier: the model that computes the verdict's logits, if any; it may be the segmenter.
        slices: (S, H, W, 3) in [0, 1], in order along the head.
        spacing: between rows and between columns, in a common unit.
        normalise_over: "slice" or "volume" instead of the entries' own setting, to compare the two.
        progress: called with the number of finished slices and of all slices after each batch of each network.
        ood_model: the model whose out-of-distribution detector, if any, checks the slices.
    """

    def predict(segmenter: LoadedModel | None, classifier: LoadedModel | None, ood_model: LoadedModel | None) -> Prediction:
        return _predict(segmenter, classifier, slices, spacing, normalise_over, progress, ood_model)

    return run_or_fall_back(predict, segmenter, classifier, ood_model)


def _predict(
    segmenter: LoadedModel | None,
    classifier: LoadedModel | None,
    slices: np.ndarray,
    spacing: tuple[float, float],
    normalise_over: str | None,
    progress: Progress | None,
    ood_model: LoadedModel | None,
) -> Prediction:
    start = time.perf_counter()
    done: dict[int, tuple[GridOutput, tuple[Placement, ...]]] = {}
    for model in (segmenter, classifier):
        if model is not None and id(model) not in done:
            images, placements = _place(model, slices, spacing, normalise_over)
            done[id(model)] = run_model(model, images, progress), placements
    fields: dict = {"segmenter": segmenter and RanOn.of(segmenter), "classifier": classifier and RanOn.of(classifier)}
    if ood_model is not None and ood_model.ood:
        if id(ood_model) in done:
            features = done[id(ood_model)][0].features
        else:
            features = encoder_features(ood_model, _place(ood_model, slices, spacing)[0], ood_model.ood.feature_spec)
        assert features is not None
        fields["ood"] = ood_model.ood.score(features.cpu().numpy(), slices)
    if segmenter is not None:
        output, placements = done[id(segmenter)]
        if segmenter.scope and output.features is not None:
            fields["in_scope"] = segmenter.scope.is_inside(output.features.cpu().numpy())
        assert output.maps is not None
        grid_maps = output.maps.to(_resizing(segmenter))
        restored = [segmenter.entry.preprocess.restore(m, p) for m, p in zip(grid_maps, placements, strict=True)]
        # copy from a GPU once, not once per slice
        fields |= {"maps": torch.stack(restored).cpu().numpy(), "evidence": evidence(grid_maps.cpu())}
        fields["grid_share"] = np.array([p.placed[2] * p.placed[3] / (p.crop[2] * p.crop[3]) for p in placements])
    if classifier is not None:
        output, _ = done[id(classifier)]
        assert output.logits is not None
        fields["logits"] = output.logits.cpu().double().numpy()
        if output.attributes is not None:
            parts = split_logits(output.attributes.cpu().double(), classifier.net.attributes)
            fields["attributes"] = {
                name: dict(zip(classifier.net.attributes[name], logits.softmax(dim=1).numpy().T, strict=True))
                for name, logits in parts.items()
            }
    return Prediction(**fields, seconds=time.perf_counter() - start)


def _place(
    model: LoadedModel, slices: np.ndarray, spacing: tuple[float, float], normalise_over: str | None = None
) -> tuple[Tensor, tuple[Placement, ...]]:
    """Preprocess slices: the network's input (S, 3, h, w) on its device, and the placement of each slice on its grid."""
    preprocess = model.entry.preprocess
    preprocess = replace(preprocess, normalise_over=normalise_over or preprocess.normalise_over)
    placed, placements = zip(*(preprocess(s, spacing, _resizing(model)) for s in slices), strict=True)
    return preprocess.normalise(torch.stack(placed)).to(model.device), placements


def _resizing(model: LoadedModel) -> torch.device:
    """The device that resizes slices and maps; not every accelerator supports antialiasing."""
    return model.device if model.device.type == "cuda" else torch.device("cpu")


def _batches(model: LoadedModel, images: Tensor) -> tuple[Tensor, ...]:
    """Split images into batches that suit the network's device."""
    return images.split(BATCH if model.device.type == "cpu" else ACCELERATED_BATCH)


@torch.inference_mode()
def encoder_features(model: LoadedModel, images: Tensor, feature_spec: ood.FeatureSpec) -> Tensor:
    """Features for the out-of-distribution detector: normalised slices (S, 3, h, w) to (S, D)."""
    batches = (image.to(memory_format=torch.channels_last) for image in _batches(model, images))
    return torch.cat([ood.pool_features(model.net.forward_features(image), feature_spec) for image in batches])


class GridOutput(NamedTuple):
    """The output of one network for S slices, on the network's device and grid; None for what the network does not compute.

    On a GPU the tensors may still be computed: waiting for each batch would leave it idle.

    Attributes:
        maps: (S, 1, h, w) mask probabilities.
        logits: (S,) verdict logits, tumour against no tumour.
        features: (S, D) features for the out-of-distribution detector, of the slices as they are.
        attributes: (S, A) logits of all attributes, of the slices as they are.
    """

    maps: Tensor | None = None
    logits: Tensor | None = None
    features: Tensor | None = None
    attributes: Tensor | None = None


@torch.inference_mode()
def run_model(model: LoadedModel, images: Tensor, progress: Progress | None = None) -> GridOutput:
    """Run a network on normalised slices; if its entry has `flips`, average with the output for the mirrored slices.

    Args:
        images: (S, 3, h, w), normalised, on the network's device.
        progress: called with the number of finished slices and of all slices after each batch; on a GPU, when it is queued.
    """
    entry = model.entry
    parts: dict[str, list[Tensor]] = {name: [] for name in GridOutput._fields}
    done = 0
    for image in _batches(model, images):
        views = torch.cat([image, image.flip(-1)]) if entry.flips else image
        output = model.backend(views)
        for name in ("features", "attributes"):
            if (values := getattr(output, name)) is not None:
                parts[name].append(values[: len(image)])
        if output.mask is not None:
            probability = output.mask.sigmoid()
            if entry.flips:
                original, mirrored = probability.chunk(2)
                probability = (original + mirrored.flip(-1)) / 2
            parts["maps"].append(probability)
        if output.verdict is not None:
            # average logits, not probabilities, so that one temperature calibrates the mean
            mean = torch.stack(output.verdict.chunk(2)).mean(0) if entry.flips else output.verdict
            parts["logits"].append(mean)
        done += len(image)
        if progress:
            progress(done, len(images))
    return GridOutput(**{name: torch.cat(batches) for name, batches in parts.items() if batches})
