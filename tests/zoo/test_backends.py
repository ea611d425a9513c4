"""By what a network is run: all runtimes agree, the fastest is found and remembered, and what cannot be had says so."""

import json
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import brainmri
from brainmri.analysis.selfcheck import check
from brainmri.bench import PublicUNet, chart
from brainmri.zoo import backends
from brainmri.zoo.backends import COMPILED, HALF, OPENVINO, PATIENCE, QUANTISED, TORCH
from brainmri.zoo.entry import INT8, INT8_WEIGHTS, count_parameters
from train.benchmarks import cpu_runtimes
from train.phantoms import phantom_volume

ENTRIES = [entry.name for entry in brainmri.list_models()]
IN_INTEGERS = [entry.name for entry in brainmri.list_models() if entry.int8]
TOLERANCE = 1e-3  # of a probability, between torch and OpenVINO in float32
ROUNDING = 0.02  # of a probability on average, in 8 bits


@pytest.fixture(autouse=True)
def remembered(tmp_path, monkeypatch):
    """Choices are remembered for this test alone, and nothing in the environment makes them."""
    monkeypatch.setattr(backends, "REMEMBERED", tmp_path / "runtimes.json")
    monkeypatch.delenv("BRAINMRI_RUNTIME", raising=False)
    return tmp_path / "runtimes.json"


def views_for(model):
    """(6, 3, S, S) normalised slices of a phantom."""
    preprocess = model.entry.preprocess
    images, _ = phantom_volume(slices=6, size=96, seed=3)
    return preprocess.normalise(torch.stack([preprocess(image.astype("float32") / 255)[0] for image in images]))


@pytest.mark.parametrize("name", ENTRIES)
def test_openvino_says_what_torch_says(name):
    plain, other = (brainmri.load(name, device="cpu", runtime=kind) for kind in (TORCH, OPENVINO))
    views = views_for(plain)
    expected, found = plain.run(views), other.run(views)
    for head in ("mask", "verdict"):
        if getattr(expected, head) is not None:
            gap = (getattr(expected, head).sigmoid() - getattr(found, head).sigmoid()).abs().max()
            assert gap < TOLERANCE, head
    if expected.features is not None:
        torch.testing.assert_close(found.features, expected.features, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ENTRIES)
def test_sixteen_bits_pass_the_self_check(name):
    """What a GPU runs, in bfloat16 on the CPU."""
    model = brainmri.load(name, device="cpu", runtime=HALF)
    found = check(model)
    assert found.well, found.sentence
    assert "on cpu by half" in found.sentence
    assert all(answer is None or answer.dtype == torch.float32 for answer in model.run(views_for(model)[:1]))


@pytest.mark.parametrize("name", IN_INTEGERS)
def test_integers_are_near_float32(name):
    plain, other = (brainmri.load(name, device="cpu", runtime=kind) for kind in (TORCH, QUANTISED))
    views = views_for(plain)
    expected, found = plain.run(views), other.run(views)
    if expected.mask is not None:
        assert (expected.mask.sigmoid() - found.mask.sigmoid()).abs().mean() < ROUNDING
        if expected.verdict is not None:  # what leads to verdict and gate is not quantised
            torch.testing.assert_close(found.verdict, expected.verdict, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(found.features, expected.features, rtol=1e-3, atol=1e-3)
    else:
        assert (expected.verdict.sigmoid() - found.verdict.sigmoid()).abs().mean() < ROUNDING


@pytest.mark.parametrize("name", IN_INTEGERS)
def test_integers_pass_the_self_check(name):
    found = check(brainmri.load(name, device="cpu", runtime=QUANTISED))
    assert found.well, found.sentence
    assert "on cpu by int8 answers as stored" in found.sentence


BY_TORCH_COMPILE = """
import torch
from brainmri.zoo.backends import Served, by_torch_compile, in_half
from tests.support.tiny_network import TinyNet
torch.manual_seed(0)
net = TinyNet()  # compiles in seconds
served, cpu = Served(net, net.tasks).eval(), torch.device("cpu")
run, views = by_torch_compile(served, 32, cpu), torch.randn(6, 3, 32, 32)
for part in (views, views[:1]):
    for expected, found in zip(in_half(served, cpu)(part), run(part), strict=True):
        assert found.dtype is torch.float32
        assert (expected.sigmoid() - found.sigmoid()).abs().max() < 0.01
net(views.requires_grad_()).mask.sum().backward()  # as an explanation does, beside it
print("alike")
"""


def in_another_process(folder, **environment):
    """What a GPU runs by "compiled", on the CPU and in a process of its own, which keeps the compiler out of this one."""
    return subprocess.run(
        [sys.executable, "-c", BY_TORCH_COMPILE], capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder)} | environment,
    )  # fmt: skip


