"""An EfficientNet-lite encoder and a U-Net decoder, the parts of `EffUNet`.

The layers and their names in the state dict are those of timm's `tf_efficientnet_lite0` (and lite2) and of the `Unet` in
segmentation_models.pytorch 0.6; the tests compare the outputs. Importing those two packages instead would take two seconds.
EfficientNet: Tan and Le 2019; the lite variants have no squeeze-and-excitation and use ReLU6. U-Net: Ronneberger et al. 2015.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SCALES = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}  # variant to width and depth multipliers of `STAGES`


class Stage(NamedTuple):
    """Some inverted residual blocks; the first has the stride, the others stride 1."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(blocks=1, kernel=3, stride=1, expansion=1, channels=16),
    Stage(blocks=2, kernel=3, stride=2, expansion=6, channels=24),
    Stage(blocks=2, kernel=5, stride=2, expansion=6, channels=40),
    Stage(blocks=3, kernel=3, stride=2, expansion=6, channels=80),
    Stage(blocks=3, kernel=5, stride=1, expansion=6, channels=112),
    Stage(blocks=4, kernel=5, stride=2, expansion=6, channels=192),
    Stage(blocks=1, kernel=3, stride=1, expansion=6, channels=320),
)
STEM_CHANNELS = 32
SKIP_STAGES = (0, 1, 2, 4, 6)  # the last stage of each resolution, whose map goes to the decoder


def scaled_stages(variant: str) -> list[Stage]:
    """The stages of a variant: channels to the nearest multiple of 8, blocks rounded up; the first and last keep one block.

    Raises:
        ValueError: for a variant that is not in `SCALES`.
    """
    if variant not in SCALES:
        raise ValueError(f"unknown encoder {variant!r}; choose from {', '.join(SCALES)}")
    width, depth = SCALES[variant]
    ends = (0, len(STAGES) - 1)
    return [
        stage._replace(
            blocks=stage.blocks if index in ends else math.ceil(stage.blocks * depth),
            channels=int(stage.channels * width + 4) // 8 * 8,
        )
        for index, stage in enumerate(STAGES)
    ]


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding; an odd amount puts the extra pixel at the bottom and right.

    Args:
        kernel: its height and width, odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1, bias: bool = True) -> None:
        # at stride 1 all sides get the same amount, which the convolution adds itself, in half the time
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        if self.stride == (1, 1):
            return super().forward(input)
        pads = []
        for size, kernel, stride in zip(input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(input, pads) if any(pads) else input)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    """1x1 expansion (left out if `expansion` is 1), depthwise convolution, 1x1 projection; plus the input if shapes agree.

    Batch norm after each, ReLU6 after all but the last.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expands, self.residual = expansion > 1, stride == 1 and in_channels == out_channels
        depthwise = SameConv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        projection = nn.Conv2d(hidden, out_channels, 1, bias=False)
        if self.expands:
            self.conv_pw, self.bn1 = nn.Conv2d(in_channels, hidden, 1, bias=False), _norm(hidden)
            self.conv_dw, self.bn2 = depthwise, _norm(hidden)
            self.conv_pwl, self.bn3 = projection, _norm(out_channels)
        else:
            self.conv_dw, self.bn1 = depthwise, _norm(hidden)
            self.conv_pw, self.bn2 = projection, _norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.expands:
            y = F.relu6(self.bn1(self.conv_pw(x)), inplace=True)
            y = self.bn3(self.conv_pwl(F.relu6(self.bn2(self.conv_dw(y)), inplace=True)))
        else:
            y = self.bn2(self.conv_pw(F.relu6(self.bn1(self.conv_dw(x)), inplace=True)))
        return x + y if self.residual else y


class LiteLayers(nn.Module):
    """The stem and the stages of an EfficientNet-lite, initialised like timm's."""

    def __init__(self, stages: list[Stage]) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = SameConv2d(3, STEM_CHANNELS, 3, 2, bias=False), _norm(STEM_CHANNELS)
        modules, in_channels = [], STEM_CHANNELS
        for stage in stages:
            blocks = []
            for index in range(stage.blocks):
                stride = 1 if index else stage.stride
                blocks.append(InvertedResidual(in_channels, stage.channels, stage.kernel, stride, stage.expansion))
                in_channels = stage.channels
            modules.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*modules)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, (2 / fan_out) ** 0.5)


class LiteEncoder(nn.Module):
    """(B, 3, H, W) to the image and five maps, each half as high and wide as the previous one.

    Args:
        variant: of EfficientNet-lite, one of `SCALES`.

    Attributes:
        out_channels: channels of the image and of each map.
    """

    def __init__(self, variant: str) -> None:
        super().__init__()
        stages = scaled_stages(variant)
        self.model = LiteLayers(stages)
        self.out_channels = [3, *(stages[index].channels for index in SKIP_STAGES)]

    def forward(self, image: Tensor) -> list[Tensor]:
        x = F.relu6(self.model.bn1(self.model.conv_stem(image)), inplace=True)
        features = [image]
        for index, stage in enumerate(self.model.blocks):
            x = stage(x)
            if index in SKIP_STAGES:
                features.append(x)
        return features


class DecoderBlock(nn.Module):
    """Upsample a map, concatenate the skip connection, and apply two 3x3 convolutions with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            nn.Sequential(
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
            )
            for channels in (in_channels, out_channels)
        )  # fmt: skip

    def forward(self, x: Tensor, size: torch.Size, skip: Tensor | None) -> Tensor:
        """(B, C, h, w) and a skip connection (B, D, *size), if any, to (B, out_channels, *size)."""
        x = F.interpolate(x, size=size)
        return self.conv2(self.conv1(x if skip is None else torch.cat([x, skip], dim=1)))


class Decoder(nn.Module):
    """From the encoder's maps back to the size of the image; the image itself is no skip connection.

    Args:
        encoder_channels: `LiteEncoder.out_channels`.
        channels: output channels of each block, from the deepest to full resolution.
    """

    def __init__(self, encoder_channels: list[int], channels: tuple[int, ...]) -> None:
        super().__init__()
        *skip_channels, deepest = encoder_channels[1:]
        map_channels = [deepest, *channels[:-1]]
        in_channels = [a + b for a, b in zip(map_channels, [*reversed(skip_channels), 0], strict=True)]
        self.blocks = nn.ModuleList(map(DecoderBlock, in_channels, channels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, features: list[Tensor]) -> Tensor:
        """The image and the encoder's maps to (B, C, H, W)."""
        image, *skips, x = features
        *blocks, last = self.blocks
        for block, skip in zip(blocks, reversed(skips), strict=True):
            x = block(x, skip.shape[2:], skip)
        return last(x, image.shape[2:], None)


class LiteUNet(nn.Module):
    """Encoder, decoder, a mask head and a verdict head.

    Args:
        variant: of the encoder, one of `SCALES`.
        decoder_channels: output channels of each decoder block, from the deepest to full resolution.
    """

    def __init__(self, variant: str, decoder_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = LiteEncoder(variant)
        self.decoder = Decoder(self.encoder.out_channels, decoder_channels)
        self.segmentation_head = nn.Sequential(nn.Conv2d(decoder_channels[-1], 1, 3, padding=1))
        self.classification_head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(self.encoder.out_channels[-1], 2)
        )
        for layer in (self.segmentation_head[-1], self.classification_head[-1]):
            nn.init.xavier_uniform_(cast("Tensor", layer.weight))
            nn.init.zeros_(cast("Tensor", layer.bias))
