"""Average the weights of runs that went on from the same weights: python -m train.release.average --out RUN RUN RUN…

Networks tuned from one start, by other seeds say, lie in one basin: the mean of their weights answers about as the mean of their
answers would, at the price of one network, and depends less on the luck of a run ("model soups", Wortsman et al. 2022). The means
and variances of batch norm are averaged too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from torch.optim.swa_utils import AveragedModel

from brainmri.zoo.backends import TORCH
from brainmri.zoo.entry import SPLIT, ModelEntry, new_config, save_entry
from brainmri.zoo.registry import LoadedModel, load


def check_alike(runs: list[LoadedModel], splits: list[dict]) -> None:
    """Whether the runs are of one network, trained on the same patients: SystemExit with the reason, when not."""
    first, *others = runs
    for run, split in zip(others, splits[1:], strict=True):
        for what in ("net", "arguments", "preprocess"):
            if getattr(run.entry, what) != getattr(first.entry, what):
                raise SystemExit(f"{run.entry.folder} and {first.entry.folder} differ in {what}; they have no mean")
        if split != splits[0]:
            raise SystemExit(
                f"{run.entry.folder} was trained on other patients than {first.entry.folder}; give runs of one fold, or of --all"
            )


def check_one_start(runs: list[LoadedModel]) -> None:
    """Whether the runs' weights may be averaged: SystemExit with the reason, when not."""
    first, *others = runs
    for run in others:
        if run.entry.training["stages"][:-1] != first.entry.training["stages"][:-1]:
            raise SystemExit(
                f"{run.entry.folder} and {first.entry.folder} did not start from the same weights; "
                "the mean of what was learnt apart is no network: give runs with one --start"
            )


def open_runs(folders: list[Path]) -> tuple[list[LoadedModel], list[dict]]:
    """The runs and their splits."""
    runs = [load(folder, device="cpu", runtime=TORCH) for folder in folders]
    return runs, [json.loads((run.entry.folder / SPLIT).read_text(encoding="utf-8")) for run in runs]


def average(folders: list[Path], out: Path) -> ModelEntry:
    """Write the mean of the runs' weights as a run of its own, whose last stages are theirs and this."""
    runs, splits = open_runs(folders)
    check_alike(runs, splits)
    check_one_start(runs)
    mean = AveragedModel(runs[0].net, use_buffers=True)
    for run in runs:
        mean.update_parameters(run.net)
    first = runs[0].entry
    stages = [run.entry.training["stages"] for run in runs]
    command = " ".join(["python -m train.release.average --out RUN", *["RUN"] * len(runs)])
    stage = {"command": command, "samples": 0, "patients": stages[0][-1]["patients"], "averages": len(runs)}
    config = new_config(  # afresh: what was measured and fitted of a run says nothing of the mean
        name=first.name, net=first.net, tasks=first.tasks, arguments=first.arguments, preprocess=first.preprocess,
        summary=first.summary, flips=first.flips,
        training=first.training | {"stages": [*stages[0][:-1], *(each[-1] for each in stages), stage]},
    )  # fmt: skip
    return save_entry(out, mean.module, config, splits[0])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="finished runs, two or more")
    parser.add_argument("--out", type=Path, required=True, help="run folder to write")
    options = parser.parse_args(arguments)
    if len(options.runs) < 2:
        parser.error("one run came; a mean takes two or more")
    entry = average(options.runs, options.out)
    print(f"{entry.name}: the mean of {len(options.runs)} runs in {entry.folder}")


if __name__ == "__main__":
    main()
