"""Run Python commands in processes of their own that need not import the large libraries again, which takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SECONDS = 900  # after which a command is killed
LIBRARIES = ["torch", "torchvision", "monai", "scipy.stats", "sklearn.linear_model", "skimage", "matplotlib.pyplot", "gradio"]

# On Linux, a process imports the libraries once and starts the commands by forking; it imports nothing of this project.
# Forking after such imports is not safe on macOS, and does not exist on Windows.
starter = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    starter.set_forkserver_preload(LIBRARIES)


def run_python(command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess:
    """Run `python COMMAND…` with `-m MODULE`, `-c PROGRAM` or a script, as `subprocess.run` does; stdout and stderr are text.

    Raises:
        subprocess.TimeoutExpired: after 15 minutes.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        process = starter.Process(target=_run, args=(list(command), str(cwd), dict(environment), [str(path) for path in outputs]))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(command), SECONDS)
        texts = [path.read_text(encoding="utf-8") for path in outputs]
    return subprocess.CompletedProcess(list(command), process.exitcode, *texts)


def _run(command: list[str], cwd: str, environment: dict[str, str], outputs: list[str]) -> None:
    """What the forked process does: it becomes the Python that would have been started."""
    for stream, path in zip((1, 2), outputs, strict=True):
        with open(path, "wb") as file:
            os.dup2(file.fileno(), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [cwd]
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[name]  # it reads the environment when it is imported
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        elif command[0] == "-c":
            sys.argv = ["-c", *command[2:]]
            exec(compile(command[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
