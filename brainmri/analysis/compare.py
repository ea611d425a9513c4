"""One slice through several entries of the zoo, side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from brainmri.analysis.forward import predict_slices
from brainmri.zoo.entry import rules_of
from brainmri.zoo.registry import LoadedModel, split_roles


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelResult:
    """What one entry says of a slice; None for what it does not do.

    Attributes:
        name: what the entry is called.
        probability: calibrated, of tumour.
        mask: (H, W) bool at the entry's own threshold.
        probability_map: (H, W) float32 in [0, 1].
        seconds: from pixels to these, the network loaded.
    """

    name: str
    probability: float | None
    mask: np.ndarray | None
    probability_map: np.ndarray | None
    seconds: float

    def record(self) -> dict:
        """Ready for JSON, without the arrays."""
        return {
            "name": self.name,
            "probability": None if self.probability is None else round(self.probability, 6),
            "area_px": None if self.mask is None else int(self.mask.sum()),
            "seconds": round(self.seconds, 4),
        }


def compare(models: Mapping[str, LoadedModel], pixels: np.ndarray) -> list[ModelResult]:
    """Run every model on one slice.

    Args:
        models: by the name to show.
        pixels: (H, W, 3) in [0, 1].
    """
    results = []
    for name, model in models.items():
        segmenter, classifier = split_roles(model)
        began = time.perf_counter()
        predicted = predict_slices(segmenter, classifier, pixels[None])
        rules = rules_of(segmenter and segmenter.entry, classifier and classifier.entry)
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
                seconds=time.perf_counter() - began,
            )
        )
    return results


def disagreement(results: list[ModelResult]) -> np.ndarray | None:
    """(H, W) float32: 0 where the masks agree, 1 where half of them say tumour; None for fewer than two masks."""
    masks = [result.mask for result in results if result.mask is not None]
    if len(masks) < 2:
        return None
    share = np.asarray(np.mean(masks, axis=0, dtype=np.float32))
    return 4 * share * (1 - share)


def overlap(results: list[ModelResult]) -> float | None:
    """Mean Dice similarity of every two masks, two empty ones agreeing; None for fewer than two."""
    masks = [result.mask for result in results if result.mask is not None]
    pairs = [(one, other) for number, one in enumerate(masks) for other in masks[number + 1 :]]
    if not pairs:
        return None
    totals = [(2 * (one & other).sum(), one.sum() + other.sum()) for one, other in pairs]
    return float(np.mean([hit / total if total else 1.0 for hit, total in totals]))
