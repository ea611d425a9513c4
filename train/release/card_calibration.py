"""Parts of a model card: how outputs become a probability and a verdict, and what the 8-bit network costs."""

from __future__ import annotations

from brainmri.report.metric_tables import markdown_table
from brainmri.zoo.calibration import Fusion
from brainmri.zoo.entry import ModelEntry

FUSION_COLUMNS = ["slices of", "analysed as", "a", "b", "c", "smoothing", "review band"]


def settings(entry: ModelEntry) -> str:
    """A sentence: the calibration and thresholds of its tasks."""
    parts = []
    if "classification" in entry.tasks:
        low, high = entry.review
        parts.append(f"temperature {entry.temperature:.3f}; review band {low:.2f} to {high:.2f}")
    if "segmentation" in entry.tasks:
        thresholds = [f"mask threshold {entry.mask_threshold:.2f}"]
        for name, rules in entry.sequences.items():
            if rules.mask_threshold != entry.mask_threshold:
                thresholds.append(f"{rules.mask_threshold:.2f} for {name}")
        parts.append(
            f"{', '.join(thresholds)}; masks of studies smoothed across neighbouring slices with a standard "
            f"deviation of {entry.mask_neighbours:g} slices"
        )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def fusion_table(entry: ModelEntry) -> str:
    """How mask and verdict are combined into one probability: a row for each sequence and mode; "" without a fusion.

    An entry with rules for each sequence never applies the fusion of all of them, so that one is left out.
    """
    fusions = {name: rules.fusion for name, rules in entry.sequences.items()} or {"any sequence": entry.fusion}
    rows = [_fusion_row(name, mode, fusion) for name, modes in fusions.items() for mode, fusion in modes.items()]
    return markdown_table(FUSION_COLUMNS, rows) if rows else ""


def _fusion_row(name: str, mode: str, fusion: Fusion) -> list[str]:
    low, high = fusion.review
    numbers = [f"{value:.3f}" for value in (fusion.logit, fusion.evidence, fusion.bias)]
    return [name, mode, *numbers, f"{fusion.neighbours:g}", f"{low:.2f} to {high:.2f}"]


def change(value: float, sign: str = "+") -> str:
    """A change with four digits; "less than 0.0001" where they would all be zero."""
    return f"{value:{sign}.4f}" if abs(value) >= 0.0001 else "less than 0.0001"


def int8_cost(entry: ModelEntry) -> str:
    """How far the quantised network's figures are from float32; empty without one."""
    if not entry.int8:
        return ""
    found, costs = entry.int8.measured, []
    if "dice_lost" in found:
        costs.append(
            f"mean volumetric Dice {-found['dice_lost']:+.4f} over {found['patients']} validation patients, at most "
            f"{found['dice_changed_at_most']:.4f} for any one of them"
        )
    if "auc_lost" in found:
        costs.append(
            f"AUC {change(-found['auc_lost'])} over {found['slices']} slices, uncalibrated probability "
            f"{change(found['probability_changed_on_average'], sign='')} on average"
        )
    return "; ".join(costs)
