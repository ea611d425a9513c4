"""The command-line options that the training commands share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from huggingface_hub import DatasetCard

from brainmri.zoo.attributes import SEQUENCES
from train.datasets import DATASETS, Dataset, OwnData, recognise_dataset
from train.distributed import once_per_node
from train.phantoms import write_phantom_dataset

# options that may differ in a resumed run: they change where and how fast it runs, not what it computes
NOT_RECIPE = (
    "resume", "device", "workers", "on_device", "accumulate", "data", "out", "name", "licence", "dataset_card", "manifest",
    "sequence", "compile", "profile", "tensorboard", "track",
)  # fmt: skip


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every training command takes."""
    add = parser.add_argument
    add("--dataset", choices=list(DATASETS), default="lgg", help="which dataset --data holds")
    add("--data", type=Path, help="the dataset's folder, or a CSV file; for lgg, kaggle_3m/ or its parent")
    add("--out", type=Path, required=True, help="run folder: the model in Hub layout, checkpoint, curves, metrics")
    add("--folds", type=int, default=5, help="number of folds that the patients are split into")
    add("--fold", type=int, default=0, help="the fold that validates")
    add("--all", action="store_true", help="train on every patient that is not held out, without validation")
    add("--start", type=Path, help="run folder, zoo entry or OWNER/NAME whose weights to start from")
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


def own_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how people's own data are read. Without `--dataset`, the dataset is recognised."""
    add = parser.add_argument
    add(
        "--channels",
        nargs="+",
        default=[],
        metavar="SEQUENCE",
        help="sequences as the dataset names them: one for all channels, or pre-contrast T1, FLAIR and post-contrast T1, - for a "
        "missing one (default: by name)",
    )
    add("--sequence", choices=SEQUENCES, help="what single images are whose names do not say it (default: not recorded)")
    add(
        "--tumour-labels",
        nargs="+",
        default=[],
        metavar="LABEL",
        help="labels of the masks that are tumour: values, ranges such as 128-255, or names (default: the only label)",
    )
    add("--every", type=int, default=1, metavar="N", help="use every N-th slice of a volume")
    parser.set_defaults(dataset=None)


def description_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what an entry trained on people's own data is called, and where the data are from."""
    add = parser.add_argument
    add("--name", help="of the entry, in its record, card and repo on the Hub")
    add("--licence", help="of the dataset, as an identifier of the Hub such as cc-by-4.0 (default: that in --dataset-card)")
    add(
        "--dataset-card",
        type=Path,
        help="Markdown file about the dataset, for the model card; it may have a Hub card's front matter",
    )
    add("--manifest", type=Path, help="file with the fold of every patient, such as the folds.json of a run")


def choose_dataset(options: argparse.Namespace) -> Dataset:
    """The dataset that `--data` holds: that of `--dataset`, or else recognised.

    Raises:
        SystemExit: for options that do not go together, and for a card or a manifest that does not exist.
    """
    if options.dataset:
        return DATASETS[options.dataset]
    if options.data is None:
        raise SystemExit("expected --data, the folder of the dataset, got none; give it, or --smoke for synthetic patients")
    if len(options.channels) not in (0, 1, 3):
        raise SystemExit(
            f"expected one or three sequences after --channels, got {len(options.channels)}; write - for a missing one"
        )
    if options.every < 1:
        raise SystemExit(f"expected --every of 1 or more, got {options.every}")
    stated = vars(options)
    for file in filter(None, (stated.get("dataset_card"), stated.get("manifest"))):
        if not file.is_file():
            raise SystemExit(f"expected a file, got {file}, which does not exist; correct the path")
    data = OwnData(
        channels=tuple(options.channels), tumour_labels=tuple(options.tumour_labels), every=options.every,
        sequence=options.sequence,
        **describe_data(stated.get("dataset_card"), stated.get("licence"), stated.get("name")),
    )  # fmt: skip
    try:
        dataset = recognise_dataset(options.data, data, stated.get("manifest"))
    except ValueError as error:
        raise SystemExit(str(error)) from error
    own_options = [name for name in ("licence", "dataset_card", "channels", "sequence", "tumour_labels") if stated.get(name)]
    if dataset.record is None and own_options:
        raise SystemExit(
            f"expected no --{own_options[0].replace('_', '-')} with the dataset {dataset.name}, which describes itself; remove it"
        )
    return dataset


def describe_data(card: Path | None, licence: str | None, name: str | None) -> dict:
    """Name, licence and description of people's own data, by the options and the dataset card."""
    found = DatasetCard.load(card) if card else None
    known = found.data.to_dict() if found else {}
    title = known.get("pretty_name") or (f"data of {name}" if name else "own data")
    licence = licence or (known["license"] if isinstance(known.get("license"), str) else None)
    return {"name": title, "licence": licence, "description": found.text.strip() if found else ""}


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
