"""Trackers, profile, persistent workers and compilation: what surrounds the training loop."""

import csv
import json
import sys
from argparse import Namespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train import segmenter
from train.augment import augmentation
from train.data import TumourShareSampler
from train.distributed import split_over_processes
from train.loop import compile_net, make_loader, report
from train.profiling import MEASURED, SKIPPED, TABLE, TRACE, profile_steps
from train.tracking import SERVICES, finish_trackers, log_row, open_trackers

SERVICE = """
import json, pathlib
FILE = pathlib.Path(__file__).with_name("rows.jsonl")
def write(**row): FILE.open("a").write(json.dumps(row) + "\\n")
def init(project, name, config): write(project=project, name=name, lr=config["lr"])
def log(row, step): write(step=step, row=row)
def finish(): write(finished=True)
"""


@pytest.mark.slow
def test_a_run_is_followed_by_a_service_and_profiled(tmp_path, monkeypatch, capsys):
    (tmp_path / "trackio.py").write_text(SERVICE)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "run"
    try:
        segmenter.main(["--smoke", "--precision", "float32", "--track", "trackio", "--profile", "--out", str(out)])
    finally:
        sys.modules.pop("trackio", None)
    first, *rows, last = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert first == {"project": "brainmri", "name": "run", "lr": "0.003"}
    assert last == {"finished": True}
    with (out / "history.csv").open() as handle:
        history = list(csv.DictReader(handle))
    assert [row["step"] for row in rows] == [1, 2]
    assert [row["row"]["train loss"] for row in rows] == [float(row["train loss"]) for row in history]
    printed = capsys.readouterr().out
    assert "remaining 00:" in printed
    assert "no profile, which needs an epoch of 9 steps" in printed  # a smoke run has 2


def test_trackers_are_off_by_default_and_name_what_to_install(tmp_path, monkeypatch):
    assert open_trackers(Namespace(out=tmp_path)) == []
    for service in (*SERVICES, "tensorboard"):
        monkeypatch.setitem(sys.modules, service, None)  # as if it were not installed
    for options in ({"track": "trackio"}, {"track": "wandb"}, {"tensorboard": True}):
        with pytest.raises(SystemExit, match=r"run pip install (trackio|wandb|tensorboard)"):
            open_trackers(Namespace(out=tmp_path, **options))


def test_a_tracker_that_lacks_a_package_of_its_own_names_it(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("import a_package_of_wandb")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit, match=r"expected the package a_package_of_wandb for --track wandb, .*; run pip install wandb"):
        open_trackers(Namespace(out=tmp_path, track="wandb"))


def test_tensorboard_reads_the_rows(tmp_path):
    trackers = open_trackers(Namespace(out=tmp_path, tensorboard=True))
    for epoch in (1, 2):
        log_row(trackers, {"epoch": epoch, "train loss": 0.5 / epoch})
    finish_trackers(trackers)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train loss")] == [(1, 0.5), (2, 0.25)]


def test_the_remaining_time_is_printed(capsys):
    report({"epoch": 1, "train loss": 0.5, "seconds": 90.0}, remaining=180.0)
    assert capsys.readouterr().out == "epoch 1  train loss 0.5000  seconds 90.0000  remaining 03:00\n"


def test_workers_that_stay_give_each_epoch_its_own_slices():
    """What `fit_one_cycle` does on CUDA, here with workers on the CPU: epoch 2 is the same after a resume as after epoch 1."""
    slices = [
        {"image": torch.rand(3, 64, 64), "mask": torch.rand(1, 64, 64), "tumour": n % 2, "case": f"p{n}", "number": 1}
        for n in range(4)
    ]
    options = Namespace(workers=1, on_device=False)

    def epochs(numbers: tuple[int, ...]) -> list[torch.Tensor]:
        sampler = TumourShareSampler(slices, 4, 0.5, seed=0)
        loader = make_loader(
            *split_over_processes(slices, augmentation(64), sampler, 2, seeded=True), 2, torch.Generator(), options,
            torch.device("cuda"),
        )  # fmt: skip
        assert loader.persistent_workers
        found = []
        for sampler.epoch in numbers:
            found.append(torch.cat([batch["image"] for batch in loader]))
        return found

    first, second = epochs((0, 1))
    (resumed,) = epochs((1,))
    assert torch.equal(second, resumed)
    assert not torch.equal(first, second)


def test_some_steps_are_profiled(tmp_path):
    with profile_steps(tmp_path, torch.device("cpu")) as profiled:
        for _ in range(SKIPPED + MEASURED + 1):
            torch.rand(8, 8) @ torch.rand(8, 8)
            profiled()
    assert "aten::matmul" in (tmp_path / TABLE).read_text()
    assert json.loads((tmp_path / TRACE).read_text())["traceEvents"]


def test_compilation_is_refused_on_a_cpu():
    with pytest.raises(SystemExit, match="expected CUDA for --compile, got cpu"):
        compile_net(torch.nn.Linear(1, 1), torch.device("cpu"))
