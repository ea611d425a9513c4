"""The available models, their loaded networks, and the functions that need an accelerator."""

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
from brainmri.analysis.compare import ModelResult, compare
from brainmri.analysis.explain import Explanation, explain
from brainmri.analysis.findings import Finding, Study
from brainmri.analysis.pipeline import Pipeline, Progress
from brainmri.analysis.selfcheck import SelfCheckResult
from brainmri.analysis.stability import Stability, stability
from brainmri.io.scan import Scan
from brainmri.zoo import registry
from brainmri.zoo.backends import AUTO
from brainmri.zoo.entry import ModelEntry
from brainmri.zoo.registry import AXIAL_OOD, LoadedModel, find_entry, list_names

ZERO_GPU = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")  # parsed as `spaces` does
if ZERO_GPU:
    import spaces  # must be imported before CUDA is initialised

log = logging.getLogger(__name__)

# the zoo, and models added with --models
available_models: dict[str, ModelEntry] = {}
# set while the page is up and its networks are still loading
models_loading = threading.Event()
_load_lock = threading.Lock()


def set_available_models(sources: list[str], from_hub: bool = False) -> None:
    """Make the zoo and `sources` (local folders, Hub repos) available; published entries are downloaded if missing.

    Args:
        from_hub: take the zoo from the Hub or its cache, never the embedded copies.
    """
    available_models.clear()
    for source in [*list_names(from_hub), *sources]:
        available_models[source] = find_entry(source, from_hub=from_hub)


def get_model(name: str, device: str = "auto") -> LoadedModel:
    """An available model, loaded once and kept.

    On ZeroGPU, models must be loaded before the page is launched; the processes with a GPU inherit them.

    Raises:
        ValueError: if `name` is not available; nothing is loaded or downloaded then.
    """
    if name not in available_models:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(available_models)}")
    with _load_lock:  # load once; others wait
        return _load_model(name, device)


@cache
def _load_model(name: str, device: str) -> LoadedModel:
    return brainmri.load(name, weights=available_models[name].folder, device=device, runtime=registry.requested_runtime(None, AUTO))


def retry_on_cpu_if_oom(work: Callable) -> Callable:
    """Decorator: run a function again on the CPU when the accelerator is out of memory."""

    @wraps(work)
    def done(*arguments):
        try:
            return work(*arguments)
        except RuntimeError as error:  # CUDA has its own error type, MPS has not
            if "out of memory" not in str(error):
                raise
            log.warning("accelerator out of memory; running this request on the CPU")
        gc.collect()  # free the failed attempt, which no traceback holds now
        torch.cuda.empty_cache()
        return work(*arguments, device="cpu")

    return done


# these take names, not networks, since ZeroGPU runs them in another process


@retry_on_cpu_if_oom
def analyse_slice(
    scan: Scan, segmenter: str, classifier: str, threshold: float | None, sequence: str | None = None, device: str = "auto"
) -> Finding:
    """Analyse one slice; `sequence` is what the user says that it is."""
    return _pipeline(segmenter, classifier, threshold, device)(scan, sequence)


@retry_on_cpu_if_oom
def explain_slice(
    scan: Scan, segmenter: str, classifier: str, threshold: float | None, device: str = "auto"
) -> tuple[Explanation, Stability]:
    """Explain the verdict on a slice and test how stable its outline is."""
    pipe = _pipeline(segmenter, classifier, threshold, device)
    mask = pipe(scan).mask
    return explain(pipe.classifier, scan.pixels, mask), stability(pipe.segmenter, scan.pixels, pipe.mask_threshold)


@retry_on_cpu_if_oom
def compare_models(scan: Scan, names: list[str], device: str = "auto") -> list[ModelResult]:
    """Run several models on a slice."""
    return compare({name: get_model(name, device) for name in names}, scan.pixels)


@retry_on_cpu_if_oom
def analyse_study(
    scan: Scan, segmenter: str, classifier: str, threshold: float | None, progress: Progress | None = None, device: str = "auto"
) -> Study:
    """Analyse a study; `progress` is called with the slices done and their number."""
    return _pipeline(segmenter, classifier, threshold, device).study(scan, progress)


def check(name: str) -> SelfCheckResult:
    """Verify a model's output on this machine."""
    return selfcheck.check(get_model(name))


def _pipeline(segmenter: str, classifier: str, threshold: float | None, device: str) -> Pipeline:
    chosen = get_model(segmenter, device), get_model(classifier, device)
    if threshold == available_models[segmenter].mask_threshold:
        threshold = None  # the slider is where it starts: the entry chooses, by sequence where it has rules for each
    return Pipeline(*chosen, mask_threshold=threshold, ood_model=get_model(AXIAL_OOD, device))


if ZERO_GPU:
    analyse_slice = spaces.GPU(duration=20)(analyse_slice)
    explain_slice = spaces.GPU(duration=30)(explain_slice)
    compare_models = spaces.GPU(duration=30)(compare_models)
    analyse_study = spaces.GPU(duration=60)(analyse_study)
    check = spaces.GPU(duration=20)(check)
