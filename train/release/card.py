"""Model cards: python -m train.release.card [NAME…] renders those of the zoo again and prints their rows of the README's table.

A card is rendered from an entry and `card_template.md`. Its long tables are in `metrics.md` beside it, its picture shows the
model's result on the bundled synthetic slice.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Template

from brainmri.report.metric_tables import (
    failure_tables,
    figure_table,
    format_figure,
    markdown_table,
    ood_table,
    reliability_svg,
    reliability_table,
    scope_table,
)
from brainmri.report.overview import headline, input_names
from brainmri.zoo.attributes import KINDS, PLANES
from brainmri.zoo.attributes import THREE_SEQUENCES as THREE_SEQUENCES_NAME
from brainmri.zoo.backends import TORCH
from brainmri.zoo.entry import (
    CARD,
    DIAGRAM,
    METRICS_PAGE,
    ONNX,
    PICTURE,
    WEIGHTS,
    ModelEntry,
    read_split,
    require_metrics,
)
from brainmri.zoo.metrics import (
    AUC,
    DECIDED_ACCURACY,
    FAILURES,
    FLAIR_ONLY,
    METRICS,
    RELIABILITY,
    REVIEW_SHARE,
    SLICE_DICE,
    SLICE_VARIANTS,
    THREE_SEQUENCES,
    TVERSKY,
    VARIANTS,
    VOLUMETRIC_DICE,
    WHOLE_STUDY,
    is_figure,
    label,
)
from brainmri.zoo.records import TrainingStage
from brainmri.zoo.registry import DEFAULT, list_models, load
from train.datasets import Dataset, dataset_of, wider
from train.evaluation.healthy import healthy_table
from train.evaluation.inputs import input_table, merge_planes
from train.mix import AXIAL
from train.release.card_calibration import fusion_table, int8_cost, settings
from train.release.card_picture import draw_result, picture_text
from train.release.onnx_example import numpy_example

TEMPLATE = Path(__file__).with_name("card_template.md")
METRICS_TEMPLATE = Path(__file__).with_name("card_metrics_template.md")
SPACE = "brainmri"  # the name of the Space, from which the package can be installed
PICTURE_QUALITY = 85  # of the WebP file, of 100
README = Path(__file__).parents[2] / "README.md"
README_COLUMNS = ["model", "best for", "inputs", "Dice", "AUC", "MB", "ms"]
ALL_PATIENTS = {"--all", "--all-patients"}  # options of stages that leave out no patient who may be trained on
OPEN = "…"  # a cell of a new entry's row that is filled in by hand
OPEN_CELLS = f"""\n
Replace {OPEN}. best for: what to choose the model for. ms: 1000 / slices per second at batch size 1, plain torch / the fastest
backend, which `python -m brainmri bench NAME` prints."""


def measured(entry: ModelEntry) -> dict[tuple[str, str], float]:
    """Every figure by variant and metric id, without NaN (a share of nothing), which the Hub refuses."""
    return {
        (variant, metric): figure["value"]
        for variant, figures in require_metrics(entry).variants.items()
        for metric, figure in figures.items()
        if is_figure(figure) and not math.isnan(figure["value"])
    }


def described_dataset(entry: ModelEntry) -> Dataset:
    """The dataset that the entry was trained on, as its card describes it: with the pictures of other heads, if it saw them."""
    dataset = dataset_of(entry)
    if require_metrics(entry).inputs is None:
        return dataset
    return replace(dataset, intended_use=wider.INTENDED_USE, tags=wider.TAGS, description=wider.DESCRIPTION)


def card_data(entry: ModelEntry, owner: str | None = None) -> ModelCardData:
    """The card's front matter: the Hub's categories, and a `model-index` with every measured figure."""
    dataset = described_dataset(entry)
    results = [
        EvalResult(
            task_type="image-classification" if METRICS[metric].task == "classification" else "image-segmentation",
            dataset_type=dataset.hub_id or re.sub(r"[^a-z0-9]+", "-", dataset.name.lower()).strip("-"),
            dataset_name=dataset.name,
            dataset_config=VARIANTS[variant],
            dataset_split="test slices" if by_slice(entry) else "validation patients",
            metric_type=METRICS[metric].hub_type,
            metric_name=label(metric),
            metric_value=round(value, 3),
        )
        for (variant, metric), value in measured(entry).items()
    ]
    return ModelCardData(
        model_name=entry.name,
        base_model=base_model(entry, owner),
        language="en",
        library_name="brainmri",
        pipeline_tag="image-segmentation" if "segmentation" in entry.tasks else "image-classification",
        license=dataset.licence_id or None,
        datasets=[dataset.hub_id] if dataset.hub_id else None,
        tags=["medical", "mri", "brain", "tumour", *dataset.tags],
        eval_results=results,
    )


def started_from(entry: ModelEntry) -> str:
    """The entry of other data that the training started from, with its training record; empty without one."""
    return (entry.training.dataset or "").partition("; started from ")[2]


def base_model(entry: ModelEntry, owner: str | None) -> str | None:
    """The repo on the Hub of the entry that the training started from; None if there is none, or its owner is unknown."""
    name = started_from(entry).partition(", trained on")[0]
    if not name or "/" in name:
        return name or None
    return f"{owner}/{name}" if owner else None


def model_card(entry: ModelEntry, owner: str | None = None, space: str = SPACE) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        entry: with metrics, as `train.release.release` writes them, and trained on a dataset of `train.datasets`.
        owner: of the repo that the card is published in; None for the card in the entry's folder.
        space: the name of this owner's Space.
    """
    variants = require_metrics(entry).variants
    card = ModelCard.from_template(
        card_data(entry, owner),
        template_path=str(TEMPLATE),
        entry=entry,
        dataset=described_dataset(entry),
        name=f"{owner}/{entry.name}" if owner else entry.name,
        owner=owner,
        space=space,
        picture=PICTURE,
        picture_text=picture_text(entry),
        headlines=headlines(entry),
        counts=variants[THREE_SEQUENCES],
        released_weights=released_weights(entry),
        input_tables=input_summaries(entry),
        figure_table=figure_table(variants),
        comparisons="\n".join(comparisons(entry)),
        diagram=DIAGRAM if has_diagram(entry) else "",
        metrics_page=METRICS_PAGE if metrics_page(entry) else "",
        long_tables=", ".join(long_tables(entry)),
        inputs=input_names(entry),
        onnx_example=numpy_example(entry) if (entry.folder / ONNX).is_file() else "",
        int8_cost=int8_cost(entry),
        ood_table=ood_table(entry.metrics.ood) if entry.metrics and entry.metrics.ood else "",
        scope_table=scope_table(entry.specialist.measured) if entry.specialist else "",
        stages=[describe_stage(stage) for stage in entry.training.stages],
        settings=settings(entry),
        fusion_table=fusion_table(entry),
        started_from=started_from(entry),
    )
    return card.content.rstrip("\n") + "\n"


