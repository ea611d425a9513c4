"""The model card, rendered from an entry and `card_template.md`."""

from __future__ import annotations

import math
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from brainmri.report.metric_tables import failure_tables, figure_table, markdown_table, reliability_svg, reliability_table
from brainmri.zoo.attributes import KINDS
from brainmri.zoo.entry import CARD, DIAGRAM, ONNX, ModelEntry, read_split, require_metrics
from brainmri.zoo.metrics import (
    ACCURACY,
    AUC,
    FAILURES,
    FLAIR_ONLY,
    METRICS,
    RELIABILITY,
    SLICE_VARIANTS,
    THREE_SEQUENCES,
    VARIANTS,
    VOLUMETRIC_DICE,
    WHOLE_STUDY,
    is_figure,
    label,
)
from brainmri.zoo.records import TrainingStage
from train.datasets import dataset_of
from train.evaluation.healthy import healthy_table
from train.evaluation.inputs import input_table

TEMPLATE = Path(__file__).with_name("card_template.md")

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
outputs = dict(zip((output.name for output in session.get_outputs()), session.run(None, {{"image": image}})))
"""
SHOW_MASK = """small = Image.fromarray(outputs["mask"][0, 0, top : top + head.height, left : left + head.width])
whole = np.zeros(grey.shape, np.float32)
whole[box[1] : box[3], box[0] : box[2]] = np.asarray(small.resize((box[2] - box[0], box[3] - box[1])))
Image.fromarray(np.uint8(255 * (whole > {threshold}))).save("mask.png")
"""
SHOW_VERDICT = """print(f"probability of tumour: {outputs['tumour'][0]:.3f}")
"""


def numpy_example(entry: ModelEntry) -> str:
    """A program with numpy, Pillow and onnxruntime: from `slice.png` and `model.onnx` to `mask.png` and the probability of tumour."""
    program = NUMPY_EXAMPLE.format(size=entry.preprocess.size)
    if "segmentation" in entry.tasks:
        program += SHOW_MASK.format(threshold=entry.mask_threshold)
    if "classification" in entry.tasks:
        program += SHOW_VERDICT
    return program


def measured(entry: ModelEntry) -> dict[tuple[str, str], float]:
    """Every figure by variant and metric id, without NaN (a share of nothing), which the Hub refuses."""
    return {
        (variant, metric): figure["value"]
        for variant, figures in require_metrics(entry).variants.items()
        for metric, figure in figures.items()
        if is_figure(figure) and not math.isnan(figure["value"])
    }


def card_data(entry: ModelEntry) -> ModelCardData:
    """The card's front matter: the Hub's categories, and a `model-index` with every measured figure."""
    dataset = dataset_of(entry)
    results = [
        EvalResult(
            task_type="image-classification" if METRICS[metric].task == "classification" else "image-segmentation",
            dataset_type=dataset.hub_id or re.sub(r"[^a-z0-9]+", "-", dataset.name.lower()).strip("-"),
            dataset_name=dataset.name,
            dataset_config=VARIANTS[variant],
            dataset_split="test slices" if by_slice(entry) else "validation patients",
            metric_type=METRICS[metric].hub_type,
            metric_name=label(metric),
            metric_value=value,
        )
        for (variant, metric), value in measured(entry).items()
    ]
    return ModelCardData(
        model_name=entry.name,
        library_name="brainmri",
        pipeline_tag="image-segmentation" if "segmentation" in entry.tasks else "image-classification",
        license=dataset.licence_id or None,
        datasets=[dataset.hub_id] if dataset.hub_id else None,
        tags=["medical", "mri", "brain", "tumour", *dataset.tags],
        eval_results=results,
    )


def model_card(entry: ModelEntry) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        entry: with metrics, as `train.release.release` writes them, and trained on a dataset of `train.datasets`.
    """
    metrics = require_metrics(entry)
    variants = metrics.variants
    card = ModelCard.from_template(
        card_data(entry),
        template_path=str(TEMPLATE),
        entry=entry,
        dataset=dataset_of(entry),
        counts=variants[THREE_SEQUENCES],
        released_weights=released_weights(entry),
        figure_table=figure_table(variants),
        comparisons=comparisons(entry),
        diagram=DIAGRAM,
        reliability_table=reliability_table(variants) if has_diagram(entry) else "",
        inputs=input_sections(entry),
        failure_tables=failure_tables(variants) if FAILURES in variants[THREE_SEQUENCES] else "",
        healthy_table=healthy_table(metrics.healthy) if metrics.healthy else "",
        onnx_example=numpy_example(entry) if (entry.folder / ONNX).is_file() else "",
        int8_cost=int8_cost(entry),
        stages=[describe_stage(stage) for stage in entry.training.stages],
        settings=settings(entry),
        fusions=fusions(entry),
        started_from=(entry.training.dataset or "").partition("; started from ")[2],
    )
    return card.content.rstrip("\n") + "\n"


