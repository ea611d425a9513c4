"""The layout of an entry of the zoo: one folder, on disk here or a repo on the Hub, read and written by these functions alone.

`config.json` (how to build the net, preprocessing, labels, thresholds, calibration, measured metrics),
`model.safetensors`, `split.json` (patients per role), `README.md` (the model card), with it `reliability.svg` where there is a
verdict, and, where they were made, `model.onnx`, `ood.safetensors` (see `brainmri.zoo.ood`), and `int8.xml` with `int8.bin`, the
network for CPUs (see `brainmri.zoo.backends`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from brainmri.zoo.calibration import Fusion, Rules
from brainmri.zoo.nets import NETWORKS
from brainmri.zoo.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import nn

CONFIG, WEIGHTS, SPLIT, CARD, ONNX = "config.json", "model.safetensors", "split.json", "README.md", "model.onnx"
DIAGRAM = "reliability.svg"  # the card shows it
OOD = "ood.safetensors"
INT8, INT8_WEIGHTS = "int8.xml", "int8.bin"
TASKS = ("segmentation", "classification")


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """Everything known about a set of weights.

    Attributes:
        name: of the entry, and of its Hub repo.
        tasks: "segmentation", "classification" or both.
        net: the network's class, one of `brainmri.zoo.nets.NETWORKS`, with `arguments` for its constructor.
        preprocess: what the network was trained behind.
        labels: of the verdict's outputs, in order; empty without a verdict.
        temperature: divides the verdict's logits before the softmax (Guo et al. 2017), fitted on validation patients.
        mask_threshold: on the probability map, in (0, 1).
        mask_neighbours: `Rules.mask_neighbours`, for studies.
        review: [low, high] band of the tumour probability in which the verdict is "review".
        fusion: for "slice" and "study", how the entry's own verdict and mask become one probability, which then replaces
            temperature and band; empty where that was not fitted.
        flips: average the prediction with that of the left-right mirrored slice.
        parameters: trainable parameters and batch-norm statistics, counted.
        sha256: of `model.safetensors`.
        selfcheck: what `selfcheck.answer` gave when the entry was released; empty where it was not asked.
        gate: `sha256` of `ood.safetensors`, above what (`distance_threshold`, `orientation_threshold`) a slice is questioned, and what the gate looks at
            (`feature_spec`; all of it `brainmri.zoo.ood`); empty for an entry without one.
        int8: SHA-256 of `int8.xml` and `int8.bin` by their names (`files`), and what they cost (`measured`); empty for an entry
            without them.
        training: the dataset with its licence, and `stages`: command, slices drawn, patients, and teacher, number of
            processes, number of earlier stages that it `averages` and numbers of those whose networks it `unites`, if any, of
            each run in order.
        metrics: measured figures with their protocol, by the ids of `brainmri.zoo.metrics`.
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
    mask_neighbours: float
    review: tuple[float, float]
    fusion: dict[str, Fusion]
    flips: bool
    parameters: int
    sha256: str
    selfcheck: dict
    ood: dict
    int8: dict
    training: dict
    metrics: dict
    folder: Path

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file that `config.json` vouches for, by its name."""
        ood = {OOD: self.ood["sha256"]} if self.ood else {}
        return {WEIGHTS: self.sha256} | ood | {name: self.int8["files"][name] for name in (INT8, INT8_WEIGHTS) if self.int8}


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
            name=str(config["name"]),
            summary=str(config["summary"]),
            tasks=tuple(config["tasks"]),
            net=config["net"],
            arguments=config["arguments"],
            preprocess=Preprocess(**config["preprocess"]),
            labels=tuple(config["labels"]),
            temperature=float(config["temperature"]),
            mask_threshold=float(config["mask_threshold"]),
            mask_neighbours=float(config.get("mask_neighbours", 0.0)),
            review=tuple(config["review"]),
            fusion={mode: _read_fusion(fusion) for mode, fusion in config.get("fusion", {}).items()},
            flips=bool(config["flips"]),
            parameters=int(config["parameters"]),
            sha256=config["sha256"],
            selfcheck=config.get("selfcheck", {}),
            ood=config.get("ood", {}),
            int8=config.get("int8", {}),
            training=config["training"],
            metrics=config["metrics"],
            folder=folder,
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} is not a model configuration of this layout: {error!r}") from error
    if entry.net not in NETWORKS or not entry.tasks or set(entry.tasks) - set(TASKS):
        raise ValueError(
            f"{folder / CONFIG} names net {entry.net!r} for {entry.tasks}; known are {', '.join(NETWORKS)} for {', '.join(TASKS)}"
        )
    return entry


def _read_fusion(config: dict) -> Fusion:
    return Fusion(**config | {"review": tuple(config["review"])})


def new_config(*, name: str, net: str, tasks: tuple[str, ...], arguments: dict, preprocess: Preprocess, **known) -> dict:
    """Every field that `save_entry` wants, of a network that was neither calibrated nor measured; `known` fields replace them."""
    return {
        "name": name,
        "summary": net,
        "tasks": list(tasks),
        "net": net,
        "arguments": arguments,
        "preprocess": preprocess.config(),
        "labels": ["no tumour", "tumour"] if "classification" in tasks else [],
        "temperature": 1.0,
        "mask_threshold": 0.5,
        "mask_neighbours": 0.0,
        "review": [0.5, 0.5],
        "fusion": {},
        "selfcheck": {},
        "ood": {},
        "int8": {},
        "flips": False,
        "training": {},
        "metrics": {},
    } | known


def save_entry(folder: str | Path, net: nn.Module, config: dict, split: dict, half: bool = False) -> ModelEntry:
    """Write a network and what is known about it as an entry; the count and the hash are filled in.

    What was made of other weights that lay there before, a gate and a quantised network, is taken away, and so is an export,
    which holds the calibration too.

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
    sha256 = file_sha256(folder / WEIGHTS)
    before = json.loads((folder / CONFIG).read_text(encoding="utf-8")) if (folder / CONFIG).is_file() else {}
    kept = {key: before.get(key, {}) if before.get("sha256") == sha256 else {} for key in ("ood", "int8")}
    for key, names in {"export": [ONNX], "ood": [OOD], "int8": [INT8, INT8_WEIGHTS]}.items():
        for name in names if not kept.get(key) else ():
            (folder / name).unlink(missing_ok=True)
    config = config | kept | {"parameters": count_parameters(net), "sha256": sha256}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / SPLIT).write_text(json.dumps(split, indent=2) + "\n", encoding="utf-8")
    return read_entry(folder)


