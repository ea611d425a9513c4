"""The training loop that every training command shares, and the schedule of the segmenter and the classifier."""

# pyright: reportPrivateImportUsage=false
# MONAI re-exports its classes without declaring them in __all__.

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from monai.data import DataLoader, ThreadDataLoader
from monai.transforms import Compose
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from train import distributed
from train.arguments import recipe_of
from train.data import TumourShareSampler, write_csv
from train.depthwise import speed_up_depthwise
from train.losses import BatchLoss
from train.profiling import profile_steps
from train.run import data_errors
from train.tracking import Tracker, finish_trackers, log_row, open_trackers

CLIP = 5.0  # largest gradient norm of the one-cycle schedule
SECONDS = 5.0  # between updates of the progress bar
CURVES_SECONDS = 20.0  # between drawings of the curves, each of which takes a third of a second


def choose_precision(precision: str, net: nn.Module, size: int, device: torch.device) -> torch.dtype:
    """The dtype to train in; "auto" is bfloat16 on CUDA devices that have it, else float32.

    On a CPU, "auto" times both: bfloat16 is twice as fast on some and twenty times slower on others.

    Raises:
        ValueError: for bfloat16 on a CUDA device that only emulates it.
    """
    emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if precision != "auto":
        if precision == "bfloat16" and emulated:
            raise ValueError("expected a GPU with bfloat16 (NVIDIA Ampere or newer), got one without; use --precision float32")
        return getattr(torch, precision)
    if device.type != "cpu":
        return torch.bfloat16 if device.type == "cuda" and not emulated else torch.float32
    image = torch.randn(4, 3, size, size, device=device).to(memory_format=torch.channels_last)
    was_training = net.training
    net.eval()  # timing must not change batch-norm statistics
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        for _ in range(2):  # the first pass warms up
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16), torch.no_grad():
                net(image)
            seconds[dtype] = time.perf_counter() - began
    net.train(was_training)
    return distributed.broadcast(min(seconds, key=lambda dtype: seconds[dtype]))


def to_channels_last(net: nn.Module, device: torch.device) -> None:
    """Move a network to the device in place, with its weights in the channels-last memory format."""
    net.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]: missing from torch's stubs


def plot_history(rows: list[dict], path: Path) -> None:
    """Loss on the left, every other metric on the right, over epochs, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4))  # matplotlib's layout engines would draw it twice
    left, right = figure.subplots(1, 2)
    for key in dict.fromkeys(k for row in rows for k in row if k not in ("epoch", "learning rate", "seconds")):
        points = [(row["epoch"], row[key]) for row in rows if key in row]
        (left if "loss" in key else right).plot(*zip(*points, strict=True), marker=".", label=key)
    for axes, title in ((left, "loss"), (right, "metrics")):
        axes.set(xlabel="epoch", title=title)
        if axes.lines:
            axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def to_device(batch: dict, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a batch of slices on the device."""
    return {key: value.to(device, non_blocking=True) for key, value in batch.items() if isinstance(value, Tensor)}


def keeps_workers(options: argparse.Namespace, device: torch.device) -> bool:
    """Whether the worker processes live as long as the run: on CUDA, which would wait for new ones at every epoch."""
    return device.type == "cuda" and options.workers > 0 and not options.on_device


def make_loader(
    dataset: Dataset, sampler: Sampler, batch: int, generator: torch.Generator, options: argparse.Namespace, device: torch.device
) -> DataLoader:
    """Batches, augmented by worker processes on the CPU, or by a thread on the device (`--on-device`)."""
    if options.on_device:
        return ThreadDataLoader(
            dataset,  # pyright: ignore[reportArgumentType]: any torch Dataset works
            batch_size=batch, sampler=sampler, num_workers=0, generator=generator,
        )  # fmt: skip
    return DataLoader(
        dataset, batch_size=batch, sampler=sampler, num_workers=options.workers, generator=generator,
        pin_memory=device.type == "cuda", persistent_workers=keeps_workers(options, device),
    )  # fmt: skip


def compile_net(net: nn.Module, device: torch.device) -> None:
    """Compile a network in place; its parameters and their names stay. SystemExit on another device than CUDA."""
    if device.type != "cuda":  # on CPUs compiling gains little, and once crashed the backward pass; see EXPERIMENTS.md
        raise SystemExit(f"expected CUDA for --compile, got {device.type}; remove --compile")
    net.compile()


