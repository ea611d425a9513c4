"""By what a network is run: torch, anywhere; on a CPU also OpenVINO, in float32 or, where an entry brings it, partly in 8 bits;
on a GPU also torch.compile.

    model = brainmri.load("effunet-lite2-lgg", runtime="auto")

On CUDA "auto" runs torch in half precision ("half": bfloat16, float16 on cards that would only imitate bfloat16); "compiled" does
so by torch.compile, whose first passes take a minute, for who has an archive to go through. On a CPU "auto"
answers in torch at once. When so many slices were asked about that it pays, what there is for the network is timed for a
moment, the fastest takes over, and the choice is remembered for this machine.
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
from typing import NamedTuple

import torch
from huggingface_hub.constants import HF_HOME
from torch import Tensor, nn

from brainmri._version import __version__
from brainmri.zoo.entry import INT8, ModelEntry, file_sha256
from brainmri.zoo.ood import FeatureSpec, OodDetector, pool_features

AUTO, TORCH, HALF, COMPILED, OPENVINO, QUANTISED = RUNTIMES = ("auto", "torch", "half", "compiled", "openvino", "int8")
PATIENCE = 64  # views of slices in torch, after which preparing anything faster will pay
PROBE = 1.0  # seconds for each runtime
ASTRAY = 0.1  # of a logit on average, from torch's; 8 bits are at 0.01
REMEMBERED = Path(HF_HOME) / "brainmri" / "runtimes.json"  # beside the Hub's cache

log = logging.getLogger(__name__)

Run = Callable[[Tensor], tuple[Tensor, ...]]


class Answers(NamedTuple):
    """What a network says of views (V, 3, S, S); None for what it is not made for.

    Attributes:
        mask: (V, 1, S, S) logits.
        verdict: (V,) logits, tumour against no tumour.
        features: (V, D) that its gate looks at (`ood.pool_features`).
    """

    mask: Tensor | None = None
    verdict: Tensor | None = None
    features: Tensor | None = None


class Served(nn.Module):
    """A net with all that is asked of it in one pass, a tuple in the order of `names`."""

    def __init__(self, net: nn.Module, tasks: tuple[str, ...], feature_spec: FeatureSpec | None = None) -> None:
        super().__init__()
        self.net, self.tasks, self.feature_spec = net, tasks, feature_spec
        asked = {"mask": "segmentation" in tasks, "verdict": "classification" in tasks, "features": feature_spec is not None}
        self.names = [name for name, wanted in asked.items() if wanted]

    def forward(self, views: Tensor) -> tuple[Tensor, ...]:
        """(V, 3, S, S) normalised."""
        maps = self.net.forward_features(views)
        mask, verdict = self.net.forward_head(maps)
        answers = () if mask is None else (mask,)
        if verdict is not None:
            answers = (*answers, verdict[:, 1] - verdict[:, 0])
        return (*answers, pool_features(maps, self.feature_spec)) if self.feature_spec else answers


class Fixed:
    """A network that is run in one given way.

    Args:
        kind: what the way is called.
    """

    def __init__(self, served: Served, kind: str, run: Run) -> None:
        self.served, self.kind, self.run = served, kind, run

    def __call__(self, views: Tensor) -> Answers:
        """What the network says of views (V, 3, S, S), normalised and on its device."""
        return Answers(**dict(zip(self.served.names, self.run(views), strict=True)))


class Runner(Fixed):
    """A net run by a runtime that was chosen, or, with "auto", by the fastest.

    Safe to be called by several threads.

    Attributes:
        kind: the runtime at work.

    Raises:
        ValueError: for a runtime that there is not, here or for this network.
    """

    def __init__(
        self, entry: ModelEntry, net: nn.Module, device: torch.device, ood: OodDetector | None = None, runtime: str = AUTO
    ) -> None:
        if runtime not in RUNTIMES:
            raise ValueError(f"unknown runtime {runtime!r}; choose from {', '.join(RUNTIMES)}")
        if device.type != "cpu" and runtime in (OPENVINO, QUANTISED):
            raise ValueError(f"the runtime {runtime!r} is for CPUs; {entry.name} is on {device.type}")
        if device.type != "cuda" and runtime == COMPILED:  # on CPUs OpenVINO is faster
            raise ValueError(f"the runtime {runtime!r} is for CUDA; {entry.name} is on {device.type}")
        self.entry, self.device, self.served = entry, device, Served(net, entry.tasks, ood and ood.feature_spec).eval()
        self.open = runtime == AUTO and device.type == "cpu"  # whether the choice is
        kind = runtime if runtime != AUTO else HALF if device.type == "cuda" else TORCH
        super().__init__(self.served, kind, self.prepare(kind))
        self.asked, self.lock = 0, threading.Lock()

    def __call__(self, views: Tensor) -> Answers:
        """What the network says of views (V, 3, S, S), normalised and on its device."""
        if self.open:
            self.asked += len(views)
            if self.asked > PATIENCE:
                self.select_fastest()
        return super().__call__(views)

    def select_fastest(self) -> None:
        """Go over to the fastest runtime now, if the choice is open; takes seconds the first time on a machine."""
        with self.lock:
            if self.open:
                try:
                    self.kind, self.run = self._fastest()
                except (ValueError, RuntimeError) as error:  # a damaged file, a CPU that OpenVINO does not know
                    log.warning("%s stays in torch: %s", self.entry.name, error)
                self.open = False

    def prepare(self, kind: str) -> Run:
        """How the net is run by "torch", "half", "compiled", "openvino" or "int8".

        Raises:
            ValueError: when that cannot be had.
        """
        if kind == TORCH:
            return self._in_torch
        if kind == HALF:
            return in_half(self.served, self.device)
        if kind == COMPILED:
            return by_torch_compile(self.served, self.entry.preprocess.size, self.device)
        if kind == QUANTISED and not self.entry.int8:
            raise ValueError(f"{self.entry.name} brings no weights in 8 bits; choose another runtime")
        for name, sha256 in self.entry.hashes.items() if kind == QUANTISED else ():
            if file_sha256(self.entry.folder / name) != sha256:
                path = self.entry.folder / name
                raise ValueError(f"{path} is not the one its config.json names; the file is damaged or was exchanged")
        try:
            openvino = load_openvino()
        except ImportError as error:
            raise ValueError(f"the runtime {kind!r} needs OpenVINO, which is not installed here ({error})") from None
        if kind == QUANTISED:
            return by_openvino(openvino.Core().read_model(self.entry.folder / INT8))
        return by_openvino(self._remembered_graph())

    def _remembered_graph(self):
        """The net as OpenVINO's graph, kept beside the choices for the next process, since the conversion takes seconds."""
        openvino, size = load_openvino(), self.entry.preprocess.size
        net = [self.entry.sha256[:16], self.entry.ood.get("sha256", "")[:8], *self.served.names]  # the gate's sight is in it
        name = [*net, str(size), __version__, openvino.__version__.split("-")[0]]
        kept = REMEMBERED.parent / f"{'-'.join(name)}.xml"
        try:
            return openvino.Core().read_model(kept)
        except RuntimeError:  # none yet, or a damaged one
            graph = as_graph(self.served, size)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=kept.parent) as unfinished:
                openvino.save_model(graph, Path(unfinished) / kept.name, compress_to_fp16=False)
                for end in (".bin", ".xml"):
                    (Path(unfinished) / kept.name).with_suffix(end).replace(kept.with_suffix(end))
        except OSError as error:
            log.debug("%s cannot be written: %s", kept, error)
        return graph

    @torch.inference_mode()
    def _in_torch(self, views: Tensor) -> tuple[Tensor, ...]:
        return self.served(views.to(memory_format=torch.channels_last))  # a quarter faster, on a CPU too

    def _fastest(self) -> tuple[str, Run]:
        """The runtime that is remembered for this network on this machine, or else that wins now."""
        kinds = [TORCH, QUANTISED if self.entry.int8 else OPENVINO]
        try:
            machine = _machine()
        except ImportError:
            return TORCH, self._in_torch
        if "BF16" in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            kinds.append(HALF)  # other CPUs imitate it, ten times slower
        key = f"{self.entry.sha256} on {machine}"
        remembered = _remembered()
        if remembered.get(key) in kinds:
            return remembered[key], self.prepare(remembered[key])
        size = self.entry.preprocess.size
        views = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        runs = {kind: self.prepare(kind) for kind in kinds}
        expected = runs[TORCH](views)[0]  # logits: noise has next to no tumour, so that any probabilities of it are alike
        for kind in kinds[1:]:
            if not (runs[kind](views)[0] - expected).abs().mean() < ASTRAY * expected.abs().mean():  # nor if it is no number
                log.warning("%s is not run by %s, which computes something else on this machine", self.entry.name, kind)
                del runs[kind]
        seconds = {kind: seconds_a_run(run, views) for kind, run in runs.items()}
        kind = min(seconds, key=seconds.get)
        log.info("%s is run by %s", self.entry.name, kind, extra={"fields": {"seconds": seconds}})
        _remember(remembered | {key: kind})
        return kind, runs[kind]


