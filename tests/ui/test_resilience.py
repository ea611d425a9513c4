"""Requests survive a server that is stopped or killed, and a full disk."""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import Status

from brainmri.ui import cache, page
from brainmri.ui.cache import delete_expired, limit_size
from brainmri.ui.upload_names import with_own_names
from tests.support.serving import ROOT, paused, served

pytestmark = pytest.mark.slow

SLICE = ROOT / "assets" / "examples" / "large-lesion.png"
STUDY = ROOT / "assets" / "examples" / "study-flair.nii.gz"


def connect(url: str, folder: Path) -> Client:
    return Client(url, verbose=False, analytics_enabled=False, download_files=str(folder))


def start_study(client: Client):
    """Submit a study and wait until the server analyses it."""
    job = client.submit([handle_file(STUDY)], api_name="/study")
    while job.status().code not in (Status.PROCESSING, Status.PROGRESS):
        assert not job.done(), job.result()
        time.sleep(0.02)
    return job


def wait_until_closing(client: Client) -> None:
    """Ask until the server refuses new requests; it checks for a signal every second."""
    with contextlib.suppress(AppError):
        while True:
            client.predict(api_name="/models")
            time.sleep(0.1)


def decoders(server: subprocess.Popen) -> list[int]:
    """The ids of a server's decoding workers."""
    children = psutil.Process(server.pid).children()
    return [child.pid for child in children if "brainmri.ui.worker" in child.cmdline()]


def own_folders(home: Path) -> list[Path]:
    """The folders of running and killed servers; the lock files beside them are not listed."""
    return sorted(path for path in home.glob("cache/brainmri-page-*/*") if path.is_dir())


@pytest.mark.skipif(sys.platform != "linux", reason="needs signals and resource limits of Linux")
def test_server_recovers_from_a_kill_and_a_full_disk_and_cleans_up(tmp_path):
    with served(tmp_path) as (killed, url, _):
        start_study(connect(url, tmp_path / "a"))
        killed.kill()
        (left,) = own_folders(tmp_path)

    with served(tmp_path) as (server, url, log):
        (own,) = own_folders(tmp_path)
        assert own != left  # files of the killed server are deleted
        client = connect(url, tmp_path / "b")
        image = handle_file(SLICE)
        expected = client.predict(image, api_name="/predict")[0]

        shutil.rmtree(own)
        assert client.predict(image, api_name="/predict")[0]["probability"] == expected["probability"]

        _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(
            server.pid, resource.RLIMIT_FSIZE, (SLICE.stat().st_size + 1, hard)
        )  # the slice fits, its overlay does not
        with pytest.raises(AppError, match="disk is full"):
            client.predict(image, api_name="/predict")
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(Exception, match="507"):
            client.predict(image, api_name="/predict")
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert client.predict(image, api_name="/predict")[0]["probability"] == expected["probability"]

        late = connect(url, tmp_path / "c")
        with paused(decoders(server)):
            running = start_study(client)
            server.send_signal(signal.SIGTERM)
            wait_until_closing(late)
            refused = late.submit(image, api_name="/predict")
            while refused.status().code != Status.IN_QUEUE:
                time.sleep(0.02)
        with pytest.raises(AppError, match="being restarted"):
            refused.result()
        assert running.result()[0]["verdict"] == "tumour"
        assert server.wait(timeout=30) == 0
        assert list(own.parent.iterdir()) == []
        assert "Traceback" not in log.read_text()


def test_expired_files_are_deleted_and_excepted_files_kept(tmp_path):
    upload, example = tmp_path / "upload" / "slice.png", tmp_path / "example" / "kept.png"
    for path in (upload, example):
        path.parent.mkdir()
        shutil.copy2(SLICE, path)  # like Gradio, keeps the modification time of the original
    delete_expired(tmp_path, 3600)
    assert upload.is_file()
    for _ in range(2):  # deleting a file renews the modification time of its folder
        time.sleep(0.05)
        delete_expired(tmp_path, 0.01, {str(example)})
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["example", "kept.png"]


def test_an_expired_upload_is_deleted_under_both_of_its_names(tmp_path):
    stored = tmp_path / "scan 1.nii"
    stored.write_bytes(b"voxels")
    with_own_names([str(stored)], [{"path": str(stored), "orig_name": "scan (1).nii"}])
    assert len([*tmp_path.iterdir()]) == 2
    time.sleep(0.2)
    delete_expired(tmp_path, 0.1)
    assert [*tmp_path.iterdir()] == []


def test_the_oldest_files_are_deleted_when_there_are_too_many(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(bytes(100))
        time.sleep(0.02)
    kept = {str(tmp_path / "0.png")}
    assert limit_size(tmp_path, 400, kept, in_use=0) == 400
    assert limit_size(tmp_path, 250, kept, in_use=0) == 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "3.png"]
    assert not cache.is_full()
    assert limit_size(tmp_path, 150, in_use=60) == 200  # both are new
    assert cache.is_full()
    assert limit_size(tmp_path, 150, in_use=0) == 100
    assert not cache.is_full()


CREATE_CACHE = """
import sys, time
from brainmri.ui.cache import create_cache
print(create_cache(), flush=True)
time.sleep(float(sys.argv[1]))
"""


def test_every_process_has_its_own_cache_folder(tmp_path):
    """Process ids repeat, in containers and after a restart; a lock file does not outlive its process."""

    def start(seconds: float) -> tuple[subprocess.Popen, Path]:
        command, environment = [sys.executable, "-c", CREATE_CACHE, str(seconds)], {"GRADIO_TEMP_DIR": str(tmp_path)}
        process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
        return process, Path(process.stdout.readline().strip())

    running, first = start(60)
    killed, second = start(60)
    assert first != second
    assert first.is_dir()  # the second process does not take it for abandoned
    killed.kill()
    killed.wait()
    third = start(0)[0]
    third.wait()
    assert [path for path in first.parent.iterdir() if path.is_dir()] == [first]
    running.terminate()
    running.wait()


def test_a_taken_port_is_refused_in_one_sentence(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(page, "PORT", port := other.getsockname()[1])
        with pytest.raises(ValueError, match="GRADIO_SERVER_PORT") as caught:
            page.check_port()
    expected = f"cannot use port {port} of {page.HOST} (address already in use); set GRADIO_SERVER_PORT to another one"
    assert str(caught.value) == expected
    page.check_port()


def test_a_temporary_folder_that_cannot_be_created_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot create the folder for temporary files .*not a directory"):
        cache.create_cache()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs user ids")
def test_a_link_in_place_of_the_cache_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "home" / "papers").mkdir(parents=True)
    (tmp_path / f"brainmri-page-{os.getuid()}").symlink_to(tmp_path / "home")
    with pytest.raises(ValueError, match="to be a folder of this user, not a link"):
        cache.create_cache()
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["papers"]


def test_a_folder_that_no_page_locked_is_kept(tmp_path):
    papers = tmp_path / f"brainmri-page-{cache._user()}" / "papers"
    papers.mkdir(parents=True)
    environment = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CREATE_CACHE, "0"], env=environment, check=True, capture_output=True, text=True)
    assert Path(done.stdout.strip()).parent == papers.parent
    assert [path.name for path in papers.parent.iterdir()] == ["papers"]


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root, to make a folder of somebody else's")
def test_a_cache_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (foreign := tmp_path / f"brainmri-page-{os.getuid()}").mkdir()
    os.chown(foreign, 12345, 12345)
    with pytest.raises(ValueError, match="to be a folder of this user, not a link; set GRADIO_TEMP_DIR"):
        cache.create_cache()
