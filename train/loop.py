"""One epoch after another: what every training command shares, and the schedule of the segmenter's and the classifier's."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import torch
from monai.data import DataLoader, ThreadDataLoader
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from train import distributed
from train.arguments import recipe_of
from train.data import TumourShareSampler, write_csv
from train.depthwise import speed_up_depthwise


def choose_precision(asked: str, net: nn.Module, size: int, device: torch.device) -> torch.dtype:
    """The dtype to train in: on some CPUs bfloat16 is twice as fast, on others twenty times slower, so time one step of each."""
    if asked != "auto":
        return getattr(torch, asked)
    if device.type == "cuda":
        return torch.bfloat16
    if device.type != "cpu":
        return torch.float32
    image = torch.randn(4, 3, size, size, device=device).to(memory_format=torch.channels_last)
    was_training = net.training
    net.eval()  # the probe must not touch batch-norm statistics
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        for _ in range(2):  # the first pass warms up
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16), torch.no_grad():
                net(image)
            seconds[dtype] = time.perf_counter() - began
    net.train(was_training)
    return distributed.broadcast(min(seconds, key=seconds.get))


def plot_history(rows: list[dict], path: Path) -> None:
    """Loss on the left, every other figure on the right, over epochs, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for key in dict.fromkeys(k for row in rows for k in row if k not in ("epoch", "learning rate", "seconds")):
        points = [(row["epoch"], row[key]) for row in rows if key in row]
        (left if "loss" in key else right).plot(*zip(*points, strict=True), marker=".", label=key)
    for axes, title in ((left, "loss"), (right, "figures")):
        axes.set(xlabel="epoch", title=title)
        if axes.lines:
            axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


Loss = Callable[[dict[str, Tensor]], tuple[Tensor, dict[str, float]]]
Scheduler = torch.optim.lr_scheduler.LRScheduler