def metrics_page(entry: ModelEntry) -> str:
    """The card's long tables as Markdown: figures by input, reliability, failures and heads without tumour; "" without any."""
    metrics = require_metrics(entry)
    variants = metrics.variants
    tables = {
        "inputs": input_sections(entry),
        "reliability_table": reliability_table(variants) if has_diagram(entry) else "",
        "failure_tables": failure_tables(variants) if FAILURES in variants[THREE_SEQUENCES] else "",
        "healthy_table": healthy_table(metrics.healthy) if metrics.healthy else "",
    }
    if not any(tables.values()):
        return ""
    template = Template(METRICS_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(entry=entry, counts=variants[THREE_SEQUENCES], **tables).rstrip("\n") + "\n"


def long_tables(entry: ModelEntry) -> list[str]:
    """What the tables of `metrics_page` are about."""
    metrics = require_metrics(entry)
    parts = {
        "datasets, sequences and planes": bool(metrics.inputs),
        "reliability": has_diagram(entry),
        "failures by group and patient": FAILURES in metrics.variants[THREE_SEQUENCES],
        "heads without tumour": bool(metrics.healthy),
    }
    return [name for name, there in parts.items() if there]


def write_card(entry: ModelEntry) -> None:
    """Write an entry's card, and the tables, the diagram and the picture that it shows, into its folder."""
    (entry.folder / CARD).write_text(model_card(entry), encoding="utf-8")
    if page := metrics_page(entry):
        (entry.folder / METRICS_PAGE).write_text(page, encoding="utf-8")
    if has_diagram(entry):
        svg = reliability_svg(entry, THREE_SEQUENCES, background="white")
        (entry.folder / DIAGRAM).write_text(svg, encoding="utf-8")
    model = load(entry.folder, device="cpu", runtime=TORCH)
    draw_result(model).save(entry.folder / PICTURE, quality=PICTURE_QUALITY)


def headlines(entry: ModelEntry) -> list[str]:
    """The main figures, a line for the mask and a line for the verdict."""
    variants = require_metrics(entry).variants
    study, slices, flair = (variants.get(name, {}) for name in (WHOLE_STUDY, THREE_SEQUENCES, FLAIR_ONLY))
    lines = []
    if VOLUMETRIC_DICE in slices:
        places = {"in whole studies": study, "slice by slice": slices, "with FLAIR only": flair}
        lines.append(f"Mask: volumetric Dice {_listed(VOLUMETRIC_DICE, places)}.")
    elif SLICE_DICE in slices:
        lines.append(f"Mask: slice Dice {format_figure(slices[SLICE_DICE])}, soft Tversky {format_figure(slices.get(TVERSKY))}.")
    if AUC in slices:
        lines.append(f"Verdict: AUC {_listed(AUC, {'in whole studies': study, 'slice by slice': slices})}.")
    if decided := decided_shares(entry):
        lines[-1] += f" {decided[0]:.1%} of slices go to review, {decided[1]:.1%} of the others are right."
    return lines


def decided_shares(entry: ModelEntry) -> tuple[float, float] | None:
    """Of LGG slices of three sequences, the share for review and the share of the others, if any, with the right verdict.

    With rules for each sequence, these are the shares under those rules, which the pipeline applies.
    """
    metrics = require_metrics(entry)
    for row in (metrics.inputs or {}).get("validated", {}).get("rows", ()):
        if (row["dataset"], row["sequence"], row["plane"]) == (AXIAL, THREE_SEQUENCES_NAME, PLANES[0]):
            return None if row["right"] is None else (row["review"], row["right"])
    slices = metrics.variants.get(THREE_SEQUENCES, {})
    if REVIEW_SHARE in slices and DECIDED_ACCURACY in slices:
        return slices[REVIEW_SHARE]["value"], slices[DECIDED_ACCURACY]["value"]
    return None


def _listed(metric: str, places: dict[str, dict]) -> str:
    found = [f"{format_figure(figures[metric])} {place}" for place, figures in places.items() if metric in figures]
    return ", ".join(found)


def has_diagram(entry: ModelEntry) -> bool:
    """Whether the metrics hold the bins of the reliability diagram."""
    return RELIABILITY in require_metrics(entry).variants[THREE_SEQUENCES]


def measured_weights(entry: ModelEntry, part: str) -> str:
    """The title of a part of `Measurements.inputs`."""
    if part == "released":
        return "The released weights, on pictures that they were not trained on"
    whose = "The released weights" if measured_are_released(entry) else "Weights of the same recipe"
    return f"{whose}, on patients and pictures that they were not trained on"


def input_summaries(entry: ModelEntry) -> list[tuple[str, str]]:
    """For each set of weights measured by input: a title, and a table by dataset and sequence."""
    inputs = require_metrics(entry).inputs or {}
    return [(measured_weights(entry, part), input_table(merge_planes(found["rows"]))) for part, found in inputs.items()]


def input_sections(entry: ModelEntry) -> list[tuple[str, str, str, str]]:
    """For each set of weights measured by input: a title, the table, what is recognised, and the confusion of the kinds."""
    sections = []
    for part, found in (require_metrics(entry).inputs or {}).items():
        recognised = ", ".join(f"{name} {share:.1%}" for name, share in found["recognised"].items())
        rows = [[kind, *map(str, counts)] for kind, counts in zip(KINDS, found["kinds"], strict=True)]
        sections.append(
            (measured_weights(entry, part), input_table(found["rows"]), recognised, markdown_table(["true kind", *KINDS], rows))
        )
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
                f"Analysed as whole studies, with predictions smoothed across neighbouring slices and small islands removed, "
                f"it is {study:.3f} ({study - full:+.3f})."
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
    if stage.averages == 1:
        return f"`{stage.command_line}` (mean of the weights before and after the preceding stage)"
    if runs := stage.averages:
        return f"`{stage.command_line}` (mean of the weights of the {runs} stages before, which started from the same weights)"
    if ends := stage.unites:
        return f"`{stage.command_line}` (ensemble of the networks of stages {' and '.join(map(str, ends))})"
    unit = "patients and groups of pictures" if "--wider" in stage.command else "patients"
    data = f"{stage.samples:,} slices sampled from {stage.patients} {unit}"
    return f"`{stage.command_line}` ({data}{'; teacher: ' + stage.teacher if stage.teacher else ''})"


def split_of(entry: ModelEntry) -> dict:
    """The entry's `split.json`."""
    return read_split(entry.folder)


def by_slice(entry: ModelEntry) -> bool:
    """Whether the entry was trained and measured with a split by slice instead of by patient."""
    return split_of(entry).get("unit") == "slice"


def measured_are_released(entry: ModelEntry) -> bool:
    """Whether the figures were measured with the released weights themselves."""
    split = split_of(entry)
    return by_slice(entry) or not set(split["train"]) & set(split["validated_on"])


def released_weights(entry: ModelEntry) -> str:
    """How the released weights relate to the measured ones, in a sentence or two."""
    if measured_are_released(entry):
        return "The released weights are the measured ones."
    patients, stages = [stage.patients for stage in entry.training.stages], require_metrics(entry).stages
    earlier = patients.index(max(patients))  # stages on fewer patients or groups of pictures
    if any(set(stage.command) & ALL_PATIENTS for stage in entry.training.stages[:earlier]):
        return (
            "The released weights were trained on these patients too. The measured ones are of a separate run, so they share "
            "no stage."
        )
    if earlier == stages:
        return (
            f"The released weights continue the training of the measured ones, from stage {earlier + 1} below, with these "
            "patients included."
        )
    further = ", and trained further in the last stage below" if len(patients) > stages else ""
    shared = f" Both share the stages before stage {earlier + 1} below, which did not use these patients." if earlier else ""
    return f"The released weights were trained with the same recipe on all patients, including these{further}.{shared}"


def readme_row(entry: ModelEntry, best_for: str = "", milliseconds: str = "-") -> str:
    """The entry's line in the README's table of models.

    Dice is the volumetric one and AUC the verdict's, in whole studies where they were measured there, else slice by slice.

    Args:
        entry: with metrics.
        best_for: what to choose it for.
        milliseconds: for a slice, as `python -m brainmri bench` measures it.
    """
    default = " (default)" if entry.name == DEFAULT else ""
    megabytes = (entry.folder / WEIGHTS).stat().st_size / 1e6
    cells = (
        f"[`{entry.name}`](brainmri/weights/{entry.name}/{CARD}){default}", best_for, input_names(entry),
        headline(entry, VOLUMETRIC_DICE), headline(entry, AUC), f"{megabytes:.0f}", milliseconds,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def readme_table(entries: Iterable[ModelEntry], readme: str) -> str:
    """The README's table of models, with the rows of these entries.

    What is written by hand is taken from the README's text; it is left open for an entry that has no row yet, and a note follows.
    """
    written = {line.split("`")[1]: line.strip("| ").split(" | ") for line in readme.splitlines() if line.startswith("| [`")}
    lines = [markdown_table(README_COLUMNS, [])]
    for entry in entries:
        cells = written.get(entry.name, [OPEN] * len(README_COLUMNS))
        lines.append(readme_row(entry, best_for=cells[1], milliseconds=cells[-1]))
    table = "\n".join(lines)
    return table + OPEN_CELLS if OPEN in table else table


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries of the zoo (default: all)")
    options = parser.parse_args(arguments)
    known = {entry.name: entry for entry in list_models()}
    if unknown := sorted(set(options.names) - set(known)):
        parser.error(f"unknown model {unknown[0]!r}; choose from {', '.join(known)}")
    entries = [known[name] for name in options.names or known]
    for entry in entries:
        write_card(entry)
    print(readme_table(entries, README.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
