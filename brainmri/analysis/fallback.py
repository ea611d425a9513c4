"""Run networks on the CPU when an accelerator fails."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch

from brainmri.zoo.entry import read_entry
from brainmri.zoo.registry import LoadedModel, first_line, load_on_cpu

Result = TypeVar("Result")

log = logging.getLogger(__name__)


def run_or_fall_back(work: Callable[..., Result], *models: LoadedModel | None) -> Result:
    """Run a function of models; if an accelerator has no memory left or fails, again with copies of them on the CPU.

    Args:
        work: called with the models.
        models: may be None, and may be the same.

    Raises:
        Exception: whatever `work` raises on the CPU, or for another reason than a failed operation.
    """
    try:
        return work(*models)
    except RuntimeError as error:  # of torch: no memory, no such operation, a lost device
        accelerators = {model.device.type for model in models if model is not None} - {"cpu"}
        if not accelerators:
            raise
        reason = "is out of memory" if is_out_of_memory(error) else f"failed ({first_line(error)})"
        log.warning("%s %s; this analysis runs on the CPU", ", ".join(sorted(accelerators)), reason)
    free_memory()  # no traceback holds the failed attempt now
    return work(*(model and _cpu_copy(model) for model in models))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an accelerator has no memory left. CUDA has an error type of its own, MPS has not."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


def free_memory() -> None:
    """Give cached memory back to the accelerator."""
    gc.collect()
    with contextlib.suppress(RuntimeError):  # a lost device has none to give
        torch.accelerator.empty_cache()


def _cpu_copy(model: LoadedModel) -> LoadedModel:
    """The model on the CPU: itself, if it is there."""
    return model if model.device.type == "cpu" else _load_copy(model.entry.folder)


@lru_cache(maxsize=4)
def _load_copy(folder: Path) -> LoadedModel:
    return load_on_cpu(read_entry(folder))
