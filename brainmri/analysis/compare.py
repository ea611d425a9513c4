"""Run several models on one slice or study and compare their results."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from brainmri.analysis.coverage import ONLY_AXIAL, is_axial, not_covered
from brainmri.analysis.decision import left_out, mostly_unknown, outline, without_specks
from brainmri.analysis.forward import Prediction, predict_slices
from brainmri.analysis.picture import missing_part, problems, with_numbers, without_one_head
from brainmri.analysis.pipeline import Pipeline
from brainmri.analysis.preparation import NO_NEIGHBOURS, Prepared, holds_pictures
from brainmri.io.scan import Scan
from brainmri.zoo.calibration import Rules
from brainmri.zoo.entry import rules_of
from brainmri.zoo.registry import LoadedModel, split_roles


class OutOfDistribution(ValueError):
    """An input that does not look like brain MRI, so that no result would be meaningful."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelResult:
    """The result of one model for a slice or a study; a field is None if the model does not have that task.

    Attributes:
        name: the model's name, as given to `compare`.
        probability: calibrated probability of tumour, in [0, 1]; of a study, the highest of its slices that are not out of
            distribution; of a sheet, the highest of its slices.
        likeliest: index of the slice with that probability; None for a slice.
        mask: (H, W) or (S, H, W) bool on the input's own grid, as an analysis by this model alone outlines the prepared slices.
        probability_map: float32 in [0, 1], of the mask's shape.
        volume_mm3: of the mask; None for a slice, and without a plausible voxel size.
        seconds: from prepared slices to result, without loading the network; of the pipeline's own model with its
            out-of-distribution check.
        warnings: what the input shows that the model was not evaluated on, so that its result may be wrong.
    """

    name: str
    probability: float | None
    likeliest: int | None
    mask: np.ndarray | None
    probability_map: np.ndarray | None
    volume_mm3: float | None
    seconds: float
    warnings: tuple[str, ...]

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
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """The results of several models for one input.

    Attributes:
        results: one for each model, in their order.
        warnings: of the reader, what was changed before the models ran, for which slices an analysis leaves the verdict to a
            person whatever the models find, and which slices of a study do not count.
    """

    results: tuple[ModelResult, ...]
    warnings: tuple[str, ...]


def compare(models: Mapping[str, LoadedModel], scan: Scan, pipe: Pipeline, sequence: str | None = None) -> Comparison:
    """Run every model by itself on a slice or a study. All of them get the slices that a pipeline prepares for its own analysis.

    The pipeline's own model does not run again: its prediction is that of the preparation.

    Args:
        models: the models by their names.
        scan: a slice (H, W, 3) or a study (S, H, W, 3).
        pipe: finds the slices, turns them upright, recognises their sequence and checks whether they show a brain.
        sequence: the MR sequence, one of `brainmri.zoo.attributes.SEQUENCES`; None to recognise it.

    Raises:
        ValueError: for an unknown sequence, or one for a study of several.
        OutOfDistribution: if the slice, or most of the study, does not look like brain MRI.
    """
    parts = pipe.prepare(scan, sequence)
    strange = _check(parts, scan)
    return Comparison(
        results=tuple(_result(name, model, scan, parts, strange, pipe) for name, model in models.items()),
        warnings=(*_notes(parts, scan), *(left_out(strange) if scan.pixels.ndim == 4 else ())),
    )


def _notes(parts: tuple[Prepared, ...], scan: Scan) -> tuple[str, ...]:
    """What the reader says, what was changed, and why the results may be wrong; of several pictures, with their numbers."""
    noted = [(part, (*part.warnings, *_doubts(part, measured=scan.geometry is not None))) for part in parts]
    if len(parts) > 1 and holds_pictures(scan):
        return (*without_one_head(scan.warnings), NO_NEIGHBOURS, *with_numbers(noted))
    return (*scan.warnings, *dict.fromkeys(note for _, notes in noted for note in notes))


def _doubts(part: Prepared, measured: bool) -> list[str]:
    """Why the results of slices that look like brain MRI may be wrong."""
    checks = part.predicted.ood or [None] * len(part.slices)
    known = [check is None or check.reason is None for check in checks]
    found = dict.fromkeys((*itertools.compress(problems(part, measured), known), missing_part(part) if any(known) else None))
    return [f"the results may be wrong: {problem}" for problem in found if problem]


