"""The layout of a model folder, on disk or as a repo on the Hub; only this module reads and writes its files.

`config.json` describes the model: network, preprocessing, labels, thresholds, calibration, training, measured metrics.
`model.safetensors` has the weights, `split.json` the patients by role, `README.md` the model card. The card shows
`example.webp` and, if there is a verdict, `reliability.svg`; its long tables are in `metrics.md`. Optional: `model.onnx`,
`ood.safetensors` and `scope.safetensors` (see `brainmri.zoo.ood`), and `int8.xml` with `int8.bin`, the 8-bit network for CPUs
(see `brainmri.zoo.backends`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brainmri.zoo.attributes import FLAIR, THREE_SEQUENCES
from brainmri.zoo.calibration import UNKNOWN, Fusion, Rules, SequenceRules
from brainmri.zoo.metrics import Measurements
from brainmri.zoo.nets import NETWORKS
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.records import OodConfig, QuantisedInfo, SelfCheckOutputs, SpecialistConfig, Training

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG, WEIGHTS, SPLIT, CARD, ONNX = "config.json", "model.safetensors", "split.json", "README.md", "model.onnx"
DIAGRAM, PICTURE, METRICS_PAGE = "reliability.svg", "example.webp", "metrics.md"  # shown in the card, or linked from it
OOD, SCOPE = "ood.safetensors", "scope.safetensors"
INT8, INT8_WEIGHTS = "int8.xml", "int8.bin"
DESCRIPTION = (CONFIG, SPLIT, CARD)  # the files of every published entry besides those in `ModelEntry.hashes`
OPTIONAL = (DIAGRAM, PICTURE, METRICS_PAGE, ONNX)  # further files, which loading does not need
TASKS = ("segmentation", "classification")
USUAL_SEQUENCES = frozenset({FLAIR, THREE_SEQUENCES})  # of entries whose training record names none


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """Everything known about a set of weights.

    Attributes:
        name: the name of the entry and of its Hub repo.
        summary: one line about it.
        tasks: "segmentation", "classification" or both.
        net: the network's class, one of `brainmri.zoo.nets.NETWORKS`.
        arguments: the arguments of its constructor, by name; each network has its own. Read-only.
        preprocess: the preprocessing it was trained with.
        labels: the classes of the verdict, in order; empty without a verdict.
        temperature: divides the verdict's logits before the softmax (Guo et al. 2017); fitted on validation patients.
        mask_threshold: on the probability map, in (0, 1).
        mask_neighbours: `Rules.mask_neighbours`, for studies.
        review: [low, high] band of the tumour probability in which the verdict is "review".
        fusion: for "slice" and "study", how verdict and mask become one probability, which then replaces temperature and band;
            empty if it was not fitted.
        sequences: `Rules.sequences`, rules by MR sequence; empty where one set of rules holds for every input.
        flips: average the prediction with that for the left-right mirrored slice.
        parameters: the number of trainable parameters and batch-norm statistics.
        sha256: of `model.safetensors`.
        selfcheck: the output of `selfcheck.compute_outputs` at release; None if it was not computed.
        ood: the out-of-distribution detector; None without one.
        specialist: the entry that decides in place of this one on slices like its own training data; None without one.
        int8: the 8-bit network; None without one.
        training: dataset and training stages.
        metrics: measured figures with their protocol; None if nothing was measured.
        folder: where the entry is stored.
    """

    name: str
    summary: str
    tasks: tuple[str, ...]
    net: str
    arguments: Mapping[str, Any]
    preprocess: Preprocess
    labels: tuple[str, ...]
    temperature: float
    mask_threshold: float
    mask_neighbours: float
    review: tuple[float, float]
    fusion: dict[str, Fusion]
    sequences: dict[str, SequenceRules]
    flips: bool
    parameters: int
    sha256: str
    selfcheck: SelfCheckOutputs | None
    ood: OodConfig | None
    specialist: SpecialistConfig | None
    int8: QuantisedInfo | None
    training: Training
    metrics: Measurements | None
    folder: Path

    @property
    def evaluated_on(self) -> frozenset[str]:
        """The sequences that the entry was trained and evaluated on: those with rules of their own, or else those recorded."""
        if self.sequences:
            return frozenset(self.sequences) - {UNKNOWN}
        return frozenset(self.training.sequences) or USUAL_SEQUENCES

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file whose hash `config.json` lists, by file name."""
        ood = {OOD: self.ood.sha256} if self.ood else {}
        scope = {SCOPE: self.specialist.scope.sha256} if self.specialist else {}
        int8 = {name: self.int8.files[name] for name in (INT8, INT8_WEIGHTS)} if self.int8 else {}
        return {WEIGHTS: self.sha256} | ood | scope | int8

    @property
    def files(self) -> dict[str, Path]:
        """The entry's files that exist, by name; other files in the folder do not belong to it."""
        paths = {name: self.folder / name for name in (*DESCRIPTION, *self.hashes, *OPTIONAL)}
        return {name: path for name, path in paths.items() if path.is_file()}


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def count_parameters(net: nn.Module) -> int:
    """Trainable parameters plus batch-norm means and variances, the count that Keras prints."""
    statistics = sum(b.numel() for name, b in net.named_buffers() if not name.endswith("num_batches_tracked"))
    return sum(p.numel() for p in net.parameters()) + statistics


