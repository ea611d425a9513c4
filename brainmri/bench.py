"""Benchmark of the inference backends against plain PyTorch and the public U-Net: python -m brainmri bench.

What is compared runs in alternation, so that other load on the machine slows all of it alike; figures are medians. Cold starts
run in separate processes.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from brainmri.analysis.pipeline import Pipeline
from brainmri.analysis.selfcheck import SLICE
from brainmri.io.images import read_bytes
from brainmri.io.reading import read_study
from brainmri.report.render import overlay_picture
from brainmri.report.templates import template
from brainmri.zoo.backends import AUTO, COMPILED, HALF, OPENVINO, QUANTISED, TORCH, Backend, create_backend, half_precision
from brainmri.zoo.registry import LoadedModel, load, resolve_device

BATCHES, ACCELERATED_BATCHES = (1, 2, 8, 32), (1, 32, 256)
SLICES = 60
EAGER, PUBLIC = "plain torch", "public U-Net, plain torch"
WIDTH = 27  # of a column
Show = Callable[[str], None]
COLD_START_PROGRAM = """
import brainmri
from brainmri.bench import peak_memory_mib
from brainmri.io.reading import read_study
pipe = brainmri.Pipeline({name!r}, device={device!r})
{work}
print(peak_memory_mib())
"""


class PublicUNet(nn.Module):
    """The U-Net of mateuszbuda/brain-segmentation-pytorch: (B, 3, H, W) to mask probabilities (B, 1, H, W).

    It has 7,763,041 parameters, five resolutions from 32 features, two [3x3 convolution, batch norm, ReLU] at each of them, and
    transposed convolutions for upsampling. H and W are multiples of 16.
    """

    def __init__(self, features: int = 32, depth: int = 4) -> None:
        super().__init__()
        widths = [features * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(map(self._double_conv, [3, *widths[:-1]], widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in reversed(widths[:-1]))
        self.join = nn.ModuleList(self._double_conv(2 * width, width) for width in reversed(widths[:-1]))
        self.last = nn.Conv2d(features, 1, 1)

    @staticmethod
    def _double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            convolution = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for number, block in enumerate(self.down):
            skips.append(x := block(nn.functional.max_pool2d(x, 2) if number else x))
        for up, join, skip in zip(self.up, self.join, reversed(skips[:-1]), strict=True):
            x = join(torch.cat([up(x), skip], dim=1))
        return self.last(x).sigmoid()


def time_alternating(tasks: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """The median seconds of each task over `runs` alternating runs, after one run to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(runs + 1):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def available_backends(model: LoadedModel) -> dict[str, LoadedModel]:
    """A model on plain float32 PyTorch and on each backend that is available for it on this machine."""
    module = model.backend.module
    found = {EAGER: replace(model, backend=Backend(module, EAGER, torch.inference_mode()(module.forward)))}
    for kind in (TORCH, OPENVINO, QUANTISED) if model.device.type == "cpu" else (TORCH, HALF, COMPILED):
        try:
            found[kind] = replace(model, backend=create_backend(model.entry, model.net, model.device, model.ood, kind))
        except ValueError as error:  # not installed, or the entry has no 8-bit weights
            print(f"{model.entry.name}: {error}", file=sys.stderr)
    return found


