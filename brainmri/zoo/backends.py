"""Inference backends: PyTorch everywhere; on a CPU also OpenVINO, in float32 or in 8-bit integers; on CUDA also torch.compile.

    model = brainmri.load("effunet-lite2-lgg", runtime="auto")

The backend is chosen when a network is loaded and never changes, so that equal inputs give equal results. The default is "torch",
in float32. "half" is torch in half precision (float16; bfloat16 on CPUs). "compiled" adds torch.compile; its first passes take a
minute, so it pays for large archives. "auto" is the fastest: on CUDA "half"; on a CPU it times the backends and remembers the
choice for this machine.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import torch
from huggingface_hub.constants import HF_HOME
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from brainmri._version import __version__
from brainmri.io.extras import explain_missing
from brainmri.zoo.entry import INT8, ModelEntry, file_sha256
from brainmri.zoo.ood import FeatureSpec, OodDetector, pool_features

if TYPE_CHECKING:
    from brainmri.zoo.hub_mixin import PretrainedNet

AUTO, TORCH, HALF, COMPILED, OPENVINO, QUANTISED = RUNTIMES = ("auto", "torch", "half", "compiled", "openvino", "int8")
TIMING_SECONDS = 1.0  # for each backend
MAX_DIFFERENCE = 0.1  # mean difference of the logits from torch's, relative to their mean size; 8-bit integers give about 0.01
CHOICES_FILE = Path(HF_HOME) / "brainmri" / "runtimes.json"  # the remembered choices

log = logging.getLogger(__name__)

Forward = Callable[[Tensor], tuple[Tensor, ...]]


class BackendOutput(NamedTuple):
    """The output for views (V, 3, S, S); a field is None if the network does not have that output.

    Attributes:
        mask: (V, 1, S, S) logits.
        verdict: (V,) logits, tumour against no tumour.
        features: (V, D) features of the out-of-distribution detector (`ood.pool_features`).
        attributes: (V, A) logits of the classes of all attributes.
    """

    mask: Tensor | None = None
    verdict: Tensor | None = None
    features: Tensor | None = None
    attributes: Tensor | None = None


class InferenceModule(nn.Module):
    """A network with its outputs for some tasks, and the detector's features, as a tuple of tensors, in the order of `names`."""

    def __init__(self, net: PretrainedNet, tasks: tuple[str, ...], feature_spec: FeatureSpec | None = None) -> None:
        super().__init__()
        self.net, self.feature_spec = net, feature_spec
        present = {
            "mask": "segmentation" in tasks,
            "verdict": "classification" in tasks,
            "features": feature_spec is not None,
            "attributes": bool(net.attributes),
        }
        self.names = [name for name, is_present in present.items() if is_present]

    def forward(self, views: Tensor) -> tuple[Tensor, ...]:
        """(V, 3, S, S), normalised, to the tensors that `BackendOutput` describes."""
        features = self.net.forward_features(views)
        mask, verdict, attributes = self.net.forward_head(features)
        outputs = {
            "mask": mask,
            "verdict": None if verdict is None else verdict[:, 1] - verdict[:, 0],
            "features": pool_features(features, self.feature_spec) if self.feature_spec else None,
            "attributes": attributes,
        }
        return tuple(output for name in self.names if (output := outputs[name]) is not None)


class Backend:
    """A network and the function that runs it. Thread-safe.

    Attributes:
        module: the network in torch.
        kind: the name of the backend.
        forward: the function.
    """

    def __init__(self, module: InferenceModule, kind: str, forward: Forward) -> None:
        self.module, self.kind, self.forward = module, kind, forward

    def __call__(self, views: Tensor) -> BackendOutput:
        """Run the network on views (V, 3, S, S), normalised and on the network's device."""
        return BackendOutput(**dict(zip(self.module.names, self.forward(views), strict=True)))

    def run_first_pass(self, size: int, device: torch.device) -> None:
        """Run the network once on empty views, and wait for the result.

        Raises:
            FloatingPointError: if an output is not finite.
            Exception: whatever an accelerator raises that cannot run the network.
        """
        outputs = self.forward(torch.zeros(2, 3, size, size, device=device))
        if not all(bool(output.isfinite().all()) for output in outputs):  # bool() waits for the accelerator
            raise FloatingPointError("expected finite outputs, got NaN or infinity")


