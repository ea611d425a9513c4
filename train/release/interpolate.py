"""The mean of a run's weights and of those it started from: python -m train.release.interpolate START RUN --out RUN [--no-flips]

Training on some of the inputs makes a network better there and worse elsewhere. The mean of the weights before and after it keeps
most of both ("WiSE-FT", Wortsman et al. 2022, https://arxiv.org/abs/2109.01903). Batch-norm means and variances are averaged too.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from torch.optim.swa_utils import AveragedModel

from brainmri.zoo.backends import TORCH
from brainmri.zoo.entry import ModelEntry, read_split, save_entry
from brainmri.zoo.records import TrainingStage
from brainmri.zoo.registry import load
from train.release.combine import uncalibrated_config


def interpolate(start: Path, run: Path, out: Path, flips: bool = True) -> ModelEntry:
    """Write the mean of a run's weights and of its start's as a run.

    Args:
        start: run folder, or folder or name of a zoo entry.
        run: run folder.
        out: run folder to write.
        flips: keep averaging predictions with those for the mirrored slice, if the run does.

    Raises:
        SystemExit: if the run did not start from these weights.
    """
    first, last = (load(folder, device="cpu", runtime=TORCH) for folder in (start, run))
    before, training = first.entry.training.stages, last.entry.training
    if training.stages[:-1] != before or first.entry.arguments != last.entry.arguments:
        raise SystemExit(f"expected a run that started from {start}, got {run}; give its own start")
    mean = AveragedModel(first.net, use_buffers=True)
    for model in (first, last):
        mean.update_parameters(model.net)
    command = ("train.release.interpolate", "START", "RUN", "--out", "RUN", *["--no-flips"] * (not flips))
    stage = TrainingStage(command=command, samples=0, patients=training.stages[-1].patients, averages=1)
    config = uncalibrated_config(last.entry, replace(training, stages=(*training.stages, stage)), flips and last.entry.flips)
    return save_entry(out, mean.module, config, read_split(last.entry.folder))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", type=Path, metavar="START", help="run or zoo entry that the run started from")
    parser.add_argument("run", type=Path, metavar="RUN", help="finished run")
    parser.add_argument("--out", type=Path, required=True, help="run folder to write")
    parser.add_argument("--no-flips", action="store_true", help="predict every slice once, not its mirror image too")
    options = parser.parse_args(arguments)
    entry = interpolate(options.start, options.run, options.out, not options.no_flips)
    print(f"{entry.name}: the mean of {options.start} and {options.run} in {entry.folder}")


if __name__ == "__main__":
    main()
