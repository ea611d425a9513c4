"""Turn finished runs into a zoo entry: python -m train.release --data DIR --run RUN --validated RUN… [--half] [--into DIR]

The validated runs, one or the folds of a cross-validation, give the figures, each on the patients that it never trained on,
and fit the verdict's temperature and review band. `--run`, whose weights are released, is that same run, one that started
from it and went on to see every patient (`--all --start`), or one of the same recipe on every patient (`--all`). `--healthy`
takes what `train.healthy` found with the entry into its card; the calibration comes first, so that is a second release.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import re
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from tqdm import tqdm

from brainmri.entry import CARD, CONFIG, SPLIT, VARIANTS, ModelEntry, read_entry, save_entry
from brainmri.zoo import EMBEDDED, LoadedModel, load
from train.card import model_card
from train.data import Slice, find_slices
from train.evaluate import summarise, table
from train.healthy import identity
from train.rows import predict_case

REVIEW_ERROR = 0.03  # the verdict may be wrong on this share of the slices it decides


def fit_temperature(probability: np.ndarray, tumour: np.ndarray) -> float:
    """The temperature (Guo et al. 2017) that minimises the log loss, between 0.2 and 5.

    Args:
        probability: uncalibrated (temperature 1) tumour probabilities.
        tumour: bool.
    """
    clipped = np.clip(probability, 1e-7, 1 - 1e-7)
    logit, sign = np.log(clipped / (1 - clipped)), np.where(tumour, 1.0, -1.0)
    loss = minimize_scalar(lambda t: np.logaddexp(0, -sign * logit / t).mean(), bounds=(0.2, 5.0), method="bounded")
    return float(loss.x)


def choose_review_band(probability: np.ndarray, tumour: np.ndarray, widest: float = 0.9) -> tuple[float, float]:
    """The narrowest band (1 - h, h) outside of which at most `REVIEW_ERROR` of the slices are called wrongly.

    The widest allowed, when none keeps to that.
    """
    for high in np.arange(0.55, widest + 1e-9, 0.05):
        decided = (probability < 1 - high) | (probability > high)
        wrong = (probability > 0.5) != tumour
        if decided.any() and wrong[decided].mean() <= REVIEW_ERROR:
            break
    return round(1 - float(high), 2), round(float(high), 2)


def recipe(entry: ModelEntry) -> list[tuple[frozenset[str], int]]:
    """The stages that led to an entry's weights, as options and slices drawn, whichever patients they were drawn from."""
    which = re.compile(r"fold \d+|all|resume")
    return [
        (frozenset(part for part in stage["command"].split(" --") if not which.fullmatch(part)), stage["samples"])
        for stage in entry.training["stages"]
    ]


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


def calibrated(folds: list[LoadedModel], patients: list[list[str]], cases: dict[str, list[Slice]]) -> list[LoadedModel]:
    """Each fold's model with the temperature and review band that fit the other folds' patients; a single fold's, its own.

    The last model is an extra one, the first fold's network with what fits all patients: what a release takes along.
    """
    raw = [
        [(row["probability"], row["tumour"]) for case in part for row in predict_case(cases[case], None, model)]
        for model, part in zip(folds, patients, strict=True)
    ]
    everything = range(len(folds))
    done = []
    for fold in [*everything, None]:
        fitted = [other for other in everything if other != fold] or [0]
        probability, tumour = (
            np.array(column) for column in zip(*(pair for other in fitted for pair in raw[other]), strict=True)
        )
        temperature = fit_temperature(probability, tumour)
        clipped = np.clip(probability, 1e-7, 1 - 1e-7)
        tempered = 1 / (1 + (clipped / (1 - clipped)) ** (-1 / temperature))
        model = folds[fold or 0]
        entry = dataclasses.replace(model.entry, temperature=temperature, review=choose_review_band(tempered, tumour))
        done.append(LoadedModel(entry=entry, net=model.net, device=model.device))
    return done


