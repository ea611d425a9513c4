"""Downloading with the real `huggingface_hub` client, in separate processes, against a local stand-in Hub."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from brainmri.zoo.entry import CARD, CONFIG, SPLIT, WEIGHTS, file_sha256
from brainmri.zoo.hub import git_blob_hash
from tests.support.hub_client import CLOSED, ENTRIES, ROOT, environment, error_line
from tests.support.hub_server import Fault
from train.release.card import model_card

pytestmark = pytest.mark.hub


def is_intact(cache: Path) -> bool:
    """Whether all files in a cache are complete and undamaged."""
    blobs = [p for p in cache.glob("hub/models--*/blobs/*")]
    return all(p.name in (file_sha256(p), git_blob_hash(p.read_bytes())) for p in blobs)


def test_published_entries_can_be_downloaded_and_then_used_offline(published, client, tmp_path):
    pulled = client(
        "-m", "brainmri", "download", "--all", BRAINMRI_HUB_OWNER="owner", TQDM_POSITION="-1"
    )  # bars without a terminal
    assert pulled.returncode == 0, pulled.stderr
    assert re.search(rf"{WEIGHTS}: 100%.*M/", pulled.stderr)
    for name, entry in ENTRIES.items():
        (snapshot,) = (tmp_path / "hf" / "hub" / f"models--owner--{name}" / "snapshots").iterdir()
        assert file_sha256(snapshot / WEIGHTS) == entry.sha256
        for file in (CONFIG, SPLIT, *entry.hashes):
            assert (snapshot / file).read_bytes() == (entry.folder / file).read_bytes()
        assert (snapshot / CARD).read_text(encoding="utf-8") == model_card(entry, "owner")
    for offline in ({"HF_ENDPOINT": CLOSED}, {"HF_HUB_OFFLINE": "1"}):
        again = client("-m", "brainmri", "download", "--all", BRAINMRI_HUB_OWNER="owner", **offline)
        assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    "fault",
    [
        Fault("HEAD", CONFIG, "status", status=500),
        Fault("GET", WEIGHTS, "status", status=503),
        Fault("GET", WEIGHTS, "status", status=429, retry_after=1),
        Fault("GET", WEIGHTS, "slow"),
        Fault("GET", WEIGHTS, "cut"),
        Fault("GET", WEIGHTS, "truncate"),
        Fault("GET", WEIGHTS, "garble"),
        Fault("GET", CONFIG, "garble"),
    ],
    ids=lambda f: f"{f.kind}-{f.method}-{f.path}-{f.status}",
)
def test_a_download_survives_temporary_faults(fault, tiny, hub, client, tmp_path):
    hub.faults[:] = [fault]
    done = client("-m", "brainmri", "download", "owner/tiny")
    assert done.returncode == 0, done.stderr
    assert not hub.faults, "the fault did not occur"
    (snapshot,) = (tmp_path / "hf/hub/models--owner--tiny/snapshots").iterdir()
    assert {name: (snapshot / name).read_bytes() for name in tiny} == tiny
    assert is_intact(tmp_path / "hf")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("GET", WEIGHTS, "status", times=None, status=500), "the Hub answered 500"),
        (Fault("GET", WEIGHTS, "truncate", times=None), "could not be downloaded"),
        (Fault("GET", WEIGHTS, "garble", times=None), "was damaged in 2 downloads in a row"),
        (Fault("HEAD", CONFIG, "status", times=None, status=401), "the Hub refused config.json of owner/tiny (status 401)"),
        (Fault("HEAD", CONFIG, "status", times=None, status=404), "the Hub answered 404"),
    ],
    ids=lambda f: f"{f.kind}-{f.status}" if isinstance(f, Fault) else "",
)
def test_a_permanent_fault_ends_in_one_line(fault, words, tiny, hub, client, tmp_path):
    hub.faults[:] = [fault]
    try:
        assert words in error_line(client("-m", "brainmri", "download", "owner/tiny"))
    finally:
        hub.faults.clear()
    assert is_intact(tmp_path / "hf")
    assert client("-m", "brainmri", "download", "owner/tiny").returncode == 0  # the next attempt succeeds


def test_private_and_gated_repos_need_a_token(hub, tiny, client):
    hub.add_repo("owner/secret", tiny, private=True)
    hub.add_repo("owner/terms", tiny, gated=True)
    assert "not on the Hub, or private" in error_line(client("-m", "brainmri", "download", "owner/secret", HF_TOKEN=None))
    assert "owner/terms is gated" in error_line(client("-m", "brainmri", "download", "owner/terms", HF_TOKEN=None))
    assert client("-m", "brainmri", "download", "owner/secret", "owner/terms").returncode == 0


def test_other_repos_are_refused(hub, tiny, client):
    hub.add_repo("other/poems", {"README.md": b"# poems"})
    assert f"{CONFIG} is missing" in error_line(client("-m", "brainmri", "download", "other/poems"))
    hub.add_repo("other/bert", tiny | {CONFIG: b'{"architectures": ["BertModel"]}'})
    assert "not a model of this layout" in error_line(client("-m", "brainmri", "download", "other/bert"))
    hub.add_repo("other/exchanged", tiny | {WEIGHTS: tiny[WEIGHTS][::-1]})
    assert "does not have the SHA-256" in error_line(client("-m", "brainmri", "download", "other/exchanged"))
    assert "has no revision 'v9'" in error_line(client("-m", "brainmri", "download", "owner/tiny", "--revision", "v9"))
    assert "expected OWNER/NAME, got 'owner/a b'" in error_line(client("-m", "brainmri", "download", "owner/a b"))


def test_two_processes_can_download_at_once(tiny, hub, url, tmp_path):
    hub.faults[:] = [Fault("GET", WEIGHTS, "slow", times=None)]
    own = environment(url, tmp_path)
    command = [sys.executable, "-m", "brainmri", "download", "owner/tiny"]
    both = [subprocess.Popen(command, cwd=ROOT, env=own, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [process.communicate(timeout=240)[1] for process in both]
    hub.faults.clear()
    assert [process.returncode for process in both] == [0, 0], ends
    assert is_intact(tmp_path)


LOAD = """
import sys, torch, brainmri
model = brainmri.load({source!r}, device="cpu")
torch.manual_seed(0)
print(model.entry.folder, float(model.net(torch.randn(1, 3, 64, 64)).mask.sum()))
"""


def test_without_the_hub_the_embedded_copy_is_used_with_a_warning(client):
    done = client("-c", LOAD.format(source="resunet-lgg"), BRAINMRI_HUB_OWNER="owner", HF_ENDPOINT=CLOSED)
    assert done.returncode == 0, done.stderr
    assert str(ENTRIES["resunet-lgg"].folder) in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if "embedded" in line]
    assert line == (
        "the Hub could not be reached for config.json of owner/resunet-lgg, and it is not in the local cache; "
        "the embedded copy of resunet-lgg is used instead"
    )
    assert "Retrying in" not in done.stderr  # the Hub's client would, for 24 s
    offline = client("-c", LOAD.format(source="resunet-lgg"), BRAINMRI_HUB_OWNER="owner", HF_HUB_OFFLINE="1")
    assert "the embedded copy of resunet-lgg is used instead" in offline.stderr


def test_without_an_owner_the_embedded_copy_needs_no_request(hub, client):
    before = len(hub.requests)
    assert client("-c", LOAD.format(source="resunet-lgg")).returncode == 0
    assert len(hub.requests) == before


FROM_HUB = """
import brainmri
from brainmri.ui import inference, page
pipe = brainmri.Pipeline("resunet-lgg", device="cpu", from_hub=True)
print(*(model.entry.folder for model in (pipe.segmenter, pipe.classifier, pipe.ood_model)))
page.build(from_hub=True)
print(*(entry.folder for entry in inference.available_models.values()))
"""


def test_weights_of_the_hub_are_forced_in_library_and_page(published, client, tmp_path):
    done = client("-c", FROM_HUB, BRAINMRI_HUB_OWNER="owner")
    assert done.returncode == 0, done.stderr
    library, page = (line.split() for line in done.stdout.splitlines()[-2:])
    assert (len(library), len(page)) == (3, len(ENTRIES))
    assert all(folder.startswith(str(tmp_path / "hf" / "hub" / "models--owner--")) for folder in library + page)


@pytest.mark.parametrize("command", [("check", "resunet-lgg"), ("predict", "slice.png", "--out", "."), ("serve",)])
def test_weights_of_the_hub_are_forced_on_the_command_line(command, client):
    """No embedded copy replaces them, neither where nothing is published nor where the Hub cannot be reached."""
    assert "published on the Hub yet" in error_line(client("-m", "brainmri", *command, "--from-hub"))
    closed = client("-m", "brainmri", *command, "--from-hub", BRAINMRI_HUB_OWNER="owner", HF_ENDPOINT=CLOSED)
    assert "the Hub could not be reached for config.json of owner/" in error_line(closed)


ON_GPU = """
import numpy as np
from torch._subclasses.fake_tensor import FakeTensorMode
import brainmri
from brainmri.analysis.forward import _place, run_model
from tests.support.fake_gpu import copy_to_gpu
pulled = brainmri.load("owner/for-gpu", device="cpu", runtime="torch")
with FakeTensorMode() as mode:
    model = copy_to_gpu(pulled, mode)
    images, _ = _place(model, np.zeros((70, 240, 200, 3), np.float32), (1.0, 1.0))
    maps = run_model(model, images).maps
