"""Threads for the CPU: as many as this process may use, which in a container is less than the host has."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def count_cpus(cgroup: Path = CGROUP) -> int:
    """The CPUs that this process may use: those it may run on, and not more than its container's limit, rounded up.

    Args:
        cgroup: where the container's control group is mounted, version 1 or 2.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _read_limit(cgroup)
    return cpus if limit is None else max(1, min(cpus, math.ceil(limit)))


def requested_threads() -> int | None:
    """The threads that `OMP_NUM_THREADS` allows; None if it is not set."""
    value = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # the first number is that of the outer level
    return int(value) if value.isdecimal() and int(value) > 0 else None


def limit_threads(cgroup: Path = CGROUP) -> None:
    """Let torch use no more threads than `count_cpus`; more would wait for each other."""
    import torch

    if torch.get_num_threads() > (cpus := count_cpus(cgroup)):
        torch.set_num_threads(cpus)


def _read_limit(cgroup: Path) -> float | None:
    """The CPU time per period of time that a control group allows; None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (cgroup / "cpu.max").read_text().split()  # version 2: "max" without a limit
        return int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = (int((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 else None  # version 1: -1 without a limit
    return None
