"""The number of threads follows the limit of a container, not the host's cores."""

import os
from pathlib import Path

import pytest
import torch

from brainmri.zoo import threads


@pytest.fixture
def eight_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu.max": "nonsense\n"}, 8),
    ],
    ids=[
        "no files",
        "no limit",
        "two",
        "one and a half",
        "a tenth",
        "more than there are",
        "version 1",
        "version 1 free",
        "damaged",
    ],
)
def test_cpus_are_counted_within_the_limit_of_the_container(files, expected, tmp_path, eight_cpus):
    write(tmp_path, files)
    assert threads.count_cpus(tmp_path) == expected


@pytest.mark.parametrize(("value", "expected"), [("3", 3), ("2,4", 2), ("", None), ("0", None), ("all", None)])
def test_the_environment_limits_the_threads_of_workers(value, expected, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads.requested_threads() == expected


def test_threads_are_limited_and_never_raised(tmp_path, eight_cpus):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        for limit, expected in (("max 100000", 4), ("600000 100000", 4), ("200000 100000", 2)):
            write(tmp_path, {"cpu.max": limit})
            threads.limit_threads(tmp_path)
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