print(pulled.entry.sha256, maps.device, len(maps))
"""


def test_a_pulled_model_runs_on_a_gpu(hub, client):
    """On fake CUDA tensors."""
    entry = ENTRIES["resunet-lgg"]
    hub.add_repo("owner/for-gpu", {name: path.read_bytes() for name, path in entry.files.items()})
    done = client("-c", ON_GPU)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [entry.sha256, "cuda:0", "70"]


MIXIN = """
import torch, brainmri
from brainmri.zoo.nets import EffUNet, ResUNet
from brainmri.zoo.registry import licence
net = ResUNet.from_pretrained("owner/resunet-lgg")
assert not net.training
image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    assert torch.equal(net(image).mask, brainmri.load("resunet-lgg", device="cpu").net(image).mask)
try:
    EffUNet.from_pretrained("owner/resunet-lgg")
except ValueError as error:
    assert "holds a ResUNet" in str(error)
with torch.no_grad():
    net.head.bias += 1
net.push_to_hub("owner/mine")
mine = brainmri.load("owner/mine", device="cpu")
with torch.inference_mode():
    assert torch.equal(mine.net(image).mask, net(image).mask)
known = brainmri.load("resunet-lgg", device="cpu").entry
described = ("name", "summary", "preprocess", "flips", "mask_threshold", "mask_neighbours", "training")
assert all(getattr(mine.entry, field) == getattr(known, field) for field in described), mine.entry
assert mine.entry.metrics is mine.entry.selfcheck is None, mine.entry
assert mine.entry.int8 is None, mine.entry
fresh = ResUNet(in_channels=3)
fresh.push_to_hub("owner/fresh")
entry = brainmri.load("owner/fresh", device="cpu").entry
assert licence(entry) is licence(mine.entry) is None  # the owner of the weights chooses it
print(entry.tasks)
"""


def test_networks_can_be_loaded_from_and_pushed_to_the_hub(published, client):
    done = client("-c", MIXIN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "('segmentation',)"


def test_other_models_can_be_listed_run_and_served(published, client, tmp_path):
    shutil.copytree(published[0] / "resunet-lgg", tmp_path / "tuned")
    listed = client("-m", "brainmri", "models", str(tmp_path / "tuned"), "owner/resunet-lgg")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("resunet-lgg") == 3
    out = tmp_path / "out"
    sample = ROOT / "assets" / "examples" / "large-lesion.png"
    done = client("-m", "brainmri", "predict", str(sample), "--out", str(out), "--segmenter", str(tmp_path / "tuned"))
    assert done.returncode == 0, done.stderr
    sources = [str(tmp_path / "tuned"), "owner/resunet-lgg"]
    program = f"from brainmri.ui import inference, page; page.build({sources!r})\nprint(list(inference.available_models))"
    page = client("-c", program)
    assert page.returncode == 0, page.stderr
    assert "owner/resunet-lgg" in page.stdout
    refused = client("app.py", "--models", str(tmp_path))
    assert refused.returncode == 2
    assert "config.json is missing" in refused.stderr.splitlines()[-1]
