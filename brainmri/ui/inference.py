"""What the page may run: the models it offers, their networks kept warm, and the part that needs an accelerator."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

import brainmri
from brainmri.compare import Opinion, compare
from brainmri.entry import ModelEntry
from brainmri.explain import Explanation, explain
from brainmri.findings import Finding, Study
from brainmri.predict import Pipeline
from brainmri.scan import Scan
from brainmri.stability import Stability, stability
from brainmri.zoo import LoadedModel, embedded, find_entry, pins

ZERO_GPU = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")  # as the package below reads it
if ZERO_GPU:
    import spaces  # wants to be there before anything touches CUDA, which imports do not

# what a visitor may choose: the zoo, and what whoever runs the page added to it
offered: dict[str, ModelEntry] = {}


def offer(sources: list[str]) -> None:
    """Offer the zoo, pulling what was published and is not at hand, and other entries: folders, OWNER/NAME on the Hub."""
    offered.clear()
    for source in [*sorted({*embedded(), *pins()}), *sources]:
        offered[source] = find_entry(source)


@cache
def network(name: str) -> LoadedModel:
    """A network that is offered, kept for the next request; nobody else's name makes the server load or fetch anything.

    On ZeroGPU it has to be loaded before the page is launched: what lies on CUDA then, the processes with a GPU find there.
    """
    if name not in offered:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(offered)}")
    return brainmri.load(name, weights=offered[name].folder)


# names go in rather than networks, since ZeroGPU runs these in another process


def find_in_slice(scan: Scan, segmenter: str, classifier: str, threshold: float | None) -> Finding:
    """The finding of one slice."""
    return Pipeline(network(segmenter), network(classifier), mask_threshold=threshold)(scan)


def question_slice(scan: Scan, segmenter: str, classifier: str, threshold: float | None) -> tuple[Explanation, Stability]:
    """Why the verdict on a slice is what it is, and how stable its outline."""
    pipe = Pipeline(network(segmenter), network(classifier), mask_threshold=threshold)
    mask = pipe(scan).mask
    return explain(pipe.classifier, scan.pixels, mask), stability(pipe.segmenter, scan.pixels, pipe.mask_threshold)


def ask_several(scan: Scan, names: list[str]) -> list[Opinion]:
    """What each of the models says of a slice."""
    return compare({name: network(name) for name in names}, scan.pixels)


def find_in_study(
    scan: Scan, segmenter: str, classifier: str, threshold: float | None, progress: Callable[[int, int], None] | None = None
) -> Study:
    """The findings of a study; `progress` is told the slices done and their number."""
    return Pipeline(network(segmenter), network(classifier), mask_threshold=threshold).study(scan, progress)


if ZERO_GPU:
    find_in_slice = spaces.GPU(duration=20)(find_in_slice)
    question_slice = spaces.GPU(duration=30)(question_slice)
    ask_several = spaces.GPU(duration=30)(ask_several)
    find_in_study = spaces.GPU(duration=60)(find_in_study)
