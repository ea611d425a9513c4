"""Run several models on one slice and compare their results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from brainmri.analysis.forward import predict_slices
from brainmri.analysis.recognition import recognise, sequence_of
from brainmri.zoo.entry import rules_of
from brainmri.zoo.registry import LoadedModel, split_roles


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelResult:
    """The result of one model for a slice; a field is None if the model does not have that task.

    Attributes:
        name: the model's name, as given to `compare`.
        probability: calibrated probability of tumour, in [0, 1].
        mask: (H, W) bool, at the entry's own threshold.
        probability_map: (H, W) float32 in [0, 1].
        seconds: from pixels to result, without loading the network.
    """

    name: str
    probability: float | None
    mask: np.ndarray | None
    probability_map: np.ndarray | None
    seconds: float

    def record(self) -> dict:
        """The result for JSON, without the arrays."""
        return {
            "name": self.name,
            "probability": None if self.probability is None else round(self.probability, 6),
            "area_px": None if self.mask is None else int(self.mask.sum()),
            "seconds": round(self.seconds, 4),
        }


def compare(models: Mapping[str, LoadedModel], pixels: np.ndarray) -> list[ModelResult]:
    """Run every model on one slice.

    Args:
        models: the models by their names.
        pixels: (H, W, 3) in [0, 1].
    """
    results: list[ModelResult] = []
    for name, model in models.items():
        segmenter, classifier = split_roles(model)
        start = time.perf_counter()
        predicted = predict_slices(segmenter, classifier, pixels[None])
        sequence = sequence_of(recognise(predicted, pixels[None]))
        rules = rules_of(segmenter and segmenter.entry, classifier and classifier.entry).for_sequence(sequence)
        probability = None
        if predicted.logits is not None:
            probability = float(rules.probability(predicted.logits, predicted.evidence, "slice")[0])
        probability_map = None if predicted.maps is None else predicted.maps[0]
        results.append(
            ModelResult(
                name=name,
                probability=probability,
                mask=None if probability_map is None else probability_map > rules.mask_threshold,
                probability_map=probability_map,
                seconds=time.perf_counter() - start,
            )
        )
    return results


def disagreement(results: list[ModelResult]) -> np.ndarray | None:
    """How much the masks disagree, pixel by pixel.

    Returns:
        (H, W) float32 in [0, 1]: 0 where all masks agree, 1 where half of them contain the pixel; None for fewer than two masks.
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
