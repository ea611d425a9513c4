"""Training in several processes under torchrun, on CPUs with gloo: the same run as in one process."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from brainmri.zoo.nets import EffUNet
from train import classifier, segmenter
from train.distributed import sync_batch_norm

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMOKE = ["--smoke", "--precision", "float32", "--device", "cpu"]
EXACT = ["--frozen", "--dropout", "0"]  # without batch-norm training and dropout, only rounding can differ

# a process fails in its second step of the second epoch, after the first epoch's checkpoint is written
FAILS = """
import itertools, runpy
from train import distributed, loop
original, batches = loop.to_device, itertools.count(1)
def to_device(*arguments):
    if next(batches) == 4 and distributed.rank() == 1:
        raise MemoryError("rank 1 is out of memory")
    return original(*arguments)
loop.to_device = to_device
runpy.run_module("train.segmenter", run_name="__main__")
"""


def torchrun(*arguments) -> subprocess.CompletedProcess:
    """Run a module or script in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def single_process(monkeypatch):
    """Set up this process as torchrun does when it starts one process only."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {
        "RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "single",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    yield
    if torch.distributed.is_initialized():  # the run failed
        torch.distributed.destroy_process_group()


def history(run: Path) -> list[dict[str, float]]:
    with (run / "history.csv").open() as handle:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def max_difference(one: Path, two: Path) -> float:
    """The largest difference between two runs' weights, without batch norm's running statistics."""
    a, b = (load_file(run / "model.safetensors") for run in (one, two))
    return max((a[k] - b[k]).abs().max().item() for k in a if "running" not in k and "num_batches" not in k)


def test_two_processes_or_two_micro_batches_train_the_same_weights(tmp_path, single_process):
    two, one, parts = (tmp_path / name for name in ("two", "one", "parts"))
    done = torchrun("-m", "--", "train.classifier", *SMOKE, *EXACT, "--out", two)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1  train loss") == 1  # only rank 0 prints
    classifier.main([*SMOKE, *EXACT, "--out", str(one)])
    classifier.main([*SMOKE, *EXACT, "--accumulate", "2", "--out", str(parts)])
    for run in (two, parts):
        assert [pytest.approx(row, rel=1e-4) for row in history(one)] == history(run)
        assert max_difference(one, run) < 1e-6
    assert json.loads((two / "config.json").read_text())["training"]["stages"][0]["processes"] == 2


def test_a_failed_process_stops_the_run_and_another_number_resumes_it(tmp_path, single_process):
    """Two processes normalise by their own halves of a batch, as one process does with two micro-batches."""
    interrupted, whole = tmp_path / "interrupted", tmp_path / "whole"
    script = tmp_path / "fails.py"
    script.write_text(FAILS)
    done = torchrun(script, *SMOKE, "--out", interrupted)
    assert done.returncode == 1
    assert "MemoryError: rank 1 is out of memory" in done.stderr[done.stderr.index("Root Cause") :]
    assert len(torch.load(interrupted / "checkpoint.pt", weights_only=True)["history"]) == 1
    assert not (interrupted / "model.safetensors").exists()

    segmenter.main([*SMOKE, "--accumulate", "2", "--resume", "--out", str(interrupted)])
    segmenter.main([*SMOKE, "--accumulate", "2", "--out", str(whole)])
    assert max_difference(whole, interrupted) < 1e-4
    for one, two in zip(history(whole), history(interrupted), strict=True):
        assert one["train loss"] == pytest.approx(two["train loss"], abs=1e-4)
        assert one["validation Dice"] == pytest.approx(two["validation Dice"], rel=0.1)  # running statistics differ


def test_a_batch_that_cannot_be_split_evenly_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"--batch as a multiple of 3 \(1 processes, --accumulate 3\).* got --batch 8 and --samples 16"
    ):
        segmenter.main([*SMOKE, "--accumulate", "3", "--out", str(tmp_path)])
    with pytest.raises(ValueError, match="expected --accumulate of 1 or more, got 0"):
        segmenter.main([*SMOKE, "--accumulate", "0", "--out", str(tmp_path)])


def test_synchronised_batch_norm_does_not_change_the_network():
    net = EffUNet().eval()
    image, keys = torch.randn(1, 3, 64, 64), list(net.state_dict())
    with torch.inference_mode():
        before = net(image).mask
        sync_batch_norm(net)
        assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in net.modules())
        assert torch.equal(net(image).mask, before)
    assert list(net.state_dict()) == keys
