"""The readers of `brainmri.io.reading`, run in worker processes with limits on time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from brainmri.analysis.findings import count
from brainmri.io.limits import UnreadableImage
from brainmri.io.reading import warn_of_pictures
from brainmri.io.scan import Scan
from brainmri.io.sequences import Candidate
from brainmri.ui.inputs import SLICE, Input, files_label
from brainmri.ui.worker import scan_from_record

ROOT = Path(__file__).parents[2]
SLICE_SECONDS, STUDY_SECONDS, START_SECONDS = 20, 60, 120
MEMORY = 4 * 2**30  # bytes of address space per worker; the largest accepted NIfTI files need 3 GiB
WORKERS = 2
TRY_SMALLER = "Please export the images again, or upload fewer"
REQUESTS = 200  # a worker is replaced after this many, in case it leaks


class WorkerDied(Exception):
    """A worker crashed or was killed because it took too long."""


class Worker:
    """One worker process.

    Args:
        memory: limit of its address space in bytes, where the system supports limits.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self.memory = memory
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        # one thread for linear algebra, since the stacks of threads count as memory
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "brainmri.ui.worker", str(memory)]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.stdin, self.stdout = cast(BinaryIO, self.process.stdin), cast(BufferedReader, self.process.stdout)
        self.answered = -1  # the first response says that it is ready
        self.timed_out = threading.Event()

    @property
    def usable(self) -> bool:
        """Whether it is running and not due to be replaced."""
        return self.answered < REQUESTS and not self.timed_out.is_set() and self.process.poll() is None

    def request(self, seconds: float, **request) -> tuple[dict, np.ndarray | None]:
        """Call `worker.handle` in the process, with a time limit that starts when the worker is ready.

        Returns:
            The record and, for a scan, its pixels.

        Raises:
            WorkerDied: if it crashes or takes too long; the worker is stopped.
        """
        try:
            if self.answered < 0:
                self._exchange(None, START_SECONDS)
            return self._exchange({**request, "seconds": seconds}, seconds)
        except (OSError, EOFError, ValueError) as error:
            why = f"reading took more than {seconds:g} seconds" if self.timed_out.is_set() else "the reader crashed"
            self.stop()
            raise WorkerDied(why) from error
        except BaseException:
            self.stop()  # an unread response would go to the next visitor
            raise

    def _exchange(self, request: dict | None, seconds: float) -> tuple[dict, np.ndarray | None]:
        timer = threading.Timer(seconds, self._time_out)
        timer.start()
        try:
            if request is not None:
                self.stdin.write(json.dumps(request).encode() + b"\n")
                self.stdin.flush()
            record, pixels = json.loads(self.stdout.readline()), None
            if "shape" in record:
                pixels = np.empty(record["shape"], np.float32)
                if self.stdout.readinto(pixels.data.cast("B")) < pixels.nbytes:
                    raise EOFError
        finally:
            timer.cancel()
        self.answered += 1
        return record, pixels

    def _time_out(self) -> None:
        self.timed_out.set()
        self.process.kill()

    def stop(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):  # closing flushes what could not be sent
            self.stdin.close()
        self.stdout.close()


class DecoderPool:
    """A pool of workers. Each handles one request at a time; requests wait while all are busy.

    Args:
        workers: number of processes.
        memory: limit of the address space of each, in bytes.
    """

    def __init__(self, workers: int = WORKERS, memory: int = MEMORY) -> None:
        self.idle: queue.Queue[Worker] = queue.Queue()
        for _ in range(workers):
            self.idle.put(Worker(memory))

    def request(self, name: str, seconds: float, **request) -> tuple[dict, np.ndarray | None]:
        """Call `worker.handle` in a worker and raise the error it reports.

        Args:
            name: of the input, for messages.
            seconds: time limit.

        Raises:
            FileNotFoundError: if a file does not exist.
            UnreadableImage: if the reader refuses the input, crashes, or needs too much time or memory.
        """
        worker = self.idle.get()
        try:
            if not worker.usable:  # it died while idle
                worker = self._replace(worker)
            record, pixels = worker.request(seconds, **request)
        except WorkerDied as error:
            raise UnreadableImage(f"{error}. {TRY_SMALLER}", name) from error
        finally:
            with contextlib.suppress(OSError):  # the next request tries again to start it
                worker = worker if worker.usable else self._replace(worker)
            self.idle.put(worker)
        if "missing" in record:
            raise FileNotFoundError(record["missing"])
        if "refused" in record:
            raise UnreadableImage(record["refused"], record["name"]).named(name)
        if "exhausted" in record:
            took = f"reading took more than {worker.memory / 2**30:g} GiB of memory"
            raise UnreadableImage(f"{took}. {TRY_SMALLER}", name)
        if "failed" in record:
            raise RuntimeError(f"a reader failed:\n{record['failed']}")
        return record, pixels

    @staticmethod
    def _replace(worker: Worker) -> Worker:
        worker.stop()
        return Worker(worker.memory)

    def close(self) -> None:
        """Stop the idle workers."""
        while not self.idle.empty():
            self.idle.get().stop()


@lru_cache(maxsize=1)
def decoder_pool() -> DecoderPool:
    """The page's pool, started on first use."""
    return DecoderPool()


def read_slice(path: str) -> Scan:
    """Call `brainmri.io.reading.read_slice` in a worker."""
    record, pixels = decoder_pool().request(Path(path).name, SLICE_SECONDS, call="read_slice", source=path)
    return scan_from_record(record["scan"], cast(np.ndarray, pixels))


def read_study(paths: Sequence[str], assign: Mapping[int, int | None] | None = None, study: int | None = None) -> Scan:
    """Call `brainmri.io.reading.read_study` in a worker."""
    pairs = None if assign is None else list(assign.items())
    record, pixels = _request_study(call="read_study", source=list(paths), assign=pairs, study=study)
    return scan_from_record(record["scan"], cast(np.ndarray, pixels))


def read_input(one: Input, assign: Mapping[int, int | None] | None = None) -> Scan:
    """Read a slice or a study that `list_inputs` found; warnings count the pictures and name the files that were left out."""
    if one.kind == SLICE and one.study is not None:  # of a zip
        scan = read_study(one.files, study=one.study)
        scan = replace(scan, pixels=scan.pixels[0])
    elif one.kind == SLICE:
        scan = read_slice(one.files[0])
    else:
        scan = warn_of_pictures(read_study(one.files, assign, one.study), one.pictures_left_out)
    if not one.unreadable:
        return scan
    first, *others = one.unreadable
    more = f" and {count(len(others), 'other file')} are no images and were" if others else " is no image and was"
    return replace(scan, warnings=(*scan.warnings, f"{first}{more} left out"))


def list_sequences(paths: Sequence[str]) -> tuple[Candidate, ...]:
    """Call `brainmri.io.reading.list_sequences` in a worker."""
    record, _ = _request_study(call="list_sequences", source=list(paths))
    return tuple(Candidate(**candidate) for candidate in record["candidates"])


def list_inputs(paths: Sequence[str]) -> list[Input]:
    """Call `brainmri.ui.inputs.list_inputs` in a worker."""
    record, _ = _request_study(call="list_inputs", source=list(paths))
    return [
        Input(
            **one
            | {"files": tuple(one["files"]), "candidates": tuple(Candidate(**c) for c in one["candidates"])}
            | {"unreadable": tuple(one["unreadable"])}
        )
        for one in record["inputs"]
    ]


def _request_study(**request) -> tuple[dict, np.ndarray | None]:
    return decoder_pool().request(files_label(request["source"] or ["study"]), STUDY_SECONDS, **request)