def read_config(folder: str | Path) -> dict:
    """An entry's `config.json` as a dictionary, to be changed and passed to `save_entry` or `update_config`."""
    return json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))


def update_config(folder: str | Path, **fields) -> ModelEntry:
    """Replace fields of an entry's `config.json`."""
    _write_json(Path(folder) / CONFIG, read_config(folder) | fields)
    return read_entry(folder)


def read_split(folder: str | Path) -> dict:
    """An entry's `split.json`: lists of patients by role (train, validation, held_out, …)."""
    return json.loads((Path(folder) / SPLIT).read_text(encoding="utf-8"))


def _write_json(path: Path, content: dict) -> None:
    """Write a file in one step, so that no reader finds half of it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)


def read_entry(folder: str | Path) -> ModelEntry:
    """Read an entry's `config.json`, without its weights.

    Raises:
        FileNotFoundError: if the folder or one of the two required files is missing.
        ValueError: if the configuration does not have this layout.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"expected a model folder, got {folder}: {name} is missing")
    try:
        config = read_config(folder)
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
            review=_pair(config["review"]),
            fusion={mode: Fusion.from_config(fusion) for mode, fusion in config.get("fusion", {}).items()},
            sequences={name: SequenceRules.from_config(one) for name, one in config.get("sequences", {}).items()},
            flips=bool(config["flips"]),
            parameters=int(config["parameters"]),
            sha256=config["sha256"],
            selfcheck=SelfCheckOutputs.from_config(config["selfcheck"]) if config.get("selfcheck") else None,
            ood=OodConfig.from_config(config["ood"]) if config.get("ood") else None,
            specialist=SpecialistConfig.from_config(config["specialist"]) if config.get("specialist") else None,
            int8=QuantisedInfo.from_config(config["int8"]) if config.get("int8") else None,
            training=Training.from_config(config["training"]),
            metrics=Measurements.from_config(config["metrics"]) if config["metrics"] else None,
            folder=folder,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"expected a model configuration of this layout, got {folder / CONFIG}: {error!r}") from error
    if entry.net not in NETWORKS or not entry.tasks or set(entry.tasks) - set(TASKS):
        raise ValueError(
            f"expected a net of {', '.join(NETWORKS)} and tasks of {', '.join(TASKS)}, "
            f"got {entry.net!r} and {entry.tasks} in {folder / CONFIG}"
        )
    return entry


def _pair(values: list) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)


def new_config(
    *, name: str, net: str, tasks: tuple[str, ...], arguments: Mapping[str, Any], preprocess: Preprocess, **known
) -> dict:
    """The `config.json` of a network without calibration and metrics, for `save_entry`; `known` replaces fields."""
    return {
        "name": name,
        "summary": net,
        "tasks": list(tasks),
        "net": net,
        "arguments": dict(arguments),
        "preprocess": preprocess.config(),
        "labels": ["no tumour", "tumour"] if "classification" in tasks else [],
        "temperature": 1.0,
        "mask_threshold": 0.5,
        "mask_neighbours": 0.0,
        "review": [0.5, 0.5],
        "fusion": {},
        "selfcheck": {},
        "ood": {},
        "specialist": {},
        "int8": {},
        "flips": False,
        "training": {},
        "metrics": {},
    } | known


