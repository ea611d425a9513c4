"""What the page may run: the models it offers, their networks kept warm, and the part that needs an accelerator."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable
from functools import cache, wraps

import torch

import brainmri
from brainmri.analysis import selfcheck
from brainmri.analysis.compare import Opinion, compare
from brainmri.analysis.explain import Explanation, explain
from brainmri.analysis.findings import Finding, Study
from brainmri.analysis.pipeline import Pipeline, Progress
from brainmri.analysis.selfcheck import Check
from brainmri.analysis.stability import Stability, stability
from brainmri.io.scan import Scan
from brainmri.zoo.entry import ModelEntry
from brainmri.zoo.registry import DEFAULT, LoadedModel, embedded, find_entry, pins

ZERO_GPU = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")  # as the package below reads it
if ZERO_GPU:
    import spaces  # wants to be there before anything touches CUDA, which imports do not

log = logging.getLogger(__name__)

# what a visitor may choose: the zoo, and what whoever runs the page added to it
available_models: dict[str, ModelEntry] = {}
# set while the page answers already and its networks are still being loaded
models_loading = threading.Event()
_load_lock = threading.Lock()


def set_available_models(sources: list[str]) -> None:
    """Offer the zoo, pulling what was published and is not at hand, and other entries: folders, OWNER/NAME on the Hub."""
    available_models.clear()
    for source in [*sorted({*embedded(), *pins()}), *sources]:
        available_models[source] = find_entry(source)


def get_model(name: str, device: str = "auto") -> LoadedModel:
    """A network that is offered, kept for the next request; nobody else's name makes the server load or fetch anything.

    On ZeroGPU it has to be loaded before the page is launched: what lies on CUDA then, the processes with a GPU find there.
    """
    if name not in available_models:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(available_models)}")
    with _load_lock:  # whoever comes while a network is loaded waits for it instead of loading it too
        return _load_model(name, device)


@cache
def _load_model(name: str, device: str) -> LoadedModel:
    return brainmri.load(name, weights=available_models[name].folder, device=device)


def retry_on_cpu_if_oom(work: Callable) -> Callable:
    """The same work, done again on the CPU when the accelerator's memory is full."""

    @wraps(work)
    def done(*arguments):
        try:
            return work(*arguments)
        except RuntimeError as error:  # CUDA has a type of its own for it, Apple's has not
            if "out of memory" not in str(error):
                raise
            log.warning("the accelerator's memory is full: this request is answered by the CPU")
        gc.collect()  # what the failed attempt left, now that no traceback holds it
        torch.cuda.empty_cache()
        return work(*arguments, device="cpu")

    return done


# names go in rather than networks, since ZeroGPU runs these in another process


@retry_on_cpu_if_oom
def analyse_slice(scan: Scan, segmenter: str, classifier: str, threshold: float | None, device: str = "auto") -> Finding:
    """The finding of one slice."""
    return _pipeline(segmenter, classifier, threshold, device)(scan)


@retry_on_cpu_if_oom
def explain_slice(
    scan: Scan, segmenter: str, classifier: str, threshold: float | None, device: str = "auto"
) -> tuple[Explanation, Stability]:
    """Why the verdict on a slice is what it is, and how stable its outline."""
    pipe = _pipeline(segmenter, classifier, threshold, device)
    mask = pipe(scan).mask
    return explain(pipe.classifier, scan.pixels, mask), stability(pipe.segmenter, scan.pixels, pipe.mask_threshold)


@retry_on_cpu_if_oom
def compare_models(scan: Scan, names: list[str], device: str = "auto") -> list[Opinion]:
    """What each of the models says of a slice."""
    return compare({name: get_model(name, device) for name in names}, scan.pixels)


@retry_on_cpu_if_oom
def analyse_study(
    scan: Scan, segmenter: str, classifier: str, threshold: float | None, progress: Progress | None = None, device: str = "auto"
) -> Study:
    """The findings of a study; `progress` is told the slices done and their number."""
    return _pipeline(segmenter, classifier, threshold, device).study(scan, progress)


def check(name: str) -> Check:
    """How a model answers the self-check on this machine."""
    return selfcheck.check(get_model(name))


def _pipeline(segmenter: str, classifier: str, threshold: float | None, device: str) -> Pipeline:
    chosen = get_model(segmenter, device), get_model(classifier, device)
    return Pipeline(*chosen, mask_threshold=threshold, ood_model=get_model(DEFAULT, device))


if ZERO_GPU:
    analyse_slice = spaces.GPU(duration=20)(analyse_slice)
    explain_slice = spaces.GPU(duration=30)(explain_slice)
    compare_models = spaces.GPU(duration=30)(compare_models)
    analyse_study = spaces.GPU(duration=60)(analyse_study)
    check = spaces.GPU(duration=20)(check)
