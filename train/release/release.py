"""Turn finished runs into a zoo entry: python -m train.release.release --data DIR --run RUN --validated RUN… [--half]

The validated runs, one or the folds of a cross-validation, are measured on their validation patients. These also set the mask
threshold, the calibration and the review bands (`train.evaluation.calibrate`). The weights of `--run` are released. That is the
validated run itself, a run that continued from it on all patients (`--all --start`), or a run of the same recipe on all
patients (`--all`), optionally with one more stage. `--healthy` adds a report of `train.evaluation.healthy` to the card; that
report needs the calibrated entry, so release first, measure, and release again. The validated runs' outputs are stored in their
folders, in `out-of-fold`, and reused by a second release. An out-of-distribution detector or quantised network for other
weights is removed: run `train.ood.fit` and `train.release.quantise` afterwards.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from brainmri.analysis.selfcheck import compute_outputs
from brainmri.zoo.backends import TORCH
from brainmri.zoo.calibration import Rules
from brainmri.zoo.entry import (
    ModelEntry,
    read_config,
    read_entry,
    read_split,
    require_metrics,
    rules_of,
    save_entry,
    update_config,
)
from brainmri.zoo.metrics import SLICE_VARIANTS, THREE_SEQUENCES, VARIANTS, WHOLE_STUDY, Measurements
from brainmri.zoo.registry import EMBEDDED, LoadedModel, load, split_roles
from train.datasets import dataset_of
from train.evaluation.calibrate import cross_fitted
from train.evaluation.evaluate import summarise, summary
from train.evaluation.failures import apply_study_rules
from train.evaluation.healthy import identity
from train.evaluation.predictions import apply_rules, predict_case
from train.release.card import write_card

OUT_OF_FOLD = "out-of-fold"  # in a validated run's folder: its outputs for its validation patients


def recipe(entry: ModelEntry) -> list[tuple[frozenset[tuple[str, ...]], int]]:
    """The training stages of an entry's weights, as options and number of slices, without the options that choose patients or
    depend on the machine (a CPU without bfloat16 uses float32)."""
    which = re.compile(
        r"--(folds? \d+|all|resume|(precision|device|workers|manifest|track) \S+|on-device|compile|profile|tensorboard)"
    )
    return [
        (frozenset(option for option in stage.options if not which.fullmatch(" ".join(option))), stage.samples)
        for stage in entry.training.stages
    ]


def teachers(entry: ModelEntry) -> list[str]:
    """The names of the entries that were teachers of an entry's weights."""
    return sorted({stage.teacher.partition(",")[0] for stage in entry.training.stages if stage.teacher})


def check(released: ModelEntry, folds: list[ModelEntry], splits: list[dict]) -> None:
    """SystemExit with the reason unless the validated runs' figures hold for the released weights."""
    validated = [case for split in splits for case in split["validation"]]
    if not validated or len(validated) != len(set(validated)):
        raise SystemExit(
            "expected validated runs with different validation patients, got a fold twice or a run without any; "
            "give each fold once"
        )
    for entry, split in zip(folds, splits, strict=True):
        if overlap := set(split["train"]) & set(split["validation"]):
            raise SystemExit(
                f"expected {entry.folder} to be validated on patients not used for training, got {', '.join(sorted(overlap))} in "
                "both; train it again"
            )
        if recipe(entry) != recipe(folds[0]):
            raise SystemExit(
                f"expected validated runs of one recipe, got {entry.folder} and {folds[0].folder} of different ones; "
                "give the folds of one cross-validation"
            )
    if recipe(released)[: len(recipe(folds[0]))] != recipe(folds[0]):
        raise SystemExit(
            f"expected a run that started from {folds[0].folder} or has its recipe, got {released.folder}, to which the figures "
            "do not apply; train it with --all and --start, or with the same options"
        )


def attach_healthy(folder: Path, report: dict) -> ModelEntry:
    """Add a report of `train.evaluation.healthy` to an entry's metrics and card.

    Raises:
        SystemExit: when the report was made with other weights, thresholds or calibration.
    """
    entry = read_entry(folder)
    roles = {"segmentation": "segmenter", "classification": "classifier"}
    if any(report[roles[task]] != identity(entry, roles[task]) for task in entry.tasks):
        raise SystemExit(
            f"expected a report on brains without tumour made with {folder} as it is now, got one with other weights, thresholds "
            f"or calibration; run python -m train.evaluation.healthy on {folder} and release again with the new report"
        )
    entry = update_config(folder, metrics=replace(require_metrics(entry), healthy=report).config())
    write_card(entry)
    return entry


def store_selfcheck(folder: Path) -> ModelEntry:
    """Store an entry's output for the self-check slice in its configuration, for comparison on other machines."""
    model = load(folder.name, weights=folder, device="cpu", runtime=TORCH)
    return update_config(folder, selfcheck=compute_outputs(model).config())