def attach_healthy(folder: Path, report: dict) -> ModelEntry:
    """Put a report of `train.healthy` among an entry's metrics and into its card.

    Raises:
        SystemExit: when the report was made with other weights, another threshold or another calibration.
    """
    entry = read_entry(folder)
    roles = {"segmentation": "segmenter", "classification": "classifier"}
    if any(report[roles[task]] != identity(entry, roles[task]) for task in entry.tasks):
        raise SystemExit(
            f"the report on brains without tumour is not of {folder} as it is now, which is complete but for that section: "
            f"run python -m train.healthy on {folder}, and release again with the new report"
        )
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["metrics"]["healthy"] = report
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    entry = read_entry(folder)
    (folder / CARD).write_text(model_card(entry), encoding="utf-8")
    return entry


def release(run: Path, validated: list[Path], data: Path, into: Path, half: bool) -> ModelEntry:
    """Measure the validated runs on their own patients, and write the other run's weights with those figures under `into`."""
    trained = load(run, device="cpu")
    folds = [load(folder) for folder in validated]
    splits = [json.loads((folder / SPLIT).read_text(encoding="utf-8")) for folder in validated]
    check(trained.entry, [model.entry for model in folds], splits)
    patients = [split["validation"] for split in splits]
    wanted = {case for part in patients for case in part}
    cases = {case: slices for case, slices in find_slices(data).items() if case in wanted}
    if missing := wanted - set(cases):
        raise SystemExit(f"{data} lacks {len(missing)} of the validation patients")
    tasks = trained.entry.tasks
    fitted = folds[0].entry
    if "classification" in tasks:
        *folds, last = calibrated(folds, patients, cases)
        fitted = last.entry
    figures = {}
    for variant in VARIANTS:
        predicted = {
            case: predict_case(
                cases[case],
                model if "segmentation" in tasks else None,
                model if "classification" in tasks else None,
                variant,
            )
            for model, part in zip(folds, patients, strict=True)
            for case in tqdm(part, desc=variant, unit="patient")
        }
        figures[variant] = summarise(predicted, fitted.mask_threshold)
        print(
            f"{variant}: {figures[variant]['patients']} patients, {figures[variant]['slices']} slices\n{table(figures[variant])}"
        )

    config = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    roles = json.loads((run / SPLIT).read_text(encoding="utf-8"))
    everybody = len({case for split in splits for role in ("train", "validation") for case in split[role]})
    measured = f"{len(wanted)} of {everybody} patients"
    if len(folds) > 1:
        protocol = f"{len(folds)} folds of a cross-validation by patient, {measured}, each by weights that never saw them; "
        protocol += "temperature and review band fitted on the other folds"
    else:
        protocol = f"patient-level validation on {measured}, none of whom the measured weights had seen; "
        protocol += "temperature and review band fitted on these same patients"
    config |= {
        "temperature": fitted.temperature,
        "review": list(fitted.review),
        "metrics": {
            "protocol": protocol + ("; mirrored view averaged in" if fitted.flips else ""),
            "machine": f"{platform.machine()} {folds[0].device.type.upper()}, float32, torch {torch.__version__.split('+')[0]}",
            "variants": figures,
        },
    }
    folder = into / config["name"]
    entry = save_entry(folder, trained.net, config, {**roles, "validated_on": sorted(wanted)}, half=half)
    (folder / CARD).write_text(model_card(entry), encoding="utf-8")
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
    parser.add_argument("--healthy", type=Path, help="the JSON that train.healthy wrote of the entry as released before")
    options = parser.parse_args(arguments)
    entry = release(options.run, options.validated, options.data, options.into, options.half)
    if options.healthy:
        entry = attach_healthy(entry.folder, json.loads(options.healthy.read_text(encoding="utf-8")))
    print(f"released {entry.name} ({entry.parameters:,} parameters, SHA-256 {entry.sha256[:12]}…) into {options.into}")


if __name__ == "__main__":
    main()
