"""Follow a run in TensorBoard, Weights & Biases or trackio: one row of metrics per epoch, off by default.

The CSV and the curves in the run folder are always written. The libraries are not among the requirements; if one is missing, an
error says how to install it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

SERVICES = ("wandb", "trackio")  # trackio has the interface of wandb


class Tracker(Protocol):
    """What receives the rows of a run."""

    def log(self, row: dict[str, float], step: int) -> None:
        """Record the numbers of an epoch."""
        ...

    def finish(self) -> None:
        """Write what is pending."""
        ...


class TensorBoardTracker:
    """Event files for `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path, config: dict[str, str]) -> None:
        install("tensorboard", "--tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(folder)
        self.writer.add_text("options", "\n".join(f"    {name}: {value}" for name, value in config.items()))

    def log(self, row: dict[str, float], step: int) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self.writer.close()


class ServiceTracker:
    """A run of Weights & Biases or trackio in the project "brainmri"."""

    def __init__(self, service: str, name: str, config: dict[str, str]) -> None:
        self.module = install(service, f"--track {service}")
        self.module.init(project="brainmri", name=name, config=config)

    def log(self, row: dict[str, float], step: int) -> None:
        self.module.log(row, step=step)

    def finish(self) -> None:
        self.module.finish()


def install(package: str, option: str) -> Any:
    """A package that is not among the requirements; SystemExit with the command that installs it."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"expected the package {error.name} for {option}, which is not installed; run pip install {package}"
        ) from error


def tracking_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose trackers, the profile and compilation."""
    add = parser.add_argument
    add("--compile", action="store_true", help="compile the network by torch.compile, on CUDA; pays in runs of many minutes")
    add("--profile", action="store_true", help="write a trace and a table of where some steps spend their time")
    add("--tensorboard", action="store_true", help="write event files for TensorBoard into the run folder")
    add("--track", choices=SERVICES, help="send the metrics of every epoch to Weights & Biases, or to trackio")


def open_trackers(options: argparse.Namespace) -> list[Tracker]:
    """The trackers that the options choose; none by default."""
    stated = vars(options)
    config = {name: str(value) for name, value in stated.items()}
    trackers: list[Tracker] = []
    if stated.get("tensorboard"):
        trackers.append(TensorBoardTracker(options.out / "tensorboard", config))
    if service := stated.get("track"):
        trackers.append(ServiceTracker(service, options.out.name, config))
    return trackers


def log_row(trackers: Sequence[Tracker], row: dict) -> None:
    """Send an epoch's row to every tracker."""
    for tracker in trackers:
        tracker.log({name: value for name, value in row.items() if name != "epoch"}, row["epoch"])


def finish_trackers(trackers: Sequence[Tracker]) -> None:
    """Write what is pending in every tracker."""
    for tracker in trackers:
        tracker.finish()
