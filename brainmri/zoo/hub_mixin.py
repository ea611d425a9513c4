"""What makes every network of `brainmri.zoo.nets` loadable from the Hub, and pushable to it, without the rest of this package."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from brainmri.zoo import hub
from brainmri.zoo.entry import CONFIG, load_weights, new_config, read_entry, save_entry
from brainmri.zoo.nets.base import Network, Output
from brainmri.zoo.preprocess import Preprocess


class PretrainedNet(
    nn.Module,
    PyTorchModelHubMixin,
    Network,
    library_name="brainmri",
    license="cc-by-nc-sa-4.0",
    tags=["medical", "mri", "brain"],
):
    """A network with `from_pretrained`, `save_pretrained` and `push_to_hub`, in this project's layout.

    `from_pretrained(FOLDER or "owner/name")` loads strictly, checks the hash and returns the network in eval mode. What
    `push_to_hub` writes, `brainmri.load("owner/name")` reads: the description it came with, or a fresh one; figures
    measured on other weights, and their answer to the self-check, are left out.

    Attributes:
        tasks: what it does, for the entry it becomes.
    """

    tasks: tuple[str, ...] = ()

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
            raise ValueError("cache_dir and force_download are not taken here: HF_HOME chooses the cache, and files are checked")
        folder = Path(model_id) if Path(model_id).is_dir() else hub.fetch(model_id, revision, token, local_files_only)
        entry = read_entry(folder)
        if entry.net != cls.__name__:
            raise ValueError(f"{model_id} holds a {entry.net}; load it by {entry.net}.from_pretrained or brainmri.load")
        arguments = {**entry.arguments, **arguments}
        net = cls(**arguments)
        load_weights(net, entry)
        description = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        net._hub_mixin_config = description | {"arguments": arguments}  # the mixin kept the arguments alone
        return net

    def _save_pretrained(self, save_directory: Path) -> None:
        config = dict(self._hub_mixin_config or {})
        if "net" not in config:  # built by hand: what the mixin kept are the constructor's arguments
            config = new_config(
                name=save_directory.name, net=type(self).__name__, tasks=self.tasks, arguments=config, preprocess=Preprocess()
            )
        before = config.get("sha256")
        entry = save_entry(save_directory, self, config, split={})
        of_other_weights = {key: {} for key in ("metrics", "selfcheck") if config.get(key)}
        if entry.sha256 != before and of_other_weights:
            save_entry(save_directory, self, config | of_other_weights, split={})
