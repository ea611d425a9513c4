"""The base class of the networks in `brainmri.zoo.nets`, with `from_pretrained` and `push_to_hub`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor, nn

from brainmri.zoo import hub
from brainmri.zoo.entry import load_weights, new_config, read_config, read_entry, save_entry
from brainmri.zoo.nets.base import Network, Output
from brainmri.zoo.preprocess import Preprocess


class PretrainedNet(
    nn.Module,
    PyTorchModelHubMixin,
    Network,
    library_name="brainmri",
    tags=["medical", "mri", "brain"],
):
    """A network with `from_pretrained`, `save_pretrained` and `push_to_hub`, in the layout of `brainmri.zoo.entry`.

    `from_pretrained(FOLDER or "owner/name")` loads strictly, checks the hash and returns the network in eval mode. `push_to_hub`
    writes a repo that `brainmri.load("owner/name")` reads, with the description the network was loaded with, or a new one.
    Changed weights lose their metrics and self-check. The card names the licence in the description; without one, the owner of
    the weights chooses it.

    Attributes:
        tasks: "segmentation", "classification" or both.
        attributes: what else it recognises (`brainmri.zoo.attributes`).
    """

    tasks: tuple[str, ...] = ()
    attributes: Mapping[str, Sequence[str]] = MappingProxyType({})

    def forward(self, image: Tensor) -> Output:
        """(B, 3, H, W) to the logits of every task."""
        return self.forward_head(self.forward_features(image))

    def cam_features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Networks with a verdict override this."""
        raise NotImplementedError(f"{type(self).__name__} gives no verdict to explain")

    @classmethod
    def _from_pretrained(
        cls, *, model_id, revision=None, cache_dir=None, force_download=False, local_files_only=False, token=None, **arguments
    ):
        if cache_dir is not None or force_download:
            raise ValueError(
                "expected neither cache_dir nor force_download; set HF_HOME to choose the cache, whose files are checked anyway"
            )
        folder = Path(model_id) if Path(model_id).is_dir() else hub.fetch(model_id, revision, token, local_files_only)
        entry = read_entry(folder)
        if entry.net != cls.__name__:
            raise ValueError(
                f"expected a {cls.__name__}, but {model_id} holds a {entry.net}; use {entry.net}.from_pretrained or brainmri.load"
            )
        arguments = {**entry.arguments, **arguments}
        net = cls(**arguments)
        load_weights(net, entry)
        net._hub_mixin_config = read_config(folder) | {"arguments": arguments}  # the mixin stores only the arguments
        return net

    def generate_model_card(self, *args, **kwargs) -> ModelCard:
        """The mixin's card, with the licence in the description."""
        card = super().generate_model_card(*args, **kwargs)
        stored = self._hub_mixin_config
        if isinstance(stored, dict) and stored.get("licence"):
            card.data.license = stored["licence"]  # pyright: ignore[reportAttributeAccessIssue]: a field of ModelCardData
        return card

    def _save_pretrained(self, save_directory: Path) -> None:
        stored = self._hub_mixin_config
        config: dict = dict(stored) if isinstance(stored, dict) else {}
        if "net" not in config:  # not loaded by from_pretrained: the mixin stores the constructor's arguments
            config = new_config(
                name=save_directory.name, net=type(self).__name__, tasks=self.tasks, arguments=config, preprocess=Preprocess()
            )
        before = config.get("sha256")
        entry = save_entry(save_directory, self, config, split={})
        outdated: dict = {key: {} for key in ("metrics", "selfcheck") if config.get(key)}
        if entry.sha256 != before and outdated:
            save_entry(save_directory, self, config | outdated, split={})
