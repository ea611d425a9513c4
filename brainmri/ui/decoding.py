"""The readers of `brainmri.io.reading`, as the page calls them: in worker processes, within limits of time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from brainmri.io.limits import ACCEPTED_STUDIES, UnreadableImage
from brainmri.io.reading import ACCEPTED
from brainmri.io.scan import Scan
from brainmri.io.sequences import Candidate
from brainmri.ui.worker import scan_from_record

ROOT = Path(__file__).parents[2]
SLICE_SECONDS, STUDY_SECONDS, START_SECONDS = 20, 60, 120
MEMORY = 4 * 2**30  # bytes of a worker's address space; the largest NIfTI files within the readers' limits take 3
WORKERS = 2
REQUESTS = 200  # after which a worker is replaced, and with it whatever leaked


class WorkerDied(Exception):
    """A worker did not answer: it was ended for its time, or crashed."""


class Worker:
    """One worker process.

    Args:
        memory: bytes of address space that it may take, where the system can limit them.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self.memory = memory
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        # no more threads for linear algebra, which no reader does much of: their stacks would count as memory
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "brainmri.ui.worker", str(memory)]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.answered = -1  # it says once that it is ready
        self.timed_out = threading.Event()

    @property
    def fit(self) -> bool:
        """Whether it can take a request, and is not due to be replaced."""
        return self.answered < REQUESTS and not self.timed_out.is_set() and self.process.poll() is None

    def ask(self, seconds: float, **request) -> tuple[dict, np.ndarray | None]:
        """`worker.answer`, within so many seconds of when it was ready.

        Raises:
            Lost: when it does not come; the worker is ended.
        """
        try:
            if self.answered < 0:
                self._exchange(None, START_SECONDS)
            return self._exchange({**request, "seconds": seconds}, seconds)
        except (OSError, EOFError, ValueError) as error:
            why = f"it took more than {seconds:g} seconds" if self.timed_out.is_set() else "it made the reader crash"
            self.end()
            raise WorkerDied(why) from error
        except BaseException:
            self.end()  # or what was left unread would be the next visitor's answer
            raise

    def _exchange(self, request: dict | None, seconds: float) -> tuple[dict, np.ndarray | None]:
        timer = threading.Timer(seconds, self._time_out)
        timer.start()
        try:
            if request is not None:
                self.process.stdin.write(json.dumps(request).encode() + b"\n")
                self.process.stdin.flush()
            record, pixels = json.loads(self.process.stdout.readline()), None
            if "shape" in record:
                pixels = np.empty(record["shape"], np.float32)
                if self.process.stdout.readinto(memoryview(pixels).cast("B")) < pixels.nbytes:
                    raise EOFError
        finally:
            timer.cancel()
        self.answered += 1
        return record, pixels

    def _time_out(self) -> None:
        self.timed_out.set()
        self.process.kill()

    def end(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):  # closing sends what could not be sent before
            self.process.stdin.close()
        self.process.stdout.close()


class DecoderPool:
    """A few workers, each serving one request at a time; who comes when all are busy waits.

    Args:
        workers: how many.
        memory: bytes of address space for each.
    """

    def __init__(self, workers: int = WORKERS, memory: int = MEMORY) -> None:
        self.idle: queue.Queue[Worker] = queue.Queue()
        for _ in range(workers):
            self.idle.put(Worker(memory))

    def ask(self, name: str, accepted: str, seconds: float, **request) -> tuple[dict, np.ndarray | None]:
        """`worker.answer`, its refusals raised.

        Args:
            name: of what is read, for messages.
            accepted: what is, for messages.

        Raises:
            FileNotFoundError, UnreadableImage: as the reader does, and when it takes too much time or memory or crashes.
        """
        worker = self.idle.get()
        try:
            if not worker.fit:  # it died with nothing to do
                worker = self._replace(worker)
            record, pixels = worker.ask(seconds, **request)
        except WorkerDied as lost:
            raise UnreadableImage(f"{name}: {lost}, and reading was given up. Accepted: {accepted}.") from lost
        finally:
            with contextlib.suppress(OSError):  # what cannot be started now may be for the next request
                worker = worker if worker.fit else self._replace(worker)
            self.idle.put(worker)
        if "missing" in record:
            raise FileNotFoundError(record["missing"])
        if "refused" in record:
            raise UnreadableImage(record["refused"])
        if "exhausted" in record:
            took = f"it took more than {worker.memory / 2**30:g} GiB of memory"
            raise UnreadableImage(f"{name}: {took}, and reading was given up. Accepted: {accepted}.")
        if "failed" in record:
            raise RuntimeError(f"a reader failed:\n{record['failed']}")
        return record, pixels

    @staticmethod
    def _replace(worker: Worker) -> Worker:
        worker.end()
        return Worker(worker.memory)

    def close(self) -> None:
        """End the workers that are idle."""
        while not self.idle.empty():
            self.idle.get().end()


@lru_cache(maxsize=1)
def decoder_pool() -> DecoderPool:
    """The page's own, started when they are first asked for."""
    return DecoderPool()


def read_slice(path: str) -> Scan:
    """`brainmri.io.reading.read_slice` of a file."""
    record, pixels = decoder_pool().ask(Path(path).name, ACCEPTED, SLICE_SECONDS, call="read_slice", source=path)
    return scan_from_record(record["scan"], pixels)


def read_study(paths: Sequence[str], assign: Mapping[int, int | None] | None = None) -> Scan:
    """`brainmri.io.reading.read_study` of files."""
    pairs = None if assign is None else list(assign.items())
    record, pixels = _request_study(call="read_study", source=list(paths), assign=pairs)
    return scan_from_record(record["scan"], pixels)


def list_sequences(paths: Sequence[str]) -> tuple[Candidate, ...]:
    """`brainmri.io.reading.list_sequences` of files."""
    record, _ = _request_study(call="list_sequences", source=list(paths))
    return tuple(Candidate(**candidate) for candidate in record["candidates"])


def _request_study(**request) -> tuple[dict, np.ndarray | None]:
    return decoder_pool().ask("study", ACCEPTED_STUDIES, STUDY_SECONDS, **request)