def on_device(raw: dict, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a batch of slices where the network is."""
    return {k: raw[k].to(device, non_blocking=True) for k in ("image", "mask", "tumour")}


def load_batches(
    dataset: Dataset, drawn: Sampler, batch: int, generator: torch.Generator, options: argparse.Namespace, device: torch.device
) -> DataLoader:
    """An epoch's batches, augmented by processes on the CPU, or by a thread where the slices lie (`--on-device`)."""
    if options.on_device:
        return ThreadDataLoader(dataset, batch_size=batch, sampler=drawn, num_workers=0, generator=generator)
    return DataLoader(
        dataset, batch_size=batch, sampler=drawn, num_workers=options.workers, generator=generator,
        pin_memory=device.type == "cuda",
    )  # fmt: skip


def seed_epoch(seed: int, epoch: int) -> torch.Generator:
    """Seed torch so that everything random in an epoch follows from these two; the generator is for the epoch's loader."""
    torch.manual_seed(seed * 100_003 + epoch + (distributed.rank() << 40))  # every process drops out neurons of its own
    return torch.Generator().manual_seed(seed * 100_003 + epoch)


def train_epoch(
    net: nn.Module,
    loader: Iterable[dict],
    loss: Loss,
    optimiser: torch.optim.Optimizer,
    *,
    device: torch.device,
    dtype: torch.dtype,
    title: str,
    clip: float | None = None,
    scheduler: Scheduler | None = None,
    accumulate: int = 1,
) -> dict[str, float]:
    """One pass over a loader.

    Args:
        loss: a batch with `image` (B, 3, S, S) in [0, 1], `mask` (B, 1, S, S) and `tumour` (B,) to the loss and the figures
            to show beside it.
        clip: largest norm of the gradient, where it has one.
        scheduler: stepped with the optimiser, where there is one.
        accumulate: batches whose mean gradient makes a step; the loader's length is a multiple of it.

    Returns:
        Means over the batches of all processes: `loss`, and the figures by their names.
    """
    net.train()
    sums: dict[str, float] = {}
    with tqdm(loader, desc=title, unit="batch", mininterval=5, disable=not distributed.is_main_process()) as bar:
        for number, raw in enumerate(bar, 1):
            complete = number % accumulate == 0
            with nullcontext() if complete else distributed.no_sync(loss):
                with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                    value, figures = loss(on_device(raw, device))
                (value / accumulate).backward()
            if complete:
                if clip:
                    nn.utils.clip_grad_norm_(net.parameters(), clip)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                if scheduler:
                    scheduler.step()
            for key, figure in {"loss": value.item(), **figures}.items():
                sums[key] = sums.get(key, 0.0) + figure
            bar.set_postfix({k: f"{v / number:.4f}" for k, v in sums.items()})
    return distributed.mean_over_processes({key: total / number for key, total in sums.items()})


def load_checkpoint(path: Path, recipe: str, device: torch.device) -> dict:
    """What `save_checkpoint` wrote; ValueError when it is of a run by another recipe."""
    state = torch.load(path, map_location=device, weights_only=True)
    if state["recipe"] != recipe:
        raise ValueError(f"{path} is of a run with other options: {state['recipe']}; this one: {recipe}")
    return state


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint beside the last one, then in its place: an interruption leaves a whole one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def report(row: dict) -> None:
    """An epoch's row, on a line."""
    print("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def fit(
    net: nn.Module,
    *,
    loss: Loss,
    groups: list[dict],
    slices: list[dict],
    transform: Callable[[dict], dict],
    validate: Callable[[], dict[str, float]] | None,
    options: argparse.Namespace,
    device: torch.device,
    dtype: torch.dtype,
) -> list[dict]:
    """Train with AdamW on a one-cycle schedule; the last epoch's weights are the result, so validation selects nothing.

    Everything random in an epoch follows from the seed and the epoch's number, and the checkpoint holds the rest:
    a resumed run ends where an unbroken one would have; by another number of processes (`train.distributed`), up to rounding
    and what batch norm sees. A step's `--batch` slices are shared among them, and each takes its own in `--accumulate` parts.

    Args:
        net: trained in place; every module whose parameters stand in `groups`.
        loss: as in `train_epoch`.
        groups: AdamW's parameter groups, each with its `lr`, the peak of its schedule.
        slices: what `train.data.load_placed` gives.
        transform: augmentation of one such dict.
        validate: figures on the validation patients, or None.

    Returns:
        One row an epoch, as written to `history.csv`; the validation's figures are on rank 0 alone.

    Raises:
        ValueError: when `--resume` meets a checkpoint of a run with other options, the batch cannot be shared, or there are too
            few steps for a schedule.
    """
    micro = distributed.micro_batch(options.batch, options.samples, options.accumulate)
    batches = -(-options.samples // options.batch)
    steps = options.epochs * batches
    if steps < 3:
        raise ValueError(f"{steps} steps came (--epochs, --samples, --batch); a schedule that rises and falls takes 3 or more")
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    optimiser = torch.optim.AdamW(groups, weight_decay=options.weight_decay, fused=device.type in ("cpu", "cuda"))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=[g["lr"] for g in groups],
        total_steps=steps,
        pct_start=max(0.25, 2 / steps),  # a rise of under two steps divides by zero
    )
    recipe = recipe_of(options)
    history: list[dict] = []
    checkpoint = out / "checkpoint.pt"
    if distributed.broadcast(options.resume and checkpoint.exists()):
        state = load_checkpoint(checkpoint, recipe, device)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        scheduler.load_state_dict(state["scheduler"])
        history = state["history"]
    if options.on_device:
        slices = [one | {key: one[key].to(device) for key in ("image", "mask")} for one in slices]
    sampler = TumourShareSampler(slices, options.samples, options.tumour_share, options.seed, options.evenness)
    if device.type == "cpu":
        speed_up_depthwise(net)
    dataset, drawn = distributed.share(slices, transform, sampler, micro)
    step_loss = distributed.synchronised(net, loss)
    for epoch in range(len(history), options.epochs):
        began = time.perf_counter()
        sampler.epoch = epoch
        loader = load_batches(dataset, drawn, micro, seed_epoch(options.seed, epoch), options, device)
        means = train_epoch(
            net, loader, step_loss, optimiser, device=device, dtype=dtype, title=f"epoch {epoch + 1}/{options.epochs}",
            clip=5.0, scheduler=scheduler, accumulate=options.accumulate,
        )  # fmt: skip
        row = {"epoch": epoch + 1, "train loss": means.pop("loss"), **means, "learning rate": scheduler.get_last_lr()[-1]}
        if (
            validate
            and distributed.is_main_process()
            and ((epoch + 1) % options.validate_every == 0 or epoch + 1 == options.epochs)
        ):
            net.eval()
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                row |= validate()
        row["seconds"] = time.perf_counter() - began
        history.append(row)
        report(row)
        if not distributed.is_main_process():
            continue
        save_checkpoint(
            checkpoint,
            {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "scheduler": scheduler.state_dict(),
             "history": history, "recipe": recipe},
        )  # fmt: skip
        write_csv(out / "history.csv", history)
        plot_history(history, out / "curves.png")
    net.eval()
    return history
