"""Compare inference backends on a CPU: python -m train.benchmarks.cpu_runtimes NAME… [--runs 20] [--batch 2]

Times each backend in turns with plain PyTorch, on one thread and on all, and reports how far its outputs are from PyTorch's. The
backends in `brainmri.zoo.backends` were chosen with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from brainmri.analysis.selfcheck import SLICE
from brainmri.bench import EAGER as PLAIN
from brainmri.bench import time_alternating
from brainmri.io.reading import read_slice
from brainmri.report.metric_tables import markdown_table
from brainmri.zoo.backends import QUANTISED, half_forward, openvino_forward, to_openvino
from brainmri.zoo.registry import LoadedModel, load

Forward = Callable[[Tensor], Any]  # (B, 3, S, S) to outputs


def onnxruntime_forward(net: nn.Module, views: Tensor, names: list[str], threads: int) -> Forward:
    """The network exported to ONNX."""
    import onnxruntime

    program = torch.onnx.export(
        net, (views,), input_names=["views"], output_names=names, dynamo=True, verbose=False,
        dynamic_shapes={"views": {0: torch.export.Dim("batch")}} if len(views) > 1 else None,
    )  # fmt: skip
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    return lambda views: session.run(None, {"views": views.numpy()})


def cpu_backends(model: LoadedModel, views: Tensor, threads: int) -> dict[str, Forward]:
    """A network's forward pass in each backend, by name."""
    net = model.backend.module
    forwards: dict[str, Forward] = {
        PLAIN: net,
        "channels last": lambda views: net(views.to(memory_format=torch.channels_last)),
        "batch norm folded (torch.jit.freeze)": torch.jit.freeze(torch.jit.trace(net, views)),
        "bfloat16": half_forward(net, model.device),
        "torch.compile": torch.compile(net),
        "onnxruntime": onnxruntime_forward(net, views, net.names, threads),
        "OpenVINO": openvino_forward(to_openvino(net, model.entry.preprocess.size)),
    }
    if model.entry.int8:
        forwards["OpenVINO, 8 bits as shipped"] = load(model.entry.folder, device="cpu", runtime=QUANTISED).backend.forward
    return forwards


def max_difference(expected: tuple, outputs: object) -> float:
    """The largest difference of a probability, in mask and verdict."""
    pairs = zip(expected[:2], outputs if isinstance(outputs, (tuple, list)) else (outputs,), strict=False)
    return max(float((torch_.sigmoid() - torch.as_tensor(np.asarray(other)).sigmoid()).abs().max()) for torch_, other in pairs)


@torch.inference_mode()
def benchmark(name: str, batch: int, runs: int) -> str:
    """A table in Markdown: milliseconds per slice on one thread and on all, and the largest difference from plain PyTorch."""
    all_threads = torch.get_num_threads()
    columns: dict[int, dict[str, float]] = {}
    differences: dict[str, float] = {}
    for threads in sorted({1, all_threads}):
        torch.set_num_threads(threads)
        model = load(name, device="cpu", runtime="torch")
        preprocess = model.entry.preprocess
        placed, _ = preprocess(read_slice(SLICE).pixels)  # a real slice: masks of noise are almost empty and do not differ
        views = preprocess.normalise(placed[None]).repeat(batch, 1, 1, 1)
        forwards = cpu_backends(model, views, threads)
        columns[threads] = time_alternating({backend: partial(forward, views) for backend, forward in forwards.items()}, runs)
        expected = forwards[PLAIN](views)
        differences = {backend: max_difference(expected, forward(views)) for backend, forward in forwards.items()}
    torch.set_num_threads(all_threads)
    rows = [
        [
            backend,
            *(
                f"{1000 * seconds[backend] / batch:.1f} ({seconds[PLAIN] / seconds[backend]:.1f}x)"
                for seconds in columns.values()
            ),
            f"{difference:.1e}",
        ]
        for backend, difference in differences.items()
    ]
    header = [
        f"{name}, ms a slice",
        *(f"{threads} thread{'s' * (threads > 1)}" for threads in columns),
        "difference from plain torch",
    ]
    return markdown_table(header, rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--batch", type=int, default=2, help="views in a batch; a slice and its mirror image are two")
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args(arguments)
    for name in options.names:
        print(benchmark(name, options.batch, options.runs), end="\n\n")


if __name__ == "__main__":
    main()
