"""The server's log on stderr: one line per request, as text or JSON, without any visitor data."""

from __future__ import annotations

import json
import logging
import os
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path

import uvicorn.config

from brainmri.io.scan import Scan

PACKAGE = "brainmri"
FORMAT = "BRAINMRI_LOG"  # "json" or "text"; default: JSON on Spaces, where SPACE_ID is set, else text

REFUSED, SUPERSEDED = "refused", "superseded"  # outcomes that handlers report without an error

_sizes: ContextVar[dict[str, int]] = ContextVar("sizes")


def start_request() -> dict[str, int]:
    """Start an empty record of sizes for the current request; `record_upload_size` and `record_scan_size` fill it."""
    sizes: dict[str, int] = {}
    _sizes.set(sizes)
    return sizes


def record_upload_size(files: Iterable[str | Path]) -> None:
    """Add the number of uploaded files and their total size to the request's log line; never their names."""
    sizes = [Path(file).stat().st_size for file in files]
    _sizes.get({}).update(files=len(sizes), bytes=sum(sizes))


def record_scan_size(scan: Scan) -> None:
    """Add the number of slices and their size to the request's log line."""
    *slices, height, width, _ = scan.pixels.shape
    _sizes.get({}).update(slices=slices[0] if slices else 1, height=height, width=width)


def record_refusal() -> None:
    """Log the request as refused; for handlers that show the reason instead of raising it."""
    _sizes.get({})[REFUSED] = 1


def record_superseded() -> None:
    """Log the request as superseded by a newer one of the same session, so that it was not finished."""
    _sizes.get({})[SUPERSEDED] = 1


class RedactingFormatter(logging.Formatter):
    """Logs this project's messages only. Messages of other packages and of errors are reduced to their place in the code.

    They may quote the upload: a path, or a value from a header.
    """

    def message(self, record: logging.LogRecord) -> str:
        if record.name.split(".")[0] == PACKAGE:
            return record.getMessage()
        return f"{record.name} at {record.module}:{record.lineno}"

    def trace(self, record: logging.LogRecord) -> list[str]:
        """The chain of errors, root cause first: types and lines of code, no messages."""
        errors = error_chain(record.exc_info[1]) if record.exc_info and record.exc_info[1] else ()
        return [
            line.rstrip() for error in errors for line in (*traceback.format_tb(error.__traceback__), type(error).__qualname__)
        ]


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that caused an error, root cause first, then the error."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before:
        yield from error_chain(before)
    yield error


class TextFormatter(RedactingFormatter):
    """Text: time, level and message; a trace below."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join([f"{self.formatTime(record)} {record.levelname} {self.message(record)}", *self.trace(record)])


class JsonFormatter(RedactingFormatter):
    """JSON: `time` (UTC), `level`, `message`, the fields of the record, and `trace` for an error."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": at, "level": record.levelname.lower(), "message": self.message(record), **getattr(record, "fields", {})}
        if trace := self.trace(record):
            line["trace"] = trace
        return json.dumps(line)


def configure() -> None:
    """Log to stderr with one handler: this project from INFO, other packages from WARNING.

    Raises:
        ValueError: if the environment variable holds an unknown format.
    """
    chosen = os.environ.get(FORMAT) or ("json" if os.environ.get("SPACE_ID") else "text")
    if chosen not in ("json", "text"):
        raise ValueError(f"unknown {FORMAT} {chosen!r}; choose json or text")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if chosen == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(PACKAGE).setLevel(logging.INFO)
    warnings.simplefilter("ignore")  # those of other packages may quote the upload, and nobody who runs the page can act on them
    # uvicorn's own handlers would log whole error messages; Gradio has disabled the access log
    uvicorn.config.LOGGING_CONFIG["loggers"].clear()