def half_of(device: torch.device) -> torch.dtype:
    """The 16-bit type that a device multiplies fast: bfloat16, float16 on CUDA before Ampere."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def in_half(net: Callable[[Tensor], tuple[Tensor, ...]], device: torch.device) -> Run:
    """A network in 16 bits; what it says is float32 again."""

    @torch.inference_mode()
    def run(views: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(device.type, half_of(device)):
            return tuple(answer.float() for answer in net(views.to(memory_format=torch.channels_last)))

    return run


def by_torch_compile(served: Served, size: int, device: torch.device) -> Run:
    """A net in 16 bits by torch.compile, compiled for two views now, and once more when it meets another number of them.

    Raises:
        ValueError: where it cannot be compiled, for want of a compiler, say.
    """
    run = in_half(torch.compile(served), device)
    try:
        run(torch.zeros(2, 3, size, size, device=device))
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the runtime {COMPILED!r} needs torch.compile, which does not work here ({reason})") from error
    return run


def seconds_a_run(run: Run, views: Tensor, for_seconds: float = PROBE) -> float:
    """The median time of a run, of as many as fit into some seconds after one to warm up."""
    run(views)
    taken: list[float] = []
    while sum(taken) < for_seconds:
        began = time.perf_counter()
        run(views)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


@cache
def load_openvino():
    """OpenVINO, kept from reporting to its makers that and how it is used, as it does on being imported."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # as if it were not installed, which OpenVINO is content with
    import openvino

    return openvino


