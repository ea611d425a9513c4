"""The paper's segmenter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.nets.base import Output


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=0.01, eps=1e-3)  # Keras' defaults, in torch's convention for momentum


def he_normal(module: nn.Module) -> None:
    """Initialise a convolution or a dense layer as Keras' `he_normal` does, with a bias of zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ResBlock(nn.Module):
    """1x1 conv, BN, ReLU, 3x3 conv, BN, plus a shortcut of 1x1 conv, BN; then ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1),
            _batch_norm(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            _batch_norm(out_channels),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1),
            _batch_norm(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.main(x) + self.shortcut(x))


class UpBlock(ResBlock):
    """A `ResBlock` on a twofold upsampled map, concatenated with a skip connection.

    A 1x1 convolution and nearest-neighbour upsampling commute. The block therefore convolves before it upsamples, on a quarter of
    the pixels, and adds the two parts instead of concatenating them, which makes a training step a fifth shorter.
    """

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, C, H, W) and (B, D, 2H, 2W) to (B, out, 2H, 2W); `in_channels` is C + D."""
        main, shortcut = (self._first_layer(branch, x, skip) for branch in (self.main, self.shortcut))
        return F.relu(self.main[1:](main) + self.shortcut[1:](shortcut))

    @staticmethod
    def _first_layer(branch: nn.Sequential, x: Tensor, skip: Tensor) -> Tensor:
        convolution = cast("nn.Conv2d", branch[0])
        map_weight, skip_weight = convolution.weight.split([x.shape[1], skip.shape[1]], dim=1)
        upsampled = F.interpolate(F.conv2d(x, map_weight), scale_factor=2, mode="nearest")
        return upsampled + F.conv2d(skip, skip_weight, convolution.bias)


class ResUNet(PretrainedNet):
    """The paper's segmenter (Deng, Cui, Liu, Table 2), layer by layer.

    1,206,129 trainable parameters and 4,384 batch-norm statistics: the paper's 1,210,513.

    Args:
        in_channels: sequences in the input; 3 in the paper (pre-contrast T1, FLAIR, post-contrast T1).
        attributes: the attributes to recognise (`brainmri.zoo.attributes`), each with its classes. With any, the network gets a
            linear head for each on the pooled bottleneck, and one for the verdict; the paper's has none.
    """

    tasks = ("segmentation",)

    def __init__(self, in_channels: int = 3, attributes: Mapping[str, Sequence[str]] = MappingProxyType({})) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, padding=1), nn.ReLU(inplace=True), _batch_norm(16),
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(inplace=True), _batch_norm(16),
        )  # fmt: skip
        self.encoder = nn.ModuleList([ResBlock(16, 32), ResBlock(32, 64), ResBlock(64, 128)])
        self.bottleneck = ResBlock(128, 256)
        self.decoder = nn.ModuleList([UpBlock(256 + 128, 128), UpBlock(128 + 64, 64), UpBlock(64 + 32, 32), UpBlock(32 + 16, 16)])
        self.head = nn.Conv2d(16, 1, 1)
        self.attributes = dict(attributes)  # a mapping proxy cannot be copied with the network
        if attributes:
            self.tasks = ("segmentation", "classification")
            self.verdict_head = nn.Linear(256, 2)
            self.attribute_heads = nn.ModuleDict({name: nn.Linear(256, len(classes)) for name, classes in attributes.items()})
        self.apply(he_normal)

    @property
    def feature_channels(self) -> list[int]:
        """Channels of the image, then one number for each encoder map."""
        return [self.in_channels, 16, 32, 64, 128, 256]

    def forward_features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W), H and W multiples of 16, to the image and five maps, from (B, 16, H, W) to (B, 256, H/16, W/16)."""
        features = [image, self.stem(image)]
        for block in (*self.encoder, self.bottleneck):
            features.append(block(F.max_pool2d(features[-1], 2)))
        return features

    def forward_head(self, features: list[Tensor]) -> Output:
        """The image and the encoder maps to mask logits (B, 1, H, W); with attributes, also verdict logits (B, 2) and theirs."""
        _, *skips, bottleneck = features
        x = bottleneck
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(x, skip)
        mask = self.head(x)
        if not self.attributes:
            return Output(mask=mask)
        pooled = F.dropout(bottleneck.mean(dim=(2, 3)), 0.2, self.training)  # (B, 256)
        attributes = torch.cat([head(pooled) for head in self.attribute_heads.values()], dim=1)
        return Output(mask=mask, verdict=self.verdict_head(pooled), attributes=attributes)

    def cam_features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) to verdict logits (B, 2), and the bottleneck, [(B, 256, H/16, W/16)]; only with attributes."""
        if not self.attributes:
            return super().cam_features(image)
        bottleneck = self.forward_features(image)[-1]
        return self.verdict_head(bottleneck.mean(dim=(2, 3))), [bottleneck]
