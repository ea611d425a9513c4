"""Average the weights of runs that started from the same weights: python -m train.release.average --out RUN RUN RUN…

Networks fine-tuned from the same weights, for example with different seeds, lie in one basin of the loss. The mean of their
weights performs about as well as their ensemble at the cost of one network, and depends less on the seed ("model soups",
Wortsman et al. 2022). Batch-norm means and variances are averaged too.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from torch.optim.swa_utils import AveragedModel

from brainmri.zoo.backends import TORCH
from brainmri.zoo.entry import ModelEntry, TrainingStage, new_config, read_split, save_entry
from brainmri.zoo.registry import LoadedModel, load


def check_alike(runs: list[LoadedModel], splits: list[dict]) -> None:
    """SystemExit with the reason unless the runs have one network and were trained on the same patients."""
    first, *others = runs
    for run, split in zip(others, splits[1:], strict=True):
        for what in ("net", "arguments", "preprocess"):
            if getattr(run.entry, what) != getattr(first.entry, what):
                raise SystemExit(
                    f"expected runs of one network, but {run.entry.folder} and {first.entry.folder} differ in {what}"
                )
        if split != splits[0]:
            raise SystemExit(
                f"expected runs trained on the same patients, but {run.entry.folder} and {first.entry.folder} differ; "
                "give runs of one fold, or of --all"
            )


def check_one_start(runs: list[LoadedModel]) -> None:
    """SystemExit with the reason unless the runs' last stages started from the same weights."""
    first, *others = runs
    for run in others:
        if run.entry.training.stages[:-1] != first.entry.training.stages[:-1]:
            raise SystemExit(
                f"expected runs that started from the same weights, got {run.entry.folder} and {first.entry.folder}; "
                "give runs with the same --start"
            )


def open_runs(folders: list[Path]) -> tuple[list[LoadedModel], list[dict]]:
    """The runs and their splits."""
    runs = [load(folder, device="cpu", runtime=TORCH) for folder in folders]
    return runs, [read_split(run.entry.folder) for run in runs]


def average(folders: list[Path], out: Path) -> ModelEntry:
    """Write the mean of the runs' weights as a run, whose record ends with their last stages and this one."""
    runs, splits = open_runs(folders)
    check_alike(runs, splits)
    check_one_start(runs)
    mean = AveragedModel(runs[0].net, use_buffers=True)
    for run in runs:
        mean.update_parameters(run.net)
    first = runs[0].entry
    stages = [run.entry.training.stages for run in runs]
    command = ("train.release.average", "--out", "RUN", *["RUN"] * len(runs))
    stage = TrainingStage(command=command, samples=0, patients=stages[0][-1].patients, averages=len(runs))
    config = new_config(  # without metrics and calibration, which were those of a single run
        name=first.name, net=first.net, tasks=first.tasks, arguments=first.arguments, preprocess=first.preprocess,
        summary=first.summary, flips=first.flips,
        training=replace(first.training, stages=(*stages[0][:-1], *(each[-1] for each in stages), stage)).config(),
    )  # fmt: skip
    return save_entry(out, mean.module, config, splits[0])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="finished runs, two or more")
    parser.add_argument("--out", type=Path, required=True, help="run folder to write")
    options = parser.parse_args(arguments)
    if len(options.runs) < 2:
        parser.error("expected two or more runs, got one")
    entry = average(options.runs, options.out)
    print(f"{entry.name}: the mean of {len(options.runs)} runs in {entry.folder}")


if __name__ == "__main__":
    main()
