"""The parts of `nets.EffUNet`: EfficientNet-lite's layers as an encoder, and a U-Net's decoder.

Layer by layer, and by their names in the state dict, these are timm's `tf_efficientnet_lite0` (and so on) and the `Unet` of
segmentation_models.pytorch 0.6, which the tests compare them with; without the two packages a process starts two seconds sooner.
EfficientNet: Tan and Le 2019, its lite variants: without squeeze-and-excitation, with ReLU6; U-Net: Ronneberger et al. 2015.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SCALES = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}  # what multiplies channels and blocks of lite0's stages
# of each stage: blocks, kernel, stride, expansion, channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32
SEEN = (0, 1, 2, 4, 6)  # the last stage at each size, whose map the decoder sees


def scaled_stages(variant: str) -> list[tuple[int, int, int, int, int]]:
    """`STAGES` of another variant: channels to the nearest multiple of 8, blocks rounded up; the first and last keep their one.

    Raises:
        ValueError: for a variant that is not in `SCALES`.
    """
    if variant not in SCALES:
        raise ValueError(f"unknown encoder {variant!r}; choose from {', '.join(SCALES)}")
    width, depth = SCALES[variant]
    ends = (0, len(STAGES) - 1)
    return [
        (count if number in ends else math.ceil(count * depth), kernel, stride, expansion, int(out * width + 4) // 8 * 8)
        for number, (count, kernel, stride, expansion, out) in enumerate(STAGES)
    ]


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding, which at stride 2 pads below and to the right first."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            both = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [both // 2, both - both // 2]
        return super().forward(F.pad(x, pads) if any(pads) else x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels (none where `expansion` is 1), depthwise, 1x1 back; added to the input where shapes agree.

    Batch norm after each, ReLU6 after all but the last.
    """

    def __init__(self, into: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = into * expansion
        self.expanding, self.residual = expansion > 1, stride == 1 and into == out
        depthwise = SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        narrow = nn.Conv2d(wide, out, 1, bias=False)
        if self.expanding:
            self.conv_pw, self.bn1 = nn.Conv2d(into, wide, 1, bias=False), _norm(wide)
            self.conv_dw, self.bn2 = depthwise, _norm(wide)
            self.conv_pwl, self.bn3 = narrow, _norm(out)
        else:
            self.conv_dw, self.bn1 = depthwise, _norm(wide)
            self.conv_pw, self.bn2 = narrow, _norm(out)

    def forward(self, x: Tensor) -> Tensor:
        if self.expanding:
            y = F.relu6(self.bn1(self.conv_pw(x)))
            y = self.bn3(self.conv_pwl(F.relu6(self.bn2(self.conv_dw(y)))))
        else:
            y = self.bn2(self.conv_pw(F.relu6(self.bn1(self.conv_dw(x)))))
        return x + y if self.residual else y


class LiteLayers(nn.Module):
    """An EfficientNet-lite of these stages up to its last block, initialised like timm's."""

    def __init__(self, of_stages: list[tuple[int, int, int, int, int]]) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = SameConv2d(3, STEM, 3, 2, bias=False), _norm(STEM)
        stages, into = [], STEM
        for count, kernel, stride, expansion, out in of_stages:
            blocks = []
            for number in range(count):
                blocks.append(InvertedResidual(into, out, kernel, 1 if number else stride, expansion))
                into = out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, (2 / fan_out) ** 0.5)


class LiteEncoder(nn.Module):
    """(B, 3, H, W) to the image and five maps, each half as high and wide as the one before.

    Args:
        variant: of EfficientNet-lite, one of `SCALES`.

    Attributes:
        out_channels: of the image and the maps.
    """

    def __init__(self, variant: str) -> None:
        super().__init__()
        of_stages = scaled_stages(variant)
        self.model = LiteLayers(of_stages)
        self.out_channels = [3, *(of_stages[number][-1] for number in SEEN)]

    def forward(self, image: Tensor) -> list[Tensor]:
        x = F.relu6(self.model.bn1(self.model.conv_stem(image)))
        maps = [image]
        for number, stage in enumerate(self.model.blocks):
            x = stage(x)
            if number in SEEN:
                maps.append(x)
        return maps


class DecoderBlock(nn.Module):
    """A map, enlarged to the size of the next, goes beside it through two 3x3 convolutions with batch norm and ReLU."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True))
            for channels in (into, out)
        )

    def forward(self, x: Tensor, beside: Tensor, joined: bool) -> Tensor:
        x = F.interpolate(x, size=beside.shape[2:])
        return self.conv2(self.conv1(torch.cat([x, beside], dim=1) if joined else x))


class Decoder(nn.Module):
    """From an encoder's maps back to the size of the image; the image itself is not joined.

    Args:
        encoder_channels: `LiteEncoder.out_channels`.
        channels: of each block, from the deepest to full resolution.
    """

    def __init__(self, encoder_channels: list[int], channels: tuple[int, ...]) -> None:
        super().__init__()
        *skips, deepest = encoder_channels[1:]
        into = [deepest, *channels[:-1]]
        joined = [*reversed(skips), 0]
        self.blocks = nn.ModuleList(map(DecoderBlock, [a + b for a, b in zip(into, joined, strict=True)], channels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, maps: list[Tensor]) -> Tensor:
        """The image and the encoder's maps to (B, C, H, W)."""
        image, *skips, x = maps
        for block, skip in zip(self.blocks, [*reversed(skips), image], strict=True):
            x = block(x, skip, joined=skip is not image)
        return x


class LiteUNet(nn.Module):
    """Encoder, decoder, a head for the mask and one for the verdict.

    Args:
        variant: of the encoder, one of `SCALES`.
        decoder_channels: from the deepest block to full resolution.
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
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
