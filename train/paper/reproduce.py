"""The paper's own protocol, as written: python -m train.paper.reproduce paper --data DIR --out RUN [--only NETWORK] [--release] …

Its ResUNet and its ResNet50 (Deng, Cui, Liu), split by slice, without augmentation, at the paper's learning rates, so that its
figures can be set beside those of this project's models, which are split by patient; the ResUNet once more, with nothing
changed but that the split is by patient; and on the very slices of its split this project's own network by its own recipe. RUN
becomes the model folder of `resunet-paper`, with the curves of the paper's Figures 1 and 2, its Figure 3, and `table.md`. Where
the paper and public code of its lineage disagree, `--lr` and `--frozen` try either.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from brainmri.zoo.backends import TORCH
from brainmri.zoo.entry import CONFIG, SPLIT, WEIGHTS, new_config, save_entry
from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.nets import ResNet50Classifier, ResUNet
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.registry import EMBEDDED, load, resolve_device
from train import segmenter
from train.classifier import head_arguments
from train.data import load_placed
from train.datasets import Slice
from train.datasets.lgg import HELD_OUT, LGG
from train.evaluation.evaluate import paper_tversky
from train.evaluation.metrics import dice, with_interval
from train.evaluation.predictions import outline_of, predict_case
from train.loop import choose_precision, plot_history
from train.losses import segmentation_loss, tversky_index
from train.paper.comparison import BY_PATIENT, OURS, SEGMENTER, figure_3, write_table
from train.paper.keras_schedule import KerasAdam, best_row, fit_best, plateau_scheduler
from train.paper.slicewise import SliceSplit, split_for_classifier, split_for_segmenter, split_for_segmenter_by_patient
from train.phantoms import write_phantom_dataset
from train.pretrained import imagenet_resnet50
from train.release.card import write_card
from train.release.release import store_answer
from train.run import find_eligible, without_paths

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "resunet-paper"
# a shipped network and its growing sizes, but the paper's loss, and slices with tumour alone as the protocol has it
OURS_RECIPE = "--net effunet-lite2 --loss focal-tversky-pooled --tumour-share 1 --batch 8 --workers 0 --validate-every 8".split()
OURS_STAGES = [(0.75, 24, 2e-3), (1.0, 36, 1e-3)]  # share of the size, epochs (the paper's 60 in all), peak of the learning rate
SIZE_STEP = 32  # sides that its five halvings divide


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("protocol", choices=["paper"])
    add("--data", type=Path, help="folder in the Kaggle layout (kaggle_3m/ or its parent)")
    add("--out", type=Path, required=True, help="run folder, outside the repository: its Figure 3 shows patients")
    add("--only", choices=list(NETWORKS), help="train and measure one of them; the table takes the others' figures from RUN")
    add("--release", action="store_true", help=f"write {ENTRY} into the zoo, with its card")
    add("--epochs", type=int, help="instead of the paper's 60 for the segmenter, 50 for the classifier; of ours, in each stage")
    add("--size", type=int, default=256, help="side of the networks' input; the paper's is 256")
    add("--lr", type=float, default=0.05, help="of the segmenter; some public code has 0.001")
    add("--base", choices=["imagenet", "none"], default="imagenet", help="starting weights of the classifier's base")
    add("--frozen", action="store_true", help="keep the base as it is, as the paper says; its public relatives train it")
    add("--precision", choices=["auto", "float32", "bfloat16"], default="auto", help="auto times both and takes the faster")
    add("--device", default="auto")
    add("--seed", type=int, default=0, help="of the split and the training")
    add("--resume", action="store_true", help="continue from the checkpoints in --out")
    add("--smoke", action="store_true", help="the whole thing on seven synthetic patients, in under a minute")
    return parser.parse_args(arguments)


def run_segmenter(options: argparse.Namespace, slices: list[Slice], device: torch.device, name: str = SEGMENTER) -> dict:
    """Train ResUNet on the slices with tumour, save the entry, draw Figures 2 and 3; returns what was measured."""
    preprocess = Preprocess(size=options.size, crop=False)
    make_split = split_for_segmenter_by_patient if name == BY_PATIENT else split_for_segmenter
    split = make_split([s for s in slices if s.read_mask().any()], options.seed)
    net = ResUNet().to(device, memory_format=torch.channels_last)
    criterion = segmentation_loss("focal-tversky-pooled")
    optimiser = KerasAdam(net.parameters(), lr=options.lr, eps=0.1)

    def loss(batch):
        image = preprocess.normalise(batch["image"]).to(memory_format=torch.channels_last)
        logits, mask = net(image), (batch["mask"] > 0.5).float()
        return criterion(logits, mask), {"Tversky": tversky_index(logits.detach().float().sigmoid(), mask)}

    history = train(
        options, net, name, split, preprocess, device, loss=loss, optimiser=optimiser,
        epochs=options.epochs or 60, recipe={"lr": options.lr}, scheduler=plateau_scheduler(optimiser), patience=20,
    )  # fmt: skip
    best = best_row(history)
    folder = options.out / name if name == BY_PATIENT else options.out
    config, roles = describe_entry(options, net, preprocess, split, best["epoch"] * len(split.train), arguments={})
    save_entry(folder, net, config, roles)
    rows, figures = on_test_slices(folder, split, options)
    plot_history(history, folder / "figure-2.png")
    found = describe_run(options, split, split.test, best["epoch"], len(history)) | {"figures": values(figures)}
    if name == SEGMENTER:
        counts = {"patients": len({row["case"] for row in rows}), "slices": len(rows)}
        metrics = {
            "protocol": "the paper's, a split by slice: slices with tumour, of patients whose other slices are trained on; "
            f"{found['neighbour_in_training']} of them lie next to one of those. So no figure here speaks of new patients",
            "stages": 1,
            "machine": f"{platform.machine()} {device.type.upper()}, float32, torch {torch.__version__.split('+')[0]}",
            "variants": {THREE_SEQUENCES: counts | figures},
        }
        roles["validated_on"] = sorted({row["case"] for row in rows})
        save_entry(folder, net, config | {"metrics": metrics}, roles)
    return found


def on_test_slices(folder: Path, split: SliceSplit, options: argparse.Namespace) -> tuple[list[dict], dict[str, dict]]:
    """A segmenter's rows of the test slices, and their figures; its Figure 3 goes into its folder."""
    model = load(folder, device=options.device, runtime=TORCH)
    rows = predict_case(list(split.test), model, None)
    figure_3(list(split.test), rows, model.entry.mask_threshold, folder / "figure-3.png")
    return rows, measure(rows)


def values(figures: dict[str, dict]) -> dict[str, float]:
    """Figures without their intervals."""
    return {name: figure["value"] for name, figure in figures.items()}


def measure(rows: list[dict]) -> dict[str, dict]:
    """Figures of slices with tumour, `predict_case`'s rows, the interval by bootstrap over their patients."""
    sliced: dict[str, list[float]] = {}
    for row in rows:
        sliced.setdefault(row["case"], []).append(dice(outline_of(row), row["mask"]))
    return {
        TVERSKY: {"value": paper_tversky(rows)},
        SLICE_DICE: with_interval(list(sliced.values()), lambda drawn: np.mean(np.concatenate(drawn))),
    }


def run_by_patient(options: argparse.Namespace, slices: list[Slice], device: torch.device) -> dict:
    """The very same of a split by patient, in a folder of its own."""
    return run_segmenter(options, slices, device, BY_PATIENT)


def run_ours(options: argparse.Namespace, slices: list[Slice], device: torch.device) -> dict:
    """This project's network, augmentation and stages on the split of `run_segmenter`; returns what was measured.

    The weights are the last epoch's: the validation slices pick nothing here.
    """
    split = split_for_segmenter([s for s in slices if s.read_mask().any()], options.seed)
    print(f"{OURS}: {len(split.train)} slices train, {len(split.validation)} validate, {len(split.test)} test")
    folder = options.out / OURS
    common = {"samples": len(split.train), "precision": options.precision, "encoder": "none" if options.smoke else "imagenet"}
    net, epochs = None, 0
    for stage, (share, usual, lr) in enumerate(OURS_STAGES):
        preprocess = Preprocess(size=SIZE_STEP * round(share * options.size / SIZE_STEP))
        asked = {"size": preprocess.size, "epochs": options.epochs or usual, "lr": lr, "seed": options.seed + stage}
        asked |= {"out": folder / f"stage-{stage + 1}"}
        told = [part for key, value in (asked | common).items() for part in (f"--{key}", str(value))]
        recipe = segmenter.parse([*OURS_RECIPE, *told, *(["--resume"] if options.resume else [])])
        net = net or segmenter.build(recipe)
        train, validation = (load_placed(part, preprocess) for part in (split.train, split.validation))
        segmenter.train_net(net, recipe, train, validation, preprocess, device)
        epochs += recipe.epochs
    _, what, _, arguments = segmenter.NETS[recipe.net]
    config, roles = describe_entry(
        options, net, preprocess, split, epochs * len(split.train), name=OURS, what=what, arguments=arguments, flips=True
    )  # fmt: skip
    save_entry(folder, net, config, roles)
    _, figures = on_test_slices(folder, split, options)
    return describe_run(options, split, split.test, epochs, epochs) | {"figures": values(figures)}


def run_classifier(options: argparse.Namespace, slices: list[Slice], device: torch.device) -> dict:
    """Train ResNet50 on every slice and draw Figure 1; returns what was measured.

    It sees pixels / 255, which no entry's preprocessing expresses, so it stays a checkpoint and no entry is made of it.
    """
    preprocess = Preprocess(size=options.size, crop=False)
    split = split_for_classifier(slices, [bool(s.read_mask().any()) for s in slices], options.seed)
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
    best = best_row(history)
    return describe_run(options, split, split.validation, best["epoch"], len(history)) | {
        "figures": {ACCURACY: best["validation accuracy"]}
    }


NETWORKS = {SEGMENTER: run_segmenter, BY_PATIENT: run_by_patient, OURS: run_ours, "classifier": run_classifier}


def train(
    options: argparse.Namespace, net: nn.Module, name: str, split: SliceSplit, preprocess: Preprocess, device: torch.device,
    *, recipe: dict, **schedule,
) -> list[dict]:  # fmt: skip
    """What the networks share around `fit_best`, which takes the schedule and returns the history."""
    print(f"{name}: {len(split.train)} slices train, {len(split.validation)} validate, {len(split.test)} test")
    dtype = choose_precision(options.precision, net, options.size, device)
    print(f"{type(net).__name__} on {device} in {str(dtype).removeprefix('torch.')}")
    common = {key: getattr(options, key) for key in ("size", "seed", "precision")}
    return fit_best(
        net, train=load_placed(split.train, preprocess), validation=load_placed(split.validation, preprocess),
        out=options.out / name, recipe=common | {"slices": len(split.train)} | recipe, seed=options.seed,
        resume=options.resume, device=device, dtype=dtype, **schedule,
    )  # fmt: skip


def describe_run(options: argparse.Namespace, split: SliceSplit, role: tuple[Slice, ...], epoch: int, epochs: int) -> dict:
    """How a network was trained, and how many of the slices that measure it lie next to one it was trained on.

    Args:
        epoch: whose weights it has, of so many `epochs`.
    """
    return {
        "command": options.command,
        "epoch": epoch,
        "epochs": epochs,
        "training_slices": len(split.train),
        "measured_slices": len(role),
        "measured_patients": len({s.case for s in role}),
        "neighbour_in_training": split.with_a_neighbour_in_training(role),
    }


def describe_entry(
    options: argparse.Namespace, net: PretrainedNet, preprocess: Preprocess, split: SliceSplit, samples: int,
    *, name: str = ENTRY, what: str = "The paper's ResUNet", **others,
) -> tuple[dict, dict]:  # fmt: skip
    """A segmenter's `config.json`, unmeasured, and its `split.json`.

    That one counts every patient with a training slice as trained on, which in a split by slice is all of them: so no run may
    validate on one of them after starting from these weights. Beside that it lists the slices by role.
    """
    roles = {"train": split.train, "validation": split.validation, "test": split.test}
    patients = sorted({s.case for s in split.train})
    config = new_config(
        name=name, net=type(net).__name__, tasks=net.tasks, preprocess=preprocess,
        summary=f"{what}, by the paper's protocol at {preprocess.size} x {preprocess.size}: split by slice, so no figure of it "
        "speaks of new patients",
        training={
            "dataset": LGG.reference,
            "stages": [{"command": options.command, "samples": samples, "patients": len(patients)}],
            "torch": torch.__version__.split("+")[0],
        },
        **others,
    )  # fmt: skip
    return config, {
        "train": patients, "validation": [], "held_out": sorted(HELD_OUT), "unit": "slice",
        "slices": {role: sorted(s.image.stem for s in part) for role, part in roles.items()},
    }  # fmt: skip


def release(run: Path, into: Path) -> None:
    """Copy the run's entry among others, as `train.release.release` does: with its answer to the self-check, and its card."""
    folder = into / ENTRY
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, SPLIT, WEIGHTS):
        shutil.copyfile(run / name, folder / name)
    write_card(store_answer(folder))
    print(f"released {ENTRY} into {into}")


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.out.resolve().is_relative_to(ROOT):
        raise SystemExit(
            f"--out {options.out} lies inside the repository, where Figure 3 could be committed: it shows patients, whose slices "
            "must not be; choose a folder outside"
        )
    options.command = " ".join(["python", "-m", *without_paths(["train.paper.reproduce", *arguments])])
    options.out.mkdir(parents=True, exist_ok=True)
    if options.smoke:
        options.epochs, options.size, options.base = options.epochs or 2, 64, "none"
        if options.data is None:
            options.data = options.out / "phantoms"
            write_phantom_dataset(options.data, patients=7, slices=4)
    slices = [s for case in find_eligible(LGG, options.data).values() for s in case]
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
    if options.release:
        release(options.out, EMBEDDED)


if __name__ == "__main__":
    main()
