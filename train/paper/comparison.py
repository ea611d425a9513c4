"""The paper's metrics next to ours, by its protocol and by patient: a table, and the paper's Figure 3."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from brainmri.io.pixels import to_unit
from brainmri.report.metric_tables import markdown_table
from brainmri.report.render import mask_picture, overlay_picture, slice_picture
from brainmri.zoo.metrics import ACCURACY, SLICE_DICE, THREE_SEQUENCES, TVERSKY, label
from brainmri.zoo.registry import embedded
from train.datasets import Slice
from train.evaluation.metrics import dice
from train.evaluation.predictions import SlicePrediction
from train.release.card import measured

# runs of the paper's ResUNet, by slice and by patient, and of this project's network by slice
SEGMENTER, BY_PATIENT, OURS = "segmenter", "segmenter-by-patient", "segmenter-of-ours"
PAPER = {TVERSKY: 0.9168, SLICE_DICE: None, ACCURACY: 0.9475}  # None: not reported
SHOWN = 6

NOTES = """\
"Same protocol": the paper's protocol, as `train.paper.reproduce` implements it. Its split puts slices of the same patient into
training and test; a neighbour is the same patient's slice one number before or after. Accuracy is measured on the validation
slices, which also selected the epoch, because the paper has no test slices for it. "Split by patient": the same network and
recipe, with the same shares of patients instead of slices. The difference between these two columns is the effect of the split,
and of chance, because few patients are measured. "Our network": one of this project's networks by its own recipe (ImageNet
weights, augmentation, head crop, predictions averaged with the mirrored view), on the same slices as "same protocol". "Shipped":
this project's models by their own recipes (augmentation, head crop, slices without tumour), each evaluated on patients not
used for training, with predictions averaged with the mirrored view."""


def shipped(name: str, excluded: str) -> dict[str, float]:
    """A metric of the shipped entries that have it, without `excluded`, on three sequences."""
    values = {entry.name: measured(entry).get((THREE_SEQUENCES, name)) for entry in embedded().values() if entry.name != excluded}
    return {entry: value for entry, value in values.items() if value is not None}


def neighbours(run: dict) -> float:
    """Share of the measured slices that are next to a training slice of the same patient."""
    return run["neighbour_in_training"] / run["measured_slices"]


def compare(runs: dict[str, dict], excluded: str) -> list[dict]:
    """The table's rows.

    Args:
        runs: what `train.paper.reproduce` measured, by network: `figures`, `measured_slices`, `neighbour_in_training`.
        excluded: name of the entry trained by the paper's protocol, which has no metrics by patient.

    Returns:
        Dicts with `figure`, `paper` (None where not reported), `same_protocol`, `our_network` and `split_by_patient`
        (None where it was not run) and `shipped` (entry to value).
    """
    rows = []
    reproduced = {network: run for network, run in runs.items() if network not in (BY_PATIENT, OURS)}
    others = {"our_network": runs.get(OURS), "split_by_patient": runs.get(BY_PATIENT)}
    for name, paper in PAPER.items():
        same = next((run["figures"][name] for run in reproduced.values() if name in run["figures"]), None)
        found = {"same_protocol": same} | {column: run and run["figures"].get(name) for column, run in others.items()}
        if any(value is not None for value in found.values()):
            rows.append({"figure": label(name), "paper": paper} | found | {"shipped": shipped(name, excluded)})
    for network, run in reproduced.items():
        found = {column: neighbours(other) if other and network == SEGMENTER else None for column, other in others.items()}
        rows.append(
            {"figure": f"{network}: share of the measured slices with a neighbour in training", "paper": None,
             "same_protocol": neighbours(run)} | found | {"shipped": {"every entry": 0.0}}
        )  # fmt: skip
    return rows


def write_table(folder: Path, runs: dict[str, dict], excluded: str) -> str:
    """Write `table.json` and `table.md`; arguments as in `compare`. Returns the Markdown."""
    rows = compare(runs, excluded)
    cells = [
        [
            row["figure"], "not reported" if row["paper"] is None else f"{row['paper']:.4f}",
            *("-" if row[key] is None else f"{row[key]:.4f}" for key in ("same_protocol", "our_network", "split_by_patient")),
            ", ".join(f"{name} {value:.4f}" for name, value in row["shipped"].items()),
        ]
        for row in rows
    ]  # fmt: skip
    columns = ["ours, same protocol", "our network, same protocol", "ours, split by patient", "shipped, by patient"]
    lines = [markdown_table(["Metric", "paper", *columns], cells), "", NOTES, ""]
    for network, run in runs.items():
        lines.append(
            f"- {network}: the weights of epoch {run['epoch']} of {run['epochs']}; {run['neighbour_in_training']} of the "
            f"{run['measured_slices']} slices that measure it, of {run['measured_patients']} patients, have a neighbour among "
            f"the {run['training_slices']} that trained it. `{run['command']}`"
        )
    text = "\n".join(lines) + "\n"
    (folder / "table.json").write_text(json.dumps({"rows": rows, "runs": runs}, indent=2) + "\n", encoding="utf-8")
    (folder / "table.md").write_text(text, encoding="utf-8")
    return text


def figure_3(slices: list[Slice], rows: list[SlicePrediction], threshold: float, path: Path) -> None:
    """Slice, mask, prediction and overlay of test slices, one row per slice, evenly spaced from the worst Dice to the best.

    Args:
        rows: predictions, one per slice.
        threshold: on the probability map.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    predicted = [np.asarray(row.map) > threshold for row in rows]
    score = [dice(mask, row.annotation) for mask, row in zip(predicted, rows, strict=True)]
    order = np.argsort(score)
    chosen = order[np.unique(np.linspace(0, len(order) - 1, SHOWN).round().astype(int))]
    figure, grid = plt.subplots(len(chosen), 4, figsize=(8, 2.1 * len(chosen)), layout="constrained", squeeze=False)
    for axes, i in zip(grid, chosen, strict=True):
        pixels = to_unit(slices[i].read_image())
        pictures = {
            "slice": slice_picture(pixels),
            "mask": mask_picture(rows[i].annotation),
            f"prediction, Dice {score[i]:.2f}": mask_picture(predicted[i]),
            "overlay": overlay_picture(pixels, predicted[i]),
        }
        for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
            axis.imshow(picture, cmap="gray")
            axis.set_title(title, fontsize=8)
            axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)
