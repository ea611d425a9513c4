"""What networks say of a patient's slices, as rows: predicted once, then judged by whatever rules are to be measured."""

from __future__ import annotations

import numpy as np

from brainmri.calibration import Rules
from brainmri.entry import VARIANTS
from brainmri.predict import Prediction, judge, predict_slices, rules_of, with_head
from brainmri.preprocess import FLAIR, to_unit
from brainmri.zoo import LoadedModel
from train.data import Slice, read_image, read_mask


def predict_case(
    slices: list[Slice], segmenter: LoadedModel | None, classifier: LoadedModel | None, variant: str = VARIANTS[0]
) -> list[dict]:
    """One row a slice of a patient, in order along the head.

    Args:
        variant: "three sequences" as read; "FLAIR only", FLAIR in all three channels; "volume normalisation", mean and
            deviation over the patient's slices instead of each slice's own.

    Returns:
        Rows with `case`, `number`, `tumour`, `mask` (H, W) bool, `head` (whether it shows one; a study skips the others), where
        there is a segmenter `map` (H, W) float32, `grid_share` and `evidence` (see `Prediction`), where there is a classifier
        `logit`, and what `apply_rules` adds.
    """
    units = np.stack([to_unit(read_image(s.image)) for s in slices])
    if variant == "FLAIR only":
        units = np.repeat(units[..., FLAIR : FLAIR + 1], 3, axis=-1)
    over = "volume" if variant == "volume normalisation" else "slice"
    predicted = predict_slices(segmenter, classifier, units, normalise_over=over)
    rows = []
    for item, head in zip(slices, with_head(units).tolist(), strict=True):
        mask = read_mask(item.mask)
        rows.append({"case": item.case, "number": item.number, "tumour": bool(mask.any()), "mask": mask, "head": head})
    for name, values in (
        ("map", predicted.maps),
        ("grid_share", predicted.grid_share),
        ("evidence", predicted.evidence),
        ("logit", predicted.logits),
    ):
        if values is not None:
            for row, value in zip(rows, values, strict=True):
                row[name] = value
    entries = (model.entry if model else None for model in (segmenter, classifier))
    return apply_rules(rows, rules_of(*entries))


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


def as_prediction(rows: list[dict]) -> Prediction:
    """Rows back to what the networks said of them together."""
    names = {"maps": "map", "grid_share": "grid_share", "evidence": "evidence", "logits": "logit"}
    return Prediction(**{name: np.stack([row[key] for row in rows]) for name, key in names.items() if key in rows[0]})
