"""Faster gradients of depthwise convolutions equal torch's."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from brainmri.zoo.nets import EffUNet
from brainmri.zoo.nets.efficientnet_lite import SameConv2d
from train.depthwise import speed_up_depthwise


def gradients(net: nn.Module, image: torch.Tensor, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Gradients of the image and of every parameter, for a loss that weights each output pixel differently."""
    image = image.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = net(image)
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).mean().backward()
    return [image.grad, *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [15, 16])
def test_gradients_equal_torchs(kernel, stride, side):
    torch.manual_seed(0)
    plain = SameConv2d(6, 6, kernel, stride, groups=6, bias=False)
    fast = deepcopy(plain)
    speed_up_depthwise(fast)
    image = torch.randn(2, 6, side, side + 4).to(memory_format=torch.channels_last)
    for ours, theirs in zip(gradients(fast, image), gradients(plain, image), strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(gradients(fast, image, torch.bfloat16), gradients(plain, image), strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()  # bfloat16 rounding


def test_only_the_depthwise_layers_of_a_network_change():
    net = EffUNet()
    speed_up_depthwise(net)
    changed = [module for module in net.modules() if "_conv_forward" in vars(module)]
    assert len(changed) == 16  # one depthwise layer in each block of EfficientNet-lite0
    assert all(module.groups > 1 for module in changed)