def write_card(entry: ModelEntry) -> None:
    """Write an entry's card, and the diagram that it shows, into its folder."""
    (entry.folder / CARD).write_text(model_card(entry), encoding="utf-8")
    if has_diagram(entry):
        svg = reliability_svg(entry, THREE_SEQUENCES, background="white")
        (entry.folder / DIAGRAM).write_text(svg, encoding="utf-8")


def has_diagram(entry: ModelEntry) -> bool:
    """Whether the metrics hold the bins of the reliability diagram."""
    return RELIABILITY in require_metrics(entry).variants[THREE_SEQUENCES]


def input_sections(entry: ModelEntry) -> list[tuple[str, str, str, str]]:
    """For each set of weights measured by input: a title, the table, what is recognised, and the confusion of the kinds."""
    titles = {
        "validated": "Weights of the same recipe, on patients and pictures that they were not trained on",
        "released": "The released weights, on pictures that they were not trained on",
    }
    sections = []
    for part, found in (require_metrics(entry).inputs or {}).items():
        recognised = ", ".join(f"{name} {share:.1%}" for name, share in found["recognised"].items())
        rows = [[kind, *map(str, counts)] for kind, counts in zip(KINDS, found["kinds"], strict=True)]
        sections.append((titles[part], input_table(found["rows"]), recognised, markdown_table(["true kind", *KINDS], rows)))
    return sections


def comparisons(entry: ModelEntry) -> list[str]:
    """A sentence or two for each task: how its main figure changes with the variant of the input."""
    variants = require_metrics(entry).variants
    sentences = []
    if VOLUMETRIC_DICE in variants[THREE_SEQUENCES]:
        full, flair, volume = (variants[variant][VOLUMETRIC_DICE]["value"] for variant in SLICE_VARIANTS)
        sentences.append(
            f"With FLAIR only, the mean volumetric Dice is {flair:.3f}, compared with {full:.3f} for three sequences "
            f"({flair - full:+.3f})."
        )
        together = "Each slice is standardised by itself, so a single slice gets the same mask as within its study."
        if WHOLE_STUDY in variants:
            study = variants[WHOLE_STUDY][VOLUMETRIC_DICE]["value"]
            together = (
                f"Analysed as whole studies, with predictions smoothed across neighbouring slices and small islands removed, it is "
                f"{study:.3f} ({study - full:+.3f})."
            )
        sentences.append(
            f"Normalised over the whole volume instead of slice by slice, it is {volume:.3f} ({volume - full:+.3f}). {together}"
        )
    if "classification" in entry.tasks:
        full, flair = (variants[variant][AUC]["value"] for variant in (THREE_SEQUENCES, FLAIR_ONLY))
        sentences.append(f"The verdict's AUC is {full:.3f} for three sequences and {flair:.3f} for FLAIR only.")
    return sentences


