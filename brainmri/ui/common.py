"""Helpers shared by the tabs: error messages, output files, the verdict box, the model fields."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from brainmri.analysis.findings import TUMOUR, percent
from brainmri.report.templates import STATES
from brainmri.report.viewer import viewer_script
from brainmri.ui.inference import available_models, models_loading
from brainmri.zoo.registry import DEFAULT

_INSTALLED = Path(__file__).parent / "assets"
ASSETS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "assets"  # of the wheel, or of the source tree
GPU = {"concurrency_limit": 1, "concurrency_id": "gpu"}
PRIVATE = {"api_visibility": "private", "queue": False}
# of a gr.HTML component whose value has a viewer
VIEWER_SCRIPT = f"""{viewer_script()}
const mount = () => element.querySelectorAll(".viewer").forEach(mountViewer);
mount();
watch("value", mount);
"""
UPLOAD_EXPIRED = "The upload has expired. Please upload it again."
# on a phone the results are below the controls; the delay lets components that take focus scroll first
SCROLL_TO_RESULT = """() => { setTimeout(() => {
    const verdict = document.querySelector("#%s"), box = verdict.getBoundingClientRect();
    const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "instant" : "smooth";
    if (box.top < 0 || box.bottom > window.innerHeight) verdict.scrollIntoView({behavior, block: "start"});
}, 500); }"""


@contextmanager
def errors_as_messages(title: str) -> Iterator[None]:
    """Show expected errors as messages under a title; `blocks.Page` handles the others."""
    if models_loading.is_set():
        gr.Info("The models are still loading. The first result takes a few seconds longer.")
    try:
        yield
    except gr.Error:
        raise
    except FileNotFoundError as error:
        raise gr.Error(UPLOAD_EXPIRED, title=title, duration=15, print_exception=False) from error
    except ValueError as error:
        raise gr.Error(escape(str(error)), title=title, duration=15, print_exception=False) from error


def make_output_folder() -> Path:
    """Create a new folder in Gradio's cache, where files are served from and deleted when they expire."""
    cache = Path(get_upload_folder())
    cache.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=cache))


def safe_stem(name: str, otherwise: str) -> str:
    """A file name's stem reduced to characters that every file system accepts."""
    stem = Path(name).name.removesuffix(".gz").rsplit(".", 1)[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem)[:80].strip("._") or otherwise


def verdict_html(verdict: str, sentences: list[str], warnings: list[str], scale: str = "") -> str:
    """The verdict box. Sentences and warnings are escaped."""
    state, symbol, label = STATES[verdict]
    return f"""
<section class="verdict {state}">
  <h2><span aria-hidden="true">{symbol}</span> {label}</h2>{scale}
  <p>{escape(" ".join(sentences))}</p>{"".join(f"<p class='warning'><b>Note:</b> {escape(w)}.</p>" for w in warnings)}
</section>"""


def probability_scale(probability: float, review: list[float]) -> str:
    """A probability as text and on a scale with the review band hatched."""
    low, high = (100 * edge for edge in review)
    band, needle = f"left:{low:.2f}%;width:{high - low:.2f}%", f"left:{100 * probability:.2f}%"
    return f"""
  <p class="probability"><b>{percent(probability)}</b> probability of tumour</p>
  <div class="scale" aria-hidden="true">
    <i class="band" style="{band}"></i><i class="needle" style="{needle}"></i>
  </div>"""


def empty_state(words: str) -> str:
    """The placeholder shown before there is a result."""
    return f'<div class="verdict empty">{words}</div>'


def model_choices(task: str | None = None) -> list[tuple[str, str]]:
    """Dropdown choices (label, name) of the available models, optionally only those for one task."""
    return [
        (entry.name if name == entry.name else f"{entry.name} ({name})", name)
        for name, entry in available_models.items()
        if task is None or task in entry.tasks
    ]


def recognised_sentences(record: dict) -> list[str]:
    """A sentence on what the network recognised, for the record of a slice or a study; empty if it recognises nothing."""
    found = record["recognition"]
    if not found:
        return []
    parts = [found["sequence"], found["plane"], found["kind"] if record["verdict"] == TUMOUR else None]
    known = [f"{part['name']} ({part['probability']:.0%})" if part["probability"] < 1 else part["name"] for part in parts if part]
    return [f"Recognised: {', '.join(known)}."] if known else ["Sequence and plane are not recognised."]


def model_fields() -> tuple[gr.Dropdown, gr.Dropdown, gr.Slider]:
    """An accordion with segmenter, classifier and mask threshold."""
    segmenters, classifiers = model_choices("segmentation"), model_choices("classification")
    with gr.Accordion("Models and mask threshold", open=False):
        segmenter = gr.Dropdown(segmenters, value=DEFAULT, label="Segmenter", info="Draws the mask.")
        classifier = gr.Dropdown(classifiers, value=DEFAULT, label="Classifier", info="Predicts the verdict.")
        threshold = gr.Slider(
            0.05, 0.95, available_models[DEFAULT].mask_threshold, step=0.05, label="Mask threshold",
            info="Lower values outline more. The probability of tumour does not depend on it.",
        )  # fmt: skip
    return segmenter, classifier, threshold


def threshold_input() -> gr.Number:
    """The optional threshold of the API endpoints."""
    return gr.Number(None, minimum=0.05, maximum=0.95, label="Mask threshold", visible=False)
