"""The benchmark: every backend is timed, cold starts run, and the figures are printed, stored and drawn."""

import json

import pytest
import torch

from brainmri import bench
from brainmri.__main__ import main
from brainmri.zoo.backends import OPENVINO, TORCH
from brainmri.zoo.entry import count_parameters
from brainmri.zoo.registry import load


def test_public_unet_has_the_published_number_of_parameters():
    net = bench.PublicUNet().eval()
    assert sum(p.numel() for p in net.parameters()) == 7_763_041
    assert count_parameters(net) > 7_763_041  # with the statistics of batch normalisation
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_peak_memory_includes_memory_that_is_allocated():
    before = bench.peak_memory_mib()
    block = bytearray(b"x") * (256 * 2**20)
    assert bench.peak_memory_mib() >= max(before, len(block) / 2**20)


def test_time_alternating_runs_each_task_once_more_to_warm_up():
    calls: list[str] = []
    seconds = bench.time_alternating({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, runs=2)
    assert calls == ["a", "b"] * 3
    assert all(value >= 0 for value in seconds.values())


@pytest.mark.slow
def test_benchmark_compares_every_backend(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "BATCHES", (1, 2))
    monkeypatch.setattr(bench, "SLICES", 3)
    out, chart = tmp_path / "bench.json", tmp_path / "bench.svg"
    assert main(["bench", "effunet-lgg", "--device", "cpu", "--runs", "1", "--out", str(out), "--chart", str(chart)]) == 0
    found = json.loads(out.read_text())
    rates = found["slices a second"]["effunet-lgg"]
    assert {bench.EAGER, bench.PUBLIC, TORCH, OPENVINO} <= set(rates)
    assert all(rate > 0 for rate in rates[OPENVINO].values())
    assert set(found["seconds"]) == {"slice", "study"}
    assert {name: set(taken) for name, taken in found["seconds with the fastest backend"].items()} == {
        name: {"effunet-lgg"} for name in ("slice", "study")
    }
    assert 0 < found["cold"]["import brainmri"] < found["cold"]["cold start to first finding"]
    assert 100 < found["cold"]["peak memory of three studies, MiB"] < 4000
    printed = capsys.readouterr().out
    assert "effunet-lgg, from file to result: seconds" in printed
    rows = [line.split()[0] for line in printed.splitlines() if line.startswith("  ")]
    assert rows == ["batch", "1", "2", "plain", "slice", "study", "effunet-lgg", "slice", "study"]
    assert chart.read_text() == bench.render_chart(found)
    assert chart.read_text().count("<rect") == len(rates)


@pytest.mark.slow
def test_benchmark_shows_each_row_when_it_is_measured(monkeypatch):
    monkeypatch.setattr(bench, "BATCHES", (1, -1))  # the second batch fails
    shown: list[str] = []
    with pytest.raises(RuntimeError, match="negative dimension"):
        bench.time_forward_passes([load("resunet-lgg", device="cpu")], 1, shown.append)
    assert [line.split()[0] for line in shown] == ["resunet-lgg,", "batch", "1"]
    assert len({len(line) for line in shown[1:]}) == 1  # aligned


def test_benchmark_needs_at_least_one_run(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "resnet50-lgg", "--runs", "0"])
    assert "expected a whole number of at least 1, got '0'" in capsys.readouterr().err
