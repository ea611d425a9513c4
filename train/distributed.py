"""Training in several processes: `torchrun` starts them, on one machine or on many, and each computes a part of every step.

The slices of a step and their augmentation are the same for any number of processes. Rank 0 validates, prints and writes files;
every process must see the data, and the run folder to resume a run. Without `torchrun` these functions do nothing.

Accelerate and Lightning Fabric would not make this shorter: they wrap the process group and DistributedDataParallel, but not the
seed of each slice's augmentation, the slices in shared memory, or a step's split into equal micro-batches.
"""

# pyright: reportPrivateImportUsage=false
# MONAI and torch.distributed re-export names without declaring them in __all__.

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, Sampler

from brainmri.zoo.registry import resolve_device
from train.data import TumourShareSampler
from train.losses import BatchLoss

T = TypeVar("T")


@contextmanager
def process_group(device_name: str) -> Iterator[torch.device]:
    """Join the process group if `torchrun` started this process, and yield this process's device.

    A nested context joins the same group. Do not open contexts one after another: the messages of both groups would mix.

    Args:
        device_name: see `resolve_device`. On CUDA each process of a machine uses a separate GPU.

    Raises:
        SystemExit: when a machine has more processes than GPUs, or the device is neither CUDA nor the CPU.
    """
    device = resolve_device(device_name)
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        yield device
        return
    if device.type == "cuda":
        local_processes, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if local_processes > gpus:
            raise SystemExit(
                f"expected at most {gpus} processes, one per GPU, got {local_processes}; give torchrun --nproc-per-node {gpus}"
            )
        device = torch.device("cuda", distributed.get_node_local_rank())
    elif device.type != "cpu":
        raise SystemExit(f"expected CUDA or a CPU to train in several processes, got {device}; give --device cpu")
    if _is_initialised():
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
        distributed.init_process_group("nccl", device_id=device)
    else:
        distributed.init_process_group("gloo")
    with open(os.devnull, "w") as devnull, redirect_stdout(sys.stdout if is_main_process() else devnull):
        yield device
    distributed.destroy_process_group()  # not after an error: it would wait for processes that wait for this one


def _is_initialised() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """This process's number among all processes, from 0."""
    return distributed.get_rank() if _is_initialised() else 0


def is_main_process() -> bool:
    """Whether this process validates, prints and writes files."""
    return rank() == 0


def world_size() -> int:
    """The number of processes of the run."""
    return distributed.get_world_size() if _is_initialised() else 1


def broadcast(value: T) -> T:
    """Rank 0's value, on every process."""
    if not _is_initialised():
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def mean_over_processes(metrics: dict[str, float]) -> dict[str, float]:
    """The mean of each metric over the processes; all of them give the same keys."""
    if not _is_initialised():
        return metrics
    gathered: list = [None] * world_size()
    distributed.all_gather_object(gathered, metrics)
    return {key: sum(one[key] for one in gathered) / len(gathered) for key in metrics}


def once_per_node(make: Callable[[], T]) -> T:
    """The result of `make`, called by one process of each machine and mapped into the memory of the others.

    The processes share its memory pages, so a machine with more GPUs needs no more memory for slices. The result goes through a
    temporary file, which is deleted before this returns.

    Args:
        make: returns tensors, numbers and strings, in lists, tuples and dictionaries.
    """
    if not _is_initialised():
        return make()
    path = Path(tempfile.gettempdir()) / broadcast(f"brainmri-{uuid.uuid4().hex}.pt")
    first = distributed.get_node_local_rank() == 0
    if first:
        torch.save(make(), path)
    distributed.barrier()
    made = torch.load(path, mmap=True, weights_only=True)
    distributed.barrier()
    if first:
        path.unlink()
    return made


def micro_batch(batch: int, samples: int, accumulate: int) -> int:
    """The number of slices in one forward pass of one process, so that a step of all processes uses `batch` slices.

    Raises:
        ValueError: when the batch cannot be split evenly, or the epoch does not end with a whole batch.
    """
    if accumulate < 1:
        raise ValueError(f"expected --accumulate of 1 or more, got {accumulate}")
    parts = world_size() * accumulate
    if parts > 1 and (batch % parts or samples % batch):
        raise ValueError(
            f"expected --batch as a multiple of {parts} ({world_size()} processes, --accumulate {accumulate}) and --samples as a "
            f"multiple of --batch, got --batch {batch} and --samples {samples}"
        )
    return batch // parts


class _SeededDataset(Dataset):
    """Slices by index and seed: the augmentation depends on the seed only, not on the process or the slices before."""

    def __init__(self, slices: list[dict], transform: Compose) -> None:
        self.slices, self.transform = slices, transform

    def __getitem__(self, index_and_seed: tuple[int, int]) -> dict:
        index, seed = index_and_seed
        self.transform.set_random_state(seed)
        return cast("dict", self.transform(self.slices[index]))


class _ProcessSampler(Sampler[tuple[int, int]]):
    """This process's micro-batches of an epoch, for `_SeededDataset`; the processes take micro-batches in turn."""

    def __init__(self, sampler: TumourShareSampler, micro: int) -> None:
        self.sampler, self.micro = sampler, micro

    def __len__(self) -> int:
        return len(self.sampler) // world_size()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for position, index in enumerate(self.sampler):
            if position // self.micro % world_size() == rank():
                seed = np.random.SeedSequence([self.sampler.seed, self.sampler.epoch, position]).generate_state(1)
                yield index, int(seed[0])


def split_over_processes(
    slices: list[dict], transform: Compose, sampler: TumourShareSampler, micro: int, seeded: bool = False
) -> tuple[Dataset, Sampler]:
    """The dataset and the sampler from which this process loads its part of each epoch.

    Without torchrun one random stream augments all slices. Several processes cannot share a stream, and workers that live longer
    than an epoch do not restart it, so there each slice has a seed, which depends on its position in the epoch.

    Args:
        transform: augmentation of one slice.
        micro: from `micro_batch`.
        seeded: whether each slice has a seed without torchrun too.
    """
    if not (seeded or _is_initialised()):
        return MonaiDataset(slices, transform), sampler
    return _SeededDataset(slices, transform), _ProcessSampler(sampler, micro)


class _LossModule(nn.Module):
    """A loss as DistributedDataParallel needs it: a module that holds the parameters."""

    def __init__(self, net: nn.Module, loss: BatchLoss) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        return self.loss(batch)


def sync_batch_norm(net: nn.Module) -> None:
    """Replace the batch norms of a network by ones that compute their statistics over the batches of all processes, on CUDA."""
    nn.SyncBatchNorm.convert_sync_batchnorm(net)


def sync_gradients(net: nn.Module, loss: BatchLoss) -> BatchLoss:
    """The loss, wrapped so that its backward pass averages the gradients over all processes.

    On CUDA, batch norm then computes its statistics over all processes, as a single process does over its batch. On CPUs, for
    which torch has no such layer, each process normalises by its own part, as with `--accumulate`, and the running statistics
    are those of rank 0.

    Args:
        net: holds every parameter that `loss` uses; trained in place.
    """
    if not _is_initialised():
        return loss
    if next(net.parameters()).is_cuda:
        sync_batch_norm(net)
    return DistributedDataParallel(_LossModule(net, loss))


def no_sync(loss: BatchLoss) -> AbstractContextManager:
    """A context in which backward passes add to this process's gradients without averaging them over the processes."""
    return loss.no_sync() if isinstance(loss, DistributedDataParallel) else nullcontext()