def release(run: Path, validated: list[Path], data: Path, into: Path, half: bool) -> ModelEntry:
    """Measure the validated runs on their validation patients, and write the run's weights with those figures under `into`."""
    trained = load(run, device="cpu")
    folds = [load(folder, runtime=TORCH) for folder in validated]  # float32, which may not be a CPU's fastest runtime
    splits = [read_split(folder) for folder in validated]
    check(trained.entry, [model.entry for model in folds], splits)
    rules, figures = measure(folds, [split["validation"] for split in splits], data)
    for variant, found in figures.items():
        print(summary(variant, found))

    config = read_config(run)
    roles = read_split(run)
    config |= {
        "mask_threshold": rules.mask_threshold,
        "mask_neighbours": rules.mask_neighbours,
        "temperature": rules.temperature,
        "review": list(rules.review),
        "fusion": {mode: fusion.config() for mode, fusion in rules.fusion.items()},
        "metrics": Measurements(
            protocol=describe_protocol(trained.entry, folds[0].entry, splits),
            stages=len(folds[0].entry.training.stages),
            machine=describe_machine(folds[0].device),
            variants=figures,
        ).config(),
    }
    folder = into / config["name"]
    validated_on = sorted(case for split in splits for case in split["validation"])
    save_entry(folder, trained.net, config, {**roles, "validated_on": validated_on}, half=half)
    entry = store_selfcheck(folder)
    write_card(entry)
    return entry


def describe_machine(device: torch.device) -> str:
    """What figures in float32 were measured on."""
    return f"{platform.machine()} {device.type.upper()}, float32, torch {torch.__version__.split('+')[0]}"


def out_of_fold(model: LoadedModel) -> Path | None:
    """Where a run's outputs for its validation patients are kept; None for an entry, whose folder is published."""
    return None if model.entry.metrics else model.entry.folder / OUT_OF_FOLD


def measure(folds: list[LoadedModel], patients: list[list[str]], data: Path) -> tuple[Rules, dict[str, dict]]:
    """The rules fitted on all validation patients, and the figures by variant with rules fitted on the other patients.

    Args:
        folds: the validated runs.
        patients: each run's validation patients.
        data: folder of the dataset that the runs were trained on.
    """
    dataset = dataset_of(folds[0].entry)
    wanted = {case for part in patients for case in part}
    cases = {case: slices for case, slices in dataset.find_slices(data).items() if case in wanted}
    if missing := wanted - set(cases):
        raise SystemExit(f"expected all validation patients in {data}, but {len(missing)} are missing; give the runs' dataset")
    tasks = folds[0].entry.tasks
    roles = [split_roles(model) for model in folds]
    segmenter, classifier = (model and model.entry for model in roles[0])
    # rules are fitted on the other folds, or with a single fold on its other patients
    parts = patients if len(patients) > 1 else [[case] for case in patients[0]]
    fitted = replace(rules_of(segmenter, classifier), sequences={})  # an entry's own would take the place of what is fitted here
    rules, figures = {}, {}
    for variant in SLICE_VARIANTS:
        predicted = {
            case: predict_case(cases[case], *pair, variant, keep=out_of_fold(model))
            for model, pair, fold in zip(folds, roles, patients, strict=True)
            for case in tqdm(fold, desc=VARIANTS[variant], unit="patient")
        }
        if variant == THREE_SEQUENCES:
            fused = segmenter is not None and classifier is not None
            each, fitted = cross_fitted([[predicted[case] for case in part] for part in parts], fitted, fused)
            rules = {case: part_rules for part, part_rules in zip(parts, each, strict=True) for case in part}
        decided = {case: apply_rules(predictions, rules[case]) for case, predictions in predicted.items()}
        figures[variant] = summarise(dataset, decided)
        if variant == THREE_SEQUENCES and "segmentation" in tasks:
            studies = {case: apply_study_rules(predictions) for case, predictions in decided.items()}
            figures[WHOLE_STUDY] = summarise(dataset, studies)
    return fitted, figures


def describe_protocol(released: ModelEntry, measured: ModelEntry, splits: list[dict]) -> str:
    """How the figures were measured, in one sentence.

    Args:
        released: the entry whose weights are released.
        measured: one of the entries that were measured.
        splits: of all entries that were measured.
    """
    validated = sum(len(split["validation"]) for split in splits)
    everybody = len({case for split in splits for role in ("train", "validation") for case in split[role]})
    patients = f"{validated} of {everybody} patients"
    if len(splits) > 1:
        protocol = (
            f"{len(splits)}-fold cross-validation by patient, {patients}, each evaluated with weights that were not trained on "
            "them; mask threshold, calibration and review bands fitted on the other folds"
        )
    else:
        protocol = (
            f"patient-level validation on {patients} that were not used to train the measured weights; "
            "mask threshold, calibration and review bands fitted on the others of them"
        )
    if (theirs := teachers(measured)) != teachers(released):
        protocol += f"; the measured weights were trained with other teachers: {' and '.join(theirs) or 'none'}"
    return protocol + ("; predictions averaged over the slice and its mirror image" if released.flips else "")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="run whose weights are released")
    parser.add_argument(
        "--validated", type=Path, nargs="+", required=True, help="runs with validation patients, whose figures are published"
    )
    parser.add_argument("--into", type=Path, default=EMBEDDED, help="folder of entries")
    parser.add_argument("--half", action="store_true", help="store the weights in float16")
    parser.add_argument("--healthy", type=Path, help="JSON report that train.evaluation.healthy wrote for the released entry")
    options = parser.parse_args(arguments)
    entry = release(options.run, options.validated, options.data, options.into, options.half)
    if options.healthy:
        entry = attach_healthy(entry.folder, json.loads(options.healthy.read_text(encoding="utf-8")))
    print(f"released {entry.name} ({entry.parameters:,} parameters, SHA-256 {entry.sha256[:12]}…) into {options.into}")


if __name__ == "__main__":
    main()