def create_backend(
    entry: ModelEntry, net: PretrainedNet, device: torch.device, ood: OodDetector | None = None, runtime: str = TORCH
) -> Backend:
    """The backend of a network, ready to run; "auto" takes seconds on a CPU the first time on a machine.

    Args:
        entry: the network's.
        net: the network, on the device.
        device: where it is.
        ood: the detector whose features the backend computes too.
        runtime: one of `RUNTIMES`.

    Raises:
        ValueError: for a backend that does not exist, is not available here, or not on this device or for this network.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"unknown runtime {runtime!r}; choose from {', '.join(RUNTIMES)}")
    if device.type != "cpu" and runtime in (OPENVINO, QUANTISED):
        raise ValueError(f"expected a CPU for the runtime {runtime!r}, got {device.type} for {entry.name}; choose 'auto'")
    if device.type != "cuda" and runtime == COMPILED:  # on CPUs OpenVINO is faster
        raise ValueError(f"expected CUDA for the runtime {runtime!r}, got {device.type} for {entry.name}; choose 'auto'")
    module = InferenceModule(net, entry.tasks, ood.feature_spec if ood else None).eval()
    if runtime == AUTO and device.type == "cpu":
        return Backend(module, *_fastest(entry, module))
    kind = runtime if runtime != AUTO else HALF if device.type == "cuda" else TORCH
    return Backend(module, kind, _forward(kind, entry, module, device))


def _forward(kind: str, entry: ModelEntry, module: InferenceModule, device: torch.device) -> Forward:
    """The function that runs the network by "torch", "half", "compiled", "openvino" or "int8".

    Raises:
        ValueError: if that backend is not available.
    """
    if kind == TORCH:
        return torch_forward(module)
    if kind == HALF:
        return half_forward(module, device)
    if kind == COMPILED:
        return compiled_forward(module, entry.preprocess.size, device)
    if kind == QUANTISED and not entry.int8:
        raise ValueError(f"{entry.name} has no 8-bit weights; choose another runtime")
    for name, sha256 in entry.hashes.items() if kind == QUANTISED else ():
        if (found := file_sha256(path := entry.folder / name)) != sha256:
            raise ValueError(
                f"expected {path} with the SHA-256 in its config.json, {sha256}, got {found}: "
                "the file is damaged or was exchanged; download the entry again"
            )
    try:
        load_openvino()
    except ImportError:
        raise ValueError(f"{explain_missing(f'the runtime {kind!r}', 'OpenVINO', 'openvino')}, or choose 'torch'") from None
    if kind == QUANTISED:
        return openvino_forward(openvino_core().read_model(entry.folder / INT8))
    return openvino_forward(_cached_graph(entry, module))


def _cached_graph(entry: ModelEntry, module: InferenceModule):
    """The network as an OpenVINO graph, cached beside the choices because the conversion takes seconds."""
    openvino, size = load_openvino(), entry.preprocess.size
    ood_sha256 = entry.ood.sha256 if entry.ood else ""  # the graph computes the detector's features too
    key = [entry.sha256[:16], ood_sha256[:8], *module.names]
    key += [str(size), __version__, openvino.__version__.split("-")[0]]
    path = CHOICES_FILE.parent / f"{'-'.join(key)}.xml"
    try:
        return openvino_core().read_model(path)
    except RuntimeError:  # missing or damaged
        graph = to_openvino(module, size)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as unfinished:
            openvino.save_model(graph, Path(unfinished) / path.name, compress_to_fp16=False)
            for suffix in (".bin", ".xml"):
                (Path(unfinished) / path.name).with_suffix(suffix).replace(path.with_suffix(suffix))
    except OSError as error:
        log.debug("%s cannot be written: %s", path, error)
    return graph


def _fastest(entry: ModelEntry, module: InferenceModule) -> tuple[str, Forward]:
    """The backend remembered for this network on this CPU, or else the fastest one now; "torch" if the others fail."""
    try:
        return _remembered_or_timed(entry, module)
    except ImportError:  # OpenVINO is not installed
        pass
    except (ValueError, RuntimeError) as error:  # a damaged file, or a CPU that OpenVINO does not support
        log.warning("%s runs in torch: %s", entry.name, error)
    return TORCH, torch_forward(module)


def _remembered_or_timed(entry: ModelEntry, module: InferenceModule) -> tuple[str, Forward]:
    cpu = torch.device("cpu")
    kinds = [TORCH, QUANTISED if entry.int8 else OPENVINO]
    # bfloat16 changes pixels of a map too much (`half_precision`), and other CPUs emulate it, ten times slower
    if entry.tasks == ("classification",) and "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        kinds.append(HALF)
    key = f"{entry.sha256} on {_machine()}"
    choices = _read_choices()
    if choices.get(key) in kinds:
        return choices[key], _forward(choices[key], entry, module, cpu)
    size = entry.preprocess.size
    views = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    forwards = {kind: _forward(kind, entry, module, cpu) for kind in kinds}
    expected = forwards[TORCH](views)[0]  # logits, because the probabilities of noise are all near 0
    for kind in kinds[1:]:
        difference = (forwards[kind](views)[0] - expected).abs().mean()
        if not difference < MAX_DIFFERENCE * expected.abs().mean():  # also true for NaN
            log.warning("%s does not use %s, whose outputs differ on this machine", entry.name, kind)
            del forwards[kind]
    seconds = {kind: median_seconds(forward, views) for kind, forward in forwards.items()}
    kind = min(seconds, key=lambda kind: seconds[kind])
    log.info("%s uses %s", entry.name, kind, extra={"fields": {"seconds": seconds}})
    _write_choices(choices | {key: kind})
    return kind, forwards[kind]


def half_precision(device: torch.device) -> torch.dtype:
    """The 16-bit type for inference: float16 on accelerators, bfloat16 on CPUs, which have no fast float16.

    bfloat16 has 3 bits less precision: on the default it changes probability maps by up to 0.40, float16 by 0.002.
    """
    return torch.bfloat16 if device.type == "cpu" else torch.float16


def torch_forward(module: InferenceModule) -> Forward:
    """Run a network in float32."""

    @torch.inference_mode()
    def forward(views: Tensor) -> tuple[Tensor, ...]:
        return module(views.to(memory_format=torch.channels_last))  # a quarter faster, on a CPU too

    return forward


def half_forward(net: Callable[[Tensor], tuple[Tensor, ...]], device: torch.device) -> Forward:
    """Run a network in half precision; its outputs are float32."""

    @torch.inference_mode()
    def forward(views: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(device.type, half_precision(device)):
            return tuple(output.float() for output in net(views.to(memory_format=torch.channels_last)))

    return forward


def compiled_forward(module: InferenceModule, size: int, device: torch.device) -> Forward:
    """Run a network in half precision by torch.compile.

    It is compiled now, for two views, and once more when the number of views first changes.

    Raises:
        ValueError: if it cannot be compiled, for example because there is no C++ compiler.
    """
    forward = half_forward(torch.compile(module), device)
    try:
        forward(torch.zeros(2, 3, size, size, device=device))
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the runtime {COMPILED!r} needs torch.compile, which does not work here ({reason})") from error
    return forward


def median_seconds(forward: Forward, views: Tensor) -> float:
    """The median time of a pass, over as many passes as fit into `TIMING_SECONDS`, after one pass to warm up."""
    forward(views)
    seconds: list[float] = []
    while sum(seconds) < TIMING_SECONDS:
        start = time.perf_counter()
        forward(views)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@cache
def load_openvino():
    """Import OpenVINO without its telemetry, which would report every import to its makers."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]  as if it were not installed
    import openvino

    return openvino