def load_weights(net: nn.Module, entry: ModelEntry) -> None:
    """Fill a network with an entry's weights: strictly, as float32, in eval mode.

    Raises:
        ValueError: when the file's hash is not the one in `config.json`, or its tensors don't fit the network.
    """
    from safetensors.torch import load_file

    path = entry.folder / WEIGHTS
    if (found := file_sha256(path)) != entry.sha256:
        raise ValueError(
            f"{path} has SHA-256 {found}, but its config.json says {entry.sha256}; the file is damaged or was exchanged"
        )
    try:
        net.load_state_dict({k: t.float() if t.is_floating_point() else t for k, t in load_file(path).items()}, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit {entry.net}: {error}") from error
    net.eval()


def rules_of(segmenter: ModelEntry | None, classifier: ModelEntry | None, mask_threshold: float | None = None) -> Rules:
    """The rules that two entries, one entry twice, or one of a kind bring along.

    Args:
        mask_threshold: instead of the segmenter's own.
    """
    own = segmenter or classifier
    return Rules(
        mask_threshold=own.mask_threshold if mask_threshold is None else mask_threshold,
        temperature=(classifier or own).temperature,
        review=(classifier or own).review,
        fusion=classifier.fusion if classifier is not None and classifier is segmenter else {},
        mask_neighbours=own.mask_neighbours,
    )
