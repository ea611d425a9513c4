"""The model card, rendered from a zoo entry alone."""

from __future__ import annotations

import json
import math

from huggingface_hub import EvalResult, ModelCardData

from brainmri.report.metric_tables import (
    FAILURES,
    RELIABILITY,
    VOLUMETRIC_DICE,
    failure_tables,
    figure_table,
    reliability_svg,
    reliability_table,
)
from brainmri.zoo.entry import CARD, DIAGRAM, ONNX, SPLIT, STUDY, VARIANTS, ModelEntry
from train.evaluation.healthy import healthy_table

INTENDED = """Research and teaching on brain MR slices: transverse FLAIR, alone or with T1 before and after contrast, of adults with
suspected lower-grade glioma. Not a medical device; no clinical decision may rest on it. Other tumours, other
sequences, children, and scans after surgery are outside what it has seen."""

CITATION = """Buda M, Saha A, Mazurowski MA. Association of genomic subtypes of lower-grade gliomas with shape features
automatically extracted by a deep learning algorithm. Computers in Biology and Medicine, 2019."""


# metric identifiers for the Hub, by what a figure's name holds; the first that fits
METRICS = {"volumetric Dice": "dice", "slice Dice": "dice", "Tversky": "tversky", "AUC": "roc_auc", "calibration": "ece",
           "accuracy": "accuracy", "sensitivity": "recall", "specificity": "specificity", "share": "rate"}  # fmt: skip

NUMPY_EXAMPLE = """import numpy as np
import onnxruntime
from PIL import Image, ImageOps

SIZE = {size}
picture = Image.open("slice.png").convert("RGB")  # a grey slice is FLAIR, in all three channels
grey = np.asarray(picture, np.float32).mean(axis=2)
head = grey > 0.15 * np.percentile(grey, 99)
rows, columns = (np.flatnonzero(head.mean(axis=axis) > 0.03) for axis in (1, 0))
(left, right), (top, bottom) = ((line[0] - 0.04 * np.ptp(line), line[-1] + 0.04 * np.ptp(line)) for line in (columns, rows))
box = max(0, round(left)), max(0, round(top)), min(picture.width, round(right) + 1), min(picture.height, round(bottom) + 1)
head = ImageOps.contain(picture.crop(box), (SIZE, SIZE))
left, top = (SIZE - head.width) // 2, (SIZE - head.height) // 2
image = np.zeros((1, 3, SIZE, SIZE), np.float32)
image[0, :, top : top + head.height, left : left + head.width] = np.asarray(head, np.float32).transpose(2, 0, 1) / 255
session = onnxruntime.InferenceSession("model.onnx")
found = dict(zip((output.name for output in session.get_outputs()), session.run(None, {{"image": image}})))
"""
SHOW_MASK = """small = Image.fromarray(found["mask"][0, 0, top : top + head.height, left : left + head.width])
whole = np.zeros(grey.shape, np.float32)
whole[box[1] : box[3], box[0] : box[2]] = np.asarray(small.resize((box[2] - box[0], box[3] - box[1])))
Image.fromarray(np.uint8(255 * (whole > {threshold}))).save("mask.png")
"""
SHOW_VERDICT = """print(f"probability of tumour: {found['tumour'][0]:.3f}")
"""


def numpy_example(entry: ModelEntry) -> str:
    """A program that needs numpy, Pillow and onnxruntime alone: `slice.png` and `model.onnx` to `mask.png` and the verdict."""
    program = NUMPY_EXAMPLE.format(size=entry.preprocess.size)
    if "segmentation" in entry.tasks:
        program += SHOW_MASK.format(threshold=entry.mask_threshold)
    if "classification" in entry.tasks:
        program += SHOW_VERDICT
    return program


def measured(entry: ModelEntry) -> dict[tuple[str, str], float]:
    """Every measured figure by variant of the input and name, but for NaN, a share of nothing, which the Hub takes for no figure."""
    return {
        (variant, name): figure["value"]
        for variant, figures in entry.metrics["variants"].items()
        for name, figure in figures.items()
        if isinstance(figure, dict) and "value" in figure and not math.isnan(figure["value"])
    }