def test_what_torch_compile_makes_says_the_same(tmp_path):
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    done = in_another_process(tmp_path)
    assert done.stdout.strip() == "alike", done.stderr


def test_a_machine_without_a_compiler_is_told_so(tmp_path):
    told = in_another_process(tmp_path, CXX="no-such-compiler").stderr.splitlines()[-1]
    assert told.startswith("ValueError: the runtime 'compiled' needs torch.compile, which does not work here (")


def test_a_runtime_that_computes_something_else_is_not_taken(monkeypatch, caplog):
    def upside_down(graph):
        return lambda views: [-answer for answer in astray.run.served(views)]

    astray = brainmri.load("resunet-lgg", device="cpu")
    monkeypatch.setattr(backends, "by_openvino", upside_down)
    monkeypatch.setattr(backends, "PROBE", 0.01)
    astray.run.select_fastest()
    assert astray.run.kind not in (OPENVINO, QUANTISED)  # but torch, in 16 bits on CPUs that are fast in them
    assert "computes something else on this machine" in caplog.text


def test_auto_begins_in_torch_and_goes_over_to_the_fastest(remembered):
    model = brainmri.load("effunet-lgg", device="cpu")
    views = views_for(model)
    before = model.run(views)
    assert model.run.kind == TORCH
    assert not remembered.exists()
    for _ in range(PATIENCE // len(views) + 1):
        model.run(views)
    (choice,) = json.loads(remembered.read_text()).values()
    assert choice == model.run.kind
    assert (model.run(views).mask.sigmoid() - before.mask.sigmoid()).abs().mean() < ROUNDING


def test_a_choice_is_remembered_by_the_next_process(remembered, monkeypatch):
    brainmri.load("resunet-lgg", device="cpu").run.select_fastest()
    (key,) = json.loads(remembered.read_text())
    remembered.write_text(json.dumps({key: TORCH}))

    def never(*_):
        raise AssertionError("it was timed again")

    monkeypatch.setattr(backends, "seconds_a_run", never)
    again = brainmri.load("resunet-lgg", device="cpu")
    again.run.select_fastest()
    assert again.run.kind == TORCH


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_damaged_memory_costs_a_probe_and_no_more(remembered, content):
    remembered.write_text(content)
    model = brainmri.load("resunet-lgg", device="cpu")
    model.run.select_fastest()
    assert model.run.kind in json.loads(remembered.read_text()).values()


def test_a_home_that_cannot_be_written_to_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(backends, "REMEMBERED", tmp_path / "file" / "runtimes.json")
    model = brainmri.load("resunet-lgg", device="cpu")
    model.run.select_fastest()
    assert model.run(views_for(model)).mask is not None


def test_the_same_weights_at_another_size_are_another_graph(tmp_path):
    smaller = tmp_path / "smaller"
    shutil.copytree(brainmri.load("resunet-lgg", device="cpu").entry.folder, smaller)
    config = json.loads((smaller / "config.json").read_text())
    config["preprocess"]["size"] = 96
    (smaller / "config.json").write_text(json.dumps(config))
    for source in ("resunet-lgg", smaller):
        model = brainmri.load(source, device="cpu", runtime=OPENVINO)
        views = views_for(model)
        assert model.run(views).mask.shape == (len(views), 1, *views.shape[2:])


def test_the_environment_chooses(monkeypatch):
    monkeypatch.setenv("BRAINMRI_RUNTIME", OPENVINO)
    assert brainmri.load("resunet-lgg", device="cpu").run.kind == OPENVINO
    monkeypatch.setenv("BRAINMRI_RUNTIME", "abacus")
    with pytest.raises(ValueError, match="unknown runtime 'abacus'; choose from auto, torch, half, compiled, openvino, int8"):
        brainmri.load("resunet-lgg", device="cpu")


def test_what_cannot_be_had_says_so(tmp_path):
    folder = tmp_path / "entry"
    shutil.copytree(brainmri.load("resunet-lgg", device="cpu").entry.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"int8": {}}))
    with pytest.raises(ValueError, match="resunet-lgg brings no weights in 8 bits"):
        brainmri.load(folder, device="cpu", runtime=QUANTISED)
    with pytest.raises(ValueError, match="is for CPUs"):
        brainmri.load(folder, device="meta", runtime=OPENVINO)
    with pytest.raises(ValueError, match="is for CUDA"):
        brainmri.load(folder, device="cpu", runtime=COMPILED)


