"""Train a segmenter: python -m train.segmenter --data DIR --out RUN [--net effunet|effunet-lite2|resunet] …

DIR is the LGG dataset or people's own data in any layout of `train.datasets.own`, such as images/ and masks/. The training slices
are placed (`brainmri.zoo.preprocess`), augmented (`train.augment`) and split by patient (`train.folds`).
`effunet`, on EfficientNet-lite0 or lite2, starts from ImageNet weights and also learns the verdict; `resunet` is the paper's
network, trained from scratch. Both can learn from a teacher, whose masks are smoother than the annotators' and fill their gaps.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn import functional as F

from brainmri.zoo.entry import ModelEntry
from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.nets import create_network
from brainmri.zoo.preprocess import Preprocess
from train.arguments import apply_smoke, common_arguments, description_arguments, own_data_arguments
from train.augment import augmentation
from train.distributed import is_main_process, process_group
from train.evaluation.metrics import auc, dice
from train.loop import choose_precision, fit_one_cycle, to_channels_last
from train.losses import LOSSES, segmentation_loss
from train.pretrained import imagenet_effunet
from train.run import describe_net, find_source, load_split, save_run, start_from
from train.tracking import tracking_arguments

VERDICT_WEIGHT = 0.3


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network that can be trained: name and summary of its entry, its class in the zoo and the class's arguments."""

    entry: str
    summary: str
    net: str
    arguments: dict


NETS = {
    "resunet": Recipe(entry="resunet-lgg", summary="The paper's ResUNet, trained by patient", net="ResUNet", arguments={}),
    "effunet": Recipe(
        entry="effunet-lgg", summary="U-Net on EfficientNet-lite0, with a verdict head",
        net="EffUNet", arguments={"encoder": "lite0"},
    ),
    "effunet-lite2": Recipe(
        entry="effunet-lite2-lgg", summary="U-Net on EfficientNet-lite2, with a verdict head",
        net="EffUNet", arguments={"encoder": "lite2"},
    ),
}  # fmt: skip


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_arguments(parser)
    own_data_arguments(parser)
    description_arguments(parser)
    tracking_arguments(parser)
    parser.add_argument("--net", choices=list(NETS), help="default: that of --start, else resunet")
    parser.add_argument("--loss", choices=list(LOSSES), default="focal-tversky-bce")
    parser.add_argument(
        "--encoder", choices=["imagenet", "none"], default="imagenet", help="starting weights of effunet's encoder"
    )
    add = parser.add_argument
    add("--teacher", type=Path, help="run folder or zoo entry; targets are the mean of its masks and the annotators'")
    parser.set_defaults(size=160)
    options = parser.parse_args(arguments)
    try:
        options.net = options.net or (net_of(find_source(options.start)) if options.start else "resunet")
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    return options


def net_of(start: ModelEntry) -> str:
    """The `--net` that an entry's weights fit; of an ensemble, its first network's.

    Raises:
        ValueError: for an entry that does no segmentation.
    """
    encoder = start.arguments.get("encoder", "lite0" if start.net.startswith("EffUNet") else None)  # the class's default
    for name, recipe in NETS.items():
        if start.net.removesuffix("Ensemble") == recipe.net and encoder == recipe.arguments.get("encoder"):
            return name
    raise ValueError(f"expected a start with a network of {', '.join(NETS)}, got {start.name} with {describe_net(start)}")


def learnable_tasks(tasks: tuple[str, ...], slices: list[dict]) -> tuple[str, ...]:
    """The tasks that slices can teach: without slices free of tumour there is no verdict to learn."""
    if "segmentation" in tasks and all(one["tumour"] for one in slices):
        print(
            "note: every slice shows a tumour, so the network learns masks and no verdict; its masks are never empty in training"
        )
        return ("segmentation",)
    return tasks


def validation_metrics(
    net, slices: list[dict], preprocess: Preprocess, device, with_verdict: bool, batch: int = 16
) -> dict[str, float]:
    """Mean volumetric Dice of the patients on the network's grid, and the verdict's AUC if it is trained.

    For watching a run; `train.evaluation.evaluate` measures on the grid of the images.
    """
    masks: dict[str, list] = {}
    probabilities, tumour = [], []
    for start in range(0, len(slices), batch):
        part = slices[start : start + batch]
        image = preprocess.normalise(torch.stack([s["image"] for s in part]).to(device)).to(memory_format=torch.channels_last)
        logits, verdict, _ = net(image)
        for item, logit in zip(part, logits.float().cpu(), strict=True):
            masks.setdefault(item["case"], []).append((logit.numpy() > 0, item["mask"].numpy() > 0.5))
            tumour.append(item["tumour"])
        if with_verdict:
            probabilities += verdict.float().softmax(1)[:, 1].tolist()
    volumes = [dice(*(np.stack(side) for side in zip(*pairs, strict=True))) for pairs in masks.values()]
    metrics = {"Dice": float(np.mean(volumes))}
    if probabilities:
        metrics["AUC"] = auc(probabilities, tumour)
    return metrics


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    with process_group(options.device) as device:
        run(options, arguments, device)


