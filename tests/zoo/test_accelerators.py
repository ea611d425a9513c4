"""Networks on accelerators, with the CPU in their place: operations that MPS lacks, and devices that fail."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import brainmri
from brainmri.__main__ import main
from brainmri.analysis.explain import explain
from brainmri.analysis.forward import predict_slices
from brainmri.analysis.selfcheck import check
from brainmri.io.reading import read_slice
from brainmri.zoo.ood import pool_windows
from brainmri.zoo.registry import resolve_device
from tests.support.refusals import RefuseLikeMps

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "assets" / "examples" / "large-lesion.png"
ENTRIES = [entry.name for entry in brainmri.list_models()]


@pytest.mark.parametrize("shape", [(1, 5, 5, 5), (2, 3, 10, 10), (1, 2, 16, 16), (2, 3, 9, 7), (1, 1, 3, 3)])
def test_windows_are_those_of_adaptive_pooling(shape):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool_windows(maps, 3), F.adaptive_avg_pool2d(maps, 3), rtol=0, atol=1e-6)


def test_the_refusals_are_those_of_mps():
    with RefuseLikeMps():
        F.adaptive_avg_pool2d(torch.ones(1, 1, 6, 6), 3)
        with pytest.raises(RuntimeError, match="divisible"):
            F.adaptive_avg_pool2d(torch.ones(1, 1, 5, 5), 3)
        with pytest.raises(TypeError, match="float64"):
            torch.ones(1).double()


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_runs_with_the_operations_of_mps(name):
    model = brainmri.load(name, device="cpu", runtime="torch")
    size = model.entry.preprocess.size
    views = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = model.backend(views)
    with RefuseLikeMps():
        found = model.backend(views)
    for field, value in expected._asdict().items():
        if value is not None:
            assert torch.equal(value, getattr(found, field)), field


def test_a_network_that_fails_on_its_device_runs_on_the_cpu(caplog):
    """The meta device stands in for an accelerator: it takes weights and computes nothing."""
    expected = brainmri.load("resunet-lgg", device="cpu", runtime="torch")
    model = brainmri.load("resunet-lgg", device="meta", runtime="torch")
    assert "resunet-lgg cannot run on meta (RuntimeError: " in caplog.text
    assert "; it runs on the CPU" in caplog.text
    assert model.device.type == "cpu"
    views = torch.rand(1, 3, 64, 64)
    assert torch.equal(model.backend(views).mask, expected.backend(views).mask)


def test_an_output_that_is_not_finite_is_a_failure():
    model = brainmri.load("resunet-lgg", device="cpu", runtime="torch")
    torch.nn.init.constant_(model.net.head.bias, torch.nan)
    with pytest.raises(FloatingPointError, match="expected finite outputs"):
        model.backend.run_first_pass(64, model.device)


@pytest.mark.slow
def test_a_full_accelerator_is_replaced_by_the_cpu(caplog):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    model = brainmri.load("effunet-lgg", device="cpu", runtime="torch")
    slices = read_slice(EXAMPLE).pixels[None]
    expected = predict_slices(model, model, slices, ood_model=model)
    full = replace(model, device=torch.device("meta"))
    model.net.unet.encoder.register_forward_pre_hook(out_of_memory)
    found = predict_slices(full, full, slices, ood_model=full)
    assert "meta is out of memory; this analysis runs on the CPU" in caplog.text
    assert found.segmenter == found.classifier == ("cpu", "torch")
    assert np.array_equal(found.maps, expected.maps)
    assert np.array_equal(found.logits, expected.logits)
    assert brainmri.Pipeline(full)(EXAMPLE).provenance["segmenter"]["device"] == "cpu"  # the one that ran
    assert (check(full).device, check(full).passed) == ("cpu", True)
    with pytest.raises(torch.OutOfMemoryError):
        predict_slices(model, model, slices)  # the CPU has no replacement


@pytest.mark.slow
def test_an_accelerator_that_fails_later_is_replaced_by_the_cpu(caplog):
    """The networks are on the CPU, but their inputs are sent to the meta device, whose operations with other devices fail."""
    model = brainmri.load("effunet-lgg", device="cpu", runtime="torch")
    lost = replace(model, device=torch.device("meta"))
    pixels = read_slice(EXAMPLE).pixels
    expected = predict_slices(model, model, pixels[None])
    found = predict_slices(lost, lost, pixels[None])
    assert "meta failed (RuntimeError: " in caplog.text
    assert np.array_equal(found.maps, expected.maps)
    caplog.clear()
    mask = expected.maps[0] > model.entry.mask_threshold
    explained = explain(lost, pixels, mask)
    assert "this analysis runs on the CPU" in caplog.text
    assert np.array_equal(explained.saliency, explain(model, pixels, mask).saliency)


def test_the_environment_variable_sets_the_device(monkeypatch):
    monkeypatch.setenv("BRAINMRI_DEVICE", "cpu")
    assert resolve_device("auto").type == "cpu"
    monkeypatch.setenv("BRAINMRI_DEVICE", "abacus")
    assert resolve_device("cpu").type == "cpu"  # an explicit device wins
    with pytest.raises(ValueError, match="device 'abacus' of BRAINMRI_DEVICE is not available"):
        brainmri.load("resunet-lgg")


@pytest.mark.slow
def test_page_and_command_line_take_a_device(capsys):
    with pytest.raises(SystemExit):
        main(["check", "resunet-lgg", "--device", "abacus"])
    assert "device 'abacus' is not available" in capsys.readouterr().err
    done = subprocess.run([sys.executable, "app.py", "--device", "abacus"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "device 'abacus' is not available" in done.stderr
