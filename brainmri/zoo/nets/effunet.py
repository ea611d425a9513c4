"""U-Nets on EfficientNet-lite encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.nets.base import Output
from brainmri.zoo.nets.efficientnet_lite import LiteUNet


class EffUNet(PretrainedNet):
    """U-Net on an EfficientNet-lite encoder, with a linear verdict head on the pooled last encoder map and a
    linear head there for each attribute.

    Heights and widths are multiples of 32. The weights are random; `train.pretrained` fills the encoder from ImageNet.

    Args:
        encoder: "lite0", or the larger "lite2".
        decoder_channels: output channels of each decoder block, from the deepest to full resolution.
        attributes: the attributes to recognise (`brainmri.zoo.attributes`), each with its classes; a linear head for each.
    """

    tasks = ("segmentation", "classification")

    def __init__(
        self,
        encoder: str = "lite0",
        decoder_channels: tuple[int, ...] = (128, 64, 48, 24, 12),
        attributes: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.unet = LiteUNet(encoder, tuple(decoder_channels))
        self.attributes = dict(attributes)  # a mapping proxy cannot be copied with the network
        channels = self.feature_channels[-1]
        self.attribute_heads = nn.ModuleDict({name: nn.Linear(channels, len(classes)) for name, classes in attributes.items()})

    @property
    def feature_channels(self) -> list[int]:
        """3 for the image, then one number for each encoder map."""
        return self.unet.encoder.out_channels

    def forward_features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the image and five encoder maps, from (B, 16, H/2, W/2) to (B, 320 or 352, H/32, W/32)."""
        return self.unet.encoder(image)

    def forward_head(self, features: list[Tensor]) -> Output:
        """The image and the encoder maps to mask logits (B, 1, H, W), verdict logits (B, 2) and the attributes' logits."""
        mask = self.unet.segmentation_head(self.unet.decoder(features))
        verdict = self.unet.classification_head(features[-1])
        if not self.attribute_heads:
            return Output(mask=mask, verdict=verdict)
        pooled = F.dropout(features[-1].mean(dim=(2, 3)), 0.2, self.training)  # (B, 320 or 352)
        attributes = torch.cat([head(pooled) for head in self.attribute_heads.values()], dim=1)
        return Output(mask=mask, verdict=verdict, attributes=attributes)

    def cam_features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) to verdict logits (B, 2), and the map at 1/16 of the size, [(B, 112 or 120, H/16, W/16)]."""
        *_, stride_16, stride_32 = self.forward_features(image)
        return self.unet.classification_head(stride_32), [stride_16]


def logits_of_mean_probability(logits: Tensor) -> Tensor:
    """Logits (N, ...) to the logits of the mean of their N probabilities (...), exact for very large and very small logits."""
    # ln p - ln (1 - p), both as means; the 1/N of the two cancel out
    return F.logsigmoid(logits).logsumexp(dim=0) - F.logsigmoid(-logits).logsumexp(dim=0)


class EffUNetEnsemble(PretrainedNet):
    """Several `EffUNet`s whose outputs are averaged; `train.release.ensemble` builds one from finished runs.

    The mask averages probabilities: in an average of logits, one very confident member (a logit of -25, for example) would
    override the others. The verdict averages logits, which one temperature then calibrates.

    Args:
        members: the number of networks.
        encoder, decoder_channels, attributes: of each member, as for `EffUNet`.
    """

    tasks = ("segmentation", "classification")

    def __init__(
        self,
        members: int = 2,
        encoder: str = "lite0",
        decoder_channels: tuple[int, ...] = (128, 64, 48, 24, 12),
        attributes: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.attributes = dict(attributes)  # a mapping proxy cannot be copied with the network
        self.members = nn.ModuleList(EffUNet(encoder, decoder_channels, attributes) for _ in range(members))

    def _networks(self) -> Iterator[EffUNet]:
        yield from self.members  # pyright: ignore[reportReturnType]  torch's stubs type the items as Module

    @property
    def feature_channels(self) -> list[int]:
        """The members' channels, one member after the other."""
        return [channels for member in self._networks() for channels in member.feature_channels]

    def forward_features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the members' maps, one member after the other, so that the first member's keep their indices."""
        return [features for member in self._networks() for features in member.forward_features(image)]

    def forward_head(self, features: list[Tensor]) -> Output:
        """The members' maps to mask logits (B, 1, H, W), verdict logits (B, 2) and the attributes' logits."""
        count = len(features) // len(self.members)  # maps of one member
        outputs = [
            member.forward_head(features[index * count : (index + 1) * count]) for index, member in enumerate(self._networks())
        ]
        masks, verdicts, attributes = zip(*outputs, strict=True)
        return Output(
            mask=logits_of_mean_probability(torch.stack(masks)),
            verdict=torch.stack(verdicts).mean(dim=0),
            attributes=torch.stack(attributes).mean(dim=0) if self.attributes else None,
        )

    def cam_features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) to verdict logits (B, 2), and the map at 1/16 of the size of every member."""
        verdicts, maps = zip(*(member.cam_features(image) for member in self._networks()), strict=True)
        return torch.stack(verdicts).mean(dim=0), [features for member_maps in maps for features in member_maps]
