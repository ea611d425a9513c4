"""Publishing and downloading with the real `huggingface_hub` client, in separate processes, against a local stand-in Hub."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from huggingface_hub import ModelCard

import brainmri
from brainmri.zoo.entry import CARD, CONFIG, ONNX, SPLIT, WEIGHTS, file_sha256
from brainmri.zoo.hub import git_blob_hash
from brainmri.zoo.metrics import VARIANTS, label
from brainmri.zoo.registry import DEFAULT, EMBEDDED, PINS
from tests.support.hub_server import Fault, Hub, serve
from train.release.card import measured, numpy_example

pytestmark = pytest.mark.hub

ROOT = Path(__file__).parents[2]
ENTRIES = {entry.name: entry for entry in brainmri.list_models()}
CLOSED = "http://127.0.0.1:9"  # nothing listens on the discard port


@pytest.fixture(scope="module")
def hub():
    return Hub({f"hf_{user}": user for user in ("owner", "ann", "ben", "eve")})


@pytest.fixture(scope="module")
def url(hub):
    with serve(hub) as address:
        yield address


def environment(url: str, home: Path, **variables: str | None) -> dict[str, str]:
    """The environment of a process with its own cache and `url` as the Hub; variables set to None are removed."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "BRAINMRI_"))}
    wanted = {"HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_owner"} | variables
    return {k: v for k, v in (inherited | wanted).items() if v is not None}


@pytest.fixture
def client(url, tmp_path):
    """A function that runs a Python command in such a process."""

    def run(*command: str, cwd: Path = ROOT, **variables: str | None) -> subprocess.CompletedProcess:
        own = environment(url, tmp_path / "hf", PYTHONPATH=str(cwd), **variables)
        return subprocess.run([sys.executable, *command], cwd=cwd, env=own, capture_output=True, text=True, timeout=240)

    return run


def error_line(done: subprocess.CompletedProcess) -> str:
    """The one line that a failed command prints, without a traceback."""
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr
    lines = [
        line
        for line in done.stderr.splitlines()
        if line.startswith(("owner/", "other/", "error:")) or " was not published" in line
    ]
    assert len(lines) == 1, done.stderr
    return lines[0]


def is_intact(cache: Path) -> bool:
    """Whether all files in a cache are complete and undamaged."""
    blobs = [p for p in cache.glob("hub/models--*/blobs/*")]
    return all(p.name in (file_sha256(p), git_blob_hash(p.read_bytes())) for p in blobs)


@pytest.fixture(scope="module")
def tiny(hub) -> dict[str, bytes]:
    """A repo of the right layout; its weights, 300 kB of arbitrary bytes, can be downloaded and checked but not loaded."""
    weights = bytes(range(256)) * 1200
    known = json.loads((ENTRIES["resunet-lgg"].folder / CONFIG).read_text())
    config = known | {"sha256": hashlib.sha256(weights).hexdigest(), "int8": {}}
    files = {CONFIG: json.dumps(config).encode(), WEIGHTS: weights, SPLIT: b"{}", CARD: b"# tiny"}
    hub.add_repo("owner/tiny", files)
    return files


