"""U-Nets on EfficientNet-lite encoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.nets.efficientnet_lite import LiteUNet


class MaskAndVerdict(PretrainedNet):
    """A network that gives both from what `encode` makes of an image, by `decode`."""

    tasks = ("segmentation", "classification")

    def both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) to mask logits (B, 1, H, W) and verdict logits (B, 2), from one pass; H and W multiples of 32."""
        return self.decode(self.encode(image))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to mask logits (B, 1, H, W)."""
        return self.both(image)[0]


class EffUNet(MaskAndVerdict):
    """U-Net on an EfficientNet-lite encoder, with a linear verdict head on the pooled last encoder map.

    Without weights: `train.pretrained` fills the encoder from ImageNet.

    Args:
        encoder: "lite0", or the larger "lite2".
        decoder_channels: from the deepest block to full resolution.
    """

    def __init__(self, encoder: str = "lite0", decoder_channels: tuple[int, ...] = (128, 64, 48, 24, 12)) -> None:
        super().__init__()
        self.unet = LiteUNet(encoder, tuple(decoder_channels))

    @property
    def channels(self) -> list[int]:
        """Of the maps that `encode` gives."""
        return self.unet.encoder.out_channels

    def cam_features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) to verdict logits (B, 2) and the map to explain them by, [(B, 112 or 120, H/16, W/16)]."""
        *_, coarse, deep = self.encode(image)
        return self.unet.classification_head(deep), [coarse]

    def encode(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the image and the encoder's maps, from (B, 16, H/2, W/2) to (B, 320 or 352, H/32, W/32)."""
        return self.unet.encoder(image)

    def decode(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What `encode` gave to mask logits (B, 1, H, W) and verdict logits (B, 2)."""
        return self.unet.segmentation_head(self.unet.decoder(maps)), self.unet.classification_head(maps[-1])


def logits_of_the_mean(logits: Tensor) -> Tensor:
    """Logits (N, ...) to those of the mean of their N probabilities (...), at full precision wherever on the scale they lie."""
    # ln p - ln (1 - p), both as means; the 1/N of the two cancel out
    return F.logsigmoid(logits).logsumexp(dim=0) - F.logsigmoid(-logits).logsumexp(dim=0)


class EffUNetEnsemble(MaskAndVerdict):
    """`EffUNet`s that answer together; `train.release.ensemble` puts them together from runs.

    A mask is the mean of the members' probabilities: in a mean of logits one member that is certain, at -25 say, silences the
    other. A verdict is the mean of logits, which one temperature calibrates.

    Args:
        members: how many.
        encoder, decoder_channels: of each, as for `EffUNet`.
    """

    def __init__(
        self, members: int = 2, encoder: str = "lite0", decoder_channels: tuple[int, ...] = (128, 64, 48, 24, 12)
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(EffUNet(encoder, decoder_channels) for _ in range(members))

    @property
    def channels(self) -> list[int]:
        """Of the first member's maps."""
        return self.members[0].channels

    def cam_features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) to verdict logits (B, 2) and the maps to explain them by, (B, 112 or 120, H/16, W/16) of each member."""
        verdicts, maps = zip(*(member.cam_features(image) for member in self.members), strict=True)
        return torch.stack(verdicts).mean(dim=0), [found for own in maps for found in own]

    def encode(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to what each member's `encode` gives, one after another: the first member's have its own numbers."""
        return [found for member in self.members for found in member.encode(image)]

    def decode(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What `encode` gave to mask logits (B, 1, H, W) and verdict logits (B, 2)."""
        each = len(maps) // len(self.members)
        answers = [member.decode(maps[number * each : (number + 1) * each]) for number, member in enumerate(self.members)]
        masks, verdicts = zip(*answers, strict=True)
        return logits_of_the_mean(torch.stack(masks)), torch.stack(verdicts).mean(dim=0)