def time_forward_passes(models: list[LoadedModel], runs: int, show: Show) -> dict[str, dict[str, dict[str, float]]]:
    """Slices per second of each model's forward pass, by backend and batch size, with one view per slice; show each row."""
    device = models[0].device
    public = PublicUNet().eval().requires_grad_(False).to(device)
    rates: dict[str, dict] = {}
    for model in models:
        backends, size = available_backends(model), model.entry.preprocess.size
        rates[model.entry.name] = {name: {} for name in (*backends, PUBLIC)}
        show(f"\n{model.entry.name}, forward pass: slices per second and speed relative to {EAGER}")
        show(f"{'batch':>8}" + "".join(f"{name:>{WIDTH}}" for name in rates[model.entry.name]))
        for batch in BATCHES if device.type == "cpu" else ACCELERATED_BATCHES:
            views, large = torch.randn(batch, 3, size, size, device=device), torch.randn(batch, 3, 256, 256, device=device)
            tasks: dict[str, Callable[[], object]] = {name: partial(one.backend, views) for name, one in backends.items()}
            if batch == 1:
                tasks[PUBLIC] = partial(public, large)
            seconds = time_alternating(tasks, max(1, runs // batch))
            for name, taken in seconds.items():
                rates[model.entry.name][name][str(batch)] = batch / taken  # a string, as in JSON
            cells = (f"{batch / taken:.1f} {seconds[EAGER] / taken:4.1f}x" for taken in seconds.values())
            show(f"{batch:>8}" + "".join(f"{cell:>{WIDTH}}" for cell in cells))
    return rates


def count_operations(model: LoadedModel) -> float:
    """Floating-point operations of the forward pass of one slice; a multiply-add counts as two."""
    size = model.entry.preprocess.size
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.backend.module(torch.zeros(1, 3, size, size, device=model.device))
    return float(counter.get_total_flops())


def matmul_throughput(device: torch.device, runs: int) -> float:
    """Floating-point operations per second of a large matrix product in the fastest precision: an upper bound for networks."""
    side, dtype = (1024, torch.float32) if device.type == "cpu" else (8192, half_precision(device))
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / time_alternating({"product": lambda: left @ right}, runs)["product"]


def write_synthetic_study(folder: Path, slices: int) -> Path:
    """Write a study of shifted copies of the bundled slice as NIfTI and return its path."""
    import nibabel

    flair = read_bytes(SLICE.read_bytes(), SLICE.name).pixels[..., 1]
    volume = np.stack([np.roll(flair, number % 9 - 4, axis=1).T for number in range(slices)], axis=-1)
    path = folder / "flair.nii"
    nibabel.save(nibabel.Nifti1Image((1000 * volume).astype(np.int16), np.diag([1.0, 1.0, 3.0, 1.0])), path)
    return path


def time_pipelines(pipes: Mapping[str, Pipeline], runs: int, study: Path, show: Show) -> dict[str, dict[str, float]]:
    """Seconds of a slice from bytes to overlay and of a study from file to finding, by pipeline; show them beside the first."""
    data = SLICE.read_bytes()

    def analyse_slice(pipe: Pipeline) -> None:
        scan = read_bytes(data, SLICE.name)
        overlay_picture(scan.pixels, pipe(scan).mask)

    def analyse_study(pipe: Pipeline) -> None:
        pipe.study(read_study(study))

    first = next(iter(pipes))
    show(f"{'':>8}" + "".join(f"{name:>{WIDTH}}" for name in pipes))
    found = {}
    for name, analyse, repeats in (("slice", analyse_slice, runs), ("study", analyse_study, max(1, runs // 8))):
        found[name] = time_alternating({key: partial(analyse, pipe) for key, pipe in pipes.items()}, repeats)
        cells = (f"{taken:.3f} {found[name][first] / taken:4.1f}x" for taken in found[name].values())
        show(f"{name:>8}" + "".join(f"{cell:>{WIDTH}}" for cell in cells))
    return found


def peak_memory_mib() -> float:
    """Peak memory of this process in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux, getrusage includes the peak of the parent process
        (peak,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak) / 2**10
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def time_cold_start(name: str, device: str, study: Path, runs: int) -> dict[str, float]:
    """Measure separate processes: seconds to import, seconds from interpreter start to first finding, and peak memory.

    Args:
        name: the segmenter.
        device: as for `Pipeline`.
        study: file of the study that is analysed three times for the peak memory.
        runs: runs for each median.

    Raises:
        subprocess.CalledProcessError: if a process fails.
    """

    def run_program(program: str) -> str:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    def import_seconds(module: str) -> float:
        program = f"import time; began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"
        return statistics.median(float(run_program(program)) for _ in range(runs))

    slice_program, study_program = (
        COLD_START_PROGRAM.format(name=name, device=device, work=work)
        for work in (f"pipe({str(SLICE)!r})", f"[pipe.study(read_study({str(study)!r})) for _ in range(3)]")
    )
    imports = {f"import {module}": import_seconds(module) for module in ("brainmri", "torch")}
    first = time_alternating({"finding": partial(run_program, slice_program)}, runs)
    return {
        **imports,
        "cold start to first finding": first["finding"],
        "peak memory of three studies, MiB": float(run_program(study_program)),
    }


def measure(names: list[str], device: str, runs: int, show: Show) -> dict:
    """All figures of the benchmark.

    Slices and studies are analysed by the first segmenter with each backend, and by all segmenters, each with its fastest backend
    and with its specialist if it has one.

    Args:
        names: of the models, as for `load`.
        device: as for `load`.
        runs: runs for each median.
        show: called with each line of the report as soon as it is measured.

    Raises:
        ValueError: if no model is a segmenter.
    """
    models = [load(name, device=device) for name in names]
    segmenters = {name: model for name, model in zip(names, models, strict=True) if "segmentation" in model.entry.tasks}
    if not segmenters:
        raise ValueError(f"expected at least one segmenter, got {', '.join(names)}; add one")
    segmenter = next(iter(segmenters.values()))
    machine = f"{platform.machine()} {resolve_device(device).type}, {torch.get_num_threads()} threads"
    machine = f"{machine}, torch {torch.__version__.split('+')[0]}"
    show(f"{machine}; medians of {runs} alternating runs, fewer for slow tasks")
    forward = time_forward_passes(models, runs, show)
    operations = {model.entry.name: count_operations(model) for model in models}
    peak = matmul_throughput(models[0].device, runs)
    show("")
    for name, backends in forward.items():
        show(operations_line(name, backends, operations[name], peak))
    with tempfile.TemporaryDirectory() as folder:
        study = write_synthetic_study(Path(folder), SLICES)
        show(f"\n{segmenter.entry.name}, from file to result: seconds and speed relative to {EAGER}")
        by_backend = {backend: Pipeline(model) for backend, model in available_backends(segmenter).items()}
        seconds = time_pipelines(by_backend, runs, study, show)
        show(f"\nfastest backend of each model, from file to result: seconds and speed relative to {segmenter.entry.name}")
        fastest = {model.entry.name: Pipeline(name, device=device, runtime=AUTO) for name, model in segmenters.items()}
        fastest_seconds = time_pipelines(fastest, runs, study, show)
        show("")
        cold = time_cold_start(segmenter.entry.name, device, study, min(runs, 5))
    for name, value in cold.items():
        show(f"{name}: {value:.3g}")
    return {
        "machine": machine,
        "runs": runs,
        "segmenter": segmenter.entry.name,
        "slices a second": forward,
        "operations a slice": operations,
        "operations a second of a large product": peak,
        "seconds": seconds,
        "seconds with the fastest backend": fastest_seconds,
        "cold": cold,
    }


def operations_line(name: str, backends: Mapping[str, Mapping[str, float]], operations: float, peak: float) -> str:
    """The work of a slice, and the share of the machine's peak that the fastest backend in floating point reaches.

    Args:
        name: of the model.
        backends: slices per second, by backend and batch size.
        operations: for a slice.
        peak: operations per second of a large matrix product.
    """
    best = max(rate for backend, rates in backends.items() if backend not in (PUBLIC, QUANTISED) for rate in rates.values())
    return (
        f"{name}: {operations / 1e9:.2f} GFLOP per slice; at best {best * operations / 1e12:.3g} TFLOP/s, "
        f"{best * operations / peak:.0%} of a large matrix product ({peak / 1e12:.3g} TFLOP/s)"
    )


def render_chart(found: dict) -> str:
    """An SVG bar chart of slices per second at batch size 1, for each backend of each network."""
    bars = [
        {"network": name, "backend": backend, "rate": rates["1"], "ratio": rates["1"] / backends[EAGER]["1"]}
        for name, backends in found["slices a second"].items()
        for backend, rates in backends.items()
        if rates
    ]
    return template("bench.svg").render(bars=bars, max_rate=max(bar["rate"] for bar in bars), machine=found["machine"])


def write_results(found: dict, out: Path | None, chart: Path | None) -> None:
    """Write the figures as JSON and the chart as SVG, where a path is given."""
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if chart:
        chart.write_text(render_chart(found), encoding="utf-8")
