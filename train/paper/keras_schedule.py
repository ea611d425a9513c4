"""The paper's schedule: epochs of every slice once, the rate cut on a plateau, an early stop, the best epoch kept."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from train.data import write_csv
from train.loop import Loss, load_checkpoint, on_device, report, save_checkpoint, seed_epoch, train_epoch

BATCH = 16


class KerasAdam(torch.optim.Adam):
    """Adam with its epsilon where Keras has it, beside the uncorrected second moment (Kingma and Ba 2014, "epsilon hat").

    The paper's 0.1 outweighs that moment, so the place matters: with torch's, the first steps are thirty times as long.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, eps: float) -> None:
        super().__init__(parameters, lr=lr)
        self.keras_eps = eps

    def step(self, closure=None):
        for group in self.param_groups:
            state = self.state.get(group["params"][0])
            number = 1 + int(state["step"]) if state else 1
            group["eps"] = self.keras_eps / math.sqrt(1 - group["betas"][1] ** number)
        return super().step(closure)


def plateau_scheduler(optimiser: torch.optim.Optimizer) -> torch.optim.lr_scheduler.ReduceLROnPlateau:
    """The rate times 0.2 after ten epochs without a validation loss lower by 1e-4, as Keras counts them.

    Keras cuts when ten epochs have brought nothing, torch when more than `patience` have.
    """
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.2, patience=9, threshold=1e-4, threshold_mode="abs")


def best_row(history: list[dict]) -> dict:
    """The first epoch with the lowest validation loss."""
    return min(history, key=lambda row: row["validation loss"])


def validation_means(
    net: nn.Module, slices: list[dict], loss: Loss, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Means over batches in the slices' order, weighted by their sizes: `loss`, and the figures by their names."""
    net.eval()
    sums: dict[str, float] = {}
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        for raw in DataLoader(slices, batch_size=BATCH):
            value, figures = loss(on_device(raw, device))
            for key, figure in {"loss": value.item(), **figures}.items():
                sums[key] = sums.get(key, 0.0) + figure * len(raw["tumour"])
    return {key: total / len(slices) for key, total in sums.items()}


def fit_best(
    net: nn.Module,
    *,
    loss: Loss,
    optimiser: torch.optim.Optimizer,
    train: list[dict],
    validation: list[dict],
    epochs: int,
    out: Path,
    recipe: dict,
    seed: int,
    resume: bool,
    device: torch.device,
    dtype: torch.dtype,
    scheduler: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None,
    patience: int | None = None,
) -> list[dict]:
    """Train, and leave the network with the weights of the epoch with the lowest validation loss.

    Everything random in an epoch follows from the seed and the epoch's number, and the checkpoint `OUT.pt` holds the rest: a
    resumed run ends where an unbroken one would have. A finished run may be resumed for more epochs.

    Args:
        net: trained in place.
        loss: as in `train_epoch`; its figures are shown for training and validation alike.
        train: slices as `train.data.load_placed` gives them; and so `validation`.
        out: path of the checkpoint and the history without their suffixes.
        recipe: what a resumed run must share with the one it continues.
        scheduler: stepped by the validation loss after every epoch, where there is one.
        patience: epochs without a lower validation loss after which the training ends; None goes through them all.

    Returns:
        One row an epoch, as written to `OUT.csv`; `learning rate` is the epoch's own.

    Raises:
        ValueError: when `resume` meets a checkpoint of a run by another recipe.
        FloatingPointError: when the validation loss is not a number any more.
    """
    checkpoint, written = out.with_suffix(".pt"), json.dumps(recipe)
    history: list[dict] = []
    best = None
    if resume and checkpoint.exists():
        state = load_checkpoint(checkpoint, written, device)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        if scheduler:
            scheduler.load_state_dict(state["scheduler"])
        history, best = state["history"], state["best"]
    for epoch in range(len(history), epochs):
        if patience and history and len(history) - best_row(history)["epoch"] >= patience:
            print(f"no lower validation loss in {patience} epochs: stopped early")
            break
        began = time.perf_counter()
        rate = optimiser.param_groups[0]["lr"]
        loader = DataLoader(train, batch_size=BATCH, shuffle=True, generator=seed_epoch(seed, epoch))
        title = f"epoch {epoch + 1}/{epochs}"
        trained = train_epoch(net, loader, loss, optimiser, device=device, dtype=dtype, title=title)
        validated = validation_means(net, validation, loss, device, dtype)
        row = {"epoch": epoch + 1}
        row |= {f"train {key}": value for key, value in trained.items()}
        row |= {f"validation {key}": value for key, value in validated.items()}
        row |= {"learning rate": rate, "seconds": time.perf_counter() - began}
        report(row)
        if not math.isfinite(row["validation loss"]):
            raise FloatingPointError(f"the validation loss is {row['validation loss']} in epoch {epoch + 1}; try a smaller --lr")
        history.append(row)
        if best_row(history) is row:
            best = copy.deepcopy(net.state_dict())
        if scheduler:
            scheduler.step(row["validation loss"])
        save_checkpoint(
            checkpoint,
            {"net": net.state_dict(), "best": best, "optimiser": optimiser.state_dict(),
             "scheduler": scheduler.state_dict() if scheduler else None, "history": history, "recipe": written},
        )  # fmt: skip
        write_csv(out.with_suffix(".csv"), history)
    net.load_state_dict(best)
    net.eval()
    return history
