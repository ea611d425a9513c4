"""Inference backends: they agree, the default is float32, "auto" is the fastest, and an unavailable one is reported."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

import brainmri
from brainmri.__main__ import main
from brainmri.analysis import selfcheck
from brainmri.analysis.selfcheck import check
from brainmri.zoo import backends
from brainmri.zoo.backends import AUTO, COMPILED, HALF, OPENVINO, QUANTISED, TORCH
from brainmri.zoo.entry import INT8, INT8_WEIGHTS
from train.benchmarks import cpu_runtimes
from train.phantoms import phantom_volume

pytestmark = pytest.mark.slow

ENTRIES = [entry.name for entry in brainmri.list_models()]
QUANTISED_ENTRIES = [entry.name for entry in brainmri.list_models() if entry.int8]
TOLERANCE = 1e-3  # of a probability, between torch and OpenVINO in float32
ROUNDING = 0.02  # mean difference of a probability, with 8-bit weights


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """A folder in which the tests share the networks that OpenVINO converted, which takes seconds for each."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(autouse=True)
def remembered(graphs, monkeypatch):
    """Use a choices file of this test, and no environment variable."""
    monkeypatch.setattr(backends, "CHOICES_FILE", graphs / "runtimes.json")
    monkeypatch.delenv("BRAINMRI_RUNTIME", raising=False)
    yield graphs / "runtimes.json"
    (graphs / "runtimes.json").unlink(missing_ok=True)


def views_for(model):
    """(6, 3, S, S) normalised slices of a phantom."""
    preprocess = model.entry.preprocess
    images, _ = phantom_volume(slices=6, size=96, seed=3)
    return preprocess.normalise(torch.stack([preprocess(image.astype("float32") / 255)[0] for image in images]))


@pytest.mark.parametrize("name", ENTRIES)
def test_openvino_gives_the_outputs_of_torch(name):
    plain, other = (brainmri.load(name, device="cpu", runtime=kind) for kind in (TORCH, OPENVINO))
    views = views_for(plain)
    expected, found = plain.backend(views), other.backend(views)
    for head in ("mask", "verdict"):
        if getattr(expected, head) is not None:
            gap = (getattr(expected, head).sigmoid() - getattr(found, head).sigmoid()).abs().max()
            assert gap < TOLERANCE, head
    if expected.features is not None:
        torch.testing.assert_close(found.features, expected.features, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ENTRIES)
def test_the_self_check_sees_the_drift_of_bfloat16_in_a_map(name):
    """The means over blocks that a release stores do not show it."""
    model = brainmri.load(name, device="cpu", runtime=HALF)
    found = check(model)
    assert found.difference <= selfcheck.TOLERANCE
    assert found.passed == ("segmentation" not in model.entry.tasks), found.sentence
    assert found.passed or "on cpu with half differs by up to 0.0" in found.sentence
    assert all(answer is None or answer.dtype == torch.float32 for answer in model.backend(views_for(model)[:1]))