def seed_epoch(seed: int, epoch: int) -> torch.Generator:
    """Seed torch so that all randomness in an epoch follows from these two; the generator is for the epoch's loader."""
    torch.manual_seed(seed * 100_003 + epoch + (distributed.rank() << 40))  # dropout differs between processes
    return torch.Generator().manual_seed(seed * 100_003 + epoch)


def train_epoch(
    net: nn.Module,
    loader: Iterable[dict],
    loss: BatchLoss,
    optimiser: Optimizer,
    *,
    device: torch.device,
    dtype: torch.dtype,
    title: str,
    clip: float | None = None,
    scheduler: LRScheduler | None = None,
    accumulate: int = 1,
    profile_to: Path | None = None,
) -> dict[str, float]:
    """One pass over a loader. Metrics are read from the device every few seconds, not in every step.

    Args:
        clip: largest norm of the gradient; None does not clip.
        scheduler: stepped after each step of the optimiser.
        accumulate: number of batches whose mean gradient makes a step; the loader's length is a multiple of it.
        profile_to: folder for a profile of some steps (`profile_steps`); None for none.

    Returns:
        Means over the batches of all processes: `loss`, and the loss function's metrics by name.
    """
    net.train()
    sums: dict[str, Tensor | float] = {}
    number, shown = 0, time.monotonic()
    with (
        profile_steps(profile_to, device) as profiled,
        tqdm(loader, desc=title, unit="batch", mininterval=SECONDS, disable=not distributed.is_main_process()) as bar,
    ):
        for number, batch in enumerate(bar, 1):
            complete = number % accumulate == 0
            with nullcontext() if complete else distributed.no_sync(loss):
                with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                    value, metrics = loss(to_device(batch, device))
                (value / accumulate).backward()
            if complete:
                if clip:
                    nn.utils.clip_grad_norm_(net.parameters(), clip)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                if scheduler:
                    scheduler.step()
            for key, metric in {"loss": value.detach().float(), **metrics}.items():
                sums[key] = sums.get(key, 0.0) + metric
            profiled()
            if time.monotonic() - shown > SECONDS:
                bar.set_postfix({key: f"{float(total) / number:.4f}" for key, total in sums.items()})
                shown = time.monotonic()
    return distributed.mean_over_processes({key: float(total) / number for key, total in sums.items()})


def load_checkpoint(path: Path, recipe: str, device: torch.device) -> dict:
    """What `save_checkpoint` wrote; ValueError when the checkpoint belongs to another recipe."""
    state = torch.load(path, map_location=device, weights_only=True)
    if state["recipe"] != recipe:
        raise ValueError(f"expected a checkpoint with these options: {recipe}, got other options in {path}: {state['recipe']}")
    return state


def restore(state: dict, net: nn.Module, optimiser: Optimizer, scheduler: LRScheduler | None) -> tuple[list[dict], dict | None]:
    """Load a checkpoint into network, optimiser and scheduler; returns the history and the best weights."""
    net.load_state_dict(state["net"])
    optimiser.load_state_dict(state["optimiser"])
    if scheduler:
        scheduler.load_state_dict(state["scheduler"])
    return state["history"], state["best"]


def state_of(
    net: nn.Module, best: dict | None, optimiser: Optimizer, scheduler: LRScheduler | None, history: list[dict], recipe: str
) -> dict:
    """The state that `restore` restores."""
    return {
        "net": net.state_dict(), "best": best, "optimiser": optimiser.state_dict(),
        "scheduler": scheduler.state_dict() if scheduler else None, "history": history, "recipe": recipe,
    }  # fmt: skip


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint to a second file, then replace the old one: an interruption leaves one of them complete."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def report(row: dict, remaining: float = 0.0) -> None:
    """Print an epoch's row on a line, and how many seconds the remaining epochs take."""
    words = [f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()]
    if remaining:
        words.append(f"remaining {tqdm.format_interval(round(remaining))}")
    print("  ".join(words), flush=True)


