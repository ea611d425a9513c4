"""Train a segmenter: python -m train.segmenter --data DIR --out RUN [--net effunet|effunet-lite2|resunet] …

The networks see placed slices (`brainmri.zoo.preprocess`), augmented (`train.augment`), split by patient (`train.data`).
`effunet`, on EfficientNet-lite0 or lite2, starts from ImageNet and learns the verdict beside the mask; `resunet` is the paper's,
from scratch. Any may learn from a stronger teacher, whose masks are smoother than the annotators' and even out their gaps.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn import functional as F

from brainmri.zoo.nets import EffUNet, ResUNet
from brainmri.zoo.preprocess import Preprocess
from train.arguments import apply_smoke, common_arguments
from train.augment import augmentation
from train.distributed import is_main_process, process_group
from train.evaluation.metrics import auc, dice
from train.loop import choose_precision, fit
from train.losses import LOSSES, segmentation_loss
from train.pretrained import imagenet_effunet
from train.run import load_split, save_run, start_from

VERDICT_WEIGHT = 0.3
# of each network: its entry's name, what the entry is, its class and what that is built with
NETS = {
    "resunet": ("resunet-lgg", "The paper's ResUNet, trained by patient", ResUNet, {}),
    "effunet": ("effunet-lgg", "U-Net on EfficientNet-lite0, with a verdict head", EffUNet, {"encoder": "lite0"}),
    "effunet-lite2": ("effunet-lite2-lgg", "U-Net on EfficientNet-lite2, with a verdict head", EffUNet, {"encoder": "lite2"}),
}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_arguments(parser)
    parser.add_argument("--net", choices=list(NETS), default="resunet")
    parser.add_argument("--loss", choices=list(LOSSES), default="focal-tversky-bce")
    parser.add_argument("--encoder", choices=["imagenet", "none"], default="imagenet", help="effunet's starting weights")
    add = parser.add_argument
    add("--teacher", type=Path, help="run folder or zoo entry whose masks the targets are drawn halfway towards")
    parser.set_defaults(size=160)
    return parser.parse_args(arguments)


def grid_figures(net, slices: list[dict], preprocess: Preprocess, device, batch: int = 16) -> dict[str, float]:
    """Volumetric Dice per patient (mean) on the network's own grid, and the verdict's AUC where the net has one.

    Quick figures to watch a run by; `train.evaluation.evaluate` measures on the images' own grid.
    """
    masks: dict[str, list] = {}
    probabilities, tumour = [], []
    for start in range(0, len(slices), batch):
        part = slices[start : start + batch]
        image = preprocess.normalise(torch.stack([s["image"] for s in part]).to(device)).to(memory_format=torch.channels_last)
        logits, verdict = net.both(image) if isinstance(net, EffUNet) else (net(image), None)
        for item, logit in zip(part, logits.float().cpu(), strict=True):
            masks.setdefault(item["case"], []).append((logit.numpy() > 0, item["mask"].numpy() > 0.5))
            tumour.append(item["tumour"])
        if verdict is not None:
            probabilities += verdict.float().softmax(1)[:, 1].tolist()
    volumes = [dice(*(np.stack(side) for side in zip(*pairs, strict=True))) for pairs in masks.values()]
    figures = {"validation Dice": float(np.mean(volumes))}
    if probabilities:
        figures["validation AUC"] = auc(probabilities, tumour)
    return figures


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    with process_group(options.device) as device:
        run(options, arguments, device)


def run(options: argparse.Namespace, arguments: list[str], device: torch.device) -> None:
    """Train as the options say, which `arguments` were parsed to."""
    if options.smoke:
        apply_smoke(options, size=64)
        options.encoder = "none"
    preprocess = Preprocess(size=options.size)
    split, train, validation = load_split(options, preprocess, options.teacher, device)
    net = build(options)
    if options.start:
        start_from(net, options.start, split)
    train_net(net, options, train, validation, preprocess, device)
    if not is_main_process():
        return
    name, summary, _, built_with = NETS[options.net]
    entry = save_run(
        options, net, command=["train.segmenter", *arguments], name=name, summary=summary, arguments=built_with,
        preprocess=preprocess, split=split, flips=True,
    )  # fmt: skip
    print(f"{entry.name}: {entry.parameters:,} parameters in {entry.folder}")


def build(options: argparse.Namespace) -> EffUNet | ResUNet:
    """The network that the options name, seeded, with ImageNet's encoder where it has one and no other start was asked for."""
    torch.manual_seed(options.seed)
    _, _, architecture, built_with = NETS[options.net]
    net = architecture(**built_with)
    if isinstance(net, EffUNet) and options.encoder == "imagenet" and not options.start:
        imagenet_effunet(net, built_with["encoder"])
    return net


def train_net(
    net: EffUNet | ResUNet, options: argparse.Namespace, train: list[dict], validation: list[dict], preprocess: Preprocess,
    device: torch.device,
) -> None:  # fmt: skip
    """Train on placed slices as the options say, in place; the validation slices, where there are any, only watch."""
    with_verdict = isinstance(net, EffUNet)
    net.to(device, memory_format=torch.channels_last)
    dtype = choose_precision(options.precision, net, options.size, device)
    print(f"{type(net).__name__} on {device} in {str(dtype).removeprefix('torch.')}")
    criterion = segmentation_loss(options.loss)

    def loss(batch):
        image = preprocess.normalise(batch["image"]).to(memory_format=torch.channels_last)
        logits, verdict = net.both(image) if with_verdict else (net(image), None)
        value = criterion(logits, batch["mask"].clamp(0, 1))
        figures = {}
        if with_verdict:
            value = value + VERDICT_WEIGHT * F.cross_entropy(verdict.float(), batch["tumour"])
            figures["train accuracy"] = (verdict.argmax(1) == batch["tumour"]).float().mean().item()
        predicted = logits.detach() > 0
        true = batch["mask"] > 0.5
        shown = true.any(dim=(1, 2, 3))  # the bar's Dice is over tumour slices, pooled in the batch
        hit = 2 * (predicted & true)[shown].sum()
        figures["train Dice"] = (hit / (predicted[shown].sum() + true[shown].sum()).clamp(min=1)).item()
        return value, figures

    if with_verdict:  # the ImageNet start is kept by a smaller step
        encoder = list(net.unet.encoder.parameters())
        known = {id(p) for p in encoder}
        groups = [{"params": encoder, "lr": options.lr / 3},
                  {"params": [p for p in net.parameters() if id(p) not in known], "lr": options.lr}]  # fmt: skip
    else:
        groups = [{"params": list(net.parameters()), "lr": options.lr}]
    fit(
        net, loss=loss, groups=groups, slices=train, transform=augmentation(options.size),
        validate=(lambda: grid_figures(net, validation, preprocess, device)) if validation else None,
        options=options, device=device, dtype=dtype,
    )  # fmt: skip


if __name__ == "__main__":
    record(main)()  # torchrun's last words then tell which process failed, and how
