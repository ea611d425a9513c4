"""Run several models on one slice or study and compare their results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from brainmri.analysis.decision import outline, without_specks
from brainmri.analysis.forward import predict_slices, with_head
from brainmri.analysis.recognition import recognise, sequence_of
from brainmri.io.scan import Scan
from brainmri.zoo.entry import rules_of
from brainmri.zoo.registry import LoadedModel, split_roles


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelResult:
    """The result of one model for a slice or a study; a field is None if the model does not have that task.

    Attributes:
        name: the model's name, as given to `compare`.
        probability: calibrated probability of tumour, in [0, 1]; of a study, the highest of its slices.
        likeliest: index of the slice with that probability; None for a slice.
        mask: (H, W) or (S, H, W) bool, as an analysis by this model alone outlines upright slices.
        probability_map: float32 in [0, 1], of the mask's shape.
        volume_mm3: of the mask; None for a slice, and without a plausible voxel size.
        seconds: from pixels to result, without loading the network.
    """

    name: str
    probability: float | None
    likeliest: int | None
    mask: np.ndarray | None
    probability_map: np.ndarray | None
    volume_mm3: float | None
    seconds: float

    def record(self) -> dict:
        """The result for JSON, without the arrays; `volume_ml` and `likeliest_slice`, from 1, are of studies only."""
        study: dict[str, float] = {} if self.likeliest is None else {"likeliest_slice": self.likeliest + 1}
        if self.volume_mm3 is not None:
            study["volume_ml"] = round(self.volume_mm3 / 1000, 3)
        of_study = self.likeliest is not None or (self.mask is not None and self.mask.ndim == 3)
        return {
            "name": self.name,
            "probability": None if self.probability is None else round(self.probability, 6),
            "voxels" if of_study else "area_px": None if self.mask is None else int(self.mask.sum()),
            **study,
            "seconds": round(self.seconds, 4),
        }


def compare(models: Mapping[str, LoadedModel], scan: Scan) -> list[ModelResult]:
    """Run every model by itself on a slice or a study; slices without a head are skipped.

    Unlike a `Pipeline`, it takes slices as they are: it turns none upright, cuts none out of a page and runs no check.

    Args:
        models: the models by their names.
        scan: a slice (H, W, 3) or a study (S, H, W, 3).
    """
    return [_result(name, model, scan) for name, model in models.items()]


def _result(name: str, model: LoadedModel, scan: Scan) -> ModelResult:
    start = time.perf_counter()
    study, geometry = scan.pixels.ndim == 4, scan.geometry
    slices = scan.pixels if study else scan.pixels[None]
    mode = "study" if len(slices) > 1 else "slice"
    numbers = np.flatnonzero(with_head(slices))
    segmenter, classifier = split_roles(model)
    predicted = predict_slices(segmenter, classifier, slices[numbers], geometry.spacing[1:] if geometry else (1.0, 1.0))
    sequence = sequence_of(recognise(predicted, slices[numbers]))
    rules = rules_of(segmenter and segmenter.entry, classifier and classifier.entry).for_sequence(sequence)
    probability = likeliest = maps = mask = volume = None
    if predicted.logits is not None:
        probabilities = rules.probability(predicted.logits, predicted.evidence, mode)
        probability, likeliest = float(probabilities.max()), int(numbers[probabilities.argmax()])
    if predicted.maps is not None and predicted.grid_share is not None:
        maps, mask = np.zeros(slices.shape[:3], np.float32), np.zeros(slices.shape[:3], bool)
        maps[numbers], outlined = outline(predicted.maps, rules, mode)
        mask[numbers], _ = without_specks(outlined, predicted.grid_share)
        if study and geometry and geometry.plausible:
            volume = float(mask.sum() * geometry.voxel_volume)
        maps, mask = (maps, mask) if study else (maps[0], mask[0])
    return ModelResult(
        name=name,
        probability=probability,
        likeliest=likeliest if study else None,
        mask=mask,
        probability_map=maps,
        volume_mm3=volume,
        seconds=time.perf_counter() - start,
    )


def disagreement(results: list[ModelResult]) -> np.ndarray | None:
    """How much the masks disagree, pixel by pixel.

    Returns:
        Of the masks' shape, float32 in [0, 1]: 0 where all agree, 1 where half of them contain the pixel; None for fewer than
        two masks.
    """
    masks = [result.mask for result in results if result.mask is not None]
    if len(masks) < 2:
        return None
    share = np.asarray(np.mean(masks, axis=0, dtype=np.float32))
    return 4 * share * (1 - share)


def overlap(results: list[ModelResult]) -> float | None:
    """The mean Dice over all pairs of masks; two empty masks have a Dice of 1. None for fewer than two masks."""
    masks = [result.mask for result in results if result.mask is not None]
    pairs = [(one, other) for number, one in enumerate(masks) for other in masks[number + 1 :]]
    if not pairs:
        return None
    counts = [(2 * (one & other).sum(), one.sum() + other.sum()) for one, other in pairs]
    return float(np.mean([shared / total if total else 1.0 for shared, total in counts]))
