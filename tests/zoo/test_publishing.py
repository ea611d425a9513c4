"""Publishing with the real `huggingface_hub` client, in separate processes, to a local stand-in Hub; cards and the Space."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import onnx
import pytest
from gradio_client import Client, handle_file
from huggingface_hub import ModelCard, SpaceCard, SpaceHardware

import brainmri
from brainmri.zoo.entry import CARD, CONFIG, ONNX, SPLIT, WEIGHTS
from brainmri.zoo.metrics import VARIANTS, label
from brainmri.zoo.registry import DEFAULT, EMBEDDED, PINS
from tests.support.hub_client import CLOSED, ENTRIES, ROOT, error_line
from tests.support.hub_server import Fault, card_data
from tests.support.serving import served
from train.release.card import measured
from train.release.onnx_example import numpy_example

pytestmark = pytest.mark.hub
SAMPLE = ROOT / "assets" / "examples" / "large-lesion.png"


def test_the_guide_says_whether_the_zoo_is_published():
    text = (ROOT / "brainmri" / "README.md").read_text(encoding="utf-8")
    assert ("The zoo is not published yet" in text) != (EMBEDDED / PINS).is_file()


def test_publishing_uploads_the_embedded_entries_and_pins_them(published):
    folder, printed = published
    pins = json.loads((folder / PINS).read_text())
    assert set(pins) == set(ENTRIES)
    for name, entry in ENTRIES.items():
        assert pins[name]["sha256"] == entry.sha256
        assert f"owner/{name}: commit {pins[name]['revision']}" in printed


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


def test_the_space_is_published_with_the_entries_and_runs_on_zero_gpu(published, hub, client):
    folder, printed = published
    space = hub.repos["spaces/owner/brainmri"]
    assert f"owner/brainmri: commit {space.head}" in printed
    assert space.hardware == "zero-a10g"
    pinned = json.loads((folder / PINS).read_text())
    assert json.loads(space.files[f"brainmri/weights/{PINS}"]) == pinned
    preload = card_data(space.files[CARD].decode())["preload_from_hub"]
    assert {line.split()[0]: line.split()[2] for line in preload} == {p["repo"]: p["revision"] for p in pinned.values()}
    assert not [path for path in space.files if path.endswith((".safetensors", ".onnx", ".bin"))]
    assert {"pyproject.toml", "brainmri/README.md", "brainmri/templates/selfcheck.png"} <= set(space.files)  # pip can install it
    front = space.files[CARD].decode()
    assert f"](https://huggingface.co/owner/{DEFAULT})" in front
    assert set(re.findall(r"\]\(([\w./-]+)[)#]", front)) <= set(space.files)
    for name in ENTRIES:
        assert f'brainmri.Pipeline("owner/{name}")' in hub.repos[f"owner/{name}"].files[CARD].decode().replace("classifier=", "")
    before = hub.uploaded_bytes
    command = ("-m", "train.release.publish_space", "--owner", "owner", "--pins", str(folder / PINS))
    assert client(*command).returncode == 0
    assert (hub.uploaded_bytes, space.hardware) == (before, "zero-a10g")
    assert client(*command, "--hardware", "cpu-upgrade").returncode == 0
    assert (hub.uploaded_bytes, space.hardware) == (before, "cpu-upgrade")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("POST", "/api/repos/create", "status", status=402), "requires payment to publish owner/other: Injected fault; "),
        (Fault("POST", "/api/repos/create", "status", status=403), "(status 403): Injected fault; use a token"),
    ],
    ids=["payment", "permission"],
)
def test_a_refused_space_is_explained_in_the_hubs_own_words(fault, words, published, hub, client):
    hub.faults[:] = [fault]
    pins = str(published[0] / PINS)
    done = client("-m", "train.release.publish_space", "--owner", "owner", "--space", "other", "--pins", pins)
    assert not hub.faults, "the fault did not occur"
    assert words in error_line(done)
    assert "spaces/owner/other" not in hub.repos


def test_private_models_and_a_space_that_preloads_them_are_refused_before_an_upload(published, hub, client):
    before = len([r for r in hub.requests if r[0] != "GET"])
    together = client("-m", "train.release.publish", "--all", "--owner", "owner", "--private", "--weights", str(published[0]))
    assert "a Space cannot preload private models" in error_line(together)
    hub.repos[f"owner/{DEFAULT}"].private = True
    try:
        alone = client("-m", "train.release.publish_space", "--owner", "owner", "--pins", str(published[0] / PINS))
    finally:
        hub.repos[f"owner/{DEFAULT}"].private = False
    assert f"owner/{DEFAULT} is private, and a Space cannot preload private models" in error_line(alone)
    assert len([r for r in hub.requests if r[0] != "GET"]) == before


PRELOAD = """
import sys, huggingface_hub as hub
space = hub.snapshot_download("owner/brainmri", repo_type="space", local_dir=sys.argv[1])
for line in hub.RepoCard.load(f"{space}/README.md").data.preload_from_hub:
    repo, names, revision = line.split()
    hub.snapshot_download(repo, allow_patterns=names.split(","), revision=revision)
