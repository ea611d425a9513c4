"""The zoo: which models there are, where each lies, and how to load one.

A name is looked for among the embedded copies (`brainmri/weights/`), then on the Hub at the commit pinned in
`weights/hub.json`, whose files the local cache may hold already. A folder or an OWNER/NAME on the Hub stands for itself.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from brainmri.zoo import hub
from brainmri.zoo.entry import CARD, CONFIG, TASKS, ModelEntry, load_weights, read_entry
from brainmri.zoo.ood import OodDetector, read_ood_detector

if TYPE_CHECKING:
    import torch

    from brainmri.zoo.backends import Backend
    from brainmri.zoo.hub_mixin import PretrainedNet

EMBEDDED = Path(__file__).parents[1] / "weights"
PINS = "hub.json"  # beside the embedded entries: repo, 40-hex revision and weight SHA-256 of each published one
OWNER, RUNTIME = "BRAINMRI_HUB_OWNER", "BRAINMRI_RUNTIME"
DEFAULT = "effunet-pair-lgg"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network ready to predict: in eval mode, on its device, with its entry, and its gate where it has one.

    `run` gives what is asked of the network by whatever runtime suits; `net` is the network itself, in torch.
    """

    entry: ModelEntry
    net: PretrainedNet
    device: torch.device
    backend: Backend
    ood: OodDetector | None = None


def embedded() -> dict[str, ModelEntry]:
    """The entries that lie in this package, by name."""
    entries = [read_entry(folder) for folder in sorted(EMBEDDED.iterdir()) if (folder / CONFIG).is_file()]
    return {entry.name: entry for entry in entries}


def pins() -> dict[str, dict]:
    """`repo`, `revision` (a commit), `sha256` of the weights and names of checked `files` of each published entry, by name."""
    path = EMBEDDED / PINS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def list_models(task: str | None = None) -> list[ModelEntry]:
    """The entries at hand, by name: embedded, or published and in the local cache. Asks no network.

    Args:
        task: "segmentation" or "classification" to list only the entries that do it.

    Raises:
        ValueError: for another task.
    """
    if task is not None and task not in TASKS:
        raise ValueError(f"unknown task {task!r}; choose from {', '.join(TASKS)}")
    entries = embedded()
    for name in set(pins()) - set(entries):
        try:
            entries[name] = _pinned(name, cached_only=True)
        except hub.HubError:
            log.debug("%s is not in the local cache", name)
    return [entries[name] for name in sorted(entries) if task is None or task in entries[name].tasks]


def find_entry(source: str | Path, revision: str | None = None) -> ModelEntry:
    """The entry of a name, a folder in the layout, or an OWNER/NAME on the Hub, downloaded where it is not at hand.

    `BRAINMRI_HUB_OWNER` takes names from that owner's repos instead, and `revision` from another commit, tag or
    branch; where the Hub then cannot be reached, an embedded copy serves, and a warning says so.

    Raises:
        ValueError: for an unknown name, listing those there are, or a folder that is not in the layout.
        FileNotFoundError: when the folder lacks a file.
        brainmri.zoo.hub.HubError: when the Hub has to be asked and does not give it.
    """
    name = str(source)
    known = embedded()
    published = pins()
    if name not in known and name not in published:
        if isinstance(source, Path) or Path(name).is_dir():
            return read_entry(source)
        if name.count("/") == 1 and not name.startswith((".", "/", "~")):
            return read_entry(hub.fetch(name, revision))
    if os.environ.get(OWNER) or (revision and name in published):
        try:
            return pull(name, revision)
        except hub.HubUnreachable as error:
            if name not in known:
                raise
            log.warning("%s; the embedded copy of %s serves instead", error, name)
            return known[name]
    if revision:
        raise ValueError(f"{name} was not published yet, so it has no revision {revision!r}; set {OWNER}, or give OWNER/NAME")
    if name in known:
        return known[name]
    if name in published:
        return _pinned(name)
    raise ValueError(f"unknown model {name!r}; choose from {', '.join(sorted({*known, *published}))}, a folder, or OWNER/NAME")


