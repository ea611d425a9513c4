"""The steps that the training commands share: find patients, load slices, save the trained network as a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from brainmri.zoo.entry import ModelEntry, new_config, read_split, save_entry
from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.records import Training, TrainingStage
from brainmri.zoo.registry import LoadedModel, find_entry, load
from train.data import load_placed
from train.datasets import DATASETS, Dataset, Slice
from train.distributed import once_per_node, world_size
from train.folds import Split, split_cases


def find_eligible(dataset: Dataset, data: Path | None) -> dict[str, list[Slice]]:
    """The slices of every patient that is not held out; SystemExit when no folder is given."""
    if data is None:
        raise SystemExit("expected --data, the folder of the dataset, got none; give it, or --smoke for synthetic patients")
    cases = dataset.find_slices(data)
    eligible = {case: slices for case, slices in cases.items() if case not in dataset.held_out}
    print(f"{len(eligible)} patients; {len(cases) - len(eligible)} held-out patients are not used")
    return eligible


def load_split(
    options: argparse.Namespace, preprocess: Preprocess, teacher: Path | None = None, device: str | torch.device = "cpu"
) -> tuple[Split, list[dict], list[dict]]:
    """The split, and its training and validation slices on the network's grid.

    Args:
        teacher: run folder or zoo entry, run on the device, whose maps are averaged into the training masks (`load_placed`).
    """
    dataset = DATASETS[options.dataset]
    eligible = find_eligible(dataset, options.data)
    if options.all:
        split = Split(train=tuple(eligible), validation=(), held_out=dataset.held_out)
    else:
        split = split_cases(dataset, eligible, options.folds, options.fold)
    print(f"{len(split.train)} patients for training, {len(split.validation)} for validation")
    training, validating = ([s for case in role for s in eligible[case]] for role in (split.train, split.validation))
    model = load_unleaked(teacher, split, torch.device(device)) if teacher else None
    if model and "segmentation" not in model.entry.tasks:
        raise SystemExit(
            f"expected a teacher with a mask, got {teacher}, which does {model.entry.tasks[0]} only; choose a segmenter"
        )
    train, validation = once_per_node(lambda: [load_placed(training, preprocess, model), load_placed(validating, preprocess)])
    return split, train, validation


def load_unleaked(folder: Path, split: Split, device: torch.device) -> LoadedModel:
    """A finished run or zoo entry, to start from or to learn from.

    Raises:
        ValueError: when it was trained on a validation patient of this run, whose metrics would be too good.
    """
    trained_on = read_split(find_entry(folder).folder)["train"]
    if leaked := set(trained_on) & set(split.validation):
        raise ValueError(
            f"the weights in {folder} were trained on {len(leaked)} of this run's validation patients "
            f"({', '.join(sorted(leaked)[:3])} …); take a run of the same fold, or train with --all"
        )
    return load(folder, device=str(device))


def start_from(net: nn.Module, folder: Path, split: Split, new: str | None = None) -> None:
    """Copy the weights of a finished run or zoo entry of the same architecture, unless they leak (`load_unleaked`).

    Args:
        new: prefix of parameters that the start may lack; they keep their values.
    """
    start = load_unleaked(folder, split, torch.device("cpu")).net.state_dict()
    own = {name: value for name, value in net.state_dict().items() if new and name.startswith(new)}
    net.load_state_dict(own | start)


def earlier_stages(folder: Path) -> tuple[TrainingStage, ...]:
    """The training stages behind the weights that a run starts from, in order."""
    return find_entry(folder).training.stages


def save_run(
    options: argparse.Namespace, net: PretrainedNet, *, command: list[str], name: str, summary: str,
    arguments: dict, preprocess: Preprocess, split: Split, flips: bool,
) -> ModelEntry:  # fmt: skip
    """Write the trained network into the run folder as a zoo entry without metrics.

    Args:
        command: the training module and its arguments, as they are recorded.
        arguments: the arguments of the network's class.
    """
    teacher = find_entry(options.teacher) if vars(options).get("teacher") else None
    stage = TrainingStage(
        command=tuple(without_paths(command)),
        samples=options.epochs * options.samples,
        patients=len(split.train),
        teacher=f"{teacher.name}, SHA-256 {teacher.sha256[:12]}" if teacher else None,
        processes=world_size() if world_size() > 1 else None,
    )
    training = Training(
        dataset=DATASETS[options.dataset].reference,
        stages=(*(earlier_stages(options.start) if options.start else ()), stage),
        torch=torch.__version__.split("+")[0],
    )
    config = new_config(
        name=name, net=type(net).__name__, tasks=net.tasks, arguments=arguments, preprocess=preprocess,
        summary=summary, flips=flips,
        training=training.config(),
    )  # fmt: skip
    return save_entry(
        options.out, net, config, {"train": split.train, "validation": split.validation, "held_out": sorted(split.held_out)}
    )


def without_paths(arguments: list[str]) -> list[str]:
    """The command with placeholders for the folders, which differ from machine to machine."""
    shown = list(arguments)
    folders = {"--data": "DIR", "--wider": "WIDER", "--out": "RUN", "--start": "START", "--teacher": "TEACHER"}
    for option, placeholder in folders.items():
        if option in shown:
            shown[shown.index(option) + 1] = placeholder
    return shown
