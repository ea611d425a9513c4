"""Average the weights of runs that started from the same weights: python -m train.release.average --out RUN RUN RUN…

Networks fine-tuned from the same weights, for example with different seeds, lie in one basin of the loss. The mean of their
weights performs about as well as their ensemble at the cost of one network, and depends less on the seed ("model soups",
Wortsman et al. 2022). Batch-norm means and variances are averaged too.
"""

from __future__ import annotations

from pathlib import Path

from torch.optim.swa_utils import AveragedModel

from brainmri.zoo.entry import ModelEntry, save_entry
from brainmri.zoo.registry import LoadedModel
from train.release.combine import combined_training, load_alike, parse_runs, uncalibrated_config


def check_one_start(runs: list[LoadedModel]) -> None:
    """SystemExit with the reason unless the runs' last stages started from the same weights."""
    first, *others = runs
    for run in others:
        if run.entry.training.stages[:-1] != first.entry.training.stages[:-1]:
            raise SystemExit(
                f"expected runs that started from the same weights, got {run.entry.folder} and {first.entry.folder}; "
                "give runs with the same --start"
            )


def average(folders: list[Path], out: Path) -> ModelEntry:
    """Write the mean of the runs' weights as a run, whose record ends with their last stages and this one."""
    runs, split = load_alike(folders)
    check_one_start(runs)
    mean = AveragedModel(runs[0].net, use_buffers=True)
    for run in runs:
        mean.update_parameters(run.net)
    first = runs[0].entry
    stages = [run.entry.training.stages for run in runs]
    training = combined_training(
        "train.release.average", runs, (*stages[0][:-1], *(each[-1] for each in stages)), averages=len(runs)
    )
    return save_entry(out, mean.module, uncalibrated_config(first, training, first.flips), split)


def main(arguments: list[str] | None = None) -> None:
    options = parse_runs(__doc__, arguments)
    entry = average(options.runs, options.out)
    print(f"{entry.name}: the mean of {len(options.runs)} runs in {entry.folder}")


if __name__ == "__main__":
    main()
