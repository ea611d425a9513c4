"""The output folder of a run: writable, apart from the inputs, and used by no other run at the same time."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from brainmri.batch.inputs import Input
from brainmri.io.limits import describe_os_error
from brainmri.report.outputs import UNFINISHED

LOCK = ".lock"


@contextmanager
def reserve_output_folder(out: Path) -> Iterator[None]:
    """Create the folder and keep other runs out of it, on this machine and in containers that share it.

    Raises:
        ValueError: when it cannot be written, or another run is using it.
    """
    lock = FileLock(out / LOCK)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(f"another run is writing to {out}; wait until it ends or choose another --out") from None
    except OSError as error:
        raise ValueError(f"cannot write to the output folder ({describe_os_error(error)}); choose another --out") from error
    try:
        _remove_unfinished(out)
        yield
    finally:
        _remove_unfinished(out)
        lock.release()
        (out / LOCK).unlink(missing_ok=True)


def _remove_unfinished(out: Path) -> None:
    """Remove what workers left that were killed while they wrote."""
    for left_over in out.rglob(f"{UNFINISHED}*"):
        shutil.rmtree(left_over, ignore_errors=True)


def check_outputs(given: Iterable[Path], inputs: Mapping[str, Input], out: Path) -> None:
    """Refuse results that would be written among the files of an input.

    Args:
        given: the inputs and folders of inputs that the user named.
        inputs: the inputs, by the names of their outputs.
        out: the output folder; it may lie inside an input, which then is read without it.

    Raises:
        ValueError: when the output folder is one of the given folders, or the folder for one input's results holds an input.
    """
    folders = {path.resolve() for path in inputs.values() if isinstance(path, Path) and path.is_dir()}
    targets = {(out / name).resolve() for name in inputs}
    taken = {path.resolve() for path in given if path.is_dir()} & {out.resolve()}
    taken |= {folder for folder in folders if targets & {folder, *folder.parents}}
    if taken:
        raise ValueError(f"expected --out apart from the input {min(taken)}, got {out}; choose a folder inside it or beside it")