def front_matter(entry: ModelEntry) -> str:
    """The card's YAML: what the Hub files the model under, and its `model-index` with every measured figure."""
    results = []
    for (variant, name), value in measured(entry).items():
        verdict = name.startswith(("verdict", "three-state"))
        results.append(
            EvalResult(
                task_type="image-classification" if verdict else "image-segmentation",
                dataset_type="mateuszbuda/lgg-mri-segmentation",
                dataset_name="LGG MRI Segmentation",
                dataset_config=variant,
                dataset_split="test slices" if by_slice(entry) else "validation patients",
                metric_type=next(kind for word, kind in METRICS.items() if word in name),
                metric_name=name,
                metric_value=value,
            )
        )
    return ModelCardData(
        model_name=entry.name,
        library_name="brainmri",
        pipeline_tag="image-segmentation" if "segmentation" in entry.tasks else "image-classification",
        license="cc-by-nc-sa-4.0",
        datasets=["mateuszbuda/lgg-mri-segmentation"],
        tags=["medical", "mri", "brain", "tumour", "glioma", "flair"],
        eval_results=results,
    ).to_yaml()


def has_diagram(entry: ModelEntry) -> bool:
    """Whether the bins of the reliability diagram were stored: a verdict was measured, by a release that keeps them."""
    return RELIABILITY in entry.metrics["variants"][VARIANTS[0]]


def write_card(entry: ModelEntry) -> None:
    """Write an entry's card, and the diagram that it shows, into its folder."""
    (entry.folder / CARD).write_text(model_card(entry), encoding="utf-8")
    if has_diagram(entry):
        (entry.folder / DIAGRAM).write_text(reliability_svg(entry, VARIANTS[0], background="white"), encoding="utf-8")


def reliability(entry: ModelEntry) -> str:
    """The section on what the verdict's probabilities are worth; empty where there is no diagram."""
    if not has_diagram(entry):
        return ""
    return f"""
## Reliability

![Reliability diagram; its numbers are in the table]({DIAGRAM})

How many slices the verdict gave a probability in each bin, and which share of them shows a tumour; the same patients and protocol. The
diagram is of {VARIANTS[0]}: the larger a dot, the more slices; whiskers are 95 % intervals over patients, none where all agree; the
review band is shaded.

{reliability_table(entry.metrics["variants"])}
"""


def failing(entry: ModelEntry) -> str:
    """The sections on where the model fails; empty for an entry that was released before this was measured."""
    sections = ""
    variants = entry.metrics["variants"]
    if FAILURES in variants[VARIANTS[0]]:
        sections += f"""
## Where it fails

The same patients, weights and protocol as above. Groups and worst patients on three sequences, slice by slice; tumours by their pixels
over all slices, in three groups of as many patients; slices in order from the neck upwards. Slice Dice is the mean over tumour slices,
the verdict by slice at 0.5; 95 % intervals by bootstrap over patients where there are several.

{failure_tables(variants)}
"""
    if healthy := entry.metrics.get("healthy"):
        sections += f"""
## Brains without tumour

Every patient of the dataset has a tumour. These heads have none: {healthy["protocol"]}. Segmenter `{healthy["segmenter"]["name"]}`,
classifier `{healthy["classifier"]["name"]}`. None of them is a clinical FLAIR of a healthy person, so this shows what raises a false
alarm; it does not tell how often healthy people would get one.

{healthy_table(healthy)}
"""
    return sections