@cache
def openvino_core():
    """OpenVINO's core, one for the process.

    Each core that compiles a network makes a stack for signal handlers (`sigaltstack`) the current one and, when it is deleted,
    unmaps it and returns to the stack before, even if that was unmapped too. With several cores, the next signal then kills the
    process or overwrites other memory.
    """
    return load_openvino().Core()


def to_openvino(module: InferenceModule, size: int):
    """A network as an OpenVINO graph, for any number of views (V, 3, size, size)."""
    views = torch.zeros(2, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)  # values that depend on the size are constants here
        traced = torch.jit.trace(module, views, check_trace=False)  # OpenVINO would trace twice, to compare
    return load_openvino().convert_model(traced, example_input=views, input=[(-1, 3, size, size)])


def openvino_forward(graph) -> Forward:
    """Run an OpenVINO graph with as many threads as torch has, in the precision it is stored in."""
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    program = openvino_core().compile_model(graph, "CPU", options)
    local = threading.local()  # an inference request serves one thread at a time

    def forward(views: Tensor) -> tuple[Tensor, ...]:
        if not hasattr(local, "request"):
            local.request = program.create_infer_request()
        outputs = local.request.infer({0: views.contiguous().numpy()})
        return tuple(torch.from_numpy(outputs[output].copy()) for output in program.outputs)

    return forward


def versions(*kinds: str) -> dict[str, str]:
    """The versions of the libraries that backends need in addition to torch."""
    return {"openvino": load_openvino().__version__} if {OPENVINO, QUANTISED} & set(kinds) else {}


def _machine() -> str:
    """What the choice of a backend depends on, in addition to the network."""
    processor = openvino_core().get_property("CPU", "FULL_DEVICE_NAME")
    return f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}, OpenVINO {load_openvino().__version__}"


def _read_choices() -> dict[str, str]:
    try:
        choices = json.loads(CHOICES_FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing, or damaged by a process that was killed while writing
        choices = {}
    return choices if isinstance(choices, dict) else {}


def _write_choices(choices: dict[str, str]) -> None:
    try:
        CHOICES_FILE.parent.mkdir(parents=True, exist_ok=True)
        CHOICES_FILE.write_text(json.dumps(choices, indent=2) + "\n", encoding="utf-8")
    except OSError as error:  # the next process then times the backends again
        log.debug("%s cannot be written: %s", CHOICES_FILE, error)
