"""Overhead of Ray over the local engine on the same cores: python -m train.benchmarks.ray_overhead [--studies 12] [--slices 20] …

Each engine, this process and one Ray actor with as many threads, analyses a cohort of synthetic studies, in turns. Between the
records of the first study and the last, both do the same work, so the ratio of these times is Ray's overhead. The time to load
networks and to start and stop Ray is reported separately.
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

from brainmri.batch.ray_engine import run_locally, run_on_ray
from brainmri.bench import write_synthetic_study
from brainmri.report.outputs import RECORD


def time_studies(results: Iterator[dict], out: Path) -> tuple[float, float]:
    """Mean seconds per study, from the times at which the records were written; and the seconds spent outside the studies."""
    began = time.perf_counter()
    rows = list(results)
    total = time.perf_counter() - began
    for row in rows:
        if row["status"] != "done":
            raise RuntimeError(f"{row['input']} was not analysed: {row['problem'] or row['status']}")
    written = sorted((out / row["input"] / RECORD).stat().st_mtime for row in rows)
    per_study = (written[-1] - written[0]) / (len(rows) - 1)
    return per_study, total - per_study * len(rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=12, help="at least two")
    parser.add_argument("--slices", type=int, default=20, help="slices of a study")
    parser.add_argument("--runs", type=int, default=3, help="runs of each engine")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--address", help="address of a running Ray cluster of one node (default: start one for each run)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of the local engine; give the number of CPUs of the Ray node"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    networks = {"segmenter": None, "classifier": None, "device": options.device}
    engines = {
        "local": lambda inputs, out: run_locally(inputs, out, networks),
        "ray": lambda inputs, out: run_on_ray(inputs, out, networks, options.address, workers=1),
    }
    per_study, overhead = ({name: [] for name in engines} for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        path = write_synthetic_study(Path(folder), options.slices)
        inputs = {f"study-{number}": path for number in range(options.studies)}
        for run in range(options.runs):
            for name, engine in engines.items():
                out = Path(folder) / f"{name}-{run}"
                out.mkdir()
                study, rest = time_studies(engine(inputs, out), out)
                per_study[name].append(study)
                overhead[name].append(rest)
                print(f"{name}: {study:.3f} s a study of {options.slices} slices, {rest:.1f} s to start and stop", flush=True)
    ratios = [ray / local for ray, local in zip(per_study["ray"], per_study["local"], strict=True)]
    shown = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"medians of {options.runs} runs, {options.studies} studies each, {options.threads} threads, {options.device}:")
    for name in engines:
        study, rest = statistics.median(per_study[name]), statistics.median(overhead[name])
        print(f"{name:5} {study:.3f} s a study, {rest:.1f} s to start and stop")
    print(f"ray / local, a study: {statistics.median(ratios):.3f} (runs: {shown})")


if __name__ == "__main__":
    main()