def save_entry(folder: str | Path, net: nn.Module, config: dict, split: dict, half: bool = False) -> ModelEntry:
    """Write a network and its description as an entry, with the number of parameters and the hash.

    Detectors and an 8-bit network of other weights in the same folder are removed. An ONNX export is always removed, because it
    includes the calibration.

    Args:
        config: every field of `config.json` except `parameters` and `sha256`.
        split: patients by role.
        half: store floating-point tensors in float16, but those with values beyond its range; they are loaded as float32.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = net.state_dict().items()
    tensors = {name: (_in_half(tensor) if half else tensor).detach().cpu().contiguous() for name, tensor in state}
    save_file(tensors, folder / WEIGHTS)
    sha256 = file_sha256(folder / WEIGHTS)
    before = read_config(folder) if (folder / CONFIG).is_file() else {}
    kept = {key: before.get(key, {}) if before.get("sha256") == sha256 else {} for key in ("ood", "specialist", "int8")}
    for key, names in {"export": [ONNX], "ood": [OOD], "specialist": [SCOPE], "int8": [INT8, INT8_WEIGHTS]}.items():
        for name in names if not kept.get(key) else ():
            (folder / name).unlink(missing_ok=True)
    config = config | kept | {"parameters": count_parameters(net), "sha256": sha256}
    _write_json(folder / CONFIG, config)
    _write_json(folder / SPLIT, split)
    return read_entry(folder)


def _in_half(tensor: Tensor) -> Tensor:
    """A float32 tensor in float16, if its values fit; the variances of a batch norm can be larger."""
    import torch

    fits = tensor.dtype == torch.float32 and bool((tensor.abs() <= torch.finfo(torch.float16).max).all())
    return tensor.half() if fits else tensor


def copy_entry(source: str | Path, folder: str | Path) -> ModelEntry:
    """Copy an entry's files, and no others, into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in read_entry(source).files.items():
        shutil.copyfile(path, folder / name)
    return read_entry(folder)


def load_weights(net: nn.Module, entry: ModelEntry) -> None:
    """Load an entry's weights into a network: strictly, as float32, in eval mode.

    Raises:
        ValueError: if the file's hash is not the one in `config.json`, or its tensors don't fit the network.
    """
    from safetensors.torch import load_file

    path = entry.folder / WEIGHTS
    if (found := file_sha256(path)) != entry.sha256:
        raise ValueError(
            f"expected {path} with the SHA-256 in its config.json, {entry.sha256}, got {found}: "
            "the file is damaged or was exchanged; download the entry again"
        )
    try:
        net.load_state_dict({k: t.float() if t.is_floating_point() else t for k, t in load_file(path).items()}, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit {entry.net}: {error}") from error
    net.eval()


def require_metrics(entry: ModelEntry) -> Measurements:
    """An entry's metrics; ValueError if nothing was measured."""
    if entry.metrics is None:
        raise ValueError(f"expected an entry with metrics, got {entry.name} without; run train.release.release first")
    return entry.metrics


def rules_of(segmenter: ModelEntry | None, classifier: ModelEntry | None, mask_threshold: float | None = None) -> Rules:
    """The decision rules of a segmenter and a classifier, which may be the same entry; one of them may be None.

    Args:
        mask_threshold: instead of the segmenter's own.

    Raises:
        ValueError: without either entry.
    """
    mask_entry, verdict_entry = segmenter or classifier, classifier or segmenter
    if mask_entry is None or verdict_entry is None:
        raise ValueError("expected a segmenter, a classifier or both, got neither")
    both = classifier if classifier is segmenter else None  # a fusion needs the entry's own mask
    sequences = both.sequences if both else {}
    if mask_threshold is not None:
        sequences = {name: replace(one, mask_threshold=mask_threshold) for name, one in sequences.items()}
    return Rules(
        mask_threshold=mask_entry.mask_threshold if mask_threshold is None else mask_threshold,
        temperature=verdict_entry.temperature,
        review=verdict_entry.review,
        fusion=both.fusion if both else {},
        mask_neighbours=mask_entry.mask_neighbours,
        sequences=sequences,
        evaluated_on=mask_entry.evaluated_on & verdict_entry.evaluated_on,
    )
