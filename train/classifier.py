"""Train the verdict: python -m train.classifier --data DIR --out RUN [--base none|imagenet] [--frozen] …

The paper's ResNet50 head is trained by cross-entropy on slices with and without tumour. An auxiliary 1x1 convolution on the
stride-16 map learns where the tumour is, on a coarse grid; it is discarded after training. With a thousand tumour slices and no
pretrained weights, the base learns faster with this second loss (`--localise 0` turns it off).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn import functional as F

from brainmri.zoo.nets.resnet import ResNet50Classifier
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.registry import find_entry
from train.arguments import apply_smoke, common_arguments, description_arguments, own_data_arguments
from train.augment import augmentation
from train.distributed import is_main_process, process_group
from train.evaluation.metrics import auc
from train.loop import choose_precision, fit_one_cycle, to_channels_last
from train.pretrained import imagenet_resnet50
from train.run import load_split, load_unleaked, save_run, start_from
from train.tracking import tracking_arguments


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_arguments(parser)
    own_data_arguments(parser)
    description_arguments(parser)
    tracking_arguments(parser)
    parser.add_argument("--base", choices=["none", "imagenet"], default="none", help="starting weights of the base")
    parser.add_argument("--frozen", action="store_true", help="train the head only")
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--localise", type=float, default=1.0, help="weight of the coarse tumour map's loss")
    parser.add_argument(
        "--teacher", type=Path, help="run folder or zoo entry; targets are the mean of its output and the annotators'"
    )
    parser.set_defaults(size=128, lr=1e-3, tumour_share=0.5)
    return parser.parse_args(arguments)


def head_arguments(size: int, dropout: float) -> dict:
    """`ResNet50Classifier`'s arguments: the paper pools 4x4 of an 8x8 map at 256 px; smaller inputs pool the whole map."""
    return {"image_size": size, "pool": min(4, size // 32), "dropout": dropout}


class WithLocaliser(nn.Module):
    """The classifier and, for training only, a coarse tumour map from its stride-16 features."""

    def __init__(self, classifier: ResNet50Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.localiser = nn.Conv2d(1024, 1, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, S, S) to verdict logits (B, 2) and tumour map logits (B, 1, S/16, S/16)."""
        *_, stride_16, stride_32 = self.classifier.forward_features(image)
        return self.classifier.head(stride_32), self.localiser(stride_16)


def validation_metrics(
    net: ResNet50Classifier, slices: list[dict], preprocess: Preprocess, device, batch: int = 32
) -> dict[str, float]:
    """AUC and accuracy over validation slices, placed on the network's grid or a finer one, for watching a run."""
    probabilities = []
    for start in range(0, len(slices), batch):
        image = torch.stack([s["image"] for s in slices[start : start + batch]]).to(device)
        logits = net(resize_and_normalise(image, preprocess)).verdict
        probabilities += logits.float().softmax(1)[:, 1].tolist()
    tumour = [s["tumour"] for s in slices]
    correct = sum((p > 0.5) == bool(t) for p, t in zip(probabilities, tumour, strict=True))
    return {"AUC": auc(probabilities, tumour), "accuracy": correct / len(tumour)}


def _teacher_preprocess(teacher: Path, size: int) -> Preprocess:
    """The preprocessing of a teacher; SystemExit when it has no verdict or a smaller input than this run."""
    entry = find_entry(teacher)
    if not {"segmentation", "classification"} <= set(entry.tasks):
        raise SystemExit(
            f"expected a teacher with mask and verdict, got {teacher}, which does {entry.tasks[0]} only; choose another"
        )
    if entry.preprocess.size < size:
        raise SystemExit(
            f"expected a teacher of at least {size} px, got {teacher} with {entry.preprocess.size} px; choose a smaller --size"
        )
    return entry.preprocess


def resize_and_normalise(image: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """(B, 3, T, T) in [0, 1] to a network's input: (B, 3, S, S), S at most T, normalised."""
    if image.shape[-1] != preprocess.size:
        image = F.interpolate(image, size=(preprocess.size, preprocess.size), mode="bilinear", antialias=True)
    return preprocess.normalise(image).to(memory_format=torch.channels_last)


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
    torch.manual_seed(options.seed)
    preprocess = Preprocess(size=options.size)
    # slices are placed and augmented on the teacher's grid, which is as fine or finer, and resized for the student
    placing = _teacher_preprocess(options.teacher, options.size) if options.teacher else preprocess
    split, train, validation = load_split(options, placing)
    teacher = load_unleaked(options.teacher, split, device) if options.teacher else None
    built = head_arguments(options.size, options.dropout)
    net = ResNet50Classifier(**built, frozen=options.frozen)
    if options.start:
        start_from(net, options.start, split)
    elif options.base == "imagenet":
        imagenet_resnet50(net)
    to_channels_last(net, device)
    localising = WithLocaliser(net).to(device)
    dtype = choose_precision(options.precision, net, options.size, device)
    print(f"ResNet50Classifier on {device} in {str(dtype).removeprefix('torch.')}")

    def loss(batch):
        logits, coarse_map = localising(resize_and_normalise(batch["image"], preprocess))
        verdict, mask = F.one_hot(batch["tumour"], 2).float(), batch["mask"].clamp(0, 1)
        if teacher:
            with torch.inference_mode():
                map_logits, verdict_logits, _ = teacher.net(resize_and_normalise(batch["image"], placing))
            verdict = (verdict + verdict_logits.float().softmax(1)) / 2
            mask = (mask + map_logits.float().sigmoid()) / 2
        value = F.cross_entropy(logits.float(), verdict, label_smoothing=0.02)
        if options.localise:
            present = F.adaptive_max_pool2d(mask, coarse_map.shape[2:])
            value = value + options.localise * F.binary_cross_entropy_with_logits(coarse_map.float(), present)
        return value, {"accuracy": (logits.detach().argmax(1) == batch["tumour"]).float().mean()}

    # the head's first layer sums 2048 positive features: at the base's learning rate all its ReLUs die within an epoch
    head = list(net.head.parameters())
    head_ids = {id(p) for p in head}
    rest = [p for p in localising.parameters() if p.requires_grad and id(p) not in head_ids]
    localising.localiser.requires_grad_(options.localise > 0)  # DistributedDataParallel waits for every gradient
    fit_one_cycle(
        localising, loss=loss, slices=train,
        groups=[{"params": head, "lr": options.lr / 30}, {"params": rest, "lr": options.lr}],
        transform=augmentation(placing.size),
        validate=(lambda: validation_metrics(net, validation, preprocess, device)) if validation else None,
        options=options, device=device, dtype=dtype,
    )  # fmt: skip
    if not is_main_process():
        return
    entry = save_run(
        options, net, command=["train.classifier", *arguments], name="resnet50-lgg",
        summary="ResNet50 with the paper's head: does this slice show tumour?", arguments=built,
        preprocess=preprocess, split=split, flips=True,
    )  # fmt: skip
    print(f"{entry.name}: {entry.parameters:,} parameters in {entry.folder}")


if __name__ == "__main__":
    record(main)()  # torchrun then reports which process failed, and how
