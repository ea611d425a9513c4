"""The steps that the training commands share: find patients, load slices, save the trained network as a model folder."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from brainmri.zoo.entry import SPLIT, ModelEntry, new_config, read_split, save_entry
from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.nets.effunet import EffUNetEnsemble
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.records import Training, TrainingStage
from brainmri.zoo.registry import LoadedModel, find_entry, load
from train.arguments import choose_dataset
from train.data import load_placed
from train.datasets import Dataset, Slice
from train.distributed import once_per_node, world_size
from train.folds import Split, split_cases

MANIFEST = "folds.json"  # in a run folder on people's own data: the fold of every patient
EARLIER = "earlier"  # in `split.json`: patients of the start, where it was trained on another dataset
ATTRIBUTE_HEADS = "attribute_heads."


@contextmanager
def data_errors() -> Iterator[None]:
    """End the command with the message of an error in the data, without a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error


def find_eligible(dataset: Dataset, data: Path | None) -> dict[str, list[Slice]]:
    """The slices of every patient that is not held out; SystemExit when no folder is given, or one that cannot be read."""
    if data is None:
        raise SystemExit("expected --data, the folder of the dataset, got none; give it, or --smoke for synthetic patients")
    with data_errors():
        cases = dataset.find_slices(data)
    eligible = {case: slices for case, slices in cases.items() if case not in dataset.held_out}
    unused = f"; {len(cases) - len(eligible)} held-out patients are not used" if dataset.held_out else ""
    print(f"{len(eligible)} patients{unused}")
    return eligible


def load_split(
    options: argparse.Namespace, preprocess: Preprocess, teacher: Path | None = None, device: str | torch.device = "cpu"
) -> tuple[Split, list[dict], list[dict]]:
    """The split, and its training and validation slices on the network's grid.

    For people's own data, the fold of every patient is written to `folds.json` in the run folder.

    Args:
        teacher: run folder or zoo entry, run on the device, whose maps are averaged into the training masks (`load_placed`).
    """
    dataset = choose_dataset(options)
    eligible = find_eligible(dataset, options.data)
    with data_errors():
        if options.all:
            split = Split(train=tuple(eligible), validation=(), held_out=dataset.held_out)
        else:
            split = split_cases(dataset, eligible, options.folds, options.fold, options.out / MANIFEST)
    print(f"{len(split.train)} patients for training, {len(split.validation)} for validation")
    training, validating = ([s for case in role for s in eligible[case]] for role in (split.train, split.validation))
    model = load_teacher(teacher, split, torch.device(device)) if teacher else None
    with data_errors():
        train, validation = once_per_node(lambda: [load_placed(training, preprocess, model), load_placed(validating, preprocess)])
    return split, train, validation


def find_source(source: Path) -> ModelEntry:
    """The entry of `--start` or `--teacher`: a run folder, a name of the zoo, or OWNER/NAME on the Hub."""
    return find_entry(source if source.is_dir() else str(source))


def patients_of(folder: Path) -> set[str]:
    """The patients that an entry's weights were trained on, those of its start on another dataset included."""
    split = read_split(folder) if (folder / SPLIT).is_file() else {}
    return {*split.get("train", ()), *split.get(EARLIER, ())}


def load_unleaked(source: Path, split: Split, device: torch.device) -> LoadedModel:
    """A finished run or zoo entry, to start from or to learn from.

    Raises:
        ValueError: when it was trained on a validation patient of this run, whose metrics would be too good.
    """
    entry = find_source(source)
    if leaked := patients_of(entry.folder) & set(split.validation):
        raise ValueError(
            f"the weights in {source} were trained on {len(leaked)} of this run's validation patients "
            f"({', '.join(sorted(leaked)[:3])} …); take a run of the same fold, or train with --all"
        )
    return load(entry.name, weights=entry.folder, device=str(device))


def load_teacher(source: Path, split: Split, device: torch.device) -> LoadedModel:
    """The segmenter of a finished run or zoo entry (`load_unleaked`); SystemExit when it gives no mask."""
    model = load_unleaked(source, split, device)
    if "segmentation" not in model.entry.tasks:
        raise SystemExit(
            f"expected a teacher with a mask, got {source}, which does {model.entry.tasks[0]} only; choose a segmenter"
        )
    return model


