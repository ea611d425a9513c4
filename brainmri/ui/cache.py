"""Where the page keeps uploads and results until they are swept: a folder of this process's own."""

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
    """Have Gradio keep its files in a folder of this process's own, which is removed at the end of it.

    What a killed one left behind is removed here. The folder lies in GRADIO_TEMP_DIR, or where the system has its temporary
    files, and must be claimed before the page is built.
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
    """Delete every file that came into a folder longer ago than `age` seconds, and every folder that has been empty as long.

    Gradio's own sweep knows only the files of its components, not all that was uploaded or written here.

    Args:
        spared: paths that stay.
    """
    oldest = time.time() - age
    for parent, folders, files in os.walk(folder, topdown=False):  # which minds nothing that is gone meanwhile
        for name in (*files, *folders):
            path = Path(parent, name)
            with contextlib.suppress(OSError):  # gone, or a folder with something in it
                if path.lstat().st_ctime > oldest:  # a copy keeps its original's time of modification
                    continue
                if path.is_dir():
                    path.rmdir()
                elif str(path) not in keep:
                    path.unlink()


def _is_running(name: str) -> bool:
    """Whether a process of that number runs here; what is not a number is nobody's."""
    try:
        os.kill(int(name), 0)
    except PermissionError:
        return True
    except (ValueError, OSError):
        return False
    return True