def remaining_seconds(history: list[dict], epochs: int) -> float:
    """The expected time of the epochs that are left, from those in the history."""
    return sum(row["seconds"] for row in history) / len(history) * (epochs - len(history))


def best_row(history: list[dict]) -> dict:
    """The first epoch with the lowest validation loss."""
    return min(history, key=lambda row: row["validation loss"])


@dataclass(kw_only=True)
class RunFiles:
    """The files that a training writes after each epoch: state to resume from, one row per epoch as CSV, curves as PNG."""

    checkpoint: Path
    history: Path
    curves: Path
    drawn: float = field(default_factory=time.monotonic, init=False)  # when the curves were drawn, or the run began

    def write(self, state: dict) -> None:
        """Write a checkpoint, and the rows in its `history`; draw the curves if `CURVES_SECONDS` have passed."""
        for path in (self.checkpoint, self.history, self.curves):
            path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(self.checkpoint, state)
        write_csv(self.history, state["history"])
        if time.monotonic() - self.drawn > CURVES_SECONDS:
            self.draw(state["history"])

    def draw(self, history: list[dict]) -> None:
        """Draw the curves."""
        plot_history(history, self.curves)
        self.drawn = time.monotonic()


def fit(
    net: nn.Module,
    *,
    loss: BatchLoss,
    optimiser: Optimizer,
    load_epoch: Callable[[int], Iterable[dict]],
    epochs: int,
    files: RunFiles,
    recipe: str,
    resume: bool,
    device: torch.device,
    dtype: torch.dtype,
    scheduler: LRScheduler | None = None,
    validate: Callable[[], dict[str, float]] | None = None,
    validate_every: int = 1,
    keep_best: bool = False,
    patience: int | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    trackers: Sequence[Tracker] = (),
    profile_to: Path | None = None,
) -> list[dict]:
    """Train epoch by epoch.

    All randomness in an epoch follows from the seed and the epoch's number (`seed_epoch`), and the checkpoint holds the rest: a
    resumed run ends with the same weights as an uninterrupted one. A finished run can be resumed for more epochs.

    Args:
        net: trained in place; it holds every parameter of the optimiser.
        load_epoch: number of the epoch, from 0, to its batches.
        recipe: what a resumed run must share with the run that it continues.
        scheduler: stepped after each step of the optimiser; `ReduceLROnPlateau` after each epoch, by the validation loss.
        validate: metrics on the validation slices. It runs in evaluation mode, on the main process.
        validate_every: epochs between validations; the last epoch is always validated.
        keep_best: return the weights of the epoch with the lowest validation loss instead of the last epoch's. This, `patience`
            and `ReduceLROnPlateau` need a `loss` from `validate` in every epoch, and a single process.
        patience: epochs without a lower validation loss after which training stops; None trains all epochs.
        clip, accumulate, profile_to: see `train_epoch`; only the first epoch is profiled.
        trackers: receive every row (`train.tracking`).

    Returns:
        One row per epoch, as written to the history. Only the main process has the validation's metrics.

    Raises:
        ValueError: when the checkpoint to resume from has another recipe.
        FloatingPointError: with `keep_best`, when the validation loss is not finite.
    """
    history: list[dict] = []
    best: dict | None = None
    if distributed.broadcast(resume and files.checkpoint.exists()):
        history, best = restore(load_checkpoint(files.checkpoint, recipe, device), net, optimiser, scheduler)
    plateau = scheduler if isinstance(scheduler, ReduceLROnPlateau) else None
    synced_loss = distributed.sync_gradients(net, loss)
    for epoch in range(len(history), epochs):
        if patience and history and len(history) - best_row(history)["epoch"] >= patience:
            print(f"stopped early: no lower validation loss in {patience} epochs")
            break
        began = time.perf_counter()
        trained = train_epoch(
            net, load_epoch(epoch), synced_loss, optimiser, device=device, dtype=dtype, title=f"epoch {epoch + 1}/{epochs}",
            clip=clip, scheduler=None if plateau else scheduler, accumulate=accumulate, profile_to=profile_to,
        )  # fmt: skip
        profile_to = None
        row = {"epoch": epoch + 1} | {f"train {key}": value for key, value in trained.items()}
        if validate and distributed.is_main_process() and ((epoch + 1) % validate_every == 0 or epoch + 1 == epochs):
            net.eval()
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                row |= {f"validation {key}": value for key, value in validate().items()}
        row |= {"learning rate": optimiser.param_groups[-1]["lr"], "seconds": time.perf_counter() - began}
        report(row, remaining_seconds([*history, row], epochs))
        log_row(trackers, row)
        if keep_best and not math.isfinite(row["validation loss"]):
            raise FloatingPointError(
                f"expected a finite validation loss, got {row['validation loss']} in epoch {epoch + 1}; try a smaller --lr"
            )
        history.append(row)
        if keep_best and best_row(history) is row:
            best = copy.deepcopy(net.state_dict())
        if plateau:
            plateau.step(row["validation loss"])
        if distributed.is_main_process():
            files.write(state_of(net, best, optimiser, scheduler, history, recipe))
    if distributed.is_main_process():
        files.draw(history)
    finish_trackers(trackers)
    if best:
        net.load_state_dict(best)
    net.eval()
    return history


