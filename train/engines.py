"""What Ray costs beside the local engine on the same cores: python -m train.engines [--studies 12] [--slices 20] [--runs 3]

A cohort of synthetic studies goes through each engine in turn, again and again: this process, and one Ray actor with as many
threads. From the first study's row to the last one's both do the same work, so the ratio of these times is what Ray adds; what
comes before, loading networks and starting Ray, is told apart from it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from brainmri.engines import on_ray, on_this_machine
from train.benchmark import long_study


def timed(rows: Iterator[dict], studies: int) -> tuple[float, float]:
    """Seconds from the call to the first row, less one study's share of the rest; and from each row to the next, on average."""
    began, arrived = time.perf_counter(), []
    for row in rows:
        if row["status"] != "done":
            raise RuntimeError(f"{row['input']} was not analysed: {row['problem'] or row['status']}")
        arrived.append(time.perf_counter())
    if len(arrived) != studies:
        raise RuntimeError(f"{len(arrived)} rows came of {studies} studies")
    each = (arrived[-1] - arrived[0]) / (studies - 1)
    return arrived[0] - began - each, each


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=12, help="at least two")
    parser.add_argument("--slices", type=int, default=20, help="of a study")
    parser.add_argument("--runs", type=int, default=3, help="of each engine, in turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--address", help="of a running Ray cluster of one node (default: one that starts with each run)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the local engine: the CPUs of the Ray node")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    networks = {"segmenter": None, "classifier": None, "device": options.device}
    engines = {
        "local": lambda inputs, out: on_this_machine(inputs, out, networks),
        "ray": lambda inputs, out: on_ray(inputs, out, networks, options.address, workers=1),
    }
    started, each = ({name: [] for name in engines} for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        path = long_study(Path(folder), options.slices)
        inputs = {f"study-{number}": path for number in range(options.studies)}
        for run in range(options.runs):
            for name, engine in engines.items():
                out = Path(folder) / f"{name}-{run}"
                out.mkdir()
                start, study = timed(engine(inputs, out), options.studies)
                started[name].append(start)
                each[name].append(study)
                print(f"{name}: {start:.1f} s to start, {study:.3f} s a study of {options.slices} slices", flush=True)
    ratios = [ray / local for ray, local in zip(each["ray"], each["local"], strict=True)]
    shown = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"medians of {options.runs} runs, {options.studies} studies each, {options.threads} threads, {options.device}:")
    for name in engines:
        print(f"{name:5} {statistics.median(each[name]):.3f} s a study, {statistics.median(started[name]):.1f} s to start")
    print(f"ray / local, a study: {statistics.median(ratios):.3f} (runs: {shown})")


if __name__ == "__main__":
    main()
