"""The folder that holds this process's uploads and results until they expire."""

from __future__ import annotations

import atexit
import contextlib
import getpass
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Container
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from brainmri.io.limits import describe_os_error

VARIABLE = "GRADIO_TEMP_DIR"
KEEP_MINUTES = 30  # uploads and results are deleted after this time
MAX_BYTES = 8 * 2**30  # of all uploads and results; the oldest files are deleted first
IN_USE_SECONDS = 120  # files younger than this may belong to a running request and are kept

_full = threading.Event()


def create_cache() -> Path:
    """Create a cache folder for this process, point Gradio to it, and remove it at exit.

    The folder lies in GRADIO_TEMP_DIR or in the system's folder for temporary files, in a folder of the user's own. A lock file
    beside it shows that its process runs: folders whose lock is free belong to processes that were killed, and are removed. Call
    this before the page is built.

    Raises:
        ValueError: if the user's folder belongs to somebody else, is a link or cannot be created.
    """
    home = Path(os.environ.get(VARIABLE) or tempfile.gettempdir()) / f"brainmri-page-{_user()}"
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        reason = describe_os_error(error)
        raise ValueError(f"cannot create the folder for temporary files ({reason}); set {VARIABLE} to another one") from error
    # others can put a link to the user's own files into a shared folder for temporary files
    if home.is_symlink() or (hasattr(os, "getuid") and home.stat().st_uid != os.getuid()):
        raise ValueError(f"expected {home} to be a folder of this user, not a link; set {VARIABLE} to another place")
    for folder in filter(Path.is_dir, home.iterdir()):
        if _lock_path(folder).exists():  # a folder without one is of no page
            _remove_if_abandoned(folder)
    own = home / uuid4().hex
    lock = FileLock(_lock_path(own))
    lock.acquire()  # before there is a folder, so that no other process takes it for abandoned
    own.mkdir(mode=0o700)
    os.environ[VARIABLE] = str(own)
    atexit.register(_remove, own, lock)
    return own


def _user() -> str:
    """The user's id, or name on Windows, which has no ids."""
    return str(os.getuid()) if hasattr(os, "getuid") else "".join(filter(str.isalnum, getpass.getuser()))


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove_if_abandoned(folder: Path) -> None:
    lock = FileLock(_lock_path(folder))
    with contextlib.suppress(Timeout):  # its process runs
        lock.acquire(blocking=False)
        _remove(folder, lock)


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    _lock_path(folder).unlink(missing_ok=True)


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
        # all are found before any is deleted: that renews the ctime of a file's other links (`upload_names`), in the same folder
        for path in [path for path in (Path(parent, name) for name in (*files, *folders)) if _is_older(path, oldest)]:
            with contextlib.suppress(OSError):  # already gone, or a folder that is not empty
                if path.is_dir():
                    path.rmdir()
                elif str(path) not in keep:
                    path.unlink()


def _is_older(path: Path, oldest: float) -> bool:
    """Whether a file was written here before a time; not by its mtime, since a copy keeps the original's."""
    try:
        return path.lstat().st_ctime <= oldest
    except OSError:  # already gone
        return False


def limit_size(folder: Path, max_bytes: int = MAX_BYTES, keep: Container[str] = (), in_use: float = IN_USE_SECONDS) -> int:
    """Delete the oldest files until the others have at most `max_bytes`.

    While too many bytes remain, in files that may be in use, `is_full` returns True.

    Args:
        folder: searched recursively.
        max_bytes: total size of the files that are kept.
        keep: paths that are never deleted.
        in_use: seconds for which a new file is kept.

    Returns:
        The bytes that remain.
    """
    files = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with contextlib.suppress(OSError):  # already gone
                status = path.lstat()
                files.append((status.st_ctime, status.st_size, path))
    left, newest = sum(size for _, size, _ in files), time.time() - in_use
    for written, size, path in sorted(files):
        if left <= max_bytes or written > newest:
            break
        if str(path) not in keep:
            with contextlib.suppress(OSError):  # open on Windows
                path.unlink(missing_ok=True)
                left -= size
    if left > max_bytes:
        _full.set()
    else:
        _full.clear()
    return left


def is_full() -> bool:
    """Whether new uploads must wait until files expire."""
    return _full.is_set()