def model_card(entry: ModelEntry) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        entry: with metrics, as `train.release.release` writes them.
    """
    variants = entry.metrics["variants"]
    count = variants[VARIANTS[0]]
    gaps = []
    if VOLUMETRIC_DICE in count:
        name = VOLUMETRIC_DICE
        full, flair, volume = (variants[v][name]["value"] for v in VARIANTS[:3])
        gaps.append(
            f"On FLAIR alone the mean volumetric Dice is {flair:.3f} against {full:.3f} on three sequences ({flair - full:+.3f})."
        )
        alone = "Each slice is standardised alone, so a lone slice gets the very mask that it gets within its study."
        if STUDY in variants:
            study = variants[STUDY][name]["value"]
            alone = f"As a whole study, neighbours heard and islands dropped, it is {study:.3f} ({study - full:+.3f})."
        gaps.append(
            f"Normalised over the whole volume instead of slice by slice it is {volume:.3f} ({volume - full:+.3f}). {alone}"
        )
    if "classification" in entry.tasks:
        name = "verdict AUC, by slice"
        full, flair = (variants[v][name]["value"] for v in VARIANTS[:2])
        gaps.append(f"The verdict's AUC is {full:.3f} on three sequences and {flair:.3f} on FLAIR alone.")
    stages = "\n".join(f"{number}. {told(stage)}" for number, stage in enumerate(entry.training["stages"], 1))
    onnx = ""
    if (entry.folder / ONNX).is_file():
        onnx = f"""
## Without this package

`model.onnx` takes placed slices in [0, 1], normalises them itself and gives probabilities; the mirrored view is not averaged in.
With numpy, Pillow and onnxruntime alone:

```python
{numpy_example(entry)}```
"""
    return f"""---
{front_matter(entry)}
---

# {entry.name}

{entry.summary}. {" and ".join(entry.tasks).capitalize()}; `{entry.net}`, {entry.parameters:,} parameters (batch-norm statistics counted).
SHA-256 of `model.safetensors`: `{entry.sha256}`.

## Intended use

{INTENDED}

## Input

A slice of any size, three channels (pre-contrast T1, FLAIR, post-contrast T1); a single sequence is taken for FLAIR
and stands in all three. `brainmri.zoo.preprocess.Preprocess` {"crops the head, scales it" if entry.preprocess.crop else "scales it"} to {entry.preprocess.size} x {entry.preprocess.size}
with its aspect ratio kept, and standardises each slice by its own mean and standard deviation.

## Use

```python
import brainmri

model = brainmri.load("OWNER/{entry.name}")  # a LoadedModel: its entry, and the network in eval mode
pipe = brainmri.Pipeline({"segmenter" if "segmentation" in entry.tasks else "classifier"}=model)
```

`from brainmri.zoo.nets import {entry.net}; {entry.net}.from_pretrained("OWNER/{entry.name}")` gives the bare network.
{onnx}
## Measured

{count["patients"]} patients, {count["slices"]} slices; 95 % intervals by bootstrap over patients; two empty masks have Dice 1, a false alarm on
an empty mask 0. Protocol: {entry.metrics["protocol"]}. Machine: {entry.metrics["machine"]}. {released_weights(entry)} The held-out 20 (`split.json`) were never touched.

{figure_table(variants)}
{chr(10) + chr(10).join(gaps) + chr(10) if gaps else ""}{reliability(entry)}{failing(entry)}{in_integers(entry)}
## Training

{entry.training["dataset"]}. In order:

{stages}

{settings(entry)}
{fusions(entry)}
## Licence and citation

The weights: CC BY-NC-SA 4.0, following the dataset. {CITATION}
"""


def told(stage: dict) -> str:
    """A stage of the training: its command, and in brackets what it drew from, who taught it, or what it makes of earlier stages."""
    if runs := stage.get("averages"):
        return f"`{stage['command']}` (the mean of the weights of the {runs} stages before, which began from the same weights)"
    if ends := stage.get("unites"):
        return f"`{stage['command']}` (the networks of stages {' and '.join(map(str, ends))} answer together)"
    drawn = f"{stage['samples']:,} slices drawn from {stage['patients']} patients"
    return f"`{stage['command']}` ({drawn}{'; taught by ' + stage['teacher'] if 'teacher' in stage else ''})"


def settings(entry: ModelEntry) -> str:
    """A sentence: how its tasks' logits become a verdict and a mask."""
    said = []
    if "classification" in entry.tasks:
        low, high = entry.review
        said.append(f"temperature {entry.temperature:.3f}; review band {low:.2f} to {high:.2f}")
    if "segmentation" in entry.tasks:
        said.append(
            f"mask threshold {entry.mask_threshold:.2f}; the mask of a study smoothed over neighbouring slices with a standard deviation "
            f"of {entry.mask_neighbours:g}"
        )
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."


