"""From a folder of slices or volumes to a model on the page: python -m train.finetune --data DIR --name NAME [--out RUN] …

Trains from an entry of the zoo (`--start`, by default the default entry), calibrates, fits the out-of-distribution check,
quantises and writes the card. DIR has any layout of `train.datasets.own`; further options are those of `train.segmenter`. The
patients of one fold validate the weights, which are then released; with `--all`, a second run on all patients is released.
Repeat the command to continue an interrupted run; finished runs are kept. It ends with the command that opens the page with the
new model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from brainmri.zoo.entry import CARD, SPLIT, ModelEntry, read_entry, read_split, require_metrics
from brainmri.zoo.metrics import THREE_SEQUENCES, VOLUMETRIC_DICE
from brainmri.zoo.registry import DEFAULT
from train import segmenter
from train.datasets import Slice, dataset_of
from train.ood import fit as ood
from train.release import quantise
from train.release.release import release
from train.run import data_errors, find_source

# about an hour on two cores, minutes on a GPU
SCHEDULE = {"--epochs": 6, "--samples": 1000, "--batch": 8, "--lr": 7e-4, "--validate-every": 3, "--evenness": 0.5}
VALIDATED, ALL, MODELS = "validated", "all", "models"  # folders in the run folder
LEAST_SLICES = 8  # of each patient, for the out-of-distribution check's sagittal and coronal negatives


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The options of this command, and those for `train.segmenter`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="the dataset's folder, or a CSV file")
    add("--name", required=True, help="of the new entry")
    add("--out", type=Path, help="folder for the runs and the entry (default: runs/NAME)")
    add("--start", type=Path, default=Path(DEFAULT), help=f"entry whose weights to start from (default: {DEFAULT})")
    add("--folds", type=int, default=5, help="folds that the patients are split into; the first validates")
    add("--all", action="store_true", help="train once more on all patients, and release those weights")
    options, others = parser.parse_known_args(arguments)
    if options.name != Path(options.name).name or options.name.startswith("."):
        parser.error(f"expected a name without folders, got {options.name!r}")
    options.out = options.out or Path("runs") / options.name
    return options, others


def train(options: argparse.Namespace, others: list[str], start: ModelEntry) -> tuple[Path, Path]:
    """Train what is not finished; returns the validated run and the run to release."""
    given = {word.partition("=")[0] for word in others}
    defaults = {"--size": start.preprocess.size, **SCHEDULE}
    common = [
        "--data", str(options.data), "--name", options.name, "--start", str(options.start), "--folds", str(options.folds),
        *(word for name, value in defaults.items() if name not in given for word in (name, str(value))), *others, "--resume",
    ]  # fmt: skip
    runs = {VALIDATED: ["--fold", "0"]} | ({ALL: ["--all"]} if options.all else {})
    for name, extra in runs.items():
        if (options.out / name / SPLIT).is_file():
            print(f"{options.out / name} is finished")
        else:
            segmenter.main([*common, *extra, "--out", str(options.out / name)])
    return options.out / VALIDATED, options.out / (ALL if options.all else VALIDATED)


def fit_ood(entry: ModelEntry, validated: Path, cases: dict[str, list[Slice]]) -> None:
    """Fit the out-of-distribution check on the patients of the split; SystemExit where the data or the network do not allow it.

    `train.ood.fit` does the same, and also measures the check on images of other kinds, which takes minutes.
    """
    if (least := min(map(len, cases.values()))) < LEAST_SLICES:
        raise SystemExit(f"expected {LEAST_SLICES} slices or more of every patient, got {least} of one")
    released, fold = ood.open_network(entry.name, entry.folder), ood.open_network(validated.name, validated)
    ood.check_networks(released, [fold])
    for number, (case, slices) in enumerate(tqdm(cases.items(), desc="out-of-distribution check", unit="patient")):
        volume = np.stack([item.read_image() for item in slices])
        ood.collect(case, volume, [released, fold], colour=len(ood.ROTATED_AT) * number)
    report = ood.cross_fitted([fold], [ood.fit(fold)])
    ood.write_ood_detector(entry.folder, ood.fit(released), report["thresholds"])
    print(ood.table(report | {"synthetic": {}}))


def complete(entry: ModelEntry, validated: Path, data: Path) -> None:
    """Fit the out-of-distribution check and quantise; a step that data or network do not allow is left out, with a note."""
    found = dataset_of(entry).find_slices(data)
    split = read_split(validated)
    cases = {case: found[case] for role in ("train", "validation") for case in split[role]}
    which = [entry.name, "--data", str(data), "--validated", str(validated), "--into", str(entry.folder.parent)]
    attempt("an out-of-distribution check of its own", lambda: fit_ood(entry, validated, cases))
    attempt("an 8-bit network", lambda: quantise.main(which))


def attempt(what: str, step: Callable[[], object]) -> None:
    """Run a step of the release; a refusal is printed."""
    try:
        step()
    except SystemExit as refusal:
        print(f"note: without {what}: {refusal}")


def main(arguments: list[str] | None = None) -> ModelEntry:
    """Train, release, complete; returns the entry."""
    options, others = parse(arguments)
    with data_errors():
        start = find_source(options.start)
        validated, run = train(options, others, start)
        data = options.data
        entry = release(run, [validated], data, options.out / MODELS, half=True)
        complete(entry, validated, data)
    entry = read_entry(entry.folder)
    figures = require_metrics(entry).variants[THREE_SEQUENCES]
    score = figures[VOLUMETRIC_DICE]["value"]
    print(
        f"{entry.name}: mean volumetric Dice {score:.3f} over {figures['patients']} patients not used for training; "
        f"every figure is in {entry.folder / CARD}"
    )
    print(f"open the page with it:\n  python -m brainmri serve --models {entry.folder}")
    return entry


if __name__ == "__main__":
    main(sys.argv[1:])
