"""Predictions for a patient's slices as records: the networks run once, then any rules can be applied and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np

import brainmri
from brainmri.analysis.decision import decide_slices
from brainmri.analysis.forward import Prediction, predict_slices, with_head
from brainmri.io.pixels import FLAIR, to_unit
from brainmri.zoo.calibration import Rules
from brainmri.zoo.entry import file_sha256, rules_of
from brainmri.zoo.metrics import FLAIR_ONLY, THREE_SEQUENCES, VOLUME_NORMALISATION
from brainmri.zoo.registry import LoadedModel
from train.datasets import Slice

FIELDS = {"map": "maps", "grid_share": "grid_share", "evidence": "evidence", "logit": "logits"}  # of a record and of `Prediction`


@dataclass(frozen=True, kw_only=True, eq=False)
class SlicePrediction:
    """A slice's annotation, the networks' outputs for it, and the verdict under `rules`.

    Attributes:
        case: the patient.
        number: of the slice along the head.
        annotation: (H, W) bool, the annotated tumour.
        head: whether the slice shows a head; a study leaves out slices that do not.
        map: (H, W) float32 in [0, 1], tumour probability by pixel; None without a segmenter, like `grid_share` and `evidence`.
        grid_share: pixels of the network's grid per pixel of the slice.
        evidence: `brainmri.zoo.calibration.evidence` of the map.
        logit: of the verdict, tumour against no tumour; None without a classifier.
        rules: the thresholds and calibration that the mask, probability and verdict follow.
        probability: of tumour, calibrated; None without a classifier.
        verdict: "tumour", "no tumour" or "review"; None without both networks.
    """

    case: str
    number: int
    annotation: np.ndarray
    head: bool = True
    map: np.ndarray | None = None
    grid_share: float | None = None
    evidence: float | None = None
    logit: float | None = None
    rules: Rules = field(default_factory=Rules)
    probability: float | None = None
    verdict: str | None = None

    @property
    def tumour(self) -> bool:
        """Whether a tumour is annotated."""
        return bool(self.annotation.any())

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, the map above the rules' threshold; ValueError without a segmenter."""
        if self.map is None:
            raise ValueError(
                f"expected a prediction with a map for slice {self.number} of {self.case}, got none; give a segmenter"
            )
        return self.map > self.rules.mask_threshold


def predict_case(
    slices: list[Slice],
    segmenter: LoadedModel | None,
    classifier: LoadedModel | None,
    variant: str = THREE_SEQUENCES,
    keep: Path | None = None,
) -> list[SlicePrediction]:
    """One prediction per slice of a patient, in order along the head, with the entries' own rules applied to each slice.

    Args:
        variant: of the input (`brainmri.zoo.metrics`): three sequences as read; FLAIR in all three channels; or three sequences
            normalised with mean and deviation of all the patient's slices instead of each slice's own.
        keep: folder for the networks' outputs, one file per patient, maps in float16. Outputs of the same networks and the
            same code are read from there instead of predicted again; the first call also returns them as stored.
    """
    units = np.stack([to_unit(item.read_image()) for item in slices])  # (S, H, W, 3)
    if variant == FLAIR_ONLY:
        units = np.repeat(units[..., FLAIR : FLAIR + 1], 3, axis=-1)
    over = "volume" if variant == VOLUME_NORMALISATION else "slice"
    entries = [model and model.entry for model in (segmenter, classifier)]

    def predict() -> Prediction:
        return predict_slices(segmenter, classifier, units, normalise_over=over)

    if keep:
        networks = [entry and (entry.sha256, entry.preprocess, entry.flips) for entry in entries]
        code = source_hash(Path(brainmri.__file__).parent)
        key = f"{networks} by {code} of {[item.image.name for item in slices]}"
        prediction = _load_or_predict(keep / variant / f"{slices[0].case}.npz", key, predict)
    else:
        prediction = predict()
    outputs = _outputs(prediction, len(slices))
    predictions = [
        SlicePrediction(case=item.case, number=item.number, annotation=item.read_mask(), head=head, **output)
        for item, head, output in zip(slices, with_head(units).tolist(), outputs, strict=True)
    ]
    return apply_rules(predictions, rules_of(entries[0], entries[1]))


@cache
def source_hash(package: Path) -> str:
    """Short hashes of all Python files of a package and its subpackages, by path: another string for any change of the code."""
    modules = sorted(package.rglob("*.py"))
    return " ".join(f"{module.relative_to(package).as_posix()}:{file_sha256(module)[:8]}" for module in modules)


def _load_or_predict(path: Path, key: str, predict: Callable[[], Prediction]) -> Prediction:
    """A prediction from a file whose key matches; otherwise predict, and store the result with maps in float16."""
    stored: dict = {}
    if path.is_file():
        with np.load(path) as file:
            stored = dict(file)
    if stored.pop("key", None) != key:
        made = predict()
        stored = {field: values for field in FIELDS.values() if (values := getattr(made, field)) is not None}
        if "maps" in stored:
            stored["maps"] = stored["maps"].astype(np.float16)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, key=np.array(key), **stored)
        partial.replace(path)  # an interruption leaves a whole file or none
    if "maps" in stored:
        stored["maps"] = stored["maps"].astype(np.float32)
    return Prediction(**stored)


def _outputs(prediction: Prediction, slices: int) -> list[dict]:
    """The networks' outputs by field of `SlicePrediction`, one dictionary per slice."""
    present = {name: values for name, field in FIELDS.items() if (values := getattr(prediction, field)) is not None}
    return [{name: values[number] for name, values in present.items()} for number in range(slices)]


def apply_rules(predictions: Sequence[SlicePrediction], rules: Rules) -> list[SlicePrediction]:
    """Apply rules to each of a patient's predictions by itself."""
    first = predictions[0]
    if first.logit is None:
        return [replace(one, rules=rules) for one in predictions]
    if first.map is None:
        probabilities = rules.probability(np.array([one.logit for one in predictions]), None, "slice")
        verdicts = [None] * len(predictions)
    else:
        decisions = decide_slices(stack(predictions), rules, "slice")
        probabilities, verdicts = decisions.probabilities, [verdict for verdict, _ in decisions.verdicts]
    return [
        replace(one, rules=rules, probability=probability, verdict=verdict)
        for one, probability, verdict in zip(predictions, probabilities.tolist(), verdicts, strict=True)
    ]


def stack(predictions: Sequence[SlicePrediction]) -> Prediction:
    """The networks' outputs for several slices as one `Prediction`."""
    first = predictions[0]
    present = {name: field for name, field in FIELDS.items() if getattr(first, name) is not None}
    arrays: dict = {field: np.stack([getattr(one, name) for one in predictions]) for name, field in present.items()}
    return Prediction(**arrays)
