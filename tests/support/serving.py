"""Start the page in a separate process, as on a server."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def without_rights() -> list[str]:
    """What starts a command without the right to ignore file modes, which root has."""
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv, or a user other than root")
    return ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]


def suspend(process: int) -> None:
    """Stop a process, by its id, and wait until it has stopped; until then, a worker could still read a request."""
    os.kill(process, signal.SIGSTOP)
    while psutil.Process(process).status() != psutil.STATUS_STOPPED:
        time.sleep(0.001)


@contextmanager
def paused(processes: Iterable[int]) -> Iterator[None]:
    """Pause processes, by their ids. A request that waits for paused decoding workers runs for as long as a test needs."""
    processes = list(processes)
    for process in processes:
        suspend(process)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


@contextmanager
def served(
    folder: Path,
    *command: str,
    root: Path = ROOT,
    prefix: Sequence[str] = (),
    python: str = sys.executable,
    **environment: str,
) -> Iterator[tuple[subprocess.Popen, str, Path]]:
    """Yield the process, the page's address and the path of its log; kill the process at the end.

    Args:
        folder: folder for its log and, in `cache`, its temporary files.
        command: arguments of Python; default: `app.py`.
        root: source tree to run it in.
        prefix: command that starts Python.
        python: the interpreter.
        environment: additional environment variables.
    """
    port = str(free_port())
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    own = {"GRADIO_SERVER_PORT": port, "GRADIO_TEMP_DIR": str(folder / "cache"), "GRADIO_ANALYTICS_ENABLED": "False"}
    own |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)} | environment
    url, path = f"http://127.0.0.1:{port}/", folder / "log"
    with path.open("w") as log:
        arguments = [*prefix, python, *(command or ["app.py"])]
        server = subprocess.Popen(arguments, cwd=root, env=os.environ | own, stderr=log, stdout=subprocess.DEVNULL)
    try:
        with httpx.Client(timeout=60) as client:  # `httpx.get` reads all certificates at every call
            while True:
                if server.poll() is not None:
                    raise RuntimeError(f"the server ended: {path.read_text()}")
                try:
                    if client.get(url + "health").json()["status"] != "starting":
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
        yield server, url, path
    finally:
        server.kill()
        server.wait()
