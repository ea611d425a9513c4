"""The model zoo: list the models, find one, and load it.

A name stands for an embedded copy in `brainmri/weights/`, or else for a repo on the Hub at the commit in `weights/hub.json`,
which may already be in the local cache. A model name can also be a local folder or OWNER/NAME on the Hub.
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
from brainmri.zoo.ood import OodDetector, read_ood_detector, read_scope
from brainmri.zoo.threads import limit_threads

if TYPE_CHECKING:
    import torch

    from brainmri.zoo.backends import Backend
    from brainmri.zoo.hub_mixin import PretrainedNet

EMBEDDED = Path(__file__).parents[1] / "weights"
PINS = "hub.json"  # the published entries: repo, 40-hex revision, SHA-256
OWNER, RUNTIME, DEVICE = "BRAINMRI_HUB_OWNER", "BRAINMRI_RUNTIME", "BRAINMRI_DEVICE"
DEFAULT = "effunet-any"
AXIAL_OOD = "effunet-lite2-lgg"  # its detector checks the slices for entries that have none, which are all for axial slices

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network ready for inference.

    Attributes:
        entry: its description.
        net: the network in torch, in eval mode, on the device.
        device: where it is.
        backend: runs the network, by torch or a faster backend.
        ood: its out-of-distribution detector; None without one.
        scope: the detector of the slices that its specialist decides; None without one.
    """

    entry: ModelEntry
    net: PretrainedNet
    device: torch.device
    backend: Backend
    ood: OodDetector | None = None
    scope: OodDetector | None = None


def embedded() -> dict[str, ModelEntry]:
    """The entries in this package, by name."""
    entries = [read_entry(folder) for folder in sorted(EMBEDDED.iterdir()) if (folder / CONFIG).is_file()]
    return {entry.name: entry for entry in entries}


def pins() -> dict[str, dict]:
    """For each published entry, by name: `repo`, `revision` (a commit), `sha256` of the weights, names of checked `files`."""
    path = EMBEDDED / PINS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def list_models(task: str | None = None) -> list[ModelEntry]:
    """The available entries, sorted by name: embedded, or published and in the local cache. Needs no connection.

    Args:
        task: "segmentation" or "classification", to list only the entries with this task.

    Raises:
        ValueError: for any other task.
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


def find_entry(source: str | Path, revision: str | None = None, from_hub: bool = False) -> ModelEntry:
    """The entry for a name, a model folder, or OWNER/NAME on the Hub; downloaded if necessary.

    With `BRAINMRI_HUB_OWNER`, names stand for that owner's repos; `revision` selects a commit, tag or branch. If the Hub cannot
    be reached then, the embedded copy is used, with a warning; with `from_hub` it never is.

    Raises:
        ValueError: for an unknown name, a folder without this layout, or with `from_hub` an entry that is not published.
        FileNotFoundError: if the folder lacks a file.
        brainmri.zoo.hub.HubError: if the Hub is needed and the download fails.
    """
    name = str(source)
    known = embedded()
    published = pins()
    if name not in known and name not in published:
        if isinstance(source, Path) or Path(name).is_dir():
            return read_entry(source)
        if name.count("/") == 1 and not name.startswith((".", "/", "~")):
            return read_entry(hub.fetch(name, revision))
        raise ValueError(
            f"unknown model {name!r}; choose from {', '.join(sorted({*known, *published}))}, a folder, or OWNER/NAME"
        )
    if os.environ.get(OWNER) or (revision and name in published) or from_hub:
        try:
            return pull(name, revision)
        except hub.HubUnreachable as error:
            if name not in known or from_hub:
                raise
            log.warning("%s; the embedded copy of %s is used instead", error, name)
            return known[name]
    if revision:
        raise ValueError(f"{name} is not published, so it has no revision {revision!r}; set {OWNER}, or give OWNER/NAME")
    return known[name] if name in known else _pinned(name)


def list_names(from_hub: bool = False) -> list[str]:
    """The names of all entries of the zoo, sorted: embedded or published.

    Args:
        from_hub: only those on the Hub: the published ones, or all of them if `BRAINMRI_HUB_OWNER` names an owner.

    Raises:
        ValueError: with `from_hub`, if nothing is published.
    """
    published = pins()
    if not from_hub or os.environ.get(OWNER):
        return sorted({*embedded(), *published})
    if not published:
        raise ValueError(f"no model is published on the Hub yet; use the embedded copies (without --from-hub), or set {OWNER}")
    return sorted(published)


def pull(name: str, revision: str | None = None) -> ModelEntry:
    """Download an entry from the Hub into the local cache: from `BRAINMRI_HUB_OWNER`'s repo if set, else at the pinned commit.

    Args:
        name: of an entry, or OWNER/NAME.
        revision: commit, tag or branch instead of the pinned commit.

    Raises:
        ValueError: if no owner is known for the name.
        brainmri.zoo.hub.HubError: if the download fails.
    """
    if "/" in name:
        return read_entry(hub.fetch(name, revision))
    if owner := os.environ.get(OWNER):
        return read_entry(hub.fetch(f"{owner}/{name}", revision))
    if name not in (published := pins()):
        raise ValueError(f"{name} is not published on the Hub yet; use the embedded copy, set {OWNER}, or give OWNER/NAME")
    return read_entry(hub.fetch(published[name]["repo"], revision)) if revision else _pinned(name)


def _pinned(name: str, cached_only: bool = False) -> ModelEntry:
    pin = pins()[name]
    entry = read_entry(hub.fetch(pin["repo"], pin["revision"], cached_only=cached_only))
    if entry.sha256 != pin["sha256"]:
        raise hub.HubError(f"{pin['repo']} at {pin['revision']} does not hold the published weights; the repo was changed")
    return entry


def source(entry: ModelEntry) -> str:
    """The origin of an entry, without a path: "embedded", "Hub cache, OWNER/NAME at COMMIT", or "folder"."""
    if entry.folder.parent == EMBEDDED:
        return "embedded"
    repo, commit = hub.cached(entry.folder) or (None, None)
    return f"Hub cache, {repo} at {commit}" if repo else "folder"


def licence(entry: ModelEntry) -> str | None:
    """The licence that the entry's card names, for example "cc-by-nc-sa-4.0"; None if it names none."""
    from huggingface_hub import ModelCard

    card = entry.folder / CARD
    return getattr(ModelCard.load(card, ignore_metadata_errors=True).data, "license", None) if card.is_file() else None


