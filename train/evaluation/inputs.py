"""Measure networks by kind of input: python -m train.evaluation.inputs RUN… --data DIR --wider DIR [--out inputs.json]

Slices of the run's validation patients and groups, each analysed alone as it would be uploaded: the LGG patients as three
sequences and as each sequence alone, with and without their skull, and cut coronally and sagittally; pictures of other heads as
they are. The figures are by dataset, sequence and plane. Slices without tumour are what false alarms are counted on. Several
runs are the folds of a cross-validation (`train.crossvalidate generalist`); the figures are over the slices of all, and the
Dice of each fold.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from brainmri.analysis.coverage import possible_sequences
from brainmri.analysis.decision import decide_slice
from brainmri.analysis.findings import REVIEW, TUMOUR
from brainmri.analysis.forward import predict_slices
from brainmri.analysis.recognition import SURE
from brainmri.io.pixels import to_unit
from brainmri.report.metric_tables import markdown_table
from brainmri.zoo.attributes import KIND, KINDS, PLANE, PLANES, SEQUENCE, SEQUENCES, THREE_SEQUENCES
from brainmri.zoo.backends import TORCH
from brainmri.zoo.calibration import Rules
from brainmri.zoo.entry import read_split, rules_of
from brainmri.zoo.registry import LoadedModel, load
from train.datasets import dataset_of
from train.evaluation.calibrate import THRESHOLDS
from train.evaluation.metrics import auc, dice_of_counts
from train.examples import (
    AXIAL,
    CHANNELS,
    CUT,
    UNKNOWN,
    WITHOUT_SKULL,
    Example,
    patient_examples,
    picture_examples,
    single_sequence,
)
from train.uploads import remove_skull

ROW = ("dataset", "sequence", "plane")  # what the figures are by
STRIPPED_SEQUENCES = ("FLAIR", "T1c")  # of the LGG patients, the sequences measured without skull too


@dataclass(frozen=True, kw_only=True)
class View:
    """A slice as it is uploaded, and its row in the table."""

    example: Example
    stripped: bool

    @property
    def dataset(self) -> str:
        """For example "lgg" or "figshare glioma"."""
        example = self.example
        kind = f" {KINDS[example.kind]}" if example.source not in (AXIAL, CUT) and example.kind != UNKNOWN else ""
        return (AXIAL if example.source == CUT else example.collection) + kind + (", skull removed" if self.stripped else "")


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """A view's labels and what the network gives for it.

    Attributes:
        dataset: of the view.
        sequence, plane, kind: the true ones; empty where unknown.
        group: patient, or block of neighbouring pictures.
        tumour: whether it shows one.
        outlined: (T,) pixels above each of `THRESHOLDS`; `overlap` those that are annotated too; `annotated` all that are.
        grid_share, evidence, logit: as in `brainmri.analysis.forward.Prediction`.
        attributes: attribute to (classes,) probabilities, in the order of the network's classes.
    """

    dataset: str
    sequence: str
    plane: str
    kind: str
    group: str
    tumour: bool
    outlined: np.ndarray
    overlap: np.ndarray
    annotated: int
    grid_share: float
    evidence: float
    logit: float
    attributes: dict[str, np.ndarray]

    def dice(self, threshold: int) -> float:
        """At one of `THRESHOLDS`, by index."""
        return dice_of_counts(int(self.outlined[threshold]), self.annotated, int(self.overlap[threshold]))


def patient_views(examples: list[Example]) -> list[View]:
    """What is measured of an LGG patient: axial slices in all variants, cut slices as three sequences and post-contrast T1."""
    views = []
    for number, example in enumerate(examples):
        views.append(View(example=example, stripped=False))
        for name in CHANNELS if example.source == AXIAL else ("T1c",):
            single = single_sequence(example, name)
            if SEQUENCES[single.sequence] != name:  # the patient has no such sequence
                continue
            views.append(View(example=single, stripped=False))
            if example.source == AXIAL and name in STRIPPED_SEQUENCES:
                views.append(View(example=without_skull(single, number), stripped=True))
    return views


def without_skull(example: Example, seed: int) -> Example:
    """The same slice with its skull removed (`train.uploads.remove_skull`)."""
    pixels, mask = remove_skull(example.pixels, example.mask.astype(np.float32), np.random.default_rng(seed))
    return replace(example, pixels=pixels, mask=mask > 0.5)


def measure(model: LoadedModel, views: Iterable[View]) -> list[Measured]:
    """The network's output for each view."""
    found = []
    for view in views:
        example = view.example
        pixels = to_unit(np.ascontiguousarray(example.pixels))
        predicted = predict_slices(model, model, pixels[None])
        assert predicted.maps is not None
        assert predicted.logits is not None
        assert predicted.evidence is not None
        assert predicted.grid_share is not None
        above = predicted.maps[0][None] > np.array(THRESHOLDS)[:, None, None]  # (T, H, W)
        found.append(Measured(
            dataset=view.dataset,
            sequence=_name(SEQUENCES, example.sequence), plane=_name(PLANES, example.plane), kind=_name(KINDS, example.kind),
            group=example.group, tumour=bool(example.tumour),
            outlined=above.sum(axis=(1, 2)), overlap=(above & example.mask).sum(axis=(1, 2)), annotated=int(example.mask.sum()),
            grid_share=float(predicted.grid_share[0]), evidence=float(predicted.evidence[0]), logit=float(predicted.logits[0]),
            attributes={
                name: np.array([values[0] for values in classes.values()])
                for name, classes in (predicted.attributes or {}).items()
            },
        ))  # fmt: skip
    return found


