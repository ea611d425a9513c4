"""The networks: torch modules, no preprocessing; how each is read from and pushed to the Hub is `brainmri.pretrained`'s.

Every segmenter returns logits (B, 1, H, W). Every classifier returns two logits (B, 2), "no tumour" and "tumour".
`EffUNet` and `EffUNetEnsemble` do both: their `both` gives mask and verdict from one pass, their `forward` the mask logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brainmri.lite import LiteUNet
from brainmri.pretrained import PretrainedNet

BATCH_NORM = {"momentum": 0.01, "eps": 1e-3}  # Keras' defaults, in torch's convention for momentum


def _he_normal(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ResBlock(nn.Module):
    """1x1 conv, BN, ReLU, 3x3 conv, BN beside a 1x1 conv, BN shortcut; added, then ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1),
            nn.BatchNorm2d(out_channels, **BATCH_NORM),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels, **BATCH_NORM),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1),
            nn.BatchNorm2d(out_channels, **BATCH_NORM),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.main(x) + self.shortcut(x))


class UpBlock(ResBlock):
    """A `ResBlock` of a map, enlarged twofold, beside a skip connection.

    To convolve 1x1 and to enlarge by repeating pixels give the same in either order. So the map is convolved before it is
    enlarged, at a quarter of the places, and the two are added instead of joined: a training step takes a fifth less time.
    """

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, H, W) and (B, D, 2H, 2W) to (B, out, 2H, 2W); `in_channels` is C + D."""
        main, shortcut = (self._enter(convolution, x, skip) for convolution in (self.main[0], self.shortcut[0]))
        return F.relu(self.main[1:](main) + self.shortcut[1:](shortcut))

    @staticmethod
    def _enter(convolution: nn.Conv2d, x: Tensor, skip: Tensor) -> Tensor:
        of_map, of_skip = convolution.weight.split([x.shape[1], skip.shape[1]], dim=1)
        return F.interpolate(F.conv2d(x, of_map), scale_factor=2, mode="nearest") + F.conv2d(skip, of_skip, convolution.bias)


class ResUNet(PretrainedNet):
    """The paper's segmenter (Deng, Cui, Liu, Table 2), layer by layer.

    1,206,129 trainable parameters and 4,384 batch-norm statistics: the paper's 1,210,513.

    Args:
        in_channels: sequences in the input; 3 in the paper (pre-contrast T1, FLAIR, post-contrast T1).
    """

    tasks = ("segmentation",)

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(16, **BATCH_NORM),
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(16, **BATCH_NORM),
        )  # fmt: skip
        self.encoder = nn.ModuleList([ResBlock(16, 32), ResBlock(32, 64), ResBlock(64, 128)])
        self.bottleneck = ResBlock(128, 256)
        self.decoder = nn.ModuleList([UpBlock(256 + 128, 128), UpBlock(128 + 64, 64), UpBlock(64 + 32, 32), UpBlock(32 + 16, 16)])
        self.head = nn.Conv2d(16, 1, 1)
        self.apply(_he_normal)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) normalised image to (B, 1, H, W) mask logits; H and W multiples of 16."""
        skips = [self.stem(image)]  # (B, 16, H, W)
        for block in self.encoder:
            skips.append(block(F.max_pool2d(skips[-1], 2)))  # 32 at H/2, 64 at H/4, 128 at H/8
        x = self.bottleneck(F.max_pool2d(skips[-1], 2))  # (B, 256, H/16, W/16)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(x, skip)
        return self.head(x)


class ResNet50Classifier(PretrainedNet):
    """torchvision's ResNet50 under the paper's head: average pool, flatten, two times [dense 256, ReLU, dropout], dense 2.

    Args:
        image_size: side of the square input; the flattened width, hence the first dense layer, depends on it.
        pool: side of the average pool's window on the last feature map (image_size / 32 across); 4 in the paper.
        dropout: after each hidden dense layer; 0.3 in the paper.
        frozen: keep the base's weights and batch-norm statistics as they are and train the head alone.

    Raises:
        ValueError: if the pool does not tile the feature map, so that its border would be thrown away.
    """

    tasks = ("classification",)

    def __init__(self, image_size: int = 256, pool: int = 4, dropout: float = 0.3, frozen: bool = False) -> None:
        super().__init__()
        from torchvision.models import resnet50

        side = image_size // 32
        if image_size % 32 or side % pool:
            raise ValueError(f"image_size {image_size} gives a {image_size / 32:g}-wide map, which pool {pool} does not tile")
        self.frozen = frozen
        base = resnet50(weights=None, zero_init_residual=True)  # learns sooner from scratch (Goyal et al. 2017)
        self.width = base.fc.in_features
        base.fc = nn.Identity()
        base.avgpool = nn.Identity()
        self.base = base
        self.head = nn.Sequential(
            nn.AvgPool2d(pool),
            nn.Flatten(),
            nn.Linear(self.width * (side // pool) ** 2, 256), nn.ReLU(inplace=True), nn.Dropout(dropout),
            nn.Linear(256, 256), nn.ReLU(inplace=True), nn.Dropout(dropout),
            nn.Linear(256, 2),
        )  # fmt: skip
        self.head.apply(_he_normal)
        self.base.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> ResNet50Classifier:
        super().train(mode)
        if self.frozen:
            self.base.eval()  # a frozen base must not drift through its batch-norm statistics
        return self

    def features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) normalised image to the last two feature maps, (B, 1024, S/16, S/16) and (B, 2048, S/32, S/32)."""
        base = self.base
        x = base.maxpool(base.relu(base.bn1(base.conv1(image))))
        coarse = base.layer3(base.layer2(base.layer1(x)))
        return coarse, base.layer4(coarse)

    def looked_at(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, S, S) to verdict logits (B, 2) and the map to explain them by, [(B, 2048, S/32, S/32)].

        The last one: strided convolutions skip every other place of the map before it.
        """
        _, deep = self.features(image)
        return self.head(deep), [deep]

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) normalised image to (B, 2) logits: no tumour, tumour."""
        return self.looked_at(image)[0]


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

    def looked_at(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
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
    """`EffUNet`s that answer together; `train.ensemble` puts them together from runs.

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

    def looked_at(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) to verdict logits (B, 2) and the maps to explain them by, (B, 112 or 120, H/16, W/16) of each member."""
        verdicts, maps = zip(*(member.looked_at(image) for member in self.members), strict=True)
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
