"""Turn finished runs into a zoo entry: python -m train.release.release --data DIR --run RUN --validated RUN… [--half] [--into DIR]

The validated runs, one or the folds of a cross-validation, give the figures, each on the patients that it never trained on, and
choose the mask's threshold and fit the verdict's calibration and review bands (`train.evaluation.calibrate`). `--run`, whose weights are
released, is that same run, one that started from it and went on to see every patient (`--all --start`), or one of the same
recipe on every patient (`--all`), which may have gone on for a stage more. `--healthy` takes what `train.evaluation.healthy` found with the
entry into its card; the calibration comes first, so that is a second release. What each validated run says of its own patients is
kept in its folder, in `out-of-fold`, and read from there by a second release. Gate and quantised network of other weights that
lay there before are gone afterwards: `train.ood.fit` and `train.release.quantise` make the new ones'.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
from pathlib import Path

import torch
from tqdm import tqdm

from brainmri.analysis.selfcheck import answer
from brainmri.zoo.backends import TORCH
from brainmri.zoo.entry import CONFIG, SPLIT, ModelEntry, read_entry, rules_of, save_entry
from brainmri.zoo.metrics import SLICE_VARIANTS, THREE_SEQUENCES, VARIANTS, WHOLE_STUDY
from brainmri.zoo.registry import EMBEDDED, load, split_roles
from train.datasets.lgg import find_slices
from train.evaluation.calibrate import cross_fitted
from train.evaluation.evaluate import summarise, summary
from train.evaluation.failures import judge_as_study
from train.evaluation.healthy import identity
from train.evaluation.predictions import apply_rules, predict_case
from train.release.card import write_card

OUT_OF_FOLD = "out-of-fold"  # in a validated run's folder: what it says of the patients that it was not trained on


def recipe(entry: ModelEntry) -> list[tuple[frozenset[str], int]]:
    """The stages that led to an entry's weights, as options and slices drawn, whichever patients they were drawn from and however
    the machine went about it (a CPU without bfloat16 takes float32)."""
    which = re.compile(r"folds? \d+|all|resume|(precision|device|workers) \S+|on-device")
    return [
        (frozenset(part for part in stage["command"].split(" --") if not which.fullmatch(part)), stage["samples"])
        for stage in entry.training["stages"]
    ]


def teachers(entry: ModelEntry) -> list[str]:
    """The names of the entries that taught an entry's weights."""
    return sorted({stage["teacher"].partition(",")[0] for stage in entry.training["stages"] if "teacher" in stage})


def check(released: ModelEntry, folds: list[ModelEntry], splits: list[dict]) -> None:
    """Whether the folds' figures say something of the released weights: SystemExit with the reason, when they don't."""
    validated = [case for split in splits for case in split["validation"]]
    if not validated or len(validated) != len(set(validated)):
        raise SystemExit("each validated run needs patients of its own; a fold came twice, or a run without validation")
    for entry, split in zip(folds, splits, strict=True):
        if overlap := set(split["train"]) & set(split["validation"]):
            raise SystemExit(f"{entry.folder} was trained on patients it would be measured on: {', '.join(sorted(overlap))}")
        if recipe(entry) != recipe(folds[0]):
            raise SystemExit(
                f"{entry.folder} and {folds[0].folder} were trained by different recipes; they don't make one figure"
            )
    if recipe(released)[: len(recipe(folds[0]))] != recipe(folds[0]):
        raise SystemExit(
            f"{released.folder} did not start from {folds[0].folder}, nor by its recipe: one says nothing of the other"
        )


def attach_healthy(folder: Path, report: dict) -> ModelEntry:
    """Put a report of `train.evaluation.healthy` among an entry's metrics and into its card.

    Raises:
        SystemExit: when the report was made with other weights, another threshold or another calibration.
    """
    entry = read_entry(folder)
    roles = {"segmentation": "segmenter", "classification": "classifier"}
    if any(report[roles[task]] != identity(entry, roles[task]) for task in entry.tasks):
        raise SystemExit(
            f"expected a report on brains without tumour made with {folder} as it is now, got one of other weights, thresholds or "
            f"calibration; run python -m train.evaluation.healthy on {folder} and release again with the new report"
        )
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["metrics"]["healthy"] = report
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    entry = read_entry(folder)
    write_card(entry)
    return entry