@pytest.mark.parametrize("file", [INT8, INT8_WEIGHTS])
@pytest.mark.parametrize("name", IN_INTEGERS[:1])
def test_exchanged_integers_are_refused(tmp_path, name, file):
    folder = tmp_path / "entry"
    shutil.copytree(brainmri.load(name, device="cpu").entry.folder, folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=f"{file} is not the one its config.json names"):
        brainmri.load(folder, device="cpu", runtime=QUANTISED)


@pytest.mark.parametrize("name", IN_INTEGERS[:1])
def test_exchanged_integers_leave_auto_in_torch(tmp_path, caplog, name):
    folder = tmp_path / "entry"
    shutil.copytree(brainmri.load(name, device="cpu").entry.folder, folder)
    (folder / INT8_WEIGHTS).write_bytes(b"!")
    model = brainmri.load(folder, device="cpu")
    model.run.select_fastest()
    assert model.run.kind == TORCH
    assert f"{name} stays in torch" in caplog.text
    assert model.run(views_for(model)).mask is not None


def test_threads_do_not_get_each_others_answers():
    model = brainmri.load("resunet-lgg", device="cpu", runtime=OPENVINO)
    views = views_for(model)
    expected = [model.run(view[None]).mask for view in views]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: model.run(views[number % len(views)][None]).mask, range(60)))
    assert all(torch.equal(one, expected[number % len(views)]) for number, one in enumerate(found))


def test_nothing_is_reported_to_anybody():
    """OpenVINO reports its use on being imported, unless the package that does it is missing."""
    program = """
import sys
from brainmri.zoo.backends import load_openvino
openvino = load_openvino()
assert sys.modules["openvino_telemetry"] is None
assert "stub" in openvino.tools.ovc.telemetry_utils.tm.__name__, openvino.tools.ovc.telemetry_utils.tm
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_importing_the_package_imports_nothing_heavy():
    program = "import sys, brainmri; print([name for name in ('torch', 'numpy', 'gradio', 'scipy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_public_unet_is_the_public_one():
    net = PublicUNet().eval()
    assert sum(p.numel() for p in net.parameters()) == 7_763_041
    assert count_parameters(net) > 7_763_041
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_the_benchmark_compares_every_runtime(tmp_path, monkeypatch, capsys):
    from brainmri import bench
    from brainmri.__main__ import main

    monkeypatch.setattr(bench, "BATCHES", (1, 2))
    monkeypatch.setattr(bench, "SLICES", 3)
    out, drawing = tmp_path / "bench.json", tmp_path / "bench.svg"
    assert main(["bench", "effunet-lgg", "--device", "cpu", "--runs", "1", "--out", str(out), "--chart", str(drawing)]) == 0
    found = json.loads(out.read_text())
    rates = found["slices a second"]["effunet-lgg"]
    assert {bench.EAGER, bench.PUBLIC, TORCH, OPENVINO} <= set(rates)
    assert all(rate > 0 for rate in rates[OPENVINO].values())
    assert set(found["seconds"]) == {"slice", "study"}
    assert 0 < found["cold"]["import brainmri"] < found["cold"]["cold start to first finding"]
    assert 100 < found["cold"]["peak memory of three studies, MiB"] < 4000
    told = capsys.readouterr().out
    assert "effunet-lgg, a slice from bytes to overlay, seconds" in told
    assert drawing.read_text() == chart(found)
    assert drawing.read_text().count("<rect") == len(rates)
    with pytest.raises(SystemExit):
        main(["bench", "resnet50-lgg", "--runs", "0"])


def test_cpu_backends_are_compared_with_plain_torch(monkeypatch):
    def two(model, views, threads):
        net = model.run.served
        return {cpu_runtimes.PLAIN: net, "upside down": lambda views: tuple(-answer for answer in net(views))}

    monkeypatch.setattr(cpu_runtimes, "cpu_backends", two)
    plain, upside_down = cpu_runtimes.benchmark("resunet-lgg", batch=3, runs=1).splitlines()[2:]
    assert plain.startswith("| plain torch |")
    assert "(1.0x)" in plain
    assert plain.endswith("| 0.0e+00 |")
    assert float(upside_down.split("|")[-2]) > 0.5  # the lesion is missed


def test_max_difference_is_of_probabilities():
    mask, verdict, features = torch.tensor([[0.0, 2.0]]), torch.tensor([0.0]), torch.tensor([[5.0]])
    difference = cpu_runtimes.max_difference
    assert difference((mask, verdict, features), (mask, verdict, features + 9)) == 0  # features are not a probability
    assert difference((mask, verdict), [mask.numpy(), verdict.numpy() + 1.0]) == pytest.approx(1 / (1 + math.exp(-1)) - 0.5)