def split_of(entry: ModelEntry) -> dict:
    """Its `split.json`."""
    return json.loads((entry.folder / SPLIT).read_text(encoding="utf-8"))


def by_slice(entry: ModelEntry) -> bool:
    """Whether it was trained and measured by a split of slices instead of patients."""
    return split_of(entry).get("unit") == "slice"


def released_weights(entry: ModelEntry) -> str:
    """A sentence or two: what the released weights have to do with the weights that were measured."""
    split = split_of(entry)
    if by_slice(entry) or not set(split["train"]) & set(split["validated_on"]):
        return "The released weights are the very ones measured."
    patients, measured = [stage["patients"] for stage in entry.training["stages"]], entry.metrics["stages"]
    before = patients.index(max(patients))  # stages that these patients were no part of
    if before == measured:
        return f"The weights measured then went on, from stage {before + 1} below, to see these patients too: those are the released ones."
    further = ", and went on for the last stage below" if len(patients) > measured else ""
    shared = f"; what came before stage {before + 1} below, and did not see them, is common to both" if before else ""
    return f"The released weights were trained by the same recipe on every patient, these included{further}{shared}."


def in_integers(entry: ModelEntry) -> str:
    """What the network for CPUs is and costs; empty where there is none."""
    if not entry.int8:
        return ""
    found, costs = entry.int8["measured"], []
    if "dice_lost" in found:
        costs.append(
            f"the mean volumetric Dice of {found['patients']} validation patients changes by {-found['dice_lost']:+.4f}, that of any "
            f"patient by at most {found['dice_changed_at_most']:.4f}"
        )
    if "auc_lost" in found:
        costs.append(
            f"the AUC over {found['slices']} slices by {-found['auc_lost']:+.4f}, a probability before calibration by "
            f"{found['probability_changed_on_average']:.4f} on average"
        )
    kept = ", all but what leads to the verdict" if len(entry.tasks) == 2 else ""
    return f"""
`int8.xml` and `int8.bin` are this network in 8-bit integers{kept}, for OpenVINO on CPUs (`python -m train.release.quantise`);
`brainmri` takes it where it is faster. Against float32, {"; ".join(costs)}.
"""


def fusions(entry: ModelEntry) -> str:
    """How mask and verdict join to one probability, a line for a lone slice and one for a study; empty where that was not fitted."""
    lines = [
        f"Probability of tumour in a {mode}: sigmoid({f.logit:.3f} x logit {f.evidence:+.3f} x log(1 + summed mask probability) "
        f"{f.bias:+.3f}), smoothed over neighbouring slices with a standard deviation of {f.neighbours:g}; "
        f"review band {f.review[0]:.2f} to {f.review[1]:.2f}.\n"
        for mode, f in entry.fusion.items()
    ]
    if lines:
        lines.append("Temperature and the first band stand in where another entry draws the mask.\n")
    return "".join(lines)


def readme_row(entry: ModelEntry) -> str:
    """The entry's line in the README's zoo table.

    Dice in whole studies, of slices alone, and of these on FLAIR alone; AUC in whole studies and of slices alone; accuracy.
    """
    variants = entry.metrics["variants"]

    def shown(variant: str, name: str) -> str:
        figure = variants.get(variant, {}).get(name)
        return "{:.3f} [{:.3f}, {:.3f}]".format(figure["value"], *figure["interval_95"]) if figure else "-"

    dice, auc, accuracy = VOLUMETRIC_DICE, "verdict AUC, by slice", "verdict accuracy at 0.5, by slice"
    full, flair = VARIANTS[:2]
    cells = [(STUDY, dice), (full, dice), (flair, dice), (STUDY, auc), (full, auc), (full, accuracy)]
    return f"| `{entry.name}` | {entry.parameters / 1e6:.2f} M | {' | '.join(shown(*cell) for cell in cells)} |"