def describe_stage(stage: TrainingStage) -> str:
    """A training stage: its command, and in brackets its data and teacher, or what it does with earlier stages."""
    if runs := stage.averages:
        return f"`{stage.command_line}` (mean of the weights of the {runs} stages before, which started from the same weights)"
    if ends := stage.unites:
        return f"`{stage.command_line}` (ensemble of the networks of stages {' and '.join(map(str, ends))})"
    data = f"{stage.samples:,} slices sampled from {stage.patients} patients"
    return f"`{stage.command_line}` ({data}{'; teacher: ' + stage.teacher if stage.teacher else ''})"


def settings(entry: ModelEntry) -> str:
    """A sentence: the calibration and thresholds of its tasks."""
    parts = []
    if "classification" in entry.tasks:
        low, high = entry.review
        parts.append(f"temperature {entry.temperature:.3f}; review band {low:.2f} to {high:.2f}")
    if "segmentation" in entry.tasks:
        parts.append(
            f"mask threshold {entry.mask_threshold:.2f}; masks of studies smoothed across neighbouring slices with a standard "
            f"deviation of {entry.mask_neighbours:g} slices"
        )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def fusions(entry: ModelEntry) -> list[str]:
    """How mask and verdict are combined into one probability, a line for a single slice and one for a study."""
    return [
        f"Probability of tumour in a {mode}: sigmoid({f.logit:.3f} x logit {f.evidence:+.3f} x log(1 + summed mask probability) "
        f"{f.bias:+.3f}), smoothed across neighbouring slices with a standard deviation of {f.neighbours:g} slices; "
        f"review band {f.review[0]:.2f} to {f.review[1]:.2f}."
        for mode, f in entry.fusion.items()
    ]


def split_of(entry: ModelEntry) -> dict:
    """The entry's `split.json`."""
    return read_split(entry.folder)


def by_slice(entry: ModelEntry) -> bool:
    """Whether the entry was trained and measured with a split by slice instead of by patient."""
    return split_of(entry).get("unit") == "slice"


def released_weights(entry: ModelEntry) -> str:
    """How the released weights relate to the measured ones, in a sentence or two."""
    split = split_of(entry)
    if by_slice(entry) or not set(split["train"]) & set(split["validated_on"]):
        return "The released weights are the measured ones."
    patients, stages = [stage.patients for stage in entry.training.stages], require_metrics(entry).stages
    earlier = patients.index(max(patients))  # stages without the patients measured on
    if earlier == stages:
        return (
            f"The released weights continue the training of the measured ones, from stage {earlier + 1} below, with these patients "
            "included."
        )
    further = ", and trained further in the last stage below" if len(patients) > stages else ""
    shared = f" Both share the stages before stage {earlier + 1} below, which did not use these patients." if earlier else ""
    return f"The released weights were trained with the same recipe on all patients, including these{further}.{shared}"


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
            f"AUC {-found['auc_lost']:+.4f} over {found['slices']} slices, uncalibrated probability "
            f"{found['probability_changed_on_average']:.4f} on average"
        )
    return "; ".join(costs)


def readme_row(entry: ModelEntry) -> str:
    """The entry's line in the README's zoo table.

    Dice in whole studies, slice by slice, and slice by slice with FLAIR only; AUC in whole studies and slice by slice; accuracy.
    """
    variants = require_metrics(entry).variants

    def cell(variant: str, metric: str) -> str:
        figure = variants.get(variant, {}).get(metric)
        return "{:.3f} [{:.3f}, {:.3f}]".format(figure["value"], *figure["interval_95"]) if figure else "-"

    cells = [
        cell(WHOLE_STUDY, VOLUMETRIC_DICE), cell(THREE_SEQUENCES, VOLUMETRIC_DICE), cell(FLAIR_ONLY, VOLUMETRIC_DICE),
        cell(WHOLE_STUDY, AUC), cell(THREE_SEQUENCES, AUC), cell(THREE_SEQUENCES, ACCURACY),
    ]  # fmt: skip
    return f"| `{entry.name}` | {entry.parameters / 1e6:.2f} M | {' | '.join(cells)} |"
