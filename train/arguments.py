"""The command-line options that the training commands share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from train.datasets import DATASETS
from train.distributed import once_per_node
from train.phantoms import write_phantom_dataset

# options that may differ in a resumed run: they change where and how fast it runs, not what it computes
NOT_RECIPE = ("resume", "device", "workers", "on_device", "accumulate", "data", "out")


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every training command takes."""
    add = parser.add_argument
    add("--dataset", choices=list(DATASETS), default="lgg", help="which dataset --data holds")
    add("--data", type=Path, help="the dataset's folder; for lgg, kaggle_3m/ or its parent")
    add("--out", type=Path, required=True, help="run folder: the model in Hub layout, checkpoint, curves, metrics")
    add("--folds", type=int, default=5, help="number of folds that the patients are split into")
    add("--fold", type=int, default=0, help="the fold that validates")
    add("--all", action="store_true", help="train on every patient that is not held out, without validation")
    add("--start", type=Path, help="run folder or zoo entry whose weights to start from")
    add("--size", type=int, help="side of the network's input in pixels")
    add("--epochs", type=int, default=10)
    add("--samples", type=int, default=2000, help="slices per epoch")
    add("--batch", type=int, default=16, help="slices a step, over all processes")
    add(
        "--accumulate",
        type=int,
        default=1,
        help="micro-batches that each process splits its share of a batch into, to save memory",
    )
    add("--lr", type=float, default=3e-3, help="peak of the one-cycle schedule")
    add("--weight-decay", type=float, default=0.01)
    add("--tumour-share", type=float, default=0.6, help="share of sampled slices with tumour")
    add("--evenness", type=float, default=0.0, help="0 samples every slice equally often, 1 every patient equally often")
    add("--validate-every", type=int, default=2, help="epochs between validations; the last epoch is always validated")
    add("--precision", choices=["auto", "float32", "bfloat16"], default="auto", help="auto times both and picks the faster")
    add("--device", default="auto")
    add("--workers", type=int, default=1, help="processes that augment slices; 0 augments in the training process")
    add("--on-device", action="store_true", help="keep the slices on the device and augment them there, one batch ahead")
    add("--seed", type=int, default=0)
    add("--resume", action="store_true", help="continue from the checkpoint in --out")
    add("--smoke", action="store_true", help="run everything in under a minute, by default on two synthetic patients")


def apply_smoke(options: argparse.Namespace, size: int) -> None:
    """Reduce every option so that the whole command runs in seconds; without `--data`, on two phantoms that it writes."""
    options.folds, options.epochs, options.samples, options.batch, options.validate_every = 2, 2, 16, 8, 1
    options.size, options.workers = size, 0
    if options.data is None:
        options.data = options.out / "phantoms"
        once_per_node(lambda: write_phantom_dataset(options.data, patients=2, slices=8))


def recipe_of(options: argparse.Namespace) -> str:
    """The options that a resumed run must share with the run that it continues, as JSON."""
    return json.dumps({key: str(value) for key, value in vars(options).items() if key not in NOT_RECIPE})
