"""Fixtures of the tests that publish and download: a stand-in Hub, a client of it, and the published zoo."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from brainmri.zoo.entry import CARD, CONFIG, SPLIT, WEIGHTS
from brainmri.zoo.registry import EMBEDDED
from tests.support.forked import run_python
from tests.support.hub_client import ENTRIES, ROOT, environment
from tests.support.hub_server import Hub, serve


@pytest.fixture(scope="session")
def hub():
    return Hub({f"hf_{user}": user for user in ("owner", "ann", "ben", "eve")})


@pytest.fixture(scope="session")
def url(hub):
    with serve(hub) as address:
        yield address


@pytest.fixture
def client(url, tmp_path):
    """A function that runs a Python command with a cache of its own and the stand-in as the Hub."""

    def run(*command: str, cwd: Path = ROOT, **variables: str | None) -> subprocess.CompletedProcess:
        return run_python(command, cwd, environment(url, tmp_path / "hf", PYTHONPATH=str(cwd), **variables))

    return run


@pytest.fixture(scope="session")
def tiny(hub) -> dict[str, bytes]:
    """A repo of the right layout; its weights, 300 kB of arbitrary bytes, can be downloaded and checked but not loaded."""
    weights = bytes(range(256)) * 1200
    known = json.loads((ENTRIES["resunet-lgg"].folder / CONFIG).read_text())
    config = known | {"sha256": hashlib.sha256(weights).hexdigest(), "int8": {}}
    files = {CONFIG: json.dumps(config).encode(), WEIGHTS: weights, SPLIT: b"{}", CARD: b"# tiny"}
    hub.add_repo("owner/tiny", files)
    return files


@pytest.fixture(scope="session")
def published(hub, url, tmp_path_factory):
    """Publish every entry and the Space, from a copy of the embedded folder; return this folder and the command's output."""
    folder = tmp_path_factory.mktemp("zoo") / "weights"
    shutil.copytree(EMBEDDED, folder)
    command = ["-m", "train.release.publish", "--all", "--owner", "owner", "--weights", str(folder)]
    done = run_python(command, ROOT, environment(url, tmp_path_factory.mktemp("hf")))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout
