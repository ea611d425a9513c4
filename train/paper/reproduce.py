"""The paper's own protocol, as written: python -m train.paper.reproduce paper --data DIR --out RUN [--only NETWORK] [--release] …

It trains the ResUNet and the ResNet50 of the paper (Deng, Cui, Liu), split by slice, without augmentation, at the paper's
learning rates, to compare the paper's metrics with those of this project's models, which are split by patient. It trains the
ResUNet again with a split by patient and no other change, and this project's network by its own recipe on the same slices. RUN
becomes the model folder of `resunet-paper`, with the curves of the paper's Figures 1 and 2, its Figure 3, and `table.md`. Where
the paper and public code derived from it disagree, `--lr` and `--frozen` select one of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from brainmri.zoo.backends import TORCH
from brainmri.zoo.entry import copy_entry, new_config, save_entry
from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.metrics import ACCURACY, SLICE_DICE, THREE_SEQUENCES, TVERSKY, Measurements
from brainmri.zoo.nets.resnet import ResNet50Classifier
from brainmri.zoo.nets.resunet import ResUNet
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.records import Training, TrainingStage
from brainmri.zoo.registry import EMBEDDED, load, resolve_device
from train import segmenter
from train.classifier import head_arguments
from train.data import load_placed
from train.datasets import Slice
from train.datasets.lgg import HELD_OUT, LGG
from train.evaluation.evaluate import paper_tversky
from train.evaluation.metrics import dice, pooled_mean, with_interval
from train.evaluation.predictions import SlicePrediction, predict_case
from train.loop import RunFiles, best_row, choose_precision, fit, to_channels_last
from train.losses import BatchLoss, segmentation_loss, tversky_index
from train.paper.comparison import BY_PATIENT, OURS, SEGMENTER, figure_3, write_table
from train.paper.keras_schedule import KerasAdam, plateau_scheduler, shuffled_epochs, validation_means
from train.paper.slicewise import SliceSplit, split_for_classifier, split_for_segmenter, split_for_segmenter_by_patient
from train.phantoms import write_phantom_dataset
from train.pretrained import imagenet_resnet50
from train.release.card import write_card
from train.release.release import describe_machine, store_selfcheck
from train.run import find_eligible, without_paths

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "resunet-paper"
# a shipped network and its growing sizes, but with the paper's loss and, as in the protocol, only slices with tumour
OURS_RECIPE = "--net effunet-lite2 --loss focal-tversky-pooled --tumour-share 1 --batch 8 --workers 0 --validate-every 8".split()
OURS_STAGES = [
    (0.75, 24, 2e-3),
    (1.0, 36, 1e-3),
]  # share of the size, epochs (60 in total, as in the paper), peak of the learning rate
SIZE_STEP = 32  # the network halves its input five times


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("protocol", choices=["paper"])
    add("--data", type=Path, help="folder in the Kaggle layout (kaggle_3m/ or its parent)")
    add("--out", type=Path, required=True, help="run folder, outside the repository: its Figure 3 shows patients")
    add("--only", choices=list(NETWORKS), help="train and measure one network; the table takes the others' metrics from RUN")
    add("--release", action="store_true", help=f"write {ENTRY} into the zoo, with its card")
    add(
        "--epochs",
        type=int,
        help="default: the paper's 60 for the segmenter, 50 for the classifier; for our network, epochs of each stage",
    )
    add("--size", type=int, default=256, help="side of the networks' input in pixels; 256 in the paper")
    add("--lr", type=float, default=0.05, help="learning rate of the segmenter; some public code has 0.001")
    add("--base", choices=["imagenet", "none"], default="imagenet", help="starting weights of the classifier's base")
    add("--frozen", action="store_true", help="do not train the base, as in the paper; public code derived from it does")
    add("--precision", choices=["auto", "float32", "bfloat16"], default="auto", help="auto times both and picks the faster")
    add("--device", default="auto")
    add("--seed", type=int, default=0, help="of the split and the training")
    add("--resume", action="store_true", help="continue from the checkpoints in --out")
    add("--smoke", action="store_true", help="run everything in under a minute, by default on seven synthetic patients")
    return parser.parse_args(arguments)


def run_segmenter(options: argparse.Namespace, slices: list[Slice], device: torch.device, name: str = SEGMENTER) -> dict:
    """Train ResUNet on the slices with tumour, save the entry, draw Figures 2 and 3; returns the run's record."""
    preprocess = Preprocess(size=options.size, crop=False)
    make_split = split_for_segmenter_by_patient if name == BY_PATIENT else split_for_segmenter
    split = make_split([s for s in slices if s.read_mask().any()], options.seed)
    net = ResUNet()
    to_channels_last(net, device)
    criterion = segmentation_loss("focal-tversky-pooled")
    optimiser = KerasAdam(net.parameters(), lr=options.lr, eps=0.1)

    def loss(batch):
        image = preprocess.normalise(batch["image"]).to(memory_format=torch.channels_last)
        logits, mask = net(image).mask, (batch["mask"] > 0.5).float()
        return criterion(logits, mask), {"Tversky": tversky_index(logits.detach().float().sigmoid(), mask)}

    folder = options.out / name if name == BY_PATIENT else options.out
    history = fit_paper(
        options, net, name, split, preprocess, device, loss=loss, optimiser=optimiser, curves=folder / "figure-2.png",
        epochs=options.epochs or 60, recipe={"lr": options.lr}, scheduler=plateau_scheduler(optimiser), patience=20,
    )  # fmt: skip
    best = best_row(history)
    config, roles = describe_entry(options, net, preprocess, split, best["epoch"] * len(split.train), arguments={})
    save_entry(folder, net, config, roles)
    rows, metrics = evaluate_test_slices(folder, split, options)
    record = describe_run(options, split, split.test, best["epoch"], len(history)) | {"figures": metric_values(metrics)}
    if name == SEGMENTER:
        counts = {"patients": len({row.case for row in rows}), "slices": len(rows)}
        measured = Measurements(
            protocol="paper protocol, split by slice: tumour slices of patients whose other slices are in the training set; "
            f"{record['neighbour_in_training']} of them are adjacent to a training slice. These figures say nothing about new "
            "patients",
            stages=1,
            machine=describe_machine(device),
            variants={THREE_SEQUENCES: counts | metrics},
        )
        roles["validated_on"] = sorted({row.case for row in rows})
        save_entry(folder, net, config | {"metrics": measured.config()}, roles)
    return record


def evaluate_test_slices(
    folder: Path, split: SliceSplit, options: argparse.Namespace
) -> tuple[list[SlicePrediction], dict[str, dict]]:
    """A segmenter's predictions for the test slices and their metrics; writes Figure 3 into its folder."""
    model = load(folder, device=options.device, runtime=TORCH)
    rows = predict_case(list(split.test), model, None)
    figure_3(list(split.test), rows, model.entry.mask_threshold, folder / "figure-3.png")
    return rows, measure(rows)


def metric_values(metrics: dict[str, dict]) -> dict[str, float]:
    """Metrics without their intervals."""
    return {name: metric["value"] for name, metric in metrics.items()}


def measure(rows: list[SlicePrediction]) -> dict[str, dict]:
    """Metrics of predictions for slices with tumour; 95% intervals by bootstrap over patients."""
    sliced: dict[str, list[float]] = {}
    for row in rows:
        sliced.setdefault(row.case, []).append(dice(row.mask, row.annotation))
    return {
        TVERSKY: {"value": paper_tversky(rows)},
        SLICE_DICE: with_interval(list(sliced.values()), pooled_mean),
    }


def run_by_patient(options: argparse.Namespace, slices: list[Slice], device: torch.device) -> dict:
    """`run_segmenter` with a split by patient, in its own folder."""
    return run_segmenter(options, slices, device, BY_PATIENT)


def run_ours(options: argparse.Namespace, slices: list[Slice], device: torch.device) -> dict:
    """This project's network, augmentation and stages on the split of `run_segmenter`; returns the run's record.

    The weights are the last epoch's: the validation slices select nothing here.
    """
    split = split_for_segmenter([s for s in slices if s.read_mask().any()], options.seed)
    print(f"{OURS}: slices for training {len(split.train)}, validation {len(split.validation)}, test {len(split.test)}")
    folder = options.out / OURS
    common = {"samples": len(split.train), "precision": options.precision, "encoder": "none" if options.smoke else "imagenet"}
    stages = []
    for stage, (share, default_epochs, lr) in enumerate(OURS_STAGES):
        size = SIZE_STEP * round(share * options.size / SIZE_STEP)
        of_stage = {"size": size, "epochs": options.epochs or default_epochs, "lr": lr, "seed": options.seed + stage}
        of_stage |= {"out": folder / f"stage-{stage + 1}"}
        arguments = [part for key, value in (of_stage | common).items() for part in (f"--{key}", str(value))]
        stages.append(segmenter.parse([*OURS_RECIPE, *arguments, *(["--resume"] if options.resume else [])]))
    net = segmenter.build(stages[0])
    for stage in stages:
        preprocess = Preprocess(size=stage.size)
        train, validation = (load_placed(list(part), preprocess) for part in (split.train, split.validation))
        segmenter.train_net(net, stage, train, validation, preprocess, device)
    epochs = sum(stage.epochs for stage in stages)
    preprocess, recipe = Preprocess(size=stages[-1].size), segmenter.NETS[stages[0].net]
    config, roles = describe_entry(
        options, net, preprocess, split, epochs * len(split.train), name=OURS, what=recipe.summary,
        arguments=recipe.arguments, flips=True,
    )  # fmt: skip
    save_entry(folder, net, config, roles)
    _, metrics = evaluate_test_slices(folder, split, options)
    return describe_run(options, split, split.test, epochs, epochs) | {"figures": metric_values(metrics)}


