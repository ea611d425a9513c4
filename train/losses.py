"""Segmentation losses by name: the paper's focal Tversky loss and MONAI's losses."""

# pyright: reportPrivateImportUsage=false
# MONAI re-exports its classes without declaring them in __all__.

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from monai.losses import DiceFocalLoss, DiceLoss, TverskyLoss
from torch import Tensor, nn

# What the training loop minimises. From a batch with `image` (B, 3, S, S) and `mask` (B, 1, S, S), both in [0, 1], and `tumour`
# (B,) to the scalar loss and the metrics to show with it, by name. Metrics that stay tensors do not make the CPU wait for a GPU.
BatchLoss = Callable[[dict[str, Tensor]], tuple[Tensor, Mapping[str, Tensor | float]]]


class FocalTverskyLoss(nn.Module):
    """(1 - T)^gamma with the Tversky index T = (TP + 1) / (TP + 0.7 FN + 0.3 FP + 1) on soft counts.

    Abraham and Khan 2018, with the constants of the paper's recipe. An empty slice counts: T is 1 when mask and prediction
    are both empty, and every false positive pixel lowers it.

    Args:
        pooled: one index over the whole batch, as in the paper; otherwise the mean of one index a slice.
    """

    def __init__(self, gamma: float = 0.75, pooled: bool = False) -> None:
        super().__init__()
        self.gamma = gamma
        self.tversky = TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, smooth_nr=1, smooth_dr=1, batch=pooled, reduction="none")

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """(B, 1, H, W) logits and mask in [0, 1] to a scalar."""
        # the clamp keeps the power's gradient finite where the index reaches 1
        return self.tversky(logits.float(), mask).clamp(min=1e-6).pow(self.gamma).mean()


class WithBCE(nn.Module):
    """A region loss plus binary cross-entropy. Only the latter has a useful gradient on slices without tumour."""

    def __init__(self, region: nn.Module) -> None:
        super().__init__()
        self.region, self.bce = region, nn.BCEWithLogitsLoss()

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        return self.region(logits, mask) + self.bce(logits.float(), mask)


LOSSES = {
    "focal-tversky-bce": lambda: WithBCE(FocalTverskyLoss()),
    "focal-tversky": lambda: FocalTverskyLoss(),
    "focal-tversky-pooled": lambda: FocalTverskyLoss(pooled=True),
    "dice": lambda: DiceLoss(sigmoid=True),
    # smoothed by one pixel, as Tversky above: with MONAI's 1e-5 an empty slice costs 1 whatever the prediction
    "dice-bce": lambda: WithBCE(DiceLoss(sigmoid=True, smooth_nr=1, smooth_dr=1)),
    "dice-focal": lambda: DiceFocalLoss(sigmoid=True),
    "tversky": lambda: TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7),
}


def segmentation_loss(name: str) -> nn.Module:
    """The loss of that name; ValueError for an unknown one."""
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; choose from {', '.join(LOSSES)}")
    return LOSSES[name]()


def tversky_index(probability: Tensor, mask: Tensor) -> float:
    """The paper's metric: the soft Tversky index pooled over all pixels, smoothing 1, alpha 0.7 on false negatives."""
    probability, mask = torch.as_tensor(probability).double(), torch.as_tensor(mask).double()
    true_positive = (probability * mask).sum()
    false_negative = (mask * (1 - probability)).sum()
    false_positive = ((1 - mask) * probability).sum()
    return float((true_positive + 1) / (true_positive + 0.7 * false_negative + 0.3 * false_positive + 1))