def test_float16_passes_the_self_check():
    """What a GPU runs, on the CPU, which has no fast operations for it."""
    model = brainmri.load("resunet-lgg", device="cpu", runtime=TORCH)

    @torch.inference_mode()
    def forward(views: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.autocast("cpu", torch.float16):
            return tuple(output.float() for output in model.backend.module(views))

    found = check(replace(model, backend=backends.Backend(model.backend.module, HALF, forward)))
    assert found.passed, found.sentence
    assert 0 < found.drift < selfcheck.DRIFT_TOLERANCE


@pytest.mark.parametrize("name", QUANTISED_ENTRIES)
def test_8_bit_outputs_are_near_float32(name):
    plain, other = (brainmri.load(name, device="cpu", runtime=kind) for kind in (TORCH, QUANTISED))
    views = views_for(plain)
    expected, found = plain.backend(views), other.backend(views)
    if expected.mask is not None:
        assert (expected.mask.sigmoid() - found.mask.sigmoid()).abs().mean() < ROUNDING
        if expected.verdict is not None:  # the layers behind the verdict and the features are not quantised
            torch.testing.assert_close(found.verdict, expected.verdict, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(found.features, expected.features, rtol=1e-3, atol=1e-3)
    else:
        assert (expected.verdict.sigmoid() - found.verdict.sigmoid()).abs().mean() < ROUNDING


@pytest.mark.parametrize("name", QUANTISED_ENTRIES)
def test_8_bit_weights_pass_the_self_check(name):
    found = check(brainmri.load(name, device="cpu", runtime=QUANTISED))
    assert found.passed, found.sentence
    assert "on cpu with int8 matches its stored outputs" in found.sentence


def test_entries_are_verified_in_torch_and_on_their_fastest_backend(monkeypatch, capsys):
    monkeypatch.setattr(backends, "TIMING_SECONDS", 0.01)
    assert main(["check", "--device", "cpu"]) == 0
    sentences = capsys.readouterr().out.splitlines()
    assert all(" matches its stored outputs within " in sentence for sentence in sentences)
    fastest = {name: brainmri.load(name, device="cpu", runtime=AUTO).backend.kind for name in ENTRIES}
    expected = [(name, kind) for name, chosen in fastest.items() for kind in dict.fromkeys((TORCH, chosen))]
    assert re.findall(r"\(([\w-]+)\) on \w+ with (\w+)", "\n".join(sentences)) == expected


WITHOUT_COMPILER = """
import torch
from torch._inductor import config
from brainmri.zoo.backends import InferenceModule, compiled_forward, half_forward
from tests.support.tiny_network import TinyNet
torch.manual_seed(0)
net = TinyNet()  # compiles in seconds
served, cpu = InferenceModule(net, net.tasks).eval(), torch.device("cpu")
with config.patch({"cpp.cxx": ("no-such-compiler",)}):
    try:
        compiled_forward(served, 32, cpu)
    except ValueError as error:
        print(error)
"""
BY_TORCH_COMPILE = """
run, views = compiled_forward(served, 32, cpu), torch.randn(6, 3, 32, 32)
for part in (views, views[:1]):
    for expected, found in zip(half_forward(served, cpu)(part), run(part), strict=True):
        assert found.dtype is torch.float32
        assert (expected.sigmoid() - found.sigmoid()).abs().max() < 0.01
net(views.requires_grad_()).mask.sum().backward()  # as an explanation does, beside it
print("equal")
"""


def test_torch_compile_gives_the_same_outputs_and_a_missing_compiler_is_reported(tmp_path):
    """The "compiled" backend on the CPU, in its own process, so that the compiler stays out of this one.

    Without processes of its own and test programs for vector instructions, the compiler starts sooner.
    """
    code = [WITHOUT_COMPILER, *([BY_TORCH_COMPILE] if shutil.which("g++") else [])]
    quick = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_VEC_ISA_OK": "1", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "".join(code)], capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | quick,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reported, *compiled = done.stdout.splitlines()
    assert reported.startswith("the runtime 'compiled' needs torch.compile, which does not work here (")
    assert compiled == ["equal"] * (len(code) - 1)


def test_a_backend_with_different_outputs_is_not_chosen(monkeypatch, caplog):
    plain = brainmri.load("resunet-lgg", device="cpu")

    def upside_down(graph):
        return lambda views: [-answer for answer in plain.backend.module(views)]

    monkeypatch.setattr(backends, "openvino_forward", upside_down)
    monkeypatch.setattr(backends, "TIMING_SECONDS", 0.01)
    model = brainmri.load("resunet-lgg", device="cpu", runtime=AUTO)
    assert model.backend.kind not in (OPENVINO, QUANTISED)  # but torch, or half precision on CPUs with fast bfloat16
    assert "whose outputs differ on this machine" in caplog.text


def test_the_default_is_float32_without_a_probe(remembered):
    model = brainmri.load("resunet-lgg", device="cpu")
    assert model.backend.kind == TORCH
    assert not remembered.exists()


def test_auto_is_chosen_before_the_first_slice_and_kept(remembered, monkeypatch):
    """The choice is remembered for the machine, and no number of slices changes it."""
    monkeypatch.setattr(backends, "TIMING_SECONDS", 0.01)
    model = brainmri.load("effunet-lgg", device="cpu", runtime=AUTO)
    (choice,) = json.loads(remembered.read_text()).values()
    assert choice == model.backend.kind
    views = views_for(model)[:2]
    first = model.backend(views)
    for _ in range(40):
        again = model.backend(views)
    assert torch.equal(first.mask, again.mask)
    assert model.backend.kind == choice


def test_the_next_process_remembers_a_choice(remembered, monkeypatch):
    monkeypatch.setattr(backends, "TIMING_SECONDS", 0.01)
    brainmri.load("resunet-lgg", device="cpu", runtime=AUTO)
    (key,) = json.loads(remembered.read_text())
    remembered.write_text(json.dumps({key: TORCH}))

    def never(*_):
        raise AssertionError("the backends were timed again")

    monkeypatch.setattr(backends, "median_seconds", never)
    assert brainmri.load("resunet-lgg", device="cpu", runtime=AUTO).backend.kind == TORCH


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_damaged_choices_file_is_written_again(remembered, content, monkeypatch):
    monkeypatch.setattr(backends, "TIMING_SECONDS", 0.01)
    remembered.write_text(content)
    model = brainmri.load("resunet-lgg", device="cpu", runtime=AUTO)
    assert model.backend.kind in json.loads(remembered.read_text()).values()


def test_an_unwritable_choices_file_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(backends, "CHOICES_FILE", tmp_path / "file" / "runtimes.json")
    monkeypatch.setattr(backends, "TIMING_SECONDS", 0.01)
    model = brainmri.load("resunet-lgg", device="cpu", runtime=AUTO)
    assert model.backend(views_for(model)).mask is not None


def test_another_size_gets_its_own_cached_graph(tmp_path):
    smaller = tmp_path / "smaller"
    shutil.copytree(brainmri.load("resunet-lgg", device="cpu").entry.folder, smaller)
    config = json.loads((smaller / "config.json").read_text())
    config["preprocess"]["size"] = 96
    (smaller / "config.json").write_text(json.dumps(config))
    for source in ("resunet-lgg", smaller):
        model = brainmri.load(source, device="cpu", runtime=OPENVINO)
        views = views_for(model)
        assert model.backend(views).mask.shape == (len(views), 1, *views.shape[2:])


def test_the_environment_variable_sets_the_runtime(monkeypatch):
    monkeypatch.setenv("BRAINMRI_RUNTIME", OPENVINO)
    assert brainmri.load("resunet-lgg", device="cpu").backend.kind == OPENVINO
    monkeypatch.setenv("BRAINMRI_RUNTIME", "abacus")
    with pytest.raises(ValueError, match="unknown runtime 'abacus'; choose from auto, torch, half, compiled, openvino, int8"):
        brainmri.load("resunet-lgg", device="cpu")


def test_an_unavailable_runtime_is_refused(tmp_path):
    folder = tmp_path / "entry"
    shutil.copytree(brainmri.load("resunet-lgg", device="cpu").entry.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"int8": {}}))
    with pytest.raises(ValueError, match="resunet-lgg has no 8-bit weights"):
        brainmri.load(folder, device="cpu", runtime=QUANTISED)
    with pytest.raises(ValueError, match="expected a CPU for the runtime 'openvino', got meta"):
        brainmri.load(folder, device="meta", runtime=OPENVINO)
    with pytest.raises(ValueError, match="expected CUDA for the runtime 'compiled', got cpu"):
        brainmri.load(folder, device="cpu", runtime=COMPILED)