@pytest.fixture(scope="module")
def published(hub, url, tmp_path_factory):
    """Publish every entry from a copy of the embedded folder; return this folder and the command's output."""
    folder = tmp_path_factory.mktemp("zoo") / "weights"
    shutil.copytree(EMBEDDED, folder)
    own = environment(url, tmp_path_factory.mktemp("hf"))
    command = [sys.executable, "-m", "train.release.publish", *ENTRIES, "--owner", "owner", "--weights", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_publishing_uploads_the_embedded_entries_and_pins_them(published):
    folder, printed = published
    pins = json.loads((folder / PINS).read_text())
    assert set(pins) == set(ENTRIES)
    for name, entry in ENTRIES.items():
        assert pins[name]["sha256"] == entry.sha256
        assert f"owner/{name}: commit {pins[name]['revision']}" in printed


def test_published_entries_can_be_downloaded_and_then_used_offline(published, client, tmp_path):
    pulled = client(
        "-m", "brainmri", "download", "--all", BRAINMRI_HUB_OWNER="owner", TQDM_POSITION="-1"
    )  # bars without a terminal
    assert pulled.returncode == 0, pulled.stderr
    assert re.search(rf"{WEIGHTS}: 100%.*M/", pulled.stderr)
    for name, entry in ENTRIES.items():
        (snapshot,) = (tmp_path / "hf" / "hub" / f"models--owner--{name}" / "snapshots").iterdir()
        assert file_sha256(snapshot / WEIGHTS) == entry.sha256
        for file in (CONFIG, SPLIT, CARD, *entry.hashes):
            assert (snapshot / file).read_bytes() == (entry.folder / file).read_bytes()
    for offline in ({"HF_ENDPOINT": CLOSED}, {"HF_HUB_OFFLINE": "1"}):
        again = client("-m", "brainmri", "download", "--all", BRAINMRI_HUB_OWNER="owner", **offline)
        assert again.returncode == 0, again.stderr


def test_a_second_publication_uploads_nothing(published, hub, client):
    before = hub.uploaded_bytes
    done = client("-m", "train.release.publish", *ENTRIES, "--owner", "owner", "--weights", str(published[0]))
    assert done.returncode == 0, done.stderr
    assert hub.uploaded_bytes == before
    assert "uploaded" not in done.stdout
    assert done.stdout.count("already there: ") == len(ENTRIES)


def test_changed_files_need_a_new_version(published, client, tmp_path):
    folder = shutil.copytree(published[0], tmp_path / "weights")
    split = folder / "resunet-lgg" / SPLIT
    split.write_text(split.read_text() + "\n")
    done = client("-m", "train.release.publish", "resunet-lgg", "--owner", "owner", "--weights", str(folder))
    assert "raise the version" in error_line(done)


def test_a_dry_run_writes_nothing(published, hub, client):
    before = len([r for r in hub.requests if r[0] != "GET"])
    done = client(
        "-m", "train.release.publish", "resunet-lgg", "--owner", "newcomer", "--weights", str(published[0]), "--dry-run"
    )
    assert done.returncode == 0, done.stderr
    assert f"would upload {WEIGHTS}" in done.stdout
    assert len([r for r in hub.requests if r[0] != "GET"]) == before


def test_an_inconsistent_entry_is_not_published(client, tmp_path):
    def publish(change) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(EMBEDDED / "resunet-lgg", folder / "resunet-lgg")
        change(folder / "resunet-lgg")
        return error_line(client("-m", "train.release.publish", "resunet-lgg", "--owner", "owner", "--weights", str(folder)))

    def remove_result(folder: Path) -> None:
        card = ModelCard.load(folder / CARD)
        card.data.eval_results = card.data.eval_results[1:]
        card.save(folder / CARD)

    def damage(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(b"\0" + (folder / WEIGHTS).read_bytes()[1:])

    def remove_metrics(folder: Path) -> None:
        (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | {"metrics": {}}))

    assert "its card lacks 'volumetric Dice, mean over patients' (three sequences)" in publish(remove_result)
    assert "does not have the SHA-256" in publish(damage)
    assert "was not measured" in publish(remove_metrics)
    assert "lacks README.md" in publish(lambda folder: (folder / CARD).unlink())


def test_publishing_needs_a_token(client, tmp_path):
    folder = shutil.copytree(EMBEDDED, tmp_path / "weights")
    done = client("-m", "train.release.publish", "resunet-lgg", "--owner", "newcomer", "--weights", str(folder), HF_TOKEN=None)
    assert "use a token with write access" in error_line(done)
    assert not (folder / PINS).exists()


@pytest.mark.parametrize(
    ("owner", "fault", "words", "left"),
    [
        ("ann", Fault("PUT", "/lfs/objects/", "status", times=1), None, 0),
        ("ben", Fault("POST", "/commit/", "status", times=1), "the Hub answered 500 while publishing", 100_000),
        ("eve", Fault("POST", "/commit/", "cut", times=1), "could not be published", 0),  # the commit did happen
    ],
    ids=["put", "commit", "cut"],
)
def test_an_interrupted_publication_can_be_resumed(owner, fault, words, left, hub, client, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(EMBEDDED / "resunet-lgg", folder / "resunet-lgg")
    command = ("-m", "train.release.publish", "resunet-lgg", "--owner", owner, "--weights", str(folder))
    hub.faults[:] = [fault]
    done = client(*command, HF_TOKEN=f"hf_{owner}")
    assert not hub.faults, "the fault did not occur"
    if words:
        assert words in error_line(done)
        assert not (folder / PINS).exists()
        before = hub.uploaded_bytes
        done = client(*command, HF_TOKEN=f"hf_{owner}")
        assert hub.uploaded_bytes - before <= left  # the large file had been uploaded
    assert done.returncode == 0, done.stderr
    repo = hub.repos[f"{owner}/resunet-lgg"]
    assert repo.files[WEIGHTS] == (folder / "resunet-lgg" / WEIGHTS).read_bytes()
    assert set(repo.tags.values()) == {repo.head} == {json.loads((folder / PINS).read_text())["resunet-lgg"]["revision"]}


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
    offline = client("-c", LOAD.format(source="resunet-lgg"), BRAINMRI_HUB_OWNER="owner", HF_HUB_OFFLINE="1")
    assert "the embedded copy of resunet-lgg is used instead" in offline.stderr


def test_without_an_owner_the_embedded_copy_needs_no_request(hub, client):
    before = len(hub.requests)
    assert client("-c", LOAD.format(source="resunet-lgg")).returncode == 0
    assert len(hub.requests) == before


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


def test_the_space_starts_from_the_pinned_commits(published, hub, client, tmp_path):
    pins, space = published[0] / PINS, tmp_path / "space"
    done = client("-m", "train.release.publish_space", "--owner", "owner", "--pins", str(pins))
    assert done.returncode == 0, done.stderr
    before = hub.uploaded_bytes
    again = client("-m", "train.release.publish_space", "--owner", "owner", "--pins", str(pins))
    assert again.returncode == 0, again.stderr
    assert hub.uploaded_bytes == before
    program = "import sys, huggingface_hub as h; h.snapshot_download('owner/brainmri', repo_type='space', local_dir=sys.argv[1])"
    assert client("-c", program, str(space)).returncode == 0
    assert not list(space.rglob("*.safetensors"))
    pinned = json.loads(pins.read_text())
    preload = ModelCard.load(space / "README.md", ignore_metadata_errors=True).data.to_dict()["preload_from_hub"]
    assert {line.split()[0]: line.split()[2] for line in preload} == {p["repo"]: p["revision"] for p in pinned.values()}
    program = "from brainmri.ui import logs, page, service; logs.configure(); page.build(); service.load_models()"
    started = client("-c", program, cwd=space, HF_TOKEN=None)
    assert started.returncode == 0, started.stderr
    assert f"loaded {DEFAULT}: Hub cache, {pinned[DEFAULT]['repo']} at {pinned[DEFAULT]['revision']}, on" in started.stderr


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=lambda e: e.name)
def test_the_cards_model_index_holds_the_measured_figures(entry):
    card = ModelCard.load(entry.folder / CARD)
    labelled = {(VARIANTS[variant], label(metric)): value for (variant, metric), value in measured(entry).items()}
    assert {(r.dataset_config, r.metric_name): r.metric_value for r in card.data.eval_results} == labelled
    assert card.data.library_name == "brainmri"
    assert card.data.license == "cc-by-nc-sa-4.0"
    assert card.data.pipeline_tag.startswith("image-")


@pytest.mark.parametrize("entry", [e for e in ENTRIES.values() if (e.folder / ONNX).is_file()], ids=lambda e: e.name)
def test_the_cards_numpy_example_runs_and_agrees(entry, tmp_path):
    exported = onnx.load(entry.folder / ONNX)
    assert not any(item.metadata_props or item.doc_string for item in exported.graph.node)
    program = numpy_example(entry)
    assert program in (entry.folder / CARD).read_text(encoding="utf-8")
    assert len(program.splitlines()) <= 25
    sample = ROOT / "assets" / "examples" / "large-lesion.png"
    shutil.copy(sample, tmp_path / "slice.png")
    shutil.copy(entry.folder / ONNX, tmp_path)
    alone = "import sys\nsys.modules['torch'] = sys.modules['brainmri'] = None\n"
    done = subprocess.run([sys.executable, "-c", alone + program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    import numpy as np
    from PIL import Image

    finding = brainmri.Pipeline(segmenter=entry.name, device="cpu")(sample)
    mask = np.asarray(Image.open(tmp_path / "mask.png")) > 127
    assert 2 * (mask & finding.mask).sum() / (mask.sum() + finding.mask.sum()) > 0.9