def run(options: argparse.Namespace, arguments: list[str], device: torch.device) -> None:
    """Train one network and save it.

    Args:
        options: from `parse`.
        arguments: the command line that the options come from, for the record.
    """
    if options.smoke:
        apply_smoke(options, size=64)
        options.encoder = "none"
    preprocess = Preprocess(size=options.size)
    split, train, validation = load_split(options, preprocess, options.teacher, device)
    net = build(options)
    if options.start:
        start_from(net, options.start, split)
    tasks = learnable_tasks(net.tasks, train)
    train_net(net, options, train, validation, preprocess, device, tasks)
    if not is_main_process():
        return
    recipe = NETS[options.net]
    entry = save_run(
        options, net, command=["train.segmenter", *arguments], name=recipe.entry, summary=recipe.summary,
        arguments=recipe.arguments, preprocess=preprocess, split=split, flips=True,
        tasks=tasks,
    )  # fmt: skip
    print(f"{entry.name}: {entry.parameters:,} parameters in {entry.folder}")


def build(options: argparse.Namespace) -> PretrainedNet:
    """The network of `--net` with seeded weights; ImageNet weights in its encoder with `--encoder imagenet` and no `--start`."""
    torch.manual_seed(options.seed)
    recipe = NETS[options.net]
    net = create_network(recipe.net, recipe.arguments)
    if "encoder" in recipe.arguments and options.encoder == "imagenet" and not options.start:
        imagenet_effunet(net, recipe.arguments["encoder"])
    return net


def train_net(
    net: PretrainedNet, options: argparse.Namespace, train: list[dict], validation: list[dict], preprocess: Preprocess,
    device: torch.device, tasks: tuple[str, ...] | None = None,
) -> None:  # fmt: skip
    """Train in place on placed slices; the validation slices select nothing and may be empty.

    Args:
        tasks: to train, if not all of the network's.
    """
    with_verdict = "classification" in (tasks or net.tasks)
    if not with_verdict:
        options.tumour_share = 1.0 if all(one["tumour"] for one in train) else options.tumour_share
        if "classification" in net.tasks:
            net.get_submodule("unet.classification_head").requires_grad_(False)
    to_channels_last(net, device)
    dtype = choose_precision(options.precision, net, options.size, device)
    print(f"{type(net).__name__} on {device} in {str(dtype).removeprefix('torch.')}")
    criterion = segmentation_loss(options.loss)

    def loss(batch):
        image = preprocess.normalise(batch["image"]).to(memory_format=torch.channels_last)
        logits, verdict, _ = net(image)
        value = criterion(logits, batch["mask"].clamp(0, 1))
        metrics = {}
        if with_verdict:
            value = value + VERDICT_WEIGHT * F.cross_entropy(verdict.float(), batch["tumour"])
            metrics["accuracy"] = (verdict.detach().argmax(1) == batch["tumour"]).float().mean()
        predicted = logits.detach() > 0
        true = batch["mask"] > 0.5
        # the Dice shown while training pools the batch's slices with tumour
        predicted = predicted & true.any(dim=(1, 2, 3), keepdim=True)
        metrics["Dice"] = 2 * (predicted & true).sum() / (predicted.sum() + true.sum()).clamp(min=1)
        return value, metrics

    if "encoder" in NETS[options.net].arguments:  # a lower learning rate keeps the ImageNet weights
        encoder = list(net.get_submodule("unet.encoder").parameters())
        encoder_ids = {id(p) for p in encoder}
        groups = [{"params": encoder, "lr": options.lr / 3},
                  {"params": [p for p in net.parameters() if id(p) not in encoder_ids], "lr": options.lr}]  # fmt: skip
    else:
        groups = [{"params": list(net.parameters()), "lr": options.lr}]
    fit_one_cycle(
        net, loss=loss, groups=groups, slices=train, transform=augmentation(options.size),
        validate=(lambda: validation_metrics(net, validation, preprocess, device, with_verdict)) if validation else None,
        options=options, device=device, dtype=dtype,
    )  # fmt: skip


if __name__ == "__main__":
    record(main)()  # torchrun then reports which process failed, and how
