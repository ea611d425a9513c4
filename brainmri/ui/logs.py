"""The server's log: a line for each request, in words or as JSON, on stderr; and nothing of any visitor in it."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import traceback
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path

import uvicorn.config

from brainmri.io.scan import Scan

PACKAGE = "brainmri"
FORMAT = "BRAINMRI_LOG"  # "json" or "words"; else JSON on Spaces, where SPACE_ID is set

_sizes: ContextVar[dict[str, int]] = ContextVar("sizes")


def start_request() -> dict[str, int]:
    """An empty record of sizes, which `record_upload_size` and `record_scan_size` fill while the request at hand is answered."""
    sizes: dict[str, int] = {}
    _sizes.set(sizes)
    return sizes


def record_upload_size(files: Iterable[str | Path]) -> None:
    """Have the request's line say how many files came and how large they are together; not their names."""
    sizes = [Path(file).stat().st_size for file in files]
    _sizes.get({}).update(files=len(sizes), bytes=sum(sizes))


def record_scan_size(scan: Scan) -> None:
    """Have the request's line say how many slices were read, and how large one is."""
    *slices, height, width, _ = scan.pixels.shape
    _sizes.get({}).update(slices=slices[0] if slices else 1, height=height, width=width)


class RedactingFormatter(logging.Formatter):
    """Only this project's own words are told; of other packages' messages and of errors, where they arose.

    Both may quote what was uploaded: a path, a value out of a header.
    """

    def words(self, record: logging.LogRecord) -> str:
        if record.name.split(".")[0] == PACKAGE:
            return record.getMessage()
        if record.name == "py.warnings" and (place := re.match(r".*?:\d+: \w+", record.getMessage())):
            return place[0]
        return f"{record.name} at {record.module}:{record.lineno}"

    def trace(self, record: logging.LogRecord) -> list[str]:
        """The error, what caused it first: types and lines of code, no messages."""
        errors = error_chain(record.exc_info[1]) if record.exc_info and record.exc_info[1] else ()
        return [
            line.rstrip() for error in errors for line in (*traceback.format_tb(error.__traceback__), type(error).__qualname__)
        ]


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """An error after those it came from."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before:
        yield from error_chain(before)
    yield error


class TextFormatter(RedactingFormatter):
    """A line for people: time, level, message; a trace below it."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join([f"{self.formatTime(record)} {record.levelname} {self.words(record)}", *self.trace(record)])


class JsonFormatter(RedactingFormatter):
    """A line for programs: `time` (UTC), `level`, `message`, the fields the record was given, and `trace` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": at, "level": record.levelname.lower(), "message": self.words(record), **getattr(record, "fields", {})}
        if trace := self.trace(record):
            line["trace"] = trace
        return json.dumps(line)


def configure() -> None:
    """Send everything to one handler on stderr: this project's lines from INFO on, others' from WARNING on.

    Raises:
        ValueError: when the environment asks for another format.
    """
    chosen = os.environ.get(FORMAT) or ("json" if os.environ.get("SPACE_ID") else "words")
    if chosen not in ("json", "words"):
        raise ValueError(f"{FORMAT} is {chosen!r}; choose json or words")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if chosen == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(PACKAGE).setLevel(logging.INFO)
    logging.captureWarnings(True)
    # else uvicorn gives its loggers handlers of their own, which tell errors whole; Gradio has it log no accesses
    uvicorn.config.LOGGING_CONFIG["loggers"].clear()
