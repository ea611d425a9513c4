"""The page in a process of its own, as its keeper starts it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]


@contextmanager
def served(folder: Path, *command: str, **environment: str) -> Iterator[tuple[subprocess.Popen, str, Path]]:
    """The process, the page's address, and the file of its log; it is killed at the end if it still runs.

    Args:
        folder: for its temporary files, in `cache`, and its log.
        command: python's arguments instead of `app.py`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    own = {"GRADIO_SERVER_PORT": port, "GRADIO_TEMP_DIR": str(folder / "cache"), "GRADIO_ANALYTICS_ENABLED": "False"}
    own |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)} | environment
    url, path = f"http://127.0.0.1:{port}/", folder / "log"
    with path.open("w") as log:
        command = [sys.executable, *(command or ["app.py"])]
        server = subprocess.Popen(command, cwd=ROOT, env=os.environ | own, stderr=log, stdout=subprocess.DEVNULL)
    try:
        while True:
            if server.poll() is not None:
                raise RuntimeError(f"the server ended: {path.read_text()}")
            try:
                if httpx.get(url + "health", timeout=60).json()["status"] != "starting":
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield server, url, path
    finally:
        server.kill()
        server.wait()