"""


@pytest.mark.slow
def test_the_published_space_serves_the_published_models(published, client, tmp_path):
    """Publish, start with an empty cache and without embedded weights, preload as the Hub does, and analyse a slice."""
    pinned = json.loads((published[0] / PINS).read_text())
    space, home = tmp_path / "space", tmp_path / "hf"
    built = client("-c", PRELOAD, str(space), HF_TOKEN=None)
    assert built.returncode == 0, built.stderr
    with served(tmp_path / "run", root=space, HF_HOME=str(home), HF_ENDPOINT=CLOSED) as (_, page, _):
        health = httpx.get(f"{page}health").json()
        assert health["status"] == "ok"
        assert {model["name"]: model["source"] for model in health["models"]} == {
            name: f"Hub cache, {pin['repo']} at {pin['revision']}" for name, pin in pinned.items()
        }
        visitor = Client(page, verbose=False, download_files=str(tmp_path), httpx_kwargs={"timeout": 120})
        record, *_ = visitor.predict(handle_file(SAMPLE), api_name="/predict")
    assert record["verdict"] == "tumour"
    used = record["provenance"]["segmenter"]
    assert (used["name"], used["sha256"]) == (DEFAULT, pinned[DEFAULT]["sha256"])


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=lambda e: e.name)
def test_the_cards_model_index_holds_the_measured_figures(entry):
    card = ModelCard.load(entry.folder / CARD)
    labelled = {(VARIANTS[variant], label(metric)): round(value, 3) for (variant, metric), value in measured(entry).items()}
    assert {(r.dataset_config, r.metric_name): r.metric_value for r in card.data.eval_results} == labelled
    assert card.data.library_name == "brainmri"
    assert card.data.license == "cc-by-nc-sa-4.0"
    assert card.data.pipeline_tag.startswith("image-")


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=lambda e: e.name)
def test_cards_link_a_dataset_where_it_is(entry):
    """The front matter names datasets of the Hub only, where the LGG dataset is not."""
    text = (entry.folder / CARD).read_text(encoding="utf-8")
    assert "mateuszbuda" not in str(card_data(text))
    assert "](https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation)" in text


def test_the_readme_has_the_front_matter_of_a_space():
    data = SpaceCard.load(ROOT / "README.md").data
    assert (data.sdk, data.app_file, data.license) == ("gradio", "app.py", "mit")
    assert {data.colorFrom, data.colorTo} <= {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert len(data.short_description) <= 60
    assert data.suggested_hardware == SpaceHardware.ZERO_A10G
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert f"gradio[mcp]~={data.sdk_version}" in requirements.split()
    supported = re.search(r"ZeroGPU Spaces run torch (.*?) on Python (\S+) and (\S+)", requirements)
    assert data.python_version in supported.group(2, 3)
    assert re.search(r"^torch~=(\S+)$", requirements, re.MULTILINE)[1] in supported[1].split(", ")


@pytest.mark.parametrize("entry", [e for e in ENTRIES.values() if (e.folder / ONNX).is_file()], ids=lambda e: e.name)
def test_the_cards_numpy_example_runs_and_agrees(entry, tmp_path):
    exported = onnx.load(entry.folder / ONNX)
    assert not any(item.metadata_props or item.doc_string for item in exported.graph.node)
    program = numpy_example(entry)
    assert program in (entry.folder / CARD).read_text(encoding="utf-8")
    assert len(program.splitlines()) <= 25
    shutil.copy(SAMPLE, tmp_path / "slice.png")
    shutil.copy(entry.folder / ONNX, tmp_path)
    alone = "import sys\nsys.modules['torch'] = sys.modules['brainmri'] = None\n"
    done = subprocess.run([sys.executable, "-c", alone + program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    import numpy as np
    from PIL import Image

    finding = brainmri.Pipeline(segmenter=entry.name, device="cpu")(SAMPLE)
    mask = np.asarray(Image.open(tmp_path / "mask.png")) > 127
    assert 2 * (mask & finding.mask).sum() / (mask.sum() + finding.mask.sum()) > 0.9