def _name(names: Sequence[str], index: int) -> str:
    return "" if index == UNKNOWN else names[index]


def recognised_sequence(one: Measured) -> str | None:
    """The sequence that the pipeline takes a slice for; three sequences are known from the channels."""
    if one.sequence == THREE_SEQUENCES:
        return THREE_SEQUENCES
    probabilities = one.attributes.get(SEQUENCE, np.zeros(1))
    return SEQUENCES[int(probabilities.argmax())] if probabilities.max() >= SURE else None


def decide(one: Measured, rules: Rules) -> str:
    """The verdict, under the rules for the sequence that is recognised; of an unclear one as `decide_slices` decides."""
    sequence, values = recognised_sequence(one), one.attributes.get(SEQUENCE, np.zeros(0)).tolist()
    names: tuple[str | None, ...] = (sequence,) if rules.was_evaluated_on(sequence) else ()
    if sequence is None and values:
        possible = possible_sequences(rules, dict(zip(SEQUENCES, values, strict=True)))
        names = (None, *possible) if possible else ()
    verdicts = {_decide_as(one, rules.for_sequence(name)) for name in names}
    return verdicts.pop() if len(verdicts) == 1 else REVIEW


def _decide_as(one: Measured, rules: Rules) -> str:
    probability = float(rules.probability(np.array([one.logit]), np.array([one.evidence]), "slice")[0])
    area = one.outlined[nearest_threshold(rules.mask_threshold)] * one.grid_share
    return decide_slice(probability, float(area), rules.band("slice"))[0]


def nearest_threshold(value: float) -> int:
    """The index of the nearest of `THRESHOLDS`."""
    return int(np.abs(np.array(THRESHOLDS) - value).argmin())


def table_rows(measured: list[Measured], rules: dict[str, Rules]) -> list[dict]:
    """Figures by dataset, sequence and plane.

    Args:
        measured: the slices.
        rules: those that each group is decided by.

    Returns:
        For each row `slices`, `tumours`, the mean slice `dice` over the slices with tumour, the verdict's `auc` by its logit, and
        the shares `called_tumour`, `called_no_tumour`, `review`; of the decided slices, the share `right`. None where there is
        nothing to compute it from.
    """
    parts: dict[tuple[str, str, str], list[Measured]] = {}
    for one in measured:
        parts.setdefault((one.dataset, one.sequence, one.plane), []).append(one)
    return [
        {"dataset": dataset, "sequence": sequence, "plane": plane, **_figures(part, rules)}
        for (dataset, sequence, plane), part in sorted(parts.items())
    ]


def _figures(part: list[Measured], rules: dict[str, Rules]) -> dict:
    verdicts = [decide(one, rules[one.group]) for one in part]
    tumour = np.array([one.tumour for one in part])
    decided = [(verdict == TUMOUR) == one.tumour for verdict, one in zip(verdicts, part, strict=True) if verdict != REVIEW]
    dices = [
        one.dice(nearest_threshold(rules[one.group].for_sequence(recognised_sequence(one)).mask_threshold))
        for one in part
        if one.tumour
    ]
    score = auc([one.logit for one in part], tumour)
    return {
        "slices": len(part),
        "tumours": int(tumour.sum()),
        "dice": float(np.mean(dices)) if dices else None,
        "auc": None if np.isnan(score) else score,
        "called_tumour": verdicts.count(TUMOUR) / len(part),
        "called_no_tumour": (len(part) - verdicts.count(TUMOUR) - verdicts.count(REVIEW)) / len(part),
        "review": verdicts.count(REVIEW) / len(part),
        "right": float(np.mean(decided)) if decided else None,
    }


def recognition_accuracy(measured: list[Measured]) -> dict[str, float]:
    """The share of slices whose sequence, plane or kind is recognised, of those whose true one is known."""
    found = {}
    for attribute, classes in ((SEQUENCE, SEQUENCES), (PLANE, PLANES), (KIND, KINDS)):
        known = [one for one in measured if getattr(one, attribute) and one.attributes]
        if known:
            found[attribute] = float(
                np.mean([classes[int(one.attributes[attribute].argmax())] == getattr(one, attribute) for one in known])
            )
    return found


def merge_planes(rows: list[dict]) -> list[dict]:
    """The rows of `table_rows` with one row for the other planes beside the axial one.

    Each figure is the mean over the slices that it is of. The AUC of merged planes is None: it does not follow from theirs.
    """
    parts: dict[tuple[str, str, bool], list[dict]] = {}
    for row in rows:
        parts.setdefault((row["dataset"], row["sequence"], row["plane"] == "axial"), []).append(row)
    return [merge_rows(part) if len(part) > 1 else part[0] for part in parts.values()]


