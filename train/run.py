"""From command-line options to patients, slices, and a finished model folder: what both training commands share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import nn

from brainmri.zoo.entry import SPLIT, ModelEntry, new_config, save_entry
from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.registry import LoadedModel, find_entry, load
from train.data import HELD_OUT, Slice, Split, find_slices, load_placed
from train.distributed import once_per_node, world_size
from train.folds import split_at_hand
from train.phantoms import write_phantom_dataset

DATASET = "LGG MRI Segmentation (Buda, Saha, Mazurowski 2019; TCGA-LGG), CC BY-NC-SA 4.0"


def apply_smoke(options: argparse.Namespace, size: int) -> None:
    """Shrink every figure so that the whole command runs in seconds, on two phantoms it writes itself."""
    options.folds, options.epochs, options.samples, options.batch, options.validate_every = 2, 2, 16, 8, 1
    options.size, options.workers = size, 0
    if options.data is None:
        options.data = options.out / "phantoms"
        once_per_node(lambda: write_phantom_dataset(options.data, patients=2, slices=8))


def find_eligible(data: Path | None) -> dict[str, list[Slice]]:
    """The slices of every patient that is not held out; SystemExit without a folder."""
    if data is None:
        raise SystemExit("--data is needed: the folder that holds kaggle_3m/ (or --smoke, for synthetic patients)")
    cases = find_slices(data)
    eligible = {case: slices for case, slices in cases.items() if case not in HELD_OUT}
    print(f"{len(eligible)} patients, and {len(cases) - len(eligible)} held out that are left alone")
    return eligible


def load_split(
    options: argparse.Namespace, preprocess: Preprocess, teacher: Path | None = None, device: str | torch.device = "cpu"
) -> tuple[Split, list[dict], list[dict]]:
    """The split, and its training and validation slices on the network's grid.

    Args:
        teacher: run folder or zoo entry that has a say, on the device, in the training slices' masks (`load_placed`).
    """
    eligible = find_eligible(options.data)
    everyone = Split(train=tuple(eligible), validation=())
    split = everyone if options.all else split_at_hand(eligible, options.folds, options.fold)
    print(f"{len(split.train)} patients train, {len(split.validation)} validate")
    roles = [[s for case in role for s in eligible[case]] for role in (split.train, split.validation)]
    teaches = load_unleaked(teacher, split, torch.device(device)) if teacher else None
    if teaches and "segmentation" not in teaches.entry.tasks:
        raise SystemExit(f"{teacher} does {teaches.entry.tasks[0]} alone; a teacher of the mask draws masks")
    train, validation = once_per_node(
        lambda: [load_placed(slices, preprocess, by) for slices, by in zip(roles, (teaches, None), strict=True)]
    )
    return split, train, validation


def load_unleaked(folder: Path, split: Split, device: torch.device) -> LoadedModel:
    """A finished run or zoo entry, to start from or to learn from.

    Raises:
        ValueError: when it was trained on a patient who is to validate this run: the figures would flatter it.
    """
    seen = json.loads((find_entry(folder).folder / SPLIT).read_text(encoding="utf-8"))["train"]
    if leaked := set(seen) & set(split.validation):
        raise ValueError(
            f"the weights in {folder} were trained on {len(leaked)} of this run's validation patients "
            f"({', '.join(sorted(leaked)[:3])} …); take a run of the same fold, or train with --all"
        )
    return load(folder, device=device)


def start_from(net: nn.Module, folder: Path, split: Split) -> None:
    """Copy the weights of a finished run or zoo entry of the same architecture, unless they leak (`load_unleaked`)."""
    net.load_state_dict(load_unleaked(folder, split, torch.device("cpu")).net.state_dict())


def earlier_stages(folder: Path) -> list[dict]:
    """The commands, slices drawn and patients that led to the weights a run starts from, in order."""
    return find_entry(folder).training["stages"]


def save_run(
    options: argparse.Namespace, net: PretrainedNet, *, command: list[str], name: str, summary: str,
    arguments: dict, preprocess: Preprocess, split: Split, flips: bool,
) -> ModelEntry:  # fmt: skip
    """Write the trained network into the run folder as a zoo entry that has not been measured yet.

    Args:
        command: the training module and the arguments it was called with, for the record.
        arguments: what the network's class was built with.
    """
    stage = {
        "command": " ".join(["python", "-m", *without_paths(command)]),
        "samples": options.epochs * options.samples,
        "patients": len(split.train),
    }
    if teacher := vars(options).get("teacher"):
        entry = find_entry(teacher)
        stage["teacher"] = f"{entry.name}, SHA-256 {entry.sha256[:12]}"
    if world_size() > 1:
        stage["processes"] = world_size()
    config = new_config(
        name=name, net=type(net).__name__, tasks=net.tasks, arguments=arguments, preprocess=preprocess,
        summary=summary, flips=flips,
        training={
            "dataset": DATASET,
            "stages": [*(earlier_stages(options.start) if options.start else []), stage],
            "torch": torch.__version__.split("+")[0],
        },
    )  # fmt: skip
    return save_entry(
        options.out, net, config, {"train": split.train, "validation": split.validation, "held_out": sorted(HELD_OUT)}
    )


def without_paths(arguments: list[str]) -> list[str]:
    """The command as another machine would type it: its own folders as placeholders."""
    shown = list(arguments)
    for option, placeholder in (("--data", "DIR"), ("--out", "RUN"), ("--start", "START"), ("--teacher", "TEACHER")):
        if option in shown:
            shown[shown.index(option) + 1] = placeholder
    return shown
