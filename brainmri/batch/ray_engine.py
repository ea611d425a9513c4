"""Engines that process a cohort: this process, one input at a time, or the actors of a Ray cluster, many at a time.

An engine takes inputs by the unique names of their outputs and yields the rows of `cohort.process` for each input, as it
finishes. Both engines write the same files if their networks run with the same number of threads, on which the last bits of
float32 sums depend.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from brainmri.analysis.forward import Progress
from brainmri.analysis.pipeline import Pipeline
from brainmri.batch.cohort import failed_row, process
from brainmri.batch.inputs import Input, one_input
from brainmri.io.extras import explain_missing
from brainmri.report.outputs import OutputError
from brainmri.zoo.registry import find_entry, requested_device
from brainmri.zoo.threads import requested_threads

ATTEMPTS = 3  # for an input whose worker process dies
ACTORS_PER_GPU = 4  # default; while one actor reads and writes, the others keep the GPU busy
# inputs per task: few, so that the actors finish together, but enough to keep the overhead of a task small
BATCH, BATCHES_PER_ACTOR = 16, 32


def run_locally(
    inputs: dict[str, Input],
    out: Path,
    networks: dict,
    sequence: str | None = None,
    progress: Progress | None = None,
) -> Iterator[dict]:
    """Process the inputs one at a time in this process.

    Args:
        inputs: paths, by the names of their outputs.
        out: folder for the output files.
        networks: arguments of `Pipeline`.
        sequence, progress: as for `cohort.process`.

    Raises:
        ValueError, FileNotFoundError, brainmri.zoo.hub.HubError: as `Pipeline` does.
        OutputError: when the disk is full.
    """
    pipe = Pipeline(**networks)
    for name, path in inputs.items():
        yield from process(pipe, path, out, name, sequence, progress)


def run_on_ray(
    inputs: dict[str, Input],
    out: Path,
    networks: dict,
    address: str | None = None,
    workers: int | None = None,
    sequence: str | None = None,
) -> Iterator[dict]:
    """Process the inputs on the actors of a Ray cluster, each with its own pipeline; rows come in any order.

    If a process or node dies, Ray gives its unfinished inputs to another actor; finished inputs are not repeated. An input whose
    worker dies `ATTEMPTS` times becomes a failed row.

    Args:
        inputs: paths, by the names of their outputs; every node must see the same files there.
        out: folder for the output files; every node must see the same folder there.
        networks: arguments of `Pipeline`.
        address: address of a running cluster, as for `ray.init`; None starts one on this machine.
        workers: number of actors; None means one per CPU, or `ACTORS_PER_GPU` per GPU if the device allows the use of GPUs.
        sequence: as for `cohort.process`.

    Raises:
        ValueError: if Ray is not installed, no cluster answers, it is too small for the actors, or an actor cannot start.
        FileNotFoundError, brainmri.zoo.hub.HubError: if a network is not available.
    """
    out = out.absolute()
    networks = networks | {role: _absolute_source(networks[role]) for role in ("segmenter", "classifier")}
    with _ray_session(address) as ray:
        accelerated = requested_device(networks["device"]).startswith(("auto", "cuda"))
        count, cpus, gpus = divide_cluster(_node_resources(ray), workers, accelerated)
        count = min(count, len(inputs))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data._internal").setLevel(logging.ERROR)  # it warns that the progress bars are off
        attempts = out / ".attempts"
        shutil.rmtree(attempts, ignore_errors=True)  # left by a killed run
        jobs = ray.data.from_items(
            [{"paths": _absolute_paths(source), "name": name} for name, source in inputs.items()],
            override_num_blocks=math.ceil(len(inputs) / min(BATCH, math.ceil(len(inputs) / (count * BATCHES_PER_ACTOR)))),
        )
        rows = jobs.flat_map(
            _Actor,  # pyright: ignore[reportArgumentType]  # Ray also accepts callable classes
            fn_constructor_kwargs={
                "out": out,
                "networks": networks,
                "sequence": sequence,
                "threads": min(cpus, requested_threads() or cpus),  # of this process, as Ray sets the variable for workers
                "attempts": attempts,
            },
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        try:
            yield from rows.iter_rows()
        except ray.exceptions.ActorDiedError as error:
            raise ValueError(f"no Ray actor could start: {str(error).splitlines()[-1]}") from error
        finally:
            shutil.rmtree(attempts, ignore_errors=True)


class _Actor:
    """A pipeline in an actor, with the given number of threads."""

    def __init__(self, out: Path, networks: dict, threads: int, attempts: Path, sequence: str | None = None) -> None:
        torch.set_num_threads(threads)
        self.pipe, self.out, self.sequence, self.attempts = Pipeline(**networks), out, sequence, attempts

    def __call__(self, job: dict) -> list[dict]:
        """The rows of one input. A file counts the attempts, one line each; it is removed when an attempt ends."""
        begun = self.attempts / job["name"]
        if begun.exists() and len(begun.read_text().splitlines()) >= ATTEMPTS:
            problem = f"its worker process died {ATTEMPTS} times; it may need more memory than is available"
            return [failed_row(job["name"], problem)]
        begun.parent.mkdir(exist_ok=True)
        with begun.open("a") as handle:
            handle.write(f"{socket.gethostname()} {os.getpid()}\n")
        try:
            rows = process(self.pipe, one_input([Path(path) for path in job["paths"]]), self.out, job["name"], self.sequence)
        except OutputError as error:  # its type would not pass Ray; the other actors have the same full disk
            rows = [failed_row(job["name"], str(error))]
        begun.unlink(missing_ok=True)
        return rows


def divide_cluster(nodes: list[tuple[int, int]], workers: int | None, accelerated: bool) -> tuple[int, int, float]:
    """Divide a cluster among actors: their number, and the largest number of CPUs per actor with which all of them fit.

    If GPUs may be used and a node has some, the actors run only on nodes with GPUs and share these.

    Args:
        nodes: number of CPUs and GPUs of each node.
        workers: number of actors; None means the default (`run_on_ray`).
        accelerated: whether GPUs may be used.

    Returns:
        Number of actors, CPUs per actor, and GPUs per actor in [0, 1].

    Raises:
        ValueError: if the actors do not fit.
    """
    gpus = sum(gpu for _, gpu in nodes) if accelerated else 0
    actors_per_gpu = 0 if not gpus else math.ceil(workers / gpus) if workers else ACTORS_PER_GPU

    def capacity(cpus: int) -> int:
        return sum(min(cpu // cpus, gpu * actors_per_gpu) if gpus else cpu // cpus for cpu, gpu in nodes)

    count = capacity(1) if workers is None else workers
    if not 1 <= count <= capacity(1):
        raise ValueError(f"expected 1 to {capacity(1)} workers, one per CPU of the cluster, got {count}; change --workers")
    cpus = max(cpus for cpus in range(1, max(cpu for cpu, _ in nodes) + 1) if capacity(cpus) >= count)
    return count, cpus, 1 / actors_per_gpu if gpus else 0.0


def _absolute_paths(source: Input) -> list[str]:
    """The paths of an input's files, or its own."""
    return [str(path.absolute()) for path in ((source,) if isinstance(source, Path) else source)]


def _absolute_source(source: str | None) -> str | None:
    """A network's source in a form that is valid on every node: folders as absolute paths."""
    if source is None:
        return None
    folder = find_entry(source).folder
    return str(folder.absolute()) if folder == Path(source) else source


def _node_resources(ray) -> list[tuple[int, int]]:
    """Number of CPUs and GPUs of each living node."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(resources.get("CPU", 0)), int(resources.get("GPU", 0))) for resources in alive]


@contextmanager
def _ray_session(address: str | None):
    """Connect to a Ray cluster, or start one on this machine, and yield the `ray` module. Usage statistics are off."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError:
        raise ValueError(explain_missing("--engine ray", "Ray", "ray")) from None
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # many types: no answer, another version, a slow start
        raise ValueError(f"cannot use a Ray cluster at {address or 'this machine'}: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()
