"""The paper's classifier."""

from __future__ import annotations

from torch import Tensor, nn

from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.nets.base import Output
from brainmri.zoo.nets.resunet import he_normal


class ResNet50Classifier(PretrainedNet):
    """torchvision's ResNet50 under the paper's head: average pool, flatten, two times [dense 256, ReLU, dropout], dense 2.

    Args:
        image_size: side S of the square input, a multiple of 32; it determines the width of the first dense layer.
        pool: side of the average pool's window on the last feature map, which is image_size / 32 wide; 4 in the paper.
        dropout: after each hidden dense layer; 0.3 in the paper.
        frozen: train the head only; the base keeps its weights and batch-norm statistics.

    Raises:
        ValueError: if the pool does not tile the feature map, so that its border would be ignored.
    """

    tasks = ("classification",)

    def __init__(self, image_size: int = 256, pool: int = 4, dropout: float = 0.3, frozen: bool = False) -> None:
        super().__init__()
        from torchvision.models import resnet50

        side = image_size // 32
        if image_size % 32 or side % pool:
            raise ValueError(
                f"expected an image_size that is a multiple of 32 x pool, got image_size {image_size}, pool {pool}: "
                f"the feature map is {image_size / 32:g} wide, which the pool does not tile"
            )
        self.frozen = frozen
        base = resnet50(weights=None, zero_init_residual=True)  # trains faster from scratch (Goyal et al. 2017)
        self.width = base.fc.in_features
        base.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        base.avgpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        self.base = base
        self.head = nn.Sequential(
            nn.AvgPool2d(pool),
            nn.Flatten(),
            nn.Linear(self.width * (side // pool) ** 2, 256), nn.ReLU(inplace=True), nn.Dropout(dropout),
            nn.Linear(256, 256), nn.ReLU(inplace=True), nn.Dropout(dropout),
            nn.Linear(256, 2),
        )  # fmt: skip
        self.head.apply(he_normal)
        self.base.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> ResNet50Classifier:
        super().train(mode)
        if self.frozen:
            self.base.eval()  # otherwise the batch-norm statistics would change
        return self

    @property
    def feature_channels(self) -> list[int]:
        """3 for the image, then one number for each map of the base."""
        return [3, 64, 256, 512, 1024, 2048]

    def forward_features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, S, S) to the image and five maps, from (B, 64, S/2, S/2) to (B, 2048, S/32, S/32)."""
        base = self.base
        stem = base.relu(base.bn1(base.conv1(image)))
        features = [image, stem, base.layer1(base.maxpool(stem))]
        for stage in (base.layer2, base.layer3, base.layer4):
            features.append(stage(features[-1]))
        return features

    def forward_head(self, features: list[Tensor]) -> Output:
        """The last map to verdict logits (B, 2)."""
        return Output(verdict=self.head(features[-1]))

    def cam_features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, S, S) to verdict logits (B, 2), and the last map, [(B, 2048, S/32, S/32)].

        The map before it would give a finer picture, but strided convolutions skip every second place of it.
        """
        deepest = self.forward_features(image)[-1]
        return self.head(deepest), [deepest]
