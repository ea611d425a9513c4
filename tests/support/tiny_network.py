"""A network that is not in the package, as a contributor would add one."""

from torch import Tensor, nn

from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.nets.base import Output


class TinyNet(PretrainedNet):
    """One convolution, a mask head and a verdict head."""

    tasks = ("segmentation", "classification")

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.mask_head = nn.Conv2d(channels, 1, 1)
        self.verdict_head = nn.Linear(channels, 2)

    @property
    def feature_channels(self) -> list[int]:
        return [3, self.mask_head.in_channels]

    def forward_features(self, image: Tensor) -> list[Tensor]:
        return [image, self.stem(image)]

    def forward_head(self, features: list[Tensor]) -> Output:
        return Output(mask=self.mask_head(features[-1]), verdict=self.verdict_head(features[-1].mean(dim=(2, 3))))

    def cam_features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = self.forward_features(image)[-1]
        return self.verdict_head(features.mean(dim=(2, 3))), [features]