def start_from(net: nn.Module, source: Path, split: Split, new: tuple[str, ...] = ()) -> None:
    """Copy the weights of a finished run or zoo entry of the same architecture, unless they leak (`load_unleaked`).

    Of an ensemble, the first network is taken. Heads for attributes that `net` lacks are left out.

    Args:
        new: prefixes of parameters that the start may lack; they keep their values.

    Raises:
        ValueError: for another architecture.
    """
    model = load_unleaked(source, split, torch.device("cpu"))
    module = model.net.members[0] if isinstance(model.net, EffUNetEnsemble) else model.net
    own = net.state_dict()
    start = {name: value for name, value in module.state_dict().items() if name in own or not name.startswith(ATTRIBUTE_HEADS)}
    kept = {name: value for name, value in own.items() if name.startswith(new)}
    weights = kept | start
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in own.items()}:
        raise ValueError(
            f"expected a start with the network of this run, got {model.entry.name} with {describe_net(model.entry)}; choose "
            "another start, or --net to match it"
        )
    net.load_state_dict(weights)


def describe_net(entry: ModelEntry) -> str:
    """An entry's network and encoder."""
    return " on ".join([entry.net, *([entry.arguments["encoder"]] if "encoder" in entry.arguments else [])])


def earlier_stages(source: Path) -> tuple[TrainingStage, ...]:
    """The training stages behind the weights that a run starts from, in order; of an ensemble, those of its first network."""
    stages = find_source(source).training.stages
    return stages[: stages[-1].unites[0]] if stages and stages[-1].unites else stages


def describe_dataset(dataset: Dataset, start: ModelEntry | None) -> str:
    """The dataset for the training record, and that of the start where it is another one."""
    before = start.training.dataset if start else None
    if start is None or before is None:
        return dataset.reference
    return (
        before if before.startswith(dataset.reference) else f"{dataset.reference}; started from {start.name}, trained on {before}"
    )


def patients_before(dataset: Dataset, start: ModelEntry | None) -> list[str]:
    """The patients of other datasets that the start was trained on."""
    if start is None or not (start.folder / SPLIT).is_file():
        return []
    same = (start.training.dataset or "").startswith(dataset.reference)
    return sorted(read_split(start.folder).get(EARLIER, ()) if same else patients_of(start.folder))


def save_run(
    options: argparse.Namespace, net: PretrainedNet, *, command: list[str], name: str, summary: str,
    arguments: dict, preprocess: Preprocess, split: Split, flips: bool, tasks: tuple[str, ...] | None = None,
) -> ModelEntry:  # fmt: skip
    """Write the trained network into the run folder as a zoo entry without metrics.

    Args:
        name: of the entry, unless `--name` is given; "lgg" in it stands for the dataset.
        tasks: that were trained, if not all of the network's.
        command: the training module and its arguments, as they are recorded.
        arguments: the arguments of the network's class.
    """
    dataset = choose_dataset(options)
    teacher = find_source(options.teacher) if vars(options).get("teacher") else None
    start = find_source(options.start) if options.start else None
    stage = TrainingStage(
        command=tuple(without_paths(command)),
        samples=options.epochs * options.samples,
        patients=len(split.train),
        teacher=f"{teacher.name}, SHA-256 {teacher.sha256[:12]}" if teacher else None,
        processes=world_size() if world_size() > 1 else None,
    )
    training = Training(
        dataset=describe_dataset(dataset, start),
        stages=(*(earlier_stages(options.start) if options.start else ()), stage),
        torch=torch.__version__.split("+")[0],
        sequences=dataset.find_sequences(options.data),
    )
    config = new_config(
        name=entry_name(options, name, dataset), net=type(net).__name__, tasks=tasks or net.tasks, arguments=arguments,
        preprocess=preprocess, summary=summary, flips=flips,
        **({"licence": dataset.licence_id} if dataset.record and dataset.licence_id else {}),
        training=training.config(),
    )  # fmt: skip
    roles: dict = {"train": split.train, "validation": split.validation, "held_out": sorted(split.held_out)}
    if earlier := patients_before(dataset, start):
        roles[EARLIER] = earlier
    if dataset.record:
        roles["dataset"] = dataset.record
    return save_entry(options.out, net, config, roles)


def entry_name(options: argparse.Namespace, name: str, dataset: Dataset) -> str:
    """The name of `--name`, or the recipe's name with the dataset's key instead of "lgg"."""
    return vars(options).get("name") or re.sub(r"-lgg$", f"-{dataset.key}", name)


def without_paths(arguments: list[str]) -> list[str]:
    """The command with placeholders for the folders, which differ from machine to machine."""
    shown = list(arguments)
    folders = {"--data": "DIR", "--wider": "WIDER", "--out": "RUN", "--start": "START", "--teacher": "TEACHER",
               "--dataset-card": "CARD", "--manifest": "FOLDS"}  # fmt: skip
    for option, placeholder in folders.items():
        if option in shown:
            shown[shown.index(option) + 1] = placeholder
    return shown
