"""The available models, their loaded networks, and the functions that need an accelerator."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import brainmri
from brainmri.analysis import selfcheck
from brainmri.analysis.compare import Comparison, compare
from brainmri.analysis.explain import Explanation
from brainmri.analysis.findings import Decision, Finding, Study
from brainmri.analysis.pipeline import Pipeline, Progress
from brainmri.analysis.selfcheck import SelfCheckResult
from brainmri.analysis.stability import Stability
from brainmri.io.scan import Scan
from brainmri.zoo.backends import AUTO
from brainmri.zoo.entry import ModelEntry
from brainmri.zoo.registry import AXIAL_OOD, DEFAULT, LoadedModel, find_entry, list_names, requested_runtime

ZERO_GPU = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")  # parsed as `spaces` does
if ZERO_GPU:
    import spaces  # must be imported before CUDA is initialised

START_SECONDS, SECONDS_PER_SLICE = 5, 0.1  # on ZeroGPU; the first includes copying the networks to the GPU
EXPLAINED_SLICES = 10  # passes for an explanation and the stability

Explained = tuple[Explanation, Stability]  # of a slice: why it got its verdict, and how stable its outline is

P = ParamSpec("P")
Result = TypeVar("Result")

# the zoo, and models added with --models
available_models: dict[str, ModelEntry] = {}
# finished analyses since the start, by the device and the backend that the segmenter ran on
finished: Counter[tuple[str, str]] = Counter()
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


def get_model(name: str) -> LoadedModel:
    """An available model with its fastest backend, loaded once and kept.

    On ZeroGPU, models must be loaded before the page is launched; the processes with a GPU inherit them.

    Raises:
        ValueError: if `name` is not available; nothing is loaded or downloaded then.
    """
    if name not in available_models:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(available_models)}")
    with _load_lock:  # load once; others wait
        return _load_model(name)


@cache
def _load_model(name: str) -> LoadedModel:
    return brainmri.load(name, weights=available_models[name].folder, runtime=requested_runtime(None, AUTO))


def gpu_seconds(slices: int) -> int:
    """The longest time that so many slices take on ZeroGPU; it is charged to the visitor's quota."""
    return round(START_SECONDS + SECONDS_PER_SLICE * slices)


def on_gpu(duration: int | Callable[..., int]) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Decorator: on ZeroGPU, run a function in a process with a GPU, which takes names, not networks, and returns the result.

    Args:
        duration: the longest time in seconds, or a function of the same arguments that returns it.
    """
    return spaces.GPU(duration=duration) if ZERO_GPU else lambda work: work


def counted(work: Callable[P, Result]) -> Callable[P, Result]:
    """Decorator: count what an analysis ran on in `finished`; for functions that return a result with provenance, or it first."""

    @wraps(work)
    def done(*arguments: P.args, **named: P.kwargs) -> Result:
        result = work(*arguments, **named)
        first = result[0] if isinstance(result, tuple) else result
        model = first.provenance["segmenter"]  # pyright: ignore[reportAttributeAccessIssue]
        finished[model["device"], model["runtime"]] += 1
        return result

    return done


@counted
@on_gpu(gpu_seconds(1))
def analyse_slice(
    scan: Scan, segmenter: str, classifier: str, threshold: float | None, sequence: str | None = None,
    progress: Progress | None = None,
) -> Finding:  # fmt: skip
    """Analyse one slice; `sequence` is what the user says that it is, and `progress` is called as by `analyse_study`."""
    return _pipeline(segmenter, classifier, threshold)(scan, sequence, progress)


@on_gpu(gpu_seconds(EXPLAINED_SLICES))
def explain_slice(
    scan: Scan, segmenter: str, classifier: str, threshold: float | None, sequence: str | None = None,
    progress: Progress | None = None, decision: Decision | None = None,
) -> Explained:  # fmt: skip
    """Explain the verdict on a slice, or a decision on it, and test how stable its outline is."""
    return _pipeline(segmenter, classifier, threshold).explain(scan, sequence, progress, decision)


@counted
@on_gpu(gpu_seconds(1 + EXPLAINED_SLICES))
def analyse_and_explain_slice(
    scan: Scan, segmenter: str, classifier: str, threshold: float | None, sequence: str | None = None
) -> tuple[Finding, Explained]:
    """`analyse_slice` and `explain_slice` in one call, since every call on ZeroGPU waits for a GPU."""
    pipe = _pipeline(segmenter, classifier, threshold)
    return pipe(scan, sequence), pipe.explain(scan, sequence)


@on_gpu(lambda scan, names, *_: gpu_seconds(len({DEFAULT, *names}) * (len(scan.pixels) if scan.pixels.ndim == 4 else 1)))
def compare_models(scan: Scan, names: list[str], sequence: str | None = None) -> Comparison:
    """Run several models on a slice or a study that the default model prepares."""
    return compare({name: get_model(name) for name in names}, scan, _pipeline(DEFAULT, DEFAULT, None), sequence)


@counted
@on_gpu(lambda scan, *_, **__: gpu_seconds(len(scan.pixels)))
def analyse_study(
    scan: Scan, segmenter: str, classifier: str, threshold: float | None, progress: Progress | None = None,
    sequence: str | None = None,
) -> Study:  # fmt: skip
    """Analyse a study; `progress` is called with the slices done and their number, and what it raises ends the analysis."""
    return _pipeline(segmenter, classifier, threshold).study(scan, progress, sequence)


def likeliest_slice(scan: Scan, study: Study) -> Scan:
    """The slice of a study that is explained, by itself, with the spacing and the sequence that the study's files name."""
    return replace(scan, pixels=scan.pixels[study.most_probable], warnings=(), incomplete=None)


@counted
@on_gpu(lambda scan, *_, **__: gpu_seconds(len(scan.pixels) + EXPLAINED_SLICES))
def analyse_and_explain_study(scan: Scan, segmenter: str, classifier: str, threshold: float | None) -> tuple[Study, Explained]:
    """Analyse a study and explain its likeliest slice in one call, since every call on ZeroGPU waits for a GPU."""
    pipe = _pipeline(segmenter, classifier, threshold)
    study = pipe.study(scan)
    return study, pipe.explain(likeliest_slice(scan, study), decision=Decision.of(study.findings[study.most_probable]))


@on_gpu(gpu_seconds(1))
def check(name: str) -> SelfCheckResult:
    """Verify a model's output on this machine."""
    return selfcheck.check(get_model(name))


def _pipeline(segmenter: str, classifier: str, threshold: float | None) -> Pipeline:
    chosen = get_model(segmenter), get_model(classifier)
    named = available_models[segmenter].specialist
    specialist = get_model(named.name) if named and named.name in available_models else None
    return Pipeline(*chosen, mask_threshold=threshold, ood_model=get_model(AXIAL_OOD), specialist=specialist)
