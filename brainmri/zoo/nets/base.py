"""The contract that every network of the zoo follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Output(NamedTuple):
    """The raw output of a network for a batch of B images.

    Attributes:
        mask: (B, 1, H, W) logits of the tumour mask; None without the task "segmentation".
        verdict: (B, 2) logits of "no tumour" and "tumour"; None without the task "classification".
        attributes: (B, A) logits of the classes of all `Network.attributes`, one attribute after the other; None without any.
    """

    mask: Tensor | None = None
    verdict: Tensor | None = None
    attributes: Tensor | None = None


class Network(Protocol):
    """A network: a torch module without preprocessing or calibration.

    Images are normalised by the entry's `Preprocess`; each network says which heights and widths it accepts.
    `brainmri.zoo.hub_mixin.PretrainedNet` is the base class that supplies `forward` and the methods for the Hub.

    Attributes:
        tasks: "segmentation", "classification" or both: the fields of `Output` that are not None.
        attributes: what else it recognises (`brainmri.zoo.attributes`): the classes by attribute; empty if nothing.
        feature_channels: the number of channels of each map that `forward_features` returns.
    """

    tasks: tuple[str, ...]
    attributes: Mapping[str, Sequence[str]]

    @property
    def feature_channels(self) -> list[int]: ...

    def forward(self, image: Tensor) -> Output:
        """(B, 3, H, W) to the logits of every task."""
        ...

    def forward_features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the image itself and the encoder's maps, from the finest to the coarsest.

        An ensemble returns the maps of its members one after the other.
        """
        ...

    def forward_head(self, features: list[Tensor]) -> Output:
        """The result of `forward_features` to the logits of every task."""
        ...

    def cam_features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) to verdict logits (B, 2), and the maps (B, C, h, w) that a class activation map is computed from.

        Raises:
            NotImplementedError: if the network gives no verdict.
        """
        ...
