"""Segmentation losses: golden numbers, gradients."""

import pytest
import torch

from train.losses import LOSSES, FocalTverskyLoss, segmentation_loss, tversky_index


def logits(probability) -> torch.Tensor:
    return torch.logit(torch.tensor(probability, dtype=torch.float64)).float().reshape(1, 1, 1, -1)


def test_focal_tversky_is_golden():
    # TP 0.5 + 0.9, FN 0.5 + 0.1, FP 0.2: T = 2.4 / (1.4 + 0.42 + 0.06 + 1)
    mask = torch.tensor([1.0, 1.0, 0.0]).reshape(1, 1, 1, 3)
    expected = (1 - 2.4 / 2.88) ** 0.75
    assert FocalTverskyLoss()(logits([0.5, 0.9, 0.2]), mask).item() == pytest.approx(expected, abs=1e-5)
    assert tversky_index(torch.tensor([0.5, 0.9, 0.2]), torch.tensor([1, 1, 0])) == pytest.approx(2.4 / 2.88)


def test_focal_tversky_penalises_false_positives_on_empty_slices():
    empty = torch.zeros(1, 1, 1, 100)
    loss = FocalTverskyLoss()
    assert loss(torch.full_like(empty, 5.0), empty) > 0.9
    assert loss(torch.full_like(empty, -12.0), empty) < 0.01


def test_pooling_over_the_batch_changes_the_loss():
    torch.manual_seed(0)
    prediction, mask = torch.randn(3, 1, 8, 8), (torch.rand(3, 1, 8, 8) > 0.7).float()
    mask[0] = 0
    assert FocalTverskyLoss(pooled=True)(prediction, mask) != pytest.approx(FocalTverskyLoss()(prediction, mask).item())


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_prefers_the_true_mask_and_has_a_gradient(name):
    loss = segmentation_loss(name)
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, :, 4:9, 4:9] = 1  # the second slice is empty
    right, wrong = (mask * 16 - 8), (8 - mask * 16)
    assert loss(right, mask) < loss(wrong, mask)
    start = torch.zeros_like(mask, requires_grad=True)
    loss(start, mask).backward()
    assert torch.isfinite(start.grad).all()
    assert start.grad[0].abs().sum() > 0


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="choose from focal-tversky-bce"):
        segmentation_loss("hinge")
