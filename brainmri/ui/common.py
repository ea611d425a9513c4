"""Helpers shared by the tabs: error messages, output files, choices of models."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder
from markupsafe import Markup

from brainmri.report.viewer import viewer_script
from brainmri.ui.blocks import UPLOAD_EXPIRED
from brainmri.ui.inference import available_models, models_loading
from brainmri.zoo.attributes import SINGLE_SEQUENCES
from brainmri.zoo.entry import ModelEntry
from brainmri.zoo.registry import DEFAULT
from brainmri.zoo.titles import TITLES

_INSTALLED = Path(__file__).parent / "assets"
ASSETS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "assets"  # of the wheel, or of the source tree
GPU = {"concurrency_limit": 1, "concurrency_id": "gpu"}
PRIVATE = {"api_visibility": "private", "queue": False}
ANALYSE = "analyse"  # id of the Analyse tab
# of a gr.HTML component whose new value replaces the old one; Gradio moves the old elements instead, which shifts the layout
REPLACE_SCRIPT = 'watch("value", () => { element.innerHTML = props.value ?? ""; });'
# prints the report with what the page's viewer shows, or the page where there is no report
PRINT_SCRIPT = """async (report) => {
  if (!report?.url) return window.print();
  const frame = document.createElement("iframe"), html = await (await fetch(report.url)).text();
  Object.assign(frame.style, { position: "fixed", left: "-3000px", width: "1000px", height: "1400px" });
  frame.title = "Report";
  frame.srcdoc = html;
  document.querySelector("iframe[title=Report]")?.remove();
  document.body.append(frame);
  await new Promise((done) => { frame.onload = done; });
  const printed = frame.contentDocument.querySelector(".viewer");
  for (let tries = 0; tries < 50 && !printed.mirror; tries++) await new Promise((done) => setTimeout(done, 100));
  await printed.mirror(document.querySelector("#viewer .viewer").shown());
  frame.contentWindow.print();
}"""
# of a gr.HTML component whose value has a viewer
VIEWER_SCRIPT = f"""{viewer_script()}
const mount = () => {{
  // Gradio patches the old elements, which would leave a viewer its old data and listeners
  element.innerHTML = props.value ?? "";
  element.querySelectorAll(".viewer").forEach(mountViewer);
}};
mount();
watch("value", mount);
"""


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


def model_choices(task: str | None = None) -> list[tuple[str, str]]:
    """Choices (label, name) of the available models, the best first, optionally only those for one task."""
    choices = []
    for name, entry in best_first():
        title, source = model_title(name, entry), public_name(name, entry)
        if task is None or task in entry.tasks:
            choices.append((source if title == source else f"{title}: {source}", name))
    return choices


def model_title(name: str, entry: ModelEntry) -> str:
    """What people know a model by: its title or, without one, its public name."""
    return TITLES.get(entry.name) or public_name(name, entry)


def model_heading(name: str, entry: ModelEntry) -> Markup:
    """A model's title and, below it, its public name, for the first cell of a table's row."""
    title, source = model_title(name, entry), public_name(name, entry)
    small = Markup("") if title == source else Markup("<br><small>{}</small>").format(source)
    return Markup("<b>{}</b>{}").format(title, small)


def public_name(name: str, entry: ModelEntry) -> str:
    """What visitors see of a model's source: of a local folder the entry's name, not the path on the server."""
    return entry.name if Path(name).is_dir() else name


def best_first() -> list[tuple[str, ModelEntry]]:
    """The available models in the order of `TITLES`, the default first and unknown ones last."""
    titles = list(TITLES)

    def place(item: tuple[str, ModelEntry]) -> tuple[bool, int]:
        known = item[1].name in titles
        return item[0] != DEFAULT, titles.index(item[1].name) if known else len(titles)

    return sorted(available_models.items(), key=place)


def sequence_input() -> gr.Dropdown:
    """The optional sequence of the API endpoints."""
    return gr.Dropdown(list(SINGLE_SEQUENCES), value=None, label="Sequence", visible=False)


def threshold_input() -> gr.Number:
    """The optional threshold of the API endpoints."""
    return gr.Number(None, minimum=0.05, maximum=0.95, label="Mask threshold", visible=False)
