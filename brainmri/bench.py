"""How fast is it here? python -m brainmri bench: every runtime beside plain PyTorch and the public U-Net, in one run.

Everything that is compared is measured in turns, so that whatever else the machine does slows all of it alike; figures are
medians. What starts cold is started in processes of its own.
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
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from brainmri.analysis.findings import Study
from brainmri.analysis.pipeline import Pipeline
from brainmri.analysis.selfcheck import SLICE
from brainmri.io.reading import read_bytes, read_study
from brainmri.report.html import template
from brainmri.report.render import overlay_picture
from brainmri.zoo.backends import COMPILED, HALF, OPENVINO, QUANTISED, TORCH, AutoBackend, Backend, half_precision
from brainmri.zoo.registry import LoadedModel, load, resolve_device

BATCHES, ACCELERATED_BATCHES = (1, 2, 8, 32), (1, 32, 256)
SLICES = 60
EAGER, PUBLIC = "plain torch", "public U-Net, plain torch"
COLD = """
import brainmri
from brainmri.bench import peak_memory
from brainmri.io.reading import read_study
pipe = brainmri.Pipeline({name!r}, device={device!r})
{work}
print(peak_memory())
"""


class PublicUNet(nn.Module):
    """The U-Net of mateuszbuda/brain-segmentation-pytorch: (B, 3, 256, 256) to a mask's probability, 7,763,041 parameters.

    Four halvings from 32 features on, twice [3x3 convolution, batch norm, ReLU] at every size, transposed convolutions up again.
    """

    def __init__(self, features: int = 32, depth: int = 4) -> None:
        super().__init__()
        widths = [features * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(map(self._twice, [3, *widths[:-1]], widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in reversed(widths[:-1]))
        self.join = nn.ModuleList(self._twice(2 * width, width) for width in reversed(widths[:-1]))
        self.last = nn.Conv2d(features, 1, 1)

    @staticmethod
    def _twice(into: int, out: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for channels in (into, out):
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for number, block in enumerate(self.down):
            skips.append(x := block(nn.functional.max_pool2d(x, 2) if number else x))
        for up, join, skip in zip(self.up, self.join, reversed(skips[:-1]), strict=True):
            x = join(torch.cat([up(x), skip], dim=1))
        return self.last(x).sigmoid()


def time_alternating(works: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """The median seconds of each work, all done in turns; one more run before them warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(runs + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def runtimes(model: LoadedModel) -> dict[str, LoadedModel]:
    """A model in plain float32 PyTorch, as it comes from the shelf, and by every runtime that there is for it here."""
    served = model.backend.module
    found = {EAGER: replace(model, backend=Backend(served, EAGER, torch.inference_mode()(served.forward)))}
    for kind in (TORCH, OPENVINO, QUANTISED) if model.device.type == "cpu" else (TORCH, HALF, COMPILED):
        try:
            found[kind] = replace(model, backend=AutoBackend(model.entry, model.net, model.device, model.ood, kind))
        except ValueError as error:  # not installed, or not brought
            print(f"{model.entry.name}: {error}", file=sys.stderr)
    return found


def forward_passes(models: list[LoadedModel], runs: int) -> dict[str, dict[str, dict[str, float]]]:
    """Slices a second of each model's forward pass by each runtime at each batch size, one view a slice."""
    device = models[0].device
    public = PublicUNet().eval().requires_grad_(False).to(device)
    rates: dict[str, dict] = {}
    for model in models:
        ways, size = runtimes(model), model.entry.preprocess.size
        rates[model.entry.name] = {name: {} for name in (*ways, PUBLIC)}
        for batch in BATCHES if device.type == "cpu" else ACCELERATED_BATCHES:
            views, large = torch.randn(batch, 3, size, size, device=device), torch.randn(batch, 3, 256, 256, device=device)
            works = {name: (lambda way=way, views=views: way.backend(views)) for name, way in ways.items()}
            if batch == 1:
                works[PUBLIC] = lambda large=large: public(large)
            for name, seconds in time_alternating(works, max(1, runs // batch)).items():
                rates[model.entry.name][name][str(batch)] = batch / seconds  # as JSON keeps it
    return rates


def operations(model: LoadedModel) -> float:
    """Floating-point operations of a forward pass of one slice, a multiplication and an addition counting as two."""
    size = model.entry.preprocess.size
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.backend.module(torch.zeros(1, 3, size, size, device=model.device))
    return float(counter.get_total_flops())


def fastest_multiplication(device: torch.device, runs: int) -> float:
    """Floating-point operations a second of a large product of matrices, in what the device is best at: as much as it can do."""
    side, dtype = (1024, torch.float32) if device.type == "cpu" else (8192, half_precision(device))
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / time_alternating({"product": lambda: left @ right}, runs)["product"]


def write_synthetic_study(folder: Path, slices: int) -> Path:
    """A study of the bundled slice, moved a little from one to the next, as NIfTI."""
    import nibabel

    flair = read_bytes(SLICE.read_bytes(), SLICE.name).pixels[..., 1]
    volume = np.stack([np.roll(flair, number % 9 - 4, axis=1).T for number in range(slices)], axis=-1)
    path = folder / "flair.nii"
    nibabel.save(nibabel.Nifti1Image((1000 * volume).astype(np.int16), np.diag([1.0, 1.0, 3.0, 1.0])), path)
    return path


def whole_ways(model: LoadedModel, runs: int, study: Path) -> dict[str, dict[str, float]]:
    """Seconds of a slice from bytes to overlay and of a study from its file to the finding, by each runtime of the segmenter."""
    pipes = {name: Pipeline(way) for name, way in runtimes(model).items()}
    data = SLICE.read_bytes()

    def one_slice(pipe: Pipeline) -> None:
        scan = read_bytes(data, SLICE.name)
        overlay_picture(scan.pixels, pipe(scan).mask)

    def whole_study(pipe: Pipeline) -> Study:
        return pipe.study(read_study(study))

    return {
        "slice": time_alternating({name: (lambda pipe=pipe: one_slice(pipe)) for name, pipe in pipes.items()}, runs),
        "study": time_alternating(
            {name: (lambda pipe=pipe: whole_study(pipe)) for name, pipe in pipes.items()}, max(1, runs // 8)
        ),
    }


def peak_memory() -> float:
    """MiB that this process held at most."""
    status = Path("/proc/self/status")
    if status.is_file():  # what getrusage says on Linux is also that of the process which started this one
        (held,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(held) / 2**10
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def from_cold(name: str, device: str, study: Path, runs: int) -> dict[str, float]:
    """Seconds that processes of their own take to import and to a first finding, the latter from the interpreter's start, and the
    peak memory in MiB of one that does a study."""

    def started(program: str) -> str:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    def importing(module: str) -> float:
        program = f"import time; began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"
        return statistics.median(float(started(program)) for _ in range(runs))

    one, all_ = (
        COLD.format(name=name, device=device, work=work)
        for work in (f"pipe({str(SLICE)!r})", f"[pipe.study(read_study({str(study)!r})) for _ in range(3)]")
    )
    return {
        "import brainmri": importing("brainmri"),
        "import torch": importing("torch"),
        "cold start to first finding": time_alternating({"first finding": lambda: started(one)}, runs)["first finding"],
        "peak memory of three studies, MiB": float(started(all_)),
    }


def measure(names: list[str], device: str, runs: int) -> dict:
    """Everything that `table` shows; slices and studies are done by the first of the models that draws masks."""
    models = [load(name, device=device) for name in names]
    forward = forward_passes(models, runs)
    drawing = next((model for model in models if "segmentation" in model.entry.tasks), None)
    if drawing is None:
        raise ValueError(f"none of {', '.join(names)} draws masks; name one that does too")
    with tempfile.TemporaryDirectory() as folder:
        study = write_synthetic_study(Path(folder), SLICES)
        whole = whole_ways(drawing, runs, study)
        cold = from_cold(drawing.entry.name, device, study, min(runs, 5))
    machine = f"{platform.machine()} {resolve_device(device).type}, {torch.get_num_threads()} threads"
    return {
        "machine": f"{machine}, torch {torch.__version__.split('+')[0]}",
        "runs": runs,
        "segmenter": drawing.entry.name,
        "slices a second": forward,
        "operations a slice": {model.entry.name: operations(model) for model in models},
        "operations a second of a large product": fastest_multiplication(models[0].device, runs),
        "seconds": whole,
        "cold": cold,
    }


def table(found: dict) -> str:
    """The figures for people, each with its ratio to plain PyTorch's."""
    lines = [f"{found['machine']}; medians of {found['runs']} runs in turns, fewer of what takes long"]
    most = found["operations a second of a large product"]
    for name, ways in found["slices a second"].items():
        operations = found["operations a slice"][name]
        lines += ["", f"{name}, forward pass, slices a second and how many times {EAGER}"]
        lines.append(f"{'batch':>27}" + "".join(f"{batch:>14}" for batch in ways[EAGER]))
        for way, rates in ways.items():
            cells = [f"{rate:8.1f} {rate / ways[EAGER][batch]:4.1f}x" for batch, rate in rates.items()]
            lines.append(f"{way:>27}" + "".join(cells))
        best = max(rate for way, rates in ways.items() if way not in (PUBLIC, QUANTISED) for rate in rates.values())
        lines.append(
            f"{operations / 1e9:.2f} GFLOP a slice; at best {best * operations / 1e12:.3g} TFLOP/s, "
            f"{best * operations / most:.0%} of a large product of matrices here ({most / 1e12:.3g})"
        )
    for what, words in {"slice": "a slice from bytes to overlay", "study": f"a study of {SLICES} slices to its finding"}.items():
        lines += ["", f"{found['segmenter']}, {words}, seconds"]
        seconds = found["seconds"][what]
        lines += [f"{way:>27}{taken:8.3f} {seconds[EAGER] / taken:4.1f}x" for way, taken in seconds.items()]
    return "\n".join([*lines, "", *(f"{name}: {value:.3g}" for name, value in found["cold"].items())])


def chart(found: dict) -> str:
    """A bar for each runtime of each network, one slice at a time, as SVG; its ink is the text's colour."""
    bars = [
        {"network": name, "way": way, "rate": rates["1"], "ratio": rates["1"] / ways[EAGER]["1"]}
        for name, ways in found["slices a second"].items()
        for way, rates in ways.items()
        if rates
    ]
    return template("bench.svg").render(bars=bars, most=max(bar["rate"] for bar in bars), machine=found["machine"])


def write(found: dict, out: Path | None, drawing: Path | None) -> None:
    """Keep the figures as JSON and the chart as SVG."""
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if drawing:
        drawing.write_text(chart(found), encoding="utf-8")
