"""The model card, rendered from a zoo entry alone."""

from __future__ import annotations

import json

from brainmri.zoo import SPLIT, ModelEntry
from train.evaluate import VARIANTS

INTENDED = """Research and teaching on brain MR slices: transverse FLAIR, alone or with T1 before and after contrast, of adults with
suspected lower-grade glioma. Not a medical device; no clinical decision may rest on it. Other tumours, other
sequences, children, and scans after surgery are outside what it has seen."""

CITATION = """Buda M, Saha A, Mazurowski MA. Association of genomic subtypes of lower-grade gliomas with shape features
automatically extracted by a deep learning algorithm. Computers in Biology and Medicine, 2019."""


def figure_rows(entry: ModelEntry) -> list[str]:
    """A Markdown table row for each measured figure, one column a variant of the input."""
    variants = entry.metrics["variants"]
    first = variants[VARIANTS[0]]
    rows = []
    for name, figure in first.items():
        if isinstance(figure, dict) and "value" in figure:
            cells = []
            for variant in VARIANTS:
                got = variants[variant][name]
                interval = " [{:.3f}, {:.3f}]".format(*got["interval_95"]) if "interval_95" in got else ""
                cells.append(f"{got['value']:.3f}{interval}")
            rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def model_card(entry: ModelEntry) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        entry: with metrics, as `train.release` writes them.
    """
    tag = "image-segmentation" if "segmentation" in entry.tasks else "image-classification"
    variants = entry.metrics["variants"]
    count = variants[VARIANTS[0]]
    gaps = []
    if "segmentation" in entry.tasks:
        name = "volumetric Dice, mean over patients"
        full, flair, volume = (variants[v][name]["value"] for v in VARIANTS)
        gaps.append(
            f"On FLAIR alone the mean volumetric Dice is {flair:.3f} against {full:.3f} on three sequences ({flair - full:+.3f})."
        )
        gaps.append(
            f"Normalised over the whole volume instead of slice by slice it is {volume:.3f} ({volume - full:+.3f}). "
            "Each slice is standardised alone, so a lone slice gets the very mask that it gets within its study."
        )
    if "classification" in entry.tasks:
        name = "verdict AUC, by slice"
        full, flair = (variants[v][name]["value"] for v in VARIANTS[:2])
        gaps.append(f"The verdict's AUC is {full:.3f} on three sequences and {flair:.3f} on FLAIR alone.")
    split = json.loads((entry.folder / SPLIT).read_text(encoding="utf-8"))
    if set(split["train"]) & set(split["validated_on"]):
        seen = (
            "The weights measured then went on, in the last stage below, to see these patients too: those are the released ones."
        )
    else:
        seen = "The released weights are the very ones measured."
    stages = "\n".join(
        f"{number}. `{stage['command']}` ({stage['samples']:,} slices drawn from {stage['patients']} patients"
        + (f"; taught by {stage['teacher']})" if "teacher" in stage else ")")
        for number, stage in enumerate(entry.training["stages"], 1)
    )
    return f"""---
library_name: brainmri
pipeline_tag: {tag}
license: cc-by-nc-sa-4.0
tags: [medical, mri, brain, tumour, glioma, flair]
---

# {entry.name}

{entry.summary}. {" and ".join(entry.tasks).capitalize()}; `{entry.net}`, {entry.parameters:,} parameters (batch-norm statistics counted).
SHA-256 of `model.safetensors`: `{entry.sha256}`.

## Intended use

{INTENDED}

## Input

A slice of any size, three channels (pre-contrast T1, FLAIR, post-contrast T1); a single sequence is taken for FLAIR
and stands in all three. `brainmri.preprocess.Preprocess` crops the head, scales it to {entry.preprocess.size} x {entry.preprocess.size}
with its aspect ratio kept, and standardises each slice by its own mean and standard deviation.

## Measured

{count["patients"]} patients, {count["slices"]} slices; 95 % intervals by bootstrap over patients; two empty masks have Dice 1, a false alarm on
an empty mask 0. Protocol: {entry.metrics["protocol"]}. Machine: {entry.metrics["machine"]}. {seen} The held-out 20 (`split.json`) were never touched.

| figure | {" | ".join(VARIANTS)} |
|---|---|---|---|
{chr(10).join(figure_rows(entry))}

{chr(10).join(gaps)}

## Training

{entry.training["dataset"]}. In order:

{stages}

Temperature {entry.temperature:.3f}; review band {entry.review[0]:.2f} to {entry.review[1]:.2f}; mask threshold {entry.mask_threshold:.2f}.

## Licence and citation

The weights: CC BY-NC-SA 4.0, following the dataset. {CITATION}
"""


def readme_row(entry: ModelEntry) -> str:
    """The entry's line in the README's zoo table: Dice on three sequences and on FLAIR alone, AUC and accuracy of the verdict."""
    variants = entry.metrics["variants"]

    def shown(variant: str, name: str) -> str:
        figure = variants[variant].get(name)
        return "{:.3f} [{:.3f}, {:.3f}]".format(figure["value"], *figure["interval_95"]) if figure else "-"

    dice, auc, accuracy = "volumetric Dice, mean over patients", "verdict AUC, by slice", "verdict accuracy at 0.5, by slice"
    full, flair = VARIANTS[:2]
    cells = [shown(full, dice), shown(flair, dice), shown(full, auc), shown(full, accuracy)]
    return f"| `{entry.name}` | {entry.parameters / 1e6:.2f} M | {' | '.join(cells)} |"
