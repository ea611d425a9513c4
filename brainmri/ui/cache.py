"""The folder that holds this process's uploads and results until they expire."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Container
from pathlib import Path

VARIABLE = "GRADIO_TEMP_DIR"
HOME = "brainmri-page"


def create_cache() -> Path:
    """Create a cache folder for this process, point Gradio to it, and remove it at exit.

    Folders of processes that were killed are removed too. The folder lies in GRADIO_TEMP_DIR or in the system's folder for
    temporary files. Call this before the page is built.
    """
    home = Path(os.environ.get(VARIABLE) or tempfile.gettempdir()) / HOME
    own = home / str(os.getpid())
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in home.iterdir():
        if left == own or not _is_running(left.name):
            shutil.rmtree(left, ignore_errors=True)
    own.mkdir(mode=0o700)
    os.environ[VARIABLE] = str(own)
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def delete_expired(folder: Path, age: float, keep: Container[str] = ()) -> None:
    """Delete every file older than `age` seconds, and every folder that has been empty for as long.

    Gradio's own cleanup covers only the files of its components, not every upload and result.

    Args:
        folder: searched recursively.
        age: seconds since a file was written here.
        keep: paths that are never deleted.
    """
    oldest = time.time() - age
    for parent, folders, files in os.walk(folder, topdown=False):  # ignores files that vanish meanwhile
        for name in (*files, *folders):
            path = Path(parent, name)
            with contextlib.suppress(OSError):  # already gone, or a folder that is not empty
                if path.lstat().st_ctime > oldest:  # ctime, since a copy keeps the original's mtime
                    continue
                if path.is_dir():
                    path.rmdir()
                elif str(path) not in keep:
                    path.unlink()


def _is_running(name: str) -> bool:
    """Whether `name` is the id of a running process."""
    try:
        os.kill(int(name), 0)
    except PermissionError:
        return True
    except (ValueError, OSError):
        return False
    return True
