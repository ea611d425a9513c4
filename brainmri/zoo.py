"""The zoo: what is known about each set of weights, and how to load it.

An entry is a folder in the layout of a Hub repo: `config.json` (how to build the net, preprocessing, labels,
thresholds, calibration, measured metrics), `model.safetensors`, `split.json` (patients per role) and `README.md`
(the model card). The embedded copies lie under `brainmri/weights/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from brainmri.preprocess import Preprocess

if TYPE_CHECKING:
    import torch
    from torch import nn

EMBEDDED = Path(__file__).parent / "weights"
CONFIG, WEIGHTS, SPLIT, CARD = "config.json", "model.safetensors", "split.json", "README.md"
TASKS = ("segmentation", "classification")
DEFAULT = "effunet-lgg"


def _effunet(**arguments) -> nn.Module:
    from brainmri.nets import EffUNet

    return EffUNet(**arguments)


def _resunet(**arguments) -> nn.Module:
    from brainmri.nets import ResUNet

    return ResUNet(**arguments)


def _resnet50(**arguments) -> nn.Module:
    from brainmri.nets import ResNet50Classifier

    return ResNet50Classifier(**arguments)


# deferred, so that listing the zoo does not import torch's vision stack
NETS: dict[str, Callable[..., nn.Module]] = {"EffUNet": _effunet, "ResUNet": _resunet, "ResNet50Classifier": _resnet50}


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """Everything known about a set of weights.

    Attributes:
        name: of the entry, and of its Hub repo.
        tasks: "segmentation", "classification" or both.
        net: the network's class, a key of `NETS`, with `arguments` for its constructor.
        preprocess: what the network was trained behind.
        labels: of the verdict's outputs, in order; empty without a verdict.
        temperature: divides the verdict's logits before the softmax (Guo et al. 2017), fitted on validation patients.
        mask_threshold: on the probability map, in (0, 1).
        review: [low, high] band of the tumour probability in which the verdict is "review".
        flips: average the prediction with that of the left-right mirrored slice.
        parameters: trainable parameters and batch-norm statistics, counted.
        sha256: of `model.safetensors`.
        training: the dataset with its licence, and `stages`: command, slices drawn, patients and teacher, if any, of each run
            in order.
        metrics: measured figures, each named with its protocol.
        folder: where the entry lies.
    """

    name: str
    summary: str
    tasks: tuple[str, ...]
    net: str
    arguments: dict
    preprocess: Preprocess
    labels: tuple[str, ...]
    temperature: float
    mask_threshold: float
    review: tuple[float, float]
    flips: bool
    parameters: int
    sha256: str
    training: dict
    metrics: dict
    folder: Path


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network ready to predict: in eval mode, on its device, with its entry."""

    entry: ModelEntry
    net: nn.Module
    device: torch.device


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def count_parameters(net: nn.Module) -> int:
    """Trainable parameters plus batch-norm means and variances, the count that Keras prints."""
    statistics = sum(b.numel() for name, b in net.named_buffers() if not name.endswith("num_batches_tracked"))
    return sum(p.numel() for p in net.parameters()) + statistics


def read_entry(folder: str | Path) -> ModelEntry:
    """Read an entry's `config.json`; the weights stay untouched.

    Raises:
        FileNotFoundError: when the folder or one of the two needed files is missing.
        ValueError: when the configuration is not of this layout.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not a model folder: {name} is missing")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        entry = ModelEntry(
            name=config["name"],
            summary=config["summary"],
            tasks=tuple(config["tasks"]),
            net=config["net"],
            arguments=config["arguments"],
            preprocess=Preprocess(**config["preprocess"]),
            labels=tuple(config["labels"]),
            temperature=float(config["temperature"]),
            mask_threshold=float(config["mask_threshold"]),
            review=tuple(config["review"]),
            flips=bool(config["flips"]),
            parameters=int(config["parameters"]),
            sha256=config["sha256"],
            training=config["training"],
            metrics=config["metrics"],
            folder=folder,
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} is not a model configuration of this layout: {error!r}") from error
    if entry.net not in NETS or not entry.tasks or set(entry.tasks) - set(TASKS):
        raise ValueError(
            f"{folder / CONFIG} names net {entry.net!r} for {entry.tasks}; known are {', '.join(NETS)} for {', '.join(TASKS)}"
        )
    return entry


def save_entry(folder: str | Path, net: nn.Module, config: dict, split: dict, half: bool = False) -> ModelEntry:
    """Write a network and what is known about it as an entry; the count and the hash are filled in.

    Args:
        config: every field of `config.json` but `parameters` and `sha256`.
        split: patients by role.
        half: store floating-point tensors in float16; they are loaded as float32.
    """
    import torch
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (t.half() if half and t.dtype == torch.float32 else t).detach().cpu().contiguous()
        for name, t in net.state_dict().items()
    }
    save_file(tensors, folder / WEIGHTS)
    config = {**config, "parameters": count_parameters(net), "sha256": file_sha256(folder / WEIGHTS)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / SPLIT).write_text(json.dumps(split, indent=2) + "\n", encoding="utf-8")
    return read_entry(folder)


def list_models(task: str | None = None) -> list[ModelEntry]:
    """The embedded entries, by name.

    Args:
        task: "segmentation" or "classification" to list only the entries that do it.

    Raises:
        ValueError: for another task.
    """
    if task is not None and task not in TASKS:
        raise ValueError(f"unknown task {task!r}; choose from {', '.join(TASKS)}")
    entries = [read_entry(folder) for folder in sorted(EMBEDDED.iterdir()) if (folder / CONFIG).is_file()]
    return [entry for entry in entries if task is None or task in entry.tasks]


def find_entry(name: str) -> ModelEntry:
    """The embedded entry of that name.

    Raises:
        ValueError: for an unknown name, listing those there are.
    """
    entries = {entry.name: entry for entry in list_models()}
    if name not in entries:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(entries)}")
    return entries[name]


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


def load(name: str, weights: str | Path | None = None, device: str = "auto") -> LoadedModel:
    """Load a network of the zoo, strictly and in eval mode.

    Args:
        name: of the entry, see `list_models`.
        weights: a folder in the entry layout to load instead of the embedded copy, for weights trained or kept elsewhere.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises:
        ValueError: for an unknown name or device, weights whose hash differs from their `config.json`, or that don't fit the net.
        FileNotFoundError: when the folder lacks a file.
    """
    from safetensors.torch import load_file

    entry = read_entry(weights) if weights is not None else find_entry(name)
    path = entry.folder / WEIGHTS
    if (found := file_sha256(path)) != entry.sha256:
        raise ValueError(
            f"{path} has SHA-256 {found}, but its config.json says {entry.sha256}; the file is damaged or was exchanged"
        )
    net = NETS[entry.net](**entry.arguments)
    try:
        net.load_state_dict({k: t.float() if t.is_floating_point() else t for k, t in load_file(path).items()}, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit {entry.net}: {error}") from error
    target = resolve_device(device)
    return LoadedModel(entry=entry, net=net.eval().requires_grad_(False).to(target), device=target)
