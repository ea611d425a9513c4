"""The paper's own protocol, as written: python -m train.reproduce paper --data DIR --out RUN [--only segmenter|classifier] …

Its ResUNet and its ResNet50 (Deng, Cui, Liu), split by slice, without augmentation, at the paper's learning rates, so that its
figures can be set beside those of this project's models, which are split by patient. RUN becomes the model folder of
`resunet-paper`, with the curves of the paper's Figures 1 and 2, its Figure 3, and `table.md`. Where the paper and public code of
its lineage disagree, `--lr` and `--frozen` try either.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from brainmri.entry import new_config, save_entry
from brainmri.nets import ResNet50Classifier, ResUNet
from brainmri.preprocess import Preprocess
from brainmri.zoo import load, resolve_device
from train.classifier import head_arguments
from train.comparison import figure_3, write_table
from train.data import HELD_OUT, Slice, load_placed, read_mask
from train.evaluate import ACCURACY, SLICE_DICE, TVERSKY, paper_tversky
from train.loop import choose_precision, plot_history
from train.losses import segmentation_loss, tversky_index
from train.metrics import dice
from train.phantoms import write_phantom_dataset
from train.plateau import KerasAdam, best_row, fit_best, plateau_scheduler
from train.pretrained import imagenet_resnet50
from train.rows import outline_of, predict_case
from train.run import DATASET, find_eligible, without_paths
from train.slicewise import SliceSplit, split_for_classifier, split_for_segmenter

ROOT = Path(__file__).resolve().parent.parent
ENTRY = "resunet-paper"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("protocol", choices=["paper"])
    add("--data", type=Path, help="folder in the Kaggle layout (kaggle_3m/ or its parent)")
    add("--out", type=Path, required=True, help="run folder, outside the repository: its Figure 3 shows patients")
    add("--only", choices=list(NETWORKS), help="train and measure one of the two; the table takes the other's figures from RUN")
    add("--epochs", type=int, help="instead of the paper's 60 for the segmenter and 50 for the classifier")
    add("--size", type=int, default=256, help="side of the networks' input; the paper's is 256")
    add("--lr", type=float, default=0.05, help="of the segmenter; some public code has 0.001")
    add("--base", choices=["imagenet", "none"], default="imagenet", help="starting weights of the classifier's base")
    add("--frozen", action="store_true", help="keep the base as it is, as the paper says; its public relatives train it")
    add("--precision", choices=["auto", "float32", "bfloat16"], default="auto", help="auto times both and takes the faster")
    add("--device", default="auto")
    add("--seed", type=int, default=0, help="of the split and the training")
    add("--resume", action="store_true", help="continue from the checkpoints in --out")
    add("--smoke", action="store_true", help="the whole thing on three synthetic patients, in under a minute")
    return parser.parse_args(arguments)


def run_segmenter(options: argparse.Namespace, slices: list[Slice], device: torch.device) -> dict:
    """Train ResUNet on the slices with tumour, save the entry, draw Figures 2 and 3; returns what was measured."""
    preprocess = Preprocess(size=options.size, crop=False)
    split = split_for_segmenter([s for s in slices if read_mask(s.mask).any()], options.seed)
    net = ResUNet().to(device, memory_format=torch.channels_last)
    criterion = segmentation_loss("focal-tversky-pooled")
    optimiser = KerasAdam(net.parameters(), lr=options.lr, eps=0.1)

    def loss(batch):
        image = preprocess.normalise(batch["image"]).to(memory_format=torch.channels_last)
        logits, mask = net(image), (batch["mask"] > 0.5).float()
        return criterion(logits, mask), {"Tversky": tversky_index(logits.detach().float().sigmoid(), mask)}

    history = train(
        options, net, "segmenter", split, preprocess, device, loss=loss, optimiser=optimiser,
        epochs=options.epochs or 60, recipe={"lr": options.lr}, scheduler=plateau_scheduler(optimiser), patience=20,
    )  # fmt: skip
    best = best_row(history)
    plot_history(history, options.out / "figure-2.png")
    save(options, net, preprocess, split, samples=best["epoch"] * len(split.train))
    model = load(options.out, device=options.device)
    rows = predict_case(list(split.test), model, None)
    figure_3(list(split.test), rows, model.entry.mask_threshold, options.out / "figure-3.png")
    sliced = [dice(outline_of(row), row["mask"]) for row in rows]
    return described(options, split, split.test, history) | {
        "figures": {TVERSKY: paper_tversky(rows), SLICE_DICE: float(np.mean(sliced))}
    }


def run_classifier(options: argparse.Namespace, slices: list[Slice], device: torch.device) -> dict:
    """Train ResNet50 on every slice and draw Figure 1; returns what was measured.

    It sees pixels / 255, which no entry's preprocessing expresses, so it stays a checkpoint and no entry is made of it.
    """
    preprocess = Preprocess(size=options.size, crop=False)
    split = split_for_classifier(slices, [bool(read_mask(s.mask).any()) for s in slices], options.seed)
    net = ResNet50Classifier(**head_arguments(options.size, dropout=0.3), frozen=options.frozen)
    if options.base == "imagenet":
        imagenet_resnet50(net)
    net = net.to(device, memory_format=torch.channels_last)
    optimiser = KerasAdam([p for p in net.parameters() if p.requires_grad], lr=1e-3, eps=1e-7)  # Keras' defaults

    def loss(batch):
        logits = net(batch["image"].to(memory_format=torch.channels_last))
        right = logits.argmax(1) == batch["tumour"]
        return F.cross_entropy(logits.float(), batch["tumour"]), {"accuracy": right.float().mean().item()}

    history = train(
        options, net, "classifier", split, preprocess, device, loss=loss, optimiser=optimiser,
        epochs=options.epochs or 50, recipe={"base": options.base, "frozen": options.frozen},
    )  # fmt: skip
    plot_history(history, options.out / "figure-1.png")
    return described(options, split, split.validation, history) | {
        "figures": {ACCURACY: best_row(history)["validation accuracy"]}
    }


NETWORKS = {"segmenter": run_segmenter, "classifier": run_classifier}


def train(
    options: argparse.Namespace, net: nn.Module, name: str, split: SliceSplit, preprocess: Preprocess, device: torch.device,
    *, recipe: dict, **schedule,
) -> list[dict]:  # fmt: skip
    """What both networks share around `fit_best`, which takes the schedule and returns the history."""
    print(f"{name}: {len(split.train)} slices train, {len(split.validation)} validate, {len(split.test)} test")
    dtype = choose_precision(options.precision, net, options.size, device)
    print(f"{type(net).__name__} on {device} in {str(dtype).removeprefix('torch.')}")
    common = {key: getattr(options, key) for key in ("size", "seed", "precision")}
    return fit_best(
        net, train=load_placed(split.train, preprocess), validation=load_placed(split.validation, preprocess),
        out=options.out / name, recipe=common | {"slices": len(split.train)} | recipe, seed=options.seed,
        resume=options.resume, device=device, dtype=dtype, **schedule,
    )  # fmt: skip


def described(options: argparse.Namespace, split: SliceSplit, role: tuple[Slice, ...], history: list[dict]) -> dict:
    """How a network was trained, and how many of the slices that measure it lie next to one it was trained on."""
    return {
        "command": options.command,
        "epoch": best_row(history)["epoch"],
        "epochs": len(history),
        "training_slices": len(split.train),
        "measured_slices": len(role),
        "neighbour_in_training": split.with_a_neighbour_in_training(role),
    }


def save(options: argparse.Namespace, net: ResUNet, preprocess: Preprocess, split: SliceSplit, samples: int) -> None:
    """Write the segmenter into the run folder as an entry that has not been measured by patient.

    Its `split.json` counts every patient as trained on, since the split went through them: so no run may validate on any of
    them after starting from these weights. Beside that it lists the slices by role.
    """
    roles = {"train": split.train, "validation": split.validation, "test": split.test}
    config = new_config(
        name=ENTRY, net="ResUNet", tasks=net.tasks, arguments={}, preprocess=preprocess,
        summary="The paper's ResUNet by the paper's protocol: split by slice, so no figure of it speaks of new patients",
        training={
            "dataset": DATASET,
            "stages": [{"command": options.command, "samples": samples, "patients": len(split.patients)}],
            "torch": torch.__version__.split("+")[0],
        },
    )  # fmt: skip
    save_entry(
        options.out, net, config,
        {"train": split.patients, "validation": [], "held_out": sorted(HELD_OUT), "unit": "slice",
         "slices": {role: sorted(s.image.stem for s in part) for role, part in roles.items()}},
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.out.resolve().is_relative_to(ROOT):
        raise SystemExit(
            f"--out {options.out} lies inside the repository, where Figure 3 could be committed: it shows patients, whose slices "
            "must not be; choose a folder outside"
        )
    options.command = " ".join(["python", "-m", *without_paths(["train.reproduce", *arguments])])
    options.out.mkdir(parents=True, exist_ok=True)
    if options.smoke:
        options.epochs, options.size, options.base = options.epochs or 2, 64, "none"
        if options.data is None:
            options.data = options.out / "phantoms"
            write_phantom_dataset(options.data, patients=3, slices=6)
    slices = [s for case in find_eligible(options.data).values() for s in case]
    device = resolve_device(options.device)
    for name in [options.only] if options.only else NETWORKS:
        torch.manual_seed(options.seed)
        measured = NETWORKS[name](options, slices, device)
        (options.out / f"{name}.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    runs = {}
    for name in NETWORKS:
        path = options.out / f"{name}.json"
        if path.is_file():
            runs[name] = json.loads(path.read_text(encoding="utf-8"))
    print(write_table(options.out, runs, own=ENTRY))


if __name__ == "__main__":
    main()
