"""Train a U-Net for any head: python -m train.generalist --data DIR --wider DIR --out RUN [--start ENTRY] …

Mask, verdict, kind of tumour, sequence, plane and orientation (`brainmri.zoo.attributes`) from the LGG patients and from pictures
of other heads (`train.datasets.wider`), changed into what people upload (`train.uploads`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from brainmri.io.pixels import to_unit
from brainmri.zoo.attributes import ATTRIBUTES, KINDS, split_logits
from brainmri.zoo.nets import EffUNet, ResUNet
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.registry import resolve_device
from train.arguments import apply_smoke, common_arguments, recipe_of
from train.datasets import DATASETS
from train.datasets.wider import fold_of
from train.depthwise import speed_up_depthwise
from train.evaluation.metrics import auc, dice
from train.examples import (
    CHANNELS,
    UNKNOWN,
    Example,
    SourceSampler,
    UploadDataset,
    learn_from,
    patient_examples,
    picture_examples,
    single_sequence,
)
from train.folds import Split, split_cases
from train.loop import CLIP, RunFiles, choose_precision, fit, seed_epoch, to_channels_last
from train.losses import segmentation_loss
from train.mix import AXIAL, CUT, MIXES
from train.pretrained import imagenet_effunet
from train.run import ATTRIBUTE_HEADS, find_eligible, load_teacher, save_run, start_from

LOSS_WEIGHTS = {"tumour": 0.3, "kind": 0.15, "sequence": 0.1, "plane": 0.1, "turn": 0.1}
AnyNet = EffUNet | ResUNet
TRAIN_ONLY = ("open_ms",)  # three patients: too few to validate on


def all_logits(net: AnyNet, image: Tensor) -> dict[str, Tensor]:
    """(B, 3, S, S) to logits: `mask` (B, 1, S, S), `tumour` (B, 2), and (B, classes) for each attribute."""
    mask, verdict, attributes = net(image)
    return {"mask": mask, "tumour": verdict} | split_logits(attributes, net.attributes)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_arguments(parser)
    parser.add_argument("--wider", type=Path, required=True, help="folder with the index.csv of other heads")
    parser.add_argument("--net", choices=["effunet", "resunet"], default="effunet", help="resunet is the paper's")
    parser.add_argument("--encoder", choices=["lite0", "lite2"], default="lite2", help="of effunet")
    parser.add_argument("--mix", choices=MIXES, default="any", help="shares of sources, sequences and kinds (train.mix)")
    parser.add_argument(
        "--teacher", type=Path, help="run folder or zoo entry; targets are the mean of its masks and the annotators'"
    )
    parser.add_argument("--all-patients", action="store_true", help="train on every patient; only groups of pictures validate")
    parser.set_defaults(size=192, batch=8, lr=1.2e-3, epochs=18, validate_every=6)
    options = parser.parse_args(arguments)
    if options.on_device:
        parser.error("expected no --on-device: uploads are augmented on the CPU; use --workers")
    return options


def load_examples(options: argparse.Namespace) -> tuple[Split, list[Example], list[Example]]:
    """The split, whose roles name patients and groups, and the examples for training and for validation."""
    dataset = DATASETS[options.dataset]
    eligible = find_eligible(dataset, options.data)
    pictures = picture_examples(options.wider)
    groups = {e.group: e.collection for e in pictures}
    validating = {g for g, c in groups.items() if fold_of(g, options.folds) == options.fold and c not in TRAIN_ONLY}
    if options.all:
        split = Split(train=(*eligible, *groups), validation=(), held_out=dataset.held_out)
    else:
        folds = split_cases(dataset, eligible, options.folds, options.fold)
        patients = Split(train=tuple(eligible), validation=(), held_out=folds.held_out) if options.all_patients else folds
        split = Split(
            train=(*patients.train, *(g for g in groups if g not in validating)),
            validation=(*patients.validation, *(g for g in groups if g in validating)),
            held_out=dataset.held_out,
        )
    roles = [set(split.train), set(split.validation)]
    train, validation = (
        [e for case in eligible if case in role for e in patient_examples(eligible[case])]
        + [e for e in pictures if e.group in role]
        for role in roles
    )
    print(f"{len(train)} examples for training, {len(validation)} for validation")
    return split, train, validation


def validation_views(examples: list[Example], every: int = 6) -> list[tuple[str, Example]]:
    """What is validated, with the name of its row: every sixth example, LGG slices as three sequences and as each of them."""
    views = []
    for example in examples[::every]:
        if example.source in (AXIAL, CUT):
            views.append((f"{example.source} three", example))
            views += [(f"{example.source} {name}", single_sequence(example, name)) for name in CHANNELS]
        else:
            kind = f" {KINDS[example.kind]}" if example.kind != UNKNOWN else ""
            views.append((example.collection + kind, example))
    return views


@torch.inference_mode()
def validation_metrics(
    net: AnyNet, views: list[tuple[str, Example]], preprocess: Preprocess, device: torch.device, batch: int = 8
) -> dict[str, float]:
    """Metrics of slices without augmentation, on the network's grid.

    Returns:
        By row: mean slice Dice over the tumour slices, and the verdict's AUC; without tumours the share called tumour. By head:
        its accuracy over the slices whose label is known.
    """
    dices: dict[str, list[float]] = {}
    logits: dict[str, list[tuple[float, int]]] = {}
    right: dict[str, list[bool]] = {name: [] for name in net.attributes}
    for start in range(0, len(views), batch):
        part = views[start : start + batch]
        images, placements = zip(*(preprocess(to_unit(np.ascontiguousarray(e.pixels))) for _, e in part), strict=True)
        image = preprocess.normalise(torch.stack(images).to(device)).to(memory_format=torch.channels_last)
        output = {name: values.float().cpu() for name, values in all_logits(net, image).items()}
        for number, ((name, example), placement) in enumerate(zip(part, placements, strict=True)):
            if example.tumour:
                true = preprocess.place(torch.from_numpy(example.mask.astype(np.float32))[None], placement)[0].numpy() > 0.5
                dices.setdefault(name, []).append(dice(output["mask"][number, 0].numpy() > 0, true))
            against, tumour = output["tumour"][number].tolist()
            logits.setdefault(name, []).append((tumour - against, example.tumour))
            for head, label in {"kind": example.kind, "sequence": example.sequence, "plane": example.plane, "turn": 0}.items():
                if label != UNKNOWN:
                    right[head].append(int(output[head][number].argmax()) == label)
    metrics = {f"{name} Dice": float(np.mean(values)) for name, values in dices.items()}
    for name, pairs in logits.items():
        scores, labels = zip(*pairs, strict=True)
        if len(set(labels)) == 2:
            metrics[f"{name} AUC"] = auc(scores, labels)
        elif not any(labels):
            metrics[f"{name} called tumour"] = float(np.mean(np.array(scores) > 0))
    return metrics | {f"{head} accuracy": float(np.mean(values)) for head, values in right.items() if values}


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.smoke:
        apply_smoke(options, size=64)
    preprocess = Preprocess(size=options.size)
    split, train, validation = load_examples(options)
    torch.manual_seed(options.seed)
    net = ResUNet(attributes=ATTRIBUTES) if options.net == "resunet" else EffUNet(options.encoder, attributes=ATTRIBUTES)
    if options.start:
        start_from(net, options.start, split, new=(ATTRIBUTE_HEADS, "verdict_head."))
    elif isinstance(net, EffUNet) and not options.smoke:
        imagenet_effunet(net, options.encoder)
    device = resolve_device(options.device)
    if options.teacher:
        train = learn_from(load_teacher(options.teacher, split, device), train)
    train_net(net, options, train, validation_views(validation), preprocess, device)
    attributes = {name: list(classes) for name, classes in ATTRIBUTES.items()}
    if isinstance(net, EffUNet):
        name, title = f"effunet-{options.encoder}-any", f"U-Net on EfficientNet-{options.encoder}"
        constructor = {"encoder": options.encoder, "attributes": attributes}
    else:
        name, title, constructor = "resunet-any", "The paper's ResUNet", {"attributes": attributes}
    entry = save_run(
        options, net, command=["train.generalist", *arguments], name=name,
        summary=f"{title} for any head: mask, verdict, sequence, plane, kind of tumour", arguments=constructor,
        preprocess=preprocess, split=split, flips=True,
    )  # fmt: skip
    print(f"{entry.name}: {entry.parameters:,} parameters in {entry.folder}")


def train_net(
    net: AnyNet, options: argparse.Namespace, train: list[Example], views: list[tuple[str, Example]], preprocess: Preprocess,
    device: torch.device,
) -> None:  # fmt: skip
    """Train in place with AdamW on a one-cycle schedule; the validation views select nothing and may be empty."""
    to_channels_last(net, device)
    dtype = choose_precision(options.precision, net, options.size, device)
    criterion = segmentation_loss("focal-tversky-bce")

    def loss(batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        image = preprocess.normalise(batch["image"]).to(memory_format=torch.channels_last)
        output = all_logits(net, image)
        value = criterion(output["mask"], batch["mask"])
        metrics = {"mask loss": value.item()}
        for name, weight in LOSS_WEIGHTS.items():
            if (batch[name] != UNKNOWN).any():
                part = F.cross_entropy(output[name].float(), batch[name], ignore_index=UNKNOWN)
                value = value + weight * part
                metrics[f"{name} loss"] = part.item()
        return value, metrics

    pretrained = list(net.unet.encoder.parameters()) if isinstance(net, EffUNet) else []
    pretrained_ids = {id(p) for p in pretrained}
    rest = [p for p in net.parameters() if id(p) not in pretrained_ids]
    groups = [{"params": part, "lr": lr} for part, lr in ((pretrained, options.lr / 3), (rest, options.lr)) if part]
    optimiser = torch.optim.AdamW(groups, weight_decay=options.weight_decay, fused=device.type in ("cpu", "cuda"))
    steps = options.epochs * -(-options.samples // options.batch)
    scheduler = OneCycleLR(optimiser, max_lr=[group["lr"] for group in groups], total_steps=steps, pct_start=max(0.2, 2 / steps))
    mix = MIXES[options.mix]
    dataset, sampler = UploadDataset(train, preprocess, mix), SourceSampler(train, options.samples, options.seed, mix)
    if device.type == "cpu":
        speed_up_depthwise(net)

    def load_epoch(epoch: int) -> DataLoader:
        sampler.epoch = epoch
        generator = seed_epoch(options.seed, epoch)
        return DataLoader(dataset, options.batch, sampler=sampler, num_workers=options.workers, generator=generator)

    out: Path = options.out
    files = RunFiles(checkpoint=out / "checkpoint.pt", history=out / "history.csv", curves=out / "curves.png")
    fit(
        net, loss=loss, optimiser=optimiser, load_epoch=load_epoch, epochs=options.epochs, files=files,
        recipe=recipe_of(options), resume=options.resume, device=device, dtype=dtype, scheduler=scheduler,
        validate=(lambda: validation_metrics(net, views, preprocess, device)) if views else None,
        validate_every=options.validate_every, clip=CLIP, accumulate=options.accumulate,
    )  # fmt: skip


if __name__ == "__main__":
    main()