def merge_rows(part: list[dict]) -> dict:
    """Rows of one dataset and sequence as one row; its figures are as in `merge_planes`."""

    def mean(name: str, weights: list[float]) -> float | None:
        weighted = [(row[name], weight) for row, weight in zip(part, weights, strict=True) if row[name] is not None]
        return sum(value * weight for value, weight in weighted) / sum(weight for _, weight in weighted) if weighted else None

    slices, tumours = [row["slices"] for row in part], [row["tumours"] for row in part]
    decided = [row["slices"] * (1 - row["review"]) for row in part]
    planes = ", ".join(row["plane"] or "unknown" for row in part)
    shares = {name: mean(name, slices) for name in ("called_tumour", "called_no_tumour", "review")}
    first = {name: part[0][name] for name in ("dataset", "sequence")}
    counts = {"plane": planes, "slices": sum(slices), "tumours": sum(tumours)}
    return first | counts | {"dice": mean("dice", tumours), "auc": None, **shares, "right": mean("right", decided)}


def input_table(rows: list[dict]) -> str:
    """The rows in Markdown; columns without any figure are left out."""
    figures = {
        "slice Dice": ("dice", ".3f"),
        "AUC": ("auc", ".3f"),
        "called tumour": ("called_tumour", ".1%"),
        "review": ("review", ".1%"),
        "decided right": ("right", ".1%"),
    }
    shown = {title: (name, form) for title, (name, form) in figures.items() if any(row[name] is not None for row in rows)}
    return markdown_table(["dataset", "sequence", "plane", "slices", "with tumour", *shown], [
        [row["dataset"], row["sequence"] or "-", row["plane"] or "-", str(row["slices"]), str(row["tumours"]),
         *("-" if row[name] is None else format(row[name], form) for name, form in shown.values())]
        for row in rows
    ])  # fmt: skip


def validation_views(folder: Path, model: LoadedModel, data: Path | None, wider: Path) -> list[View]:
    """The views of a run's validation patients and groups, in order; without `data`, of the groups only."""
    validating = set(read_split(folder)["validation"])
    views: list[View] = []
    if data:
        cases = dataset_of(model.entry).find_slices(data)
        for case in sorted(validating & set(cases)):
            views += patient_views(patient_examples(cases[case]))
    return views + [
        View(example=example, stripped=example.collection in WITHOUT_SKULL)
        for example in picture_examples(wider) if example.group in validating
    ]  # fmt: skip


def measure_folds(runs: Sequence[Path], data: Path | None, wider: Path) -> tuple[list[list[Measured]], dict[str, Rules]]:
    """What each run gives for its own validation patients and groups, and the rules by which they are decided.

    Those are the run's own. Before its rules by sequence are fitted, every sequence is decided.

    Raises:
        ValueError: if a patient or group validates two of the runs.
    """
    folds, rules = [], {}
    for run in runs:
        model = load(run, device="cpu", runtime=TORCH)
        measured = measure(model, tqdm(validation_views(run, model, data, wider), desc=run.name, unit="slice"))
        groups = {one.group for one in measured}
        if twice := sorted(groups & set(rules)):
            raise ValueError(f"expected the folds of one cross-validation, but {run} and another run both validate on {twice[0]}")
        folds.append(measured)
        own = rules_of(model.entry, model.entry)
        rules |= dict.fromkeys(groups, own if own.sequences else replace(own, evaluated_on=None))
    return folds, rules


def fold_table(folds: dict[str, list[Measured]], rules: dict[str, Rules]) -> str:
    """The mean slice Dice of each fold, by its name, by dataset, sequence and plane, in Markdown."""
    by_fold = [
        {tuple(row[name] for name in ROW): row["dice"] for row in merge_planes(table_rows(fold, rules))}
        for fold in folds.values()
    ]
    keys = sorted({key for fold in by_fold for key, dice in fold.items() if dice is not None})
    return markdown_table([*ROW, *folds], [
        [*(part or "-" for part in key), *("-" if fold.get(key) is None else f"{fold[key]:.3f}" for fold in by_fold)]
        for key in keys
    ])  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with validation patients and groups")
    parser.add_argument("--data", type=Path, help="the LGG dataset; without it, only the pictures are measured")
    parser.add_argument("--wider", type=Path, required=True, help="folder with the index.csv of other heads")
    parser.add_argument("--out", type=Path, help="where a JSON report goes")
    options = parser.parse_args(arguments)
    folds, rules = measure_folds(options.runs, options.data, options.wider)
    measured = [one for fold in folds for one in fold]
    rows, recognised = table_rows(measured, rules), recognition_accuracy(measured)
    print(input_table(rows))
    print("recognised:", ", ".join(f"{name} {share:.1%}" for name, share in recognised.items()))
    if len(folds) > 1:
        names = [run.name for run in options.runs]
        print(f"\nSlice Dice by fold\n{fold_table(dict(zip(names, folds, strict=True)), rules)}")
    if options.out:
        options.out.write_text(json.dumps({"rows": rows, "recognised": recognised}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
