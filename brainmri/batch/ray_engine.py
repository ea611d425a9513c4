"""Who does a cohort: this process, one input after the other, or the actors of a Ray cluster, many at a time.

An engine takes inputs, each with a name of its own for its outputs, and yields a row of `cohort.process` for every one of them,
once, as they finish. Both leave the same files.
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

from brainmri.analysis.pipeline import Pipeline
from brainmri.batch.cohort import failed, process
from brainmri.zoo.registry import find_entry

ATTEMPTS = 3  # at an input whose worker process dies over it
ACTORS_A_GPU = 4  # by default: while one reads and writes, the others keep the GPU busy
# inputs an actor is handed at once: few enough that the actors end together, and that many keep what a batch costs small
BATCH, BATCHES_AN_ACTOR = 16, 32


def on_this_machine(inputs: dict[str, Path], out: Path, networks: dict) -> Iterator[dict]:
    """One input after the other, in this process.

    Args:
        inputs: paths by the names of their outputs.
        out: folder for the files.
        networks: `Pipeline`'s arguments.

    Raises:
        ValueError, FileNotFoundError, brainmri.zoo.hub.HubError: as `Pipeline` does.
    """
    pipe = Pipeline(**networks)
    for name, path in inputs.items():
        yield process(pipe, path, out, name)


def on_ray(
    inputs: dict[str, Path], out: Path, networks: dict, address: str | None = None, workers: int | None = None
) -> Iterator[dict]:
    """Batches of inputs to actors of a Ray cluster, each with a pipeline of its own; rows come in any order.

    Ray hands what a dead process or node left undone to another actor; what was written by then is not done again. An input
    that its worker dies over again and again is a row that says so.

    Args:
        inputs: paths by the names of their outputs; every node sees the same files under them.
        out: folder for the files; the same to every node.
        networks: `Pipeline`'s arguments.
        address: of a running cluster, as `ray.init` takes it; this machine's cores when None.
        workers: number of actors; one a CPU when None, or `ACTORS_A_GPU` a GPU where the cluster has GPUs and they may be used.

    Raises:
        ValueError: when Ray is not installed, no cluster answers, it has no room for the actors, or an actor cannot start.
        FileNotFoundError, brainmri.zoo.hub.HubError: when networks are not available.
    """
    out = out.absolute()
    networks = networks | {role: _everywhere(networks[role]) for role in ("segmenter", "classifier")}
    with _connected(address) as ray:
        accelerated = networks["device"] == "auto" or networks["device"].startswith("cuda")
        count, cpus, gpus = shares(_nodes(ray), workers, accelerated)
        count = min(count, len(inputs))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data._internal").setLevel(logging.ERROR)  # it tells of the bars that are switched off
        attempts = out / ".attempts"
        shutil.rmtree(attempts, ignore_errors=True)  # of a run that was killed
        jobs = ray.data.from_items(
            [{"path": str(path.absolute()), "name": name} for name, path in inputs.items()],
            override_num_blocks=math.ceil(len(inputs) / min(BATCH, math.ceil(len(inputs) / (count * BATCHES_AN_ACTOR)))),
        )
        rows = jobs.map(
            _Actor,
            fn_constructor_kwargs={"out": out, "networks": networks, "threads": cpus, "attempts": attempts},
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        try:
            yield from rows.iter_rows()
        except ray.exceptions.ActorDiedError as error:
            raise ValueError(f"no actor could start: {str(error).splitlines()[-1]}") from error
        finally:
            shutil.rmtree(attempts, ignore_errors=True)


class _Actor:
    """A pipeline in an actor, on as many threads as the actor has CPUs."""

    def __init__(self, out: Path, networks: dict, threads: int, attempts: Path) -> None:
        torch.set_num_threads(threads)
        self.pipe, self.out, self.attempts = Pipeline(**networks), out, attempts

    def __call__(self, job: dict) -> dict:
        """The row of one input; its begun attempts are noted in a file, a line each, that goes when one of them ends."""
        begun = self.attempts / job["name"]
        if begun.exists() and len(begun.read_text().splitlines()) >= ATTEMPTS:
            return failed(job["name"], f"its worker process died {ATTEMPTS} times; it may need more memory than there is")
        begun.parent.mkdir(exist_ok=True)
        with begun.open("a") as handle:
            handle.write(f"{socket.gethostname()} {os.getpid()}\n")
        row = process(self.pipe, Path(job["path"]), self.out, job["name"])
        begun.unlink(missing_ok=True)
        return row


def shares(nodes: list[tuple[int, int]], workers: int | None, accelerated: bool) -> tuple[int, int, float]:
    """How many actors a cluster gets and what each of them holds: as many CPUs as let all of them fit.

    Where nodes have GPUs that may be used, the actors are on those nodes and divide the GPUs.

    Args:
        nodes: CPUs and GPUs of each.
        workers: actors asked for.

    Returns:
        Actors, CPUs of each, and its share of a GPU in [0, 1].

    Raises:
        ValueError: when they don't fit.
    """
    gpus = sum(gpu for _, gpu in nodes) if accelerated else 0
    a_gpu = 0 if not gpus else math.ceil(workers / gpus) if workers else ACTORS_A_GPU

    def room(cpus: int) -> int:
        return sum(min(cpu // cpus, gpu * a_gpu) if gpus else cpu // cpus for cpu, gpu in nodes)

    count = room(1) if workers is None else workers
    if not 1 <= count <= room(1):
        raise ValueError(f"{count} workers are asked for; the cluster has room for 1 to {room(1)}, a CPU each")
    cpus = max(cpus for cpus in range(1, max(cpu for cpu, _ in nodes) + 1) if room(cpus) >= count)
    return count, cpus, 1 / a_gpu if gpus else 0.0


def _everywhere(source: str | None) -> str | None:
    """A network's source as every node understands it: a folder by its whole path."""
    if source is None:
        return None
    folder = find_entry(source).folder
    return str(folder.absolute()) if folder == Path(source) else source


def _nodes(ray) -> list[tuple[int, int]]:
    """CPUs and GPUs of every node that is up."""
    held = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(resources.get("CPU", 0)), int(resources.get("GPU", 0))) for resources in held]


@contextmanager
def _connected(address: str | None):
    """Ray, connected to a cluster or to one of this machine's own; nothing is sent to Ray's makers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(f'the engine "ray" needs Ray, which is not installed here ({error}); pip install "ray[data]"') from None
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # no answer, another version, a start that takes too long: of many kinds
        raise ValueError(f"no Ray cluster at {address or 'this machine'} can be used: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()