def run_classifier(options: argparse.Namespace, slices: list[Slice], device: torch.device) -> dict:
    """Train ResNet50 on every slice and draw Figure 1; returns the run's record (`describe_run`).

    Its input is pixels / 255, which an entry's preprocessing cannot express, so it remains a checkpoint.
    """
    preprocess = Preprocess(size=options.size, crop=False)
    split = split_for_classifier(slices, [bool(s.read_mask().any()) for s in slices], options.seed)
    net = ResNet50Classifier(**head_arguments(options.size, dropout=0.3), frozen=options.frozen)
    if options.base == "imagenet":
        imagenet_resnet50(net)
    to_channels_last(net, device)
    optimiser = KerasAdam([p for p in net.parameters() if p.requires_grad], lr=1e-3, eps=1e-7)  # Keras' defaults

    def loss(batch):
        logits = net(batch["image"].to(memory_format=torch.channels_last)).verdict
        correct = logits.argmax(1) == batch["tumour"]
        return F.cross_entropy(logits.float(), batch["tumour"]), {"accuracy": correct.float().mean().item()}

    history = fit_paper(
        options, net, "classifier", split, preprocess, device, loss=loss, optimiser=optimiser,
        curves=options.out / "figure-1.png", epochs=options.epochs or 50, recipe={"base": options.base, "frozen": options.frozen},
    )  # fmt: skip
    best = best_row(history)
    return describe_run(options, split, split.validation, best["epoch"], len(history)) | {
        "figures": {ACCURACY: best["validation accuracy"]}
    }


NETWORKS = {SEGMENTER: run_segmenter, BY_PATIENT: run_by_patient, OURS: run_ours, "classifier": run_classifier}


def fit_paper(
    options: argparse.Namespace, net: nn.Module, name: str, split: SliceSplit, preprocess: Preprocess, device: torch.device,
    *, loss: BatchLoss, recipe: dict, curves: Path, **schedule,
) -> list[dict]:  # fmt: skip
    """Train a network of the paper by the paper's protocol, and keep the epoch with the lowest validation loss.

    Args:
        recipe: the network's own options, which a resumed run must share.
        curves: path of the figure.
        schedule: further arguments of `train.loop.fit`.

    Returns:
        See `train.loop.fit`.
    """
    print(f"{name}: slices for training {len(split.train)}, validation {len(split.validation)}, test {len(split.test)}")
    dtype = choose_precision(options.precision, net, options.size, device)
    print(f"{type(net).__name__} on {device} in {str(dtype).removeprefix('torch.')}")
    train, validation = (load_placed(list(part), preprocess) for part in (split.train, split.validation))
    common = {key: getattr(options, key) for key in ("size", "seed", "precision")}
    return fit(
        net, loss=loss, load_epoch=shuffled_epochs(train, options.seed), keep_best=True,
        validate=lambda: validation_means(validation, loss, device), recipe=json.dumps(common | {"slices": len(train)} | recipe),
        files=RunFiles(checkpoint=options.out / f"{name}.pt", history=options.out / f"{name}.csv", curves=curves),
        resume=options.resume, device=device, dtype=dtype, **schedule,
    )  # fmt: skip


def describe_run(options: argparse.Namespace, split: SliceSplit, role: tuple[Slice, ...], epoch: int, epochs: int) -> dict:
    """How a network was trained, and how many of the measured slices are next to a training slice of the same patient.

    Args:
        role: the slices that it is measured on.
        epoch: the epoch whose weights it has.
        epochs: the number of epochs trained.
    """
    return {
        "command": " ".join(["python", "-m", *options.command]),
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

    The split lists every patient with a training slice under `train`, which in a split by slice is every patient, so a run that
    starts from these weights cannot validate on any of them. It also lists the slices by role.
    """
    roles = {"train": split.train, "validation": split.validation, "test": split.test}
    patients = sorted({s.case for s in split.train})
    config = new_config(
        name=name, net=type(net).__name__, tasks=net.tasks, preprocess=preprocess,
        summary=f"{what} with the paper's protocol at {preprocess.size} x {preprocess.size}, split by slice: its figures say "
        "nothing about new patients",
        training=Training(
            dataset=LGG.reference,
            stages=(TrainingStage(command=options.command, samples=samples, patients=len(patients)),),
            torch=torch.__version__.split("+")[0],
        ).config(),
        **others,
    )  # fmt: skip
    return config, {
        "train": patients, "validation": [], "held_out": sorted(HELD_OUT), "unit": "slice",
        "slices": {role: sorted(s.image.stem for s in part) for role, part in roles.items()},
    }  # fmt: skip


def release(run: Path, into: Path) -> None:
    """Copy the run's entry into a folder of entries and add self-check and card, as `train.release.release` does."""
    copy_entry(run, into / ENTRY)
    write_card(store_selfcheck(into / ENTRY))
    print(f"released {ENTRY} into {into}")


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.out.resolve().is_relative_to(ROOT):
        raise SystemExit(
            f"expected --out outside the repository, got {options.out}; choose another folder, because Figure 3 shows patients "
            "and must not be committed"
        )
    options.command = tuple(without_paths(["train.paper.reproduce", *arguments]))
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
    print(write_table(options.out, runs, excluded=ENTRY))
    if options.release:
        release(options.out, EMBEDDED)


if __name__ == "__main__":
    main()