def store_answer(folder: Path) -> ModelEntry:
    """Keep in an entry's configuration what it says of the self-check's slice, for other machines to compare with."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["selfcheck"] = answer(load(folder.name, weights=folder, device="cpu", runtime=TORCH))
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return read_entry(folder)


def release(run: Path, validated: list[Path], data: Path, into: Path, half: bool) -> ModelEntry:
    """Measure the validated runs on their own patients, and write the other run's weights with those figures under `into`."""
    trained = load(run, device="cpu")
    folds = [load(folder, runtime=TORCH) for folder in validated]  # in float32, which a CPU's fastest may not be
    splits = [json.loads((folder / SPLIT).read_text(encoding="utf-8")) for folder in validated]
    check(trained.entry, [model.entry for model in folds], splits)
    patients = [split["validation"] for split in splits]
    wanted = {case for part in patients for case in part}
    cases = {case: slices for case, slices in find_slices(data).items() if case in wanted}
    if missing := wanted - set(cases):
        raise SystemExit(f"{data} lacks {len(missing)} of the validation patients")
    tasks = trained.entry.tasks
    fused = len(tasks) == 2
    asked = [split_roles(model) for model in folds]
    entry = trained.entry
    # whose rules are fitted on everybody else's slices: a fold together, and of a lone fold each patient
    parts = patients if len(patients) > 1 else [[case] for case in patients[0]]
    fitted = rules_of(*(model and model.entry for model in asked[0]))
    rules, figures = {}, {}
    for variant in SLICE_VARIANTS:
        predicted = {
            case: predict_case(cases[case], *pair, variant, keep=folder / OUT_OF_FOLD)
            for folder, pair, fold in zip(validated, asked, patients, strict=True)
            for case in tqdm(fold, desc=VARIANTS[variant], unit="patient")
        }
        if variant == THREE_SEQUENCES:
            each, fitted = cross_fitted([[predicted[case] for case in part] for part in parts], fitted, fused)
            rules = {case: part_rules for part, part_rules in zip(parts, each, strict=True) for case in part}
        judged = {case: apply_rules(rows, rules[case]) for case, rows in predicted.items()}
        figures[variant] = summarise(judged)
        if variant == THREE_SEQUENCES and "segmentation" in tasks:
            figures[WHOLE_STUDY] = summarise({case: judge_as_study(rows) for case, rows in judged.items()})
    for variant, found in figures.items():
        print(summary(variant, found))

    config = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    roles = json.loads((run / SPLIT).read_text(encoding="utf-8"))
    everybody = len({case for split in splits for role in ("train", "validation") for case in split[role]})
    measured = f"{len(wanted)} of {everybody} patients"
    if len(folds) > 1:
        protocol = f"{len(folds)}-fold cross-validation by patient, {measured}, each evaluated with weights that were not trained on them; "
        fitted_on = "the other folds"
    else:
        protocol = f"patient-level validation on {measured} that were not used to train the measured weights; "
        fitted_on = "the others of them"
    protocol += f"mask threshold, calibration and review bands fitted on {fitted_on}"
    if (theirs := teachers(folds[0].entry)) != teachers(entry):
        protocol += f"; the measured weights were trained with other teachers: {' and '.join(theirs) or 'none'}"
    config |= {
        "mask_threshold": fitted.mask_threshold,
        "mask_neighbours": fitted.mask_neighbours,
        "temperature": fitted.temperature,
        "review": list(fitted.review),
        "fusion": {mode: fusion.config() for mode, fusion in fitted.fusion.items()},
        "metrics": {
            "protocol": protocol + ("; predictions averaged over the slice and its mirror image" if entry.flips else ""),
            "stages": len(folds[0].entry.training["stages"]),  # that the measured weights went through
            "machine": f"{platform.machine()} {folds[0].device.type.upper()}, float32, torch {torch.__version__.split('+')[0]}",
            "variants": figures,
        },
    }
    folder = into / config["name"]
    save_entry(folder, trained.net, config, {**roles, "validated_on": sorted(wanted)}, half=half)
    entry = store_answer(folder)
    write_card(entry)
    return entry


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="the run whose weights are released")
    parser.add_argument(
        "--validated", type=Path, nargs="+", required=True, help="the runs with validation patients, whose figures are published"
    )
    parser.add_argument("--into", type=Path, default=EMBEDDED, help="folder of entries")
    parser.add_argument("--half", action="store_true", help="store the weights in float16")
    parser.add_argument(
        "--healthy", type=Path, help="the JSON that train.evaluation.healthy wrote of the entry as released before"
    )
    options = parser.parse_args(arguments)
    entry = release(options.run, options.validated, options.data, options.into, options.half)
    if options.healthy:
        entry = attach_healthy(entry.folder, json.loads(options.healthy.read_text(encoding="utf-8")))
    print(f"released {entry.name} ({entry.parameters:,} parameters, SHA-256 {entry.sha256[:12]}…) into {options.into}")


if __name__ == "__main__":
    main()