def _check(parts: tuple[Prepared, ...], scan: Scan) -> list[int]:
    """The indices of the slices that are out of distribution, of sheets those with no other slice.

    Raises:
        OutOfDistribution: if nothing remains, or too little of a study.
    """
    reasons: dict[int, list[str | None]] = {}  # by picture, of each of its slices
    for part in parts:
        for number, check in zip(part.view.numbers.tolist(), part.predicted.ood or (), strict=False):
            reasons.setdefault(number, []).append(check.reason)
    numbers = [number for number, found in reasons.items() if all(found)]
    if scan.pixels.ndim == 4:
        reason = mostly_unknown(numbers, len(scan.pixels), len(reasons))
    else:
        reason = reasons[0][0] if numbers else None
    if reason:
        raise OutOfDistribution(reason)
    return numbers


def _result(
    name: str, model: LoadedModel, scan: Scan, parts: tuple[Prepared, ...], strange: list[int], pipe: Pipeline
) -> ModelResult:
    segmenter, classifier = split_roles(model)
    predictions = [_predict(segmenter, classifier, part, pipe) for part in parts]
    start = time.perf_counter()
    study, geometry = scan.pixels.ndim == 4, scan.geometry
    rules = rules_of(segmenter and segmenter.entry, classifier and classifier.entry)
    grid = scan.pixels.shape[:3] if study else (1, *scan.pixels.shape[:2])
    probabilities, maps, mask = np.zeros(grid[0]), np.zeros(grid, np.float32), np.zeros(grid, bool)
    for part, predicted in zip(parts, predictions, strict=True):
        own, view = rules.for_sequence(part.sequence), part.view
        if predicted.logits is not None:
            found = own.probability(predicted.logits, predicted.evidence, part.mode)
            probabilities[view.numbers] = np.maximum(probabilities[view.numbers], found)
        if predicted.maps is not None and predicted.grid_share is not None:
            thresholded, outlined = outline(predicted.maps, own, part.mode)
            maps[view.numbers] = np.maximum(maps[view.numbers], view.restore(thresholded, *grid[1:]))
            mask[view.numbers] |= view.restore(without_specks(outlined, predicted.grid_share)[0], *grid[1:])
    if study:
        probabilities[strange] = 0
    voxel = geometry.voxel_volume if study and segmenter and geometry and geometry.plausible else None
    return ModelResult(
        name=name,
        probability=float(probabilities.max()) if classifier else None,
        likeliest=int(probabilities.argmax()) if classifier and study else None,
        mask=(mask if study else mask[0]) if segmenter else None,
        probability_map=(maps if study else maps[0]) if segmenter else None,
        volume_mm3=None if voxel is None else float(mask.sum() * voxel),
        seconds=time.perf_counter() - start + sum(one.seconds or 0.0 for one in predictions),
        warnings=_not_covered(model, rules, scan, parts),
    )


def _predict(segmenter: LoadedModel | None, classifier: LoadedModel | None, part: Prepared, pipe: Pipeline) -> Prediction:
    """The prediction for prepared slices; that of the preparation, if it ran the same models."""
    if segmenter is pipe.segmenter and classifier is pipe.classifier:
        return part.predicted
    return predict_slices(segmenter, classifier, part.slices, part.spacing)


def _not_covered(model: LoadedModel, rules: Rules, scan: Scan, parts: tuple[Prepared, ...]) -> tuple[str, ...]:
    """What an input shows, or may show, that a model was not evaluated on; nothing where the plane is unknown."""
    found = (not_covered(rules, part.sequence, part.predicted) for part in parts)
    sequences = dict.fromkeys(reason for reason in found if reason)
    planes = {part.recognition.plane.name for part in parts if part.recognition and part.recognition.plane}
    axial = is_axial(scan) if scan.geometry else planes <= {"axial"}
    only_axial = not axial and not model.net.attributes
    return (*sequences, *[ONLY_AXIAL] * only_axial)


def disagreement(results: Sequence[ModelResult]) -> np.ndarray | None:
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


def overlap(results: Sequence[ModelResult]) -> float | None:
    """The mean Dice over all pairs of masks of which one at least is not empty; None if there are no such pairs."""
    masks = [result.mask for result in results if result.mask is not None]
    pairs = [(one, other) for number, one in enumerate(masks) for other in masks[number + 1 :]]
    counts = [(2 * (one & other).sum(), one.sum() + other.sum()) for one, other in pairs]
    dices = [shared / total for shared, total in counts if total]
    return float(np.mean(dices)) if dices else None
