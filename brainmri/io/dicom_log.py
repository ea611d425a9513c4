"""Silence for pydicom and highdicom, whose warnings and log messages quote values of headers."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

_silence = threading.Lock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no log from pydicom and highdicom. Both switches are global, so threads wait for each other."""
    logs = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [log.level for log in logs]
    with _silence, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for log in logs:
            log.setLevel(logging.CRITICAL + 1)  # child loggers inherit the level, but not `disabled`
        try:
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)
