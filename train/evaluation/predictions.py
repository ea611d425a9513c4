"""What networks say of a patient's slices, as rows: predicted once, then judged by whatever rules are to be measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

import brainmri
from brainmri.analysis.pipeline import Prediction, judge, predict_slices, with_head
from brainmri.io.pixels import FLAIR, to_unit
from brainmri.zoo.calibration import Rules
from brainmri.zoo.entry import VARIANTS, file_sha256, rules_of
from brainmri.zoo.registry import LoadedModel
from train.data import Slice, read_image, read_mask

KEPT = {"map": "maps", "grid_share": "grid_share", "evidence": "evidence", "logit": "logits"}  # fields of `Prediction`


def predict_case(
    slices: list[Slice],
    segmenter: LoadedModel | None,
    classifier: LoadedModel | None,
    variant: str = VARIANTS[0],
    keep: Path | None = None,
) -> list[dict]:
    """One row a slice of a patient, in order along the head.

    Args:
        keep: folder for what the networks say of each patient, a file each, maps in float16. What the same networks said of the
            same patient before, by the same code, is read from there instead of asked again, and judged as it was the first time.
        variant: "three sequences" as read; "FLAIR only", FLAIR in all three channels; "volume normalisation", mean and
            deviation over the patient's slices instead of each slice's own.

    Returns:
        Rows with `case`, `number`, `tumour`, `mask` (H, W) bool, `head` (whether it shows one; a study skips the others), what
        is said of the slice, and what `apply_rules` adds. That is, where there is a segmenter, `map` (H, W) float32, `grid_share`
        and `evidence` (see `Prediction`), and where there is a classifier `logit`.
    """
    units = np.stack([to_unit(read_image(s.image)) for s in slices])
    if variant == "FLAIR only":
        units = np.repeat(units[..., FLAIR : FLAIR + 1], 3, axis=-1)
    over = "volume" if variant == "volume normalisation" else "slice"
    entries = [model and model.entry for model in (segmenter, classifier)]

    def predict() -> Prediction:
        return predict_slices(segmenter, classifier, units, normalise_over=over)

    if keep:
        path = keep / variant.replace(" ", "-") / f"{slices[0].case}.npz"
        networks = [entry and (entry.sha256, entry.preprocess, entry.flips) for entry in entries]
        prediction = _asked_once(path, f"{networks} by {_code()} of {[item.image.name for item in slices]}", predict)
    else:
        prediction = predict()
    predicted, rows = _said(prediction), []
    for item, head, said in zip(slices, with_head(units).tolist(), predicted, strict=True):
        mask = read_mask(item.mask)
        rows.append({"case": item.case, "number": item.number, "tumour": bool(mask.any()), "mask": mask, "head": head} | said)
    return apply_rules(rows, rules_of(*entries))


@cache
def _code() -> str:
    """What tells the package's modules from any other version of theirs: predictions by other code are of another question."""
    modules = sorted(Path(brainmri.__file__).parent.rglob("*.py"))
    return " ".join(file_sha256(module)[:8] for module in modules)


def _asked_once(path: Path, asked: str, predict: Callable[[], Prediction]) -> Prediction:
    """A prediction that a file keeps, maps in float16; made and kept where there is none, or one of another question."""
    said: dict = {}
    if path.is_file():
        with np.load(path) as file:
            said = dict(file)
    if said.pop("asked", None) != asked:
        made = predict()
        said = {field: values for field in KEPT.values() if (values := getattr(made, field)) is not None}
        if "maps" in said:
            said["maps"] = said["maps"].astype(np.float16)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, asked=np.array(asked), **said)
        partial.replace(path)  # an interruption leaves a whole one or none
    if "maps" in said:
        said["maps"] = said["maps"].astype(np.float32)
    return Prediction(**said)


def _said(predicted: Prediction) -> list[dict]:
    """What a row keeps of each slice of a prediction."""
    kept = {name: values for name, field in KEPT.items() if (values := getattr(predicted, field)) is not None}
    return [dict(zip(kept, values, strict=True)) for values in zip(*kept.values(), strict=True)]


def apply_rules(rows: list[dict], rules: Rules) -> list[dict]:
    """The rows of a patient with their `rules`, where there is a classifier its `probability`, where both are `verdict`."""
    both = "map" in rows[0] and "logit" in rows[0]
    judged = judge(as_prediction(rows), rules, "slice") if both else None
    if judged:
        probabilities = judged.probabilities
    elif "logit" in rows[0]:
        probabilities = rules.probability(np.array([row["logit"] for row in rows]), None, "slice")
    done = []
    for number, row in enumerate(rows):
        added: dict = {"rules": rules}
        if "logit" in row:
            added["probability"] = float(probabilities[number])
        if judged:
            added["verdict"] = judged.verdicts[number][0]
        done.append(row | added)
    return done


def outline_of(row: dict) -> np.ndarray:
    """(H, W) bool, the mask by the rules that a row carries."""
    return row["map"] > row["rules"].mask_threshold


def as_prediction(rows: list[dict]) -> Prediction:
    """Rows back to what the networks said of them together."""
    return Prediction(**{field: np.stack([row[name] for row in rows]) for name, field in KEPT.items() if name in rows[0]})