def describe(entry: ModelEntry) -> dict:
    """A summary of an entry for JSON."""
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


def requested_device(name: str) -> str:
    """The name of a device; for "auto" that in the environment variable `BRAINMRI_DEVICE`, if set."""
    return os.environ.get(DEVICE) or name if name == "auto" else name


def resolve_device(name: str) -> torch.device:
    """A torch device by name; "auto" is `BRAINMRI_DEVICE` if set, else CUDA if available, else MPS, else the CPU.

    Raises:
        ValueError: if the device is unknown or not available on this machine.
    """
    import torch

    requested = requested_device(name)
    if requested == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(requested)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        origin = "" if requested == name else f" of {DEVICE}"
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {requested!r}{origin} is not available ({reason}); try 'auto' or 'cpu'") from error
    return device


def requested_runtime(name: str | None, default: str = "torch") -> str:
    """The name of a runtime (`brainmri.zoo.backends`); for None the environment variable `BRAINMRI_RUNTIME`, or the default."""
    return name or os.environ.get(RUNTIME) or default


def load(
    source: str | Path,
    weights: str | Path | None = None,
    device: str = "auto",
    revision: str | None = None,
    runtime: str | None = None,
    from_hub: bool = False,
) -> LoadedModel:
    """Load a network strictly, in eval mode, after checking the hash of its weights.

    An accelerator runs one pass first. If that fails, because the accelerator lacks an operation, is not supported by this build
    of torch, or has no memory left, the network is loaded on the CPU instead, with a warning.

    Args:
        source: name of an entry (see `list_models`), a model folder, or OWNER/NAME on the Hub.
        weights: a model folder to load instead of `source`.
        device: "auto", "cpu", "cuda", "cuda:1", "mps"; "auto" takes the environment variable `BRAINMRI_DEVICE`, if set.
        revision: commit, tag or branch on the Hub, instead of the pinned one.
        runtime: the inference backend (`brainmri.zoo.backends`): "auto", "torch", "half", on CUDA also "compiled", on a CPU also
            "openvino" and "int8"; None takes the environment variable `BRAINMRI_RUNTIME`, or "torch", which is float32.
        from_hub: take a name's weights from the Hub or its local cache, never the embedded copy.

    Raises:
        ValueError: for an unknown name, device or runtime; with `from_hub`, for an entry that is not published; for weights or a
            detector whose hash differs from `config.json`; and for weights that don't fit the network.
        FileNotFoundError: if the folder lacks a file.
        brainmri.zoo.hub.HubError: if the Hub is needed and the download fails.
    """
    entry = read_entry(weights) if weights is not None else find_entry(source, revision, from_hub)
    target, runtime = resolve_device(device), requested_runtime(runtime)
    if target.type == "cpu":
        return _load_on(target, entry, runtime)
    try:
        model = _load_on(target, entry, runtime)
        model.backend.run_first_pass(entry.preprocess.size, target)
        return model
    except ValueError:  # wrong arguments or damaged files
        raise
    except Exception as error:  # many types, such as RuntimeError, NotImplementedError and, for float64 on MPS, TypeError
        log.warning("%s cannot run on %s (%s); it runs on the CPU", entry.name, target, first_line(error))
    return load_on_cpu(entry)


def load_on_cpu(entry: ModelEntry) -> LoadedModel:
    """Load an entry on the CPU, in float32: what an accelerator is replaced by if it fails."""
    import torch

    from brainmri.zoo.backends import TORCH

    return _load_on(torch.device("cpu"), entry, TORCH)


def _load_on(device: torch.device, entry: ModelEntry, runtime: str) -> LoadedModel:
    from brainmri.zoo.backends import create_backend
    from brainmri.zoo.nets import create_network

    limit_threads()
    net = create_network(entry.net, entry.arguments)
    load_weights(net, entry)
    net.requires_grad_(False).to(device)
    ood = read_ood_detector(entry)
    backend = create_backend(entry, net, device, ood, runtime)
    return LoadedModel(entry=entry, net=net, device=device, backend=backend, ood=ood, scope=read_scope(entry))


def first_line(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def split_roles(model: LoadedModel) -> tuple[LoadedModel | None, LoadedModel | None]:
    """The model as segmenter and as classifier; None for a task it does not have."""
    tasks = model.entry.tasks
    return model if "segmentation" in tasks else None, model if "classification" in tasks else None
