"""Where a training step spends its time (`--profile`): a trace and a table of the slowest operations, by torch's profiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

SKIPPED, MEASURED = 3, 6  # steps: the first ones fill caches and compile
TRACE, TABLE = "trace.json", "profile.txt"
ROWS = 20


@contextmanager
def profile_steps(folder: Path | None, device: torch.device) -> Iterator[Callable[[], None]]:
    """Profile some steps of a training; yields a function to be called after every step.

    Args:
        folder: for `trace.json`, which https://ui.perfetto.dev opens, and `profile.txt`; None to profile nothing.
    """
    if folder is None:
        yield lambda: None
        return
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    order = "self_cuda_time_total" if cuda else "self_cpu_time_total"

    def write(profiler: profile) -> None:
        profiler.export_chrome_trace(str(folder / TRACE))
        table = profiler.key_averages().table(sort_by=order, row_limit=ROWS)
        (folder / TABLE).write_text(table + "\n", encoding="utf-8")
        print(f"wrote {TRACE} and {TABLE} of {MEASURED} steps into {folder}")

    folder.mkdir(parents=True, exist_ok=True)
    plan = schedule(wait=SKIPPED - 1, warmup=1, active=MEASURED, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:
        yield profiler.step
    if not (folder / TABLE).is_file():
        print(f"note: no profile, which needs an epoch of {SKIPPED + MEASURED} steps")
