"""Several processes, one run: `torchrun` starts them, on one machine or on many, and each takes its share of every step.

A step's slices, and how each is augmented, are the same for any number of processes. Rank 0 alone validates, prints and
writes; every process must see the data, and a run's folder to resume it. Without `torchrun` nothing here does anything.
"""

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from monai.data import Dataset
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from brainmri.zoo.registry import resolve_device
from train.data import TumourShareSampler

if TYPE_CHECKING:
    from train.loop import Loss

T = TypeVar("T")


@contextmanager
def process_group(asked: str) -> Iterator[torch.device]:
    """The device of this process, which `torchrun` may have started: then it is one of the run's while the context lasts.

    A context within another is part of it. Contexts one after another would meet each other's messages.

    Args:
        asked: as `resolve_device` takes it. On CUDA each process of a machine has a GPU of its own.

    Raises:
        SystemExit: when a machine has more processes than GPUs, or the device is neither CUDA nor the CPU.
    """
    device = resolve_device(asked)
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        yield device
        return
    if device.type == "cuda":
        here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if here > gpus:
            raise SystemExit(f"{here} processes were started on a machine with {gpus} GPUs; give --nproc-per-node {gpus}")
        device = torch.device("cuda", distributed.get_node_local_rank())
    elif device.type != "cpu":
        raise SystemExit(f"torchrun's processes train on CUDA or on CPUs, not on {device}; give --device cpu")
    if _grouped():
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
        distributed.init_process_group("nccl", device_id=device)
    else:
        distributed.init_process_group("gloo")
    with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if is_main_process() else nowhere):
        yield device
    distributed.destroy_process_group()  # after an error it would wait for processes that wait for this one


def _grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """This process's number among all."""
    return distributed.get_rank() if _grouped() else 0


def is_main_process() -> bool:
    """Whether this is the process that validates, prints and writes."""
    return rank() == 0


def world_size() -> int:
    """How many processes share the run."""
    return distributed.get_world_size() if _grouped() else 1


def broadcast(value: T) -> T:
    """The value that rank 0 gives here."""
    if not _grouped():
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]


def mean_over_processes(figures: dict[str, float]) -> dict[str, float]:
    """The mean of each figure over the processes, which give the same ones."""
    if not _grouped():
        return figures
    everyone: list = [None] * world_size()
    distributed.all_gather_object(everyone, figures)
    return {key: sum(one[key] for one in everyone) / len(everyone) for key in figures}


def once_per_node(make: Callable[[], T]) -> T:
    """What `make` gives, made by one process of each machine and mapped into the memory of all.

    They share its pages: a GPU more costs a machine no more memory for slices. It goes through a temporary file, whose name is
    gone when this returns.

    Args:
        make: to tensors, numbers and text, in lists, tuples and dicts.
    """
    if not _grouped():
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
    """How many slices a process takes at a time, so that the step of all of them sees `batch`.

    Raises:
        ValueError: when the batch cannot be shared evenly, or the epoch does not end with a whole one.
    """
    if accumulate < 1:
        raise ValueError(f"--accumulate {accumulate} came; it is 1 or more")
    parts = world_size() * accumulate
    if parts > 1 and (batch % parts or samples % batch):
        raise ValueError(
            f"--batch {batch} and --samples {samples} came; with {world_size()} processes and --accumulate {accumulate} "
            f"the batch must be a multiple of {parts}, and the samples a multiple of the batch"
        )
    return batch // parts


class _Seeded(Dataset):
    """Slices by index and seed: what augments one depends on its seed alone, not on who takes it or after what."""

    def __getitem__(self, drawn: tuple[int, int]) -> dict:
        index, seed = drawn
        self.transform.set_random_state(seed)
        return super().__getitem__(index)


class _Share(Sampler[tuple[int, int]]):
    """This process's micro-batches of an epoch, dealt in turn, as `_Seeded` takes them."""

    def __init__(self, whole: TumourShareSampler, micro: int) -> None:
        self.whole, self.micro = whole, micro

    def __len__(self) -> int:
        return len(self.whole) // world_size()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for place, index in enumerate(self.whole):
            if place // self.micro % world_size() == rank():
                seed = np.random.SeedSequence([self.whole.seed, self.whole.epoch, place]).generate_state(1)
                yield index, int(seed[0])


def share(
    slices: list[dict], transform: Callable[[dict], dict], sampler: TumourShareSampler, micro: int
) -> tuple[Dataset, Sampler]:
    """What this process loads of each epoch that `sampler` draws: a dataset and the sampler for it.

    A run without torchrun draws its augmentation from one stream. Several processes could not share it, so under torchrun each
    slice has a seed of its own, by its place in the epoch.

    Args:
        transform: a MONAI transform.
        micro: as `micro_batch` gives it.
    """
    if not _grouped():
        return Dataset(slices, transform), sampler
    return _Seeded(slices, transform), _Share(sampler, micro)


class _LossOf(nn.Module):
    """A loss as DistributedDataParallel takes it: a module that holds the parameters."""

    def __init__(self, net: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return self.loss(batch)


def share_batch_statistics(net: nn.Module) -> None:
    """Replace the batch norms of a network by ones that take their statistics over all processes' batches, on CUDA."""
    nn.SyncBatchNorm.convert_sync_batchnorm(net)


def synchronised(net: nn.Module, loss: Loss) -> Loss:
    """The loss, such that its backward pass leaves every process with the mean of all gradients.

    On CUDA batch norm then takes its statistics over all processes, as one process does over its batch. On CPUs, where torch has
    no such layer, each normalises by its own share, as with `--accumulate`, and the running statistics are rank 0's.

    Args:
        net: every module with parameters that `loss` uses; trained in place.
    """
    if not _grouped():
        return loss
    if next(net.parameters()).is_cuda:
        share_batch_statistics(net)
    return DistributedDataParallel(_LossOf(net, loss))


def no_sync(loss: Loss) -> AbstractContextManager:
    """Within it, backward passes add to this process's gradients without a word to the others."""
    return loss.no_sync() if isinstance(loss, DistributedDataParallel) else nullcontext()