def pull(name: str, revision: str | None = None) -> ModelEntry:
    """An entry from the Hub, through the local cache: from `BRAINMRI_HUB_OWNER`'s repo where that is set, else as it was pinned.

    Args:
        name: of an entry, or OWNER/NAME.
        revision: commit, tag or branch instead of the pinned commit.

    Raises:
        ValueError: when it is not known from whom to pull.
        brainmri.zoo.hub.HubError: when the Hub does not give it.
    """
    if "/" in name:
        return read_entry(hub.fetch(name, revision))
    if owner := os.environ.get(OWNER):
        return read_entry(hub.fetch(f"{owner}/{name}", revision))
    if name not in (published := pins()):
        raise ValueError(f"{name} was not published from here; set {OWNER}, or give OWNER/NAME")
    return read_entry(hub.fetch(published[name]["repo"], revision)) if revision else _pinned(name)


def _pinned(name: str, cached_only: bool = False) -> ModelEntry:
    pin = pins()[name]
    entry = read_entry(hub.fetch(pin["repo"], pin["revision"], cached_only=cached_only))
    if entry.sha256 != pin["sha256"]:
        raise hub.HubError(f"{pin['repo']} at {pin['revision']} does not hold the weights that were published from here")
    return entry


def source(entry: ModelEntry) -> str:
    """Where an entry came from, without a path: "embedded", "Hub cache, OWNER/NAME at COMMIT", or "folder"."""
    if entry.folder.parent == EMBEDDED:
        return "embedded"
    repo, commit = hub.cached(entry.folder) or (None, None)
    return f"Hub cache, {repo} at {commit}" if repo else "folder"


def licence(entry: ModelEntry) -> str | None:
    """The weights' licence as their card names it, "cc-by-nc-sa-4.0"; None where it does not."""
    from huggingface_hub import ModelCard

    card = entry.folder / CARD
    return ModelCard.load(card, ignore_metadata_errors=True).data.license if card.is_file() else None


def describe(entry: ModelEntry) -> dict:
    """An entry in short, ready for JSON."""
    return {
        "name": entry.name,
        "summary": entry.summary,
        "tasks": list(entry.tasks),
        "net": entry.net,
        "parameters": entry.parameters,
        "size": entry.preprocess.size,
        "sha256": entry.sha256,
        "source": source(entry),
        "licence": licence(entry),
    }


def resolve_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one, else MPS, else the CPU; any other torch device by its own name.

    Raises:
        ValueError: when the device is unknown or not on this machine.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name!r} is not to be had here ({str(error).splitlines()[0]}); try 'auto' or 'cpu'") from error
    return device


def load(
    source: str | Path,
    weights: str | Path | None = None,
    device: str = "auto",
    revision: str | None = None,
    runtime: str | None = None,
) -> LoadedModel:
    """Load a network, strictly and in eval mode, its file checked by its hash.

    Args:
        source: name of an entry (see `list_models`), a folder in the entry layout, or OWNER/NAME on the Hub.
        weights: a folder to load instead of what `source` names, for weights trained or kept elsewhere.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        revision: commit, tag or branch on the Hub, instead of the pinned one.
        runtime: "auto", "torch", "half", on CUDA "compiled", on a CPU "openvino" or "int8" (`brainmri.zoo.backends`); None takes the
            environment's `BRAINMRI_RUNTIME`, or "auto".

    Raises:
        ValueError: for an unknown name, device or runtime, weights whose hash differs from their `config.json`, or that don't
            fit the net, or a gate that is not theirs.
        FileNotFoundError: when the folder lacks a file.
        brainmri.zoo.hub.HubError: when the Hub has to be asked and does not give it.
    """
    from brainmri.zoo.backends import AUTO, AutoBackend
    from brainmri.zoo.nets import create_network

    entry = read_entry(weights) if weights is not None else find_entry(source, revision)
    net = create_network(entry.net, entry.arguments)
    load_weights(net, entry)
    target = resolve_device(device)
    net.requires_grad_(False).to(target)
    ood = read_ood_detector(entry)
    backend = AutoBackend(entry, net, target, ood, runtime or os.environ.get(RUNTIME, AUTO))
    return LoadedModel(entry=entry, net=net, device=target, backend=backend, ood=ood)


def split_roles(model: LoadedModel) -> tuple[LoadedModel | None, LoadedModel | None]:
    """The model as segmenter and as classifier, None for what it does not do."""
    return tuple(model if task in model.entry.tasks else None for task in ("segmentation", "classification"))