@pytest.mark.parametrize("file", [INT8, INT8_WEIGHTS])
@pytest.mark.parametrize("name", QUANTISED_ENTRIES[:1])
def test_exchanged_8_bit_weights_are_refused(tmp_path, name, file):
    folder = tmp_path / "entry"
    shutil.copytree(brainmri.load(name, device="cpu").entry.folder, folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=f"{file} with the SHA-256 in its config.json"):
        brainmri.load(folder, device="cpu", runtime=QUANTISED)


@pytest.mark.parametrize("name", QUANTISED_ENTRIES[:1])
def test_with_exchanged_8_bit_weights_auto_stays_in_torch(tmp_path, caplog, name):
    folder = tmp_path / "entry"
    shutil.copytree(brainmri.load(name, device="cpu").entry.folder, folder)
    (folder / INT8_WEIGHTS).write_bytes(b"!")
    model = brainmri.load(folder, device="cpu", runtime=AUTO)
    assert model.backend.kind == TORCH
    assert f"{name} runs in torch" in caplog.text
    assert model.backend(views_for(model)).mask is not None


def test_threads_get_their_own_outputs():
    model = brainmri.load("resunet-lgg", device="cpu", runtime=OPENVINO)
    views = views_for(model)
    expected = [model.backend(view[None]).mask for view in views]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: model.backend(views[number % len(views)][None]).mask, range(60)))
    assert all(torch.equal(one, expected[number % len(views)]) for number, one in enumerate(found))


def test_openvino_sends_no_telemetry():
    """OpenVINO reports its import, unless its telemetry package is missing."""
    program = """
import sys
from brainmri.zoo.backends import load_openvino
openvino = load_openvino()
assert sys.modules["openvino_telemetry"] is None
assert "stub" in openvino.tools.ovc.telemetry_utils.tm.__name__, openvino.tools.ovc.telemetry_utils.tm
"""
    subprocess.run([sys.executable, "-c", program], check=True)


SIGNALLED = """
import signal, subprocess, brainmri
models = [brainmri.load(%r, device="cpu", runtime="int8") for _ in range(2)]
while models:
    del models[0]  # the first one first
signal.signal(signal.SIGCHLD, lambda *_: print("handled"))
subprocess.run(["true"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs signals of Linux")
def test_signals_are_handled_after_networks_in_openvino_are_deleted():
    done = subprocess.run([sys.executable, "-c", SIGNALLED % QUANTISED_ENTRIES[0]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_importing_the_package_imports_nothing_heavy():
    program = "import sys, brainmri; print([name for name in ('torch', 'numpy', 'gradio', 'scipy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_cpu_backends_are_compared_with_plain_torch(monkeypatch):
    def two(model, views, threads):
        net = model.backend.module
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