def fit_one_cycle(
    net: nn.Module,
    *,
    loss: BatchLoss,
    groups: list[dict],
    slices: list[dict],
    transform: Compose,
    validate: Callable[[], dict[str, float]] | None,
    options: argparse.Namespace,
    device: torch.device,
    dtype: torch.dtype,
) -> list[dict]:
    """Train with AdamW on a one-cycle schedule; the last epoch's weights are the result, so validation selects nothing.

    A run can be resumed with another number of processes (`train.distributed`); the weights are then the same up to rounding and
    batch-norm statistics. The processes share the `--batch` slices of a step; each splits its part into `--accumulate` parts.

    Args:
        net: trained in place; every module whose parameters are in `groups`.
        groups: AdamW's parameter groups, each with its `lr`, the peak of its schedule.
        slices: from `train.data.load_placed`.
        transform: augmentation of one such dict.
        validate: metrics on the validation patients, or None.

    Returns:
        See `fit`.

    Raises:
        ValueError: when the checkpoint to resume from has other options, the batch cannot be split evenly, or there are too few
            steps for the schedule.
    """
    micro = distributed.micro_batch(options.batch, options.samples, options.accumulate)
    steps = options.epochs * -(-options.samples // options.batch)
    if steps < 3:
        raise ValueError(f"expected 3 steps or more for a one-cycle schedule, got {steps}; change --epochs, --samples or --batch")
    optimiser = torch.optim.AdamW(groups, weight_decay=options.weight_decay, fused=device.type in ("cpu", "cuda"))
    scheduler = OneCycleLR(
        optimiser,
        max_lr=[group["lr"] for group in groups],
        total_steps=steps,
        pct_start=max(0.25, 2 / steps),  # a rise of under two steps divides by zero
    )
    if options.on_device:
        slices = [one | {key: one[key].to(device) for key in ("image", "mask")} for one in slices]
    with data_errors():
        epoch_sampler = TumourShareSampler(slices, options.samples, options.tumour_share, options.seed, options.evenness)
    kept = keeps_workers(options, device)
    dataset, sampler = distributed.split_over_processes(slices, transform, epoch_sampler, micro, seeded=kept)
    if device.type == "cpu":
        speed_up_depthwise(net)
    if options.compile:
        compile_net(net, device)
    loaders: list[DataLoader] = []

    def load_epoch(epoch: int) -> DataLoader:
        epoch_sampler.epoch = epoch
        generator = seed_epoch(options.seed, epoch)
        if not (kept and loaders):
            loaders[:] = [make_loader(dataset, sampler, micro, generator, options, device)]
        return loaders[0]

    out: Path = options.out
    files = RunFiles(checkpoint=out / "checkpoint.pt", history=out / "history.csv", curves=out / "curves.png")
    return fit(
        net, loss=loss, optimiser=optimiser, load_epoch=load_epoch, epochs=options.epochs, files=files,
        recipe=recipe_of(options), resume=options.resume, device=device, dtype=dtype, scheduler=scheduler, validate=validate,
        validate_every=options.validate_every, clip=CLIP, accumulate=options.accumulate,
        trackers=open_trackers(options) if distributed.is_main_process() else (),
        profile_to=out if options.profile and distributed.is_main_process() else None,
    )  # fmt: skip
