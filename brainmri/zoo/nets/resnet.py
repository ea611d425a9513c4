"""The paper's classifier."""

from __future__ import annotations

from torch import Tensor, nn

from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.nets.resunet import he_normal


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
        self.head.apply(he_normal)
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

    def cam_features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, S, S) to verdict logits (B, 2) and the map to explain them by, [(B, 2048, S/32, S/32)].

        The last one: strided convolutions skip every other place of the map before it.
        """
        _, deep = self.features(image)
        return self.head(deep), [deep]

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) normalised image to (B, 2) logits: no tumour, tumour."""
        return self.cam_features(image)[0]
