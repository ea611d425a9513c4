"""The paper's schedule, as Keras runs it: its Adam, the learning rate reduced on a plateau, validation on all slices."""

# pyright: reportPrivateImportUsage=false
# MONAI re-exports its classes without declaring them in __all__.

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from monai.data import Dataset
from torch import nn
from torch.utils.data import DataLoader

from train.loop import seed_epoch, to_device
from train.losses import BatchLoss

BATCH = 16


class KerasAdam(torch.optim.Adam):
    """Adam with its epsilon where Keras has it, next to the uncorrected second moment (Kingma and Ba 2014, "epsilon hat").

    The paper's 0.1 is larger than that moment, so the place matters: with torch's, the first steps are thirty times as long.
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
    """The learning rate times 0.2 after ten epochs without a validation loss lower by 1e-4, as Keras counts them.

    Keras reduces it when `patience` epochs have brought no improvement, torch when more than `patience` have.
    """
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.2, patience=9, threshold=1e-4, threshold_mode="abs")


def shuffled_epochs(slices: list[dict], seed: int) -> Callable[[int], DataLoader]:
    """For `train.loop.fit`: epochs in which every slice occurs once, in a random order that depends on seed and epoch."""
    return lambda epoch: DataLoader(Dataset(slices), batch_size=BATCH, shuffle=True, generator=seed_epoch(seed, epoch))


def validation_means(slices: list[dict], loss: BatchLoss, device: torch.device) -> dict[str, float]:
    """Means over batches in the slices' order, weighted by their sizes: `loss`, and the metrics by name."""
    sums: dict[str, float] = {}
    for batch in DataLoader(Dataset(slices), batch_size=BATCH):
        value, metrics = loss(to_device(batch, device))
        for key, metric in {"loss": value.item(), **metrics}.items():
            sums[key] = sums.get(key, 0.0) + metric * len(batch["tumour"])
    return {key: total / len(slices) for key, total in sums.items()}
