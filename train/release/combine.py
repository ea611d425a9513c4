"""What `train.release.average` and `train.release.ensemble` share: the runs that they take, and the record of what they write."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from brainmri.zoo.backends import TORCH
from brainmri.zoo.entry import ModelEntry, new_config, read_split
from brainmri.zoo.records import Training, TrainingStage
from brainmri.zoo.registry import LoadedModel, load


def parse_runs(description: str | None, arguments: list[str] | None) -> argparse.Namespace:
    """The command's options: `runs`, two or more folders, and `out`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="finished runs, two or more")
    parser.add_argument("--out", type=Path, required=True, help="run folder to write")
    options = parser.parse_args(arguments)
    if len(options.runs) < 2:
        parser.error("expected two or more runs, got one")
    return options


def load_alike(folders: list[Path]) -> tuple[list[LoadedModel], dict]:
    """Runs of one network that were trained on the same patients, and their split.

    Raises:
        SystemExit: for runs that differ in network, preprocessing or patients.
    """
    runs = [load(folder, device="cpu", runtime=TORCH) for folder in folders]
    splits = [read_split(run.entry.folder) for run in runs]
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
    return runs, splits[0]


def combined_training(module: str, runs: list[LoadedModel], stages: tuple[TrainingStage, ...], **how) -> Training:
    """The record of a combination of runs, which is itself the last stage.

    Args:
        module: the command that combines them.
        stages: those of the runs.
        how: `TrainingStage.averages` or `TrainingStage.unites`.
    """
    first = runs[0].entry.training
    command = (module, "--out", "RUN", *["RUN"] * len(runs))
    stage = TrainingStage(command=command, samples=0, patients=first.stages[-1].patients, **how)
    return replace(first, stages=(*stages, stage))


def uncalibrated_config(entry: ModelEntry, training: Training, flips: bool) -> dict:
    """The configuration of other weights for an entry's network, without its metrics and calibration."""
    return new_config(
        name=entry.name, net=entry.net, tasks=entry.tasks, arguments=entry.arguments, preprocess=entry.preprocess,
        summary=entry.summary, flips=flips, training=training.config(),
    )  # fmt: skip