def as_graph(served: Served, size: int):
    """A net as OpenVINO's graph, for any number of views (V, 3, size, size)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # what depends on the size is a constant, as it should be
        return load_openvino().convert_model(served, example_input=torch.zeros(2, 3, size, size), input=[(-1, 3, size, size)])


def by_openvino(graph) -> Run:
    """A graph of OpenVINO's on as many threads as torch has, in the precision that it is written in."""
    openvino = load_openvino()
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    program = openvino.Core().compile_model(graph, "CPU", options)
    own = threading.local()  # a request answers one caller at a time

    def run(views: Tensor) -> tuple[Tensor, ...]:
        if not hasattr(own, "request"):
            own.request = program.create_infer_request()
        found = own.request.infer({0: views.contiguous().numpy()})
        return tuple(torch.from_numpy(found[output].copy()) for output in program.outputs)

    return run


def versions(kind: str) -> dict[str, str]:
    """Of what runs a network by a runtime, besides torch."""
    return {"openvino": load_openvino().__version__} if kind in (OPENVINO, QUANTISED) else {}


def _machine() -> str:
    """What a choice of runtime depends on, besides the network."""
    openvino = load_openvino()
    processor = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
    return f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}, OpenVINO {openvino.__version__}"


def _remembered() -> dict[str, str]:
    try:
        found = json.loads(REMEMBERED.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or half written by a process that was killed
        found = {}
    return found if isinstance(found, dict) else {}


def _remember(choices: dict[str, str]) -> None:
    try:
        REMEMBERED.parent.mkdir(parents=True, exist_ok=True)
        REMEMBERED.write_text(json.dumps(choices, indent=2) + "\n", encoding="utf-8")
    except OSError as error:  # a home that cannot be written to costs the next process a probe
        log.debug("%s cannot be written: %s", REMEMBERED, error)
