"""Every way of running a network on a CPU that was tried: python -m train.benchmarks.cpu_runtimes NAME… [--runs 20] [--batch 2]

Times each in turns beside plain PyTorch, on one thread and on all, and says how far its answers are from PyTorch's. What wins is
in `brainmri.zoo.backends`; this is how it was chosen.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from brainmri.analysis.selfcheck import SLICE
from brainmri.bench import EAGER as PLAIN
from brainmri.bench import in_turns
from brainmri.io.reading import read_slice
from brainmri.report.metric_tables import markdown_table
from brainmri.zoo.backends import as_graph, by_openvino, in_half
from brainmri.zoo.registry import LoadedModel, load

Way = Callable[[Tensor], object]


def by_onnxruntime(net: nn.Module, views: Tensor, names: list[str], threads: int) -> Way:
    """The network exported to ONNX."""
    import onnxruntime

    program = torch.onnx.export(
        net, (views,), input_names=["views"], output_names=names, dynamo=True, verbose=False,
        dynamic_shapes={"views": {0: torch.export.Dim("batch")}} if len(views) > 1 else None,
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    written = io.BytesIO()
    program.save(written)
    session = onnxruntime.InferenceSession(written.getvalue(), options)
    return lambda views: session.run(None, {"views": views.numpy()})


def ways(model: LoadedModel, views: Tensor, threads: int) -> dict[str, Way]:
    """Each way by its name."""
    net = model.run.served
    found: dict[str, Way] = {
        PLAIN: net,
        "channels last": lambda views: net(views.to(memory_format=torch.channels_last)),
        "batch norm folded (torch.jit.freeze)": torch.jit.freeze(torch.jit.trace(net, views)),
        "bfloat16": in_half(net, model.device),
        "torch.compile": torch.compile(net),
        "onnxruntime": by_onnxruntime(net, views, net.names, threads),
        "OpenVINO": by_openvino(as_graph(net, model.entry.preprocess.size)),
    }
    if model.entry.int8:
        found["OpenVINO, 8 bits as shipped"] = model.run.prepare("int8")
    return found


def gap(expected: tuple, found: object) -> float:
    """The largest difference of a probability, of mask or verdict."""
    pairs = zip(expected[:2], found if isinstance(found, (tuple, list)) else (found,), strict=False)
    return max(float((ours.sigmoid() - torch.as_tensor(np.asarray(theirs)).sigmoid()).abs().max()) for ours, theirs in pairs)


@torch.inference_mode()
def compare(name: str, batch: int, runs: int) -> str:
    """A table in Markdown: milliseconds a slice on one thread and on all, and how far from plain PyTorch."""
    every = torch.get_num_threads()
    columns: dict[int, dict[str, float]] = {}
    for threads in sorted({1, every}):
        torch.set_num_threads(threads)
        model = load(name, device="cpu", runtime="torch")
        preprocess = model.entry.preprocess
        placed, _ = preprocess(read_slice(SLICE).pixels)  # of noise, masks are all but empty, and alike
        views = preprocess.normalise(placed[None]).repeat(batch, 1, 1, 1)
        found = ways(model, views, threads)
        columns[threads] = in_turns({way: partial(run, views) for way, run in found.items()}, runs)
        gaps = {way: gap(found[PLAIN](views), run(views)) for way, run in found.items()}
    torch.set_num_threads(every)
    rows = [
        [
            way,
            *(f"{1000 * taken[way] / batch:.1f} ({taken[PLAIN] / taken[way]:.1f}x)" for taken in columns.values()),
            f"{far:.1e}",
        ]
        for way, far in gaps.items()
    ]
    header = [f"{name}, ms a slice", *(f"{threads} thread{'s' * (threads > 1)}" for threads in columns), "from plain torch"]
    return markdown_table(header, rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--batch", type=int, default=2, help="views at once; a slice and its mirror image are two")
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args(arguments)
    for name in options.names:
        print(compare(name, options.batch, options.runs), end="\n\n")


if __name__ == "__main__":
    main()
