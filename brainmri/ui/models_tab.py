"""The Models tab: a table of all models; metrics, diagrams, failure cases and card of each; and the self-check."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import cache
from html import escape

import gradio as gr
from markdown_it import MarkdownIt

from brainmri.analysis.selfcheck import SLICE
from brainmri.io.reading import read_slice
from brainmri.report.metric_tables import failure_tables, figure_table, reliability_svg, reliability_table
from brainmri.report.overview import MISSING, headline, input_names, output_names
from brainmri.ui.analyse_tab import AnalyseTab
from brainmri.ui.common import (
    ANALYSE,
    GPU,
    PRIVATE,
    best_first,
    errors_as_messages,
    model_choices,
    model_heading,
    model_title,
)
from brainmri.ui.inference import ZERO_GPU, available_models, check, compare_models
from brainmri.zoo.entry import CARD, WEIGHTS, ModelEntry
from brainmri.zoo.metrics import AUC, FAILURES, RELIABILITY, THREE_SEQUENCES, VARIANTS, VOLUMETRIC_DICE
from brainmri.zoo.registry import DEFAULT, licence

log = logging.getLogger(__name__)

MAX_CARD_CHARS = 50_000  # longer cards are cut
FRONT_MATTER = re.compile(r"\A---\r?\n.*?\r?\n---\r?\n", re.DOTALL)
OVERVIEW_NOTE = """Dice: mean over patients. AUC: of the verdict, by slice. Both for three sequences, in whole studies where
measured, on patients not used for training; protocol and intervals are below. Time: for one slice on the machine that runs
this page."""
# of the table of all models, after the name; the last one has the buttons
COLUMNS = ("Output", "Input", "Dice", "AUC", "Size", "Time", "Licence", "")
USE_SCRIPT = """element.addEventListener("click", (event) => {
  const model = event.target.closest("button")?.dataset.model;
  if (model) trigger("click", { model });
});"""
FAILURES_NOTE = """The same patients. Groups and worst patients: three sequences, slice by slice. Tumours are grouped by their
number of pixels, slices by their position from the neck upwards. Slice Dice is the mean over slices with tumour; the verdict
threshold is 0.5."""
RELIABILITY_NOTE = """If the probability is 80%, four out of five slices should show a tumour: the dots should lie on the
dashed line. Larger dots stand for more slices. Whiskers are 95% confidence intervals over patients; the review band is shaded."""


def safe_html(markdown: str, shift: int = 2) -> str:
    """Render untrusted Markdown as safe HTML: no raw HTML, no images, links to http and https only.

    Args:
        markdown: the text.
        shift: number of levels to lower headings by, to fit under the page's own.
    """
    renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = renderer.parse(markdown)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + shift)}"
        for child in token.children or ():
            if child.type == "image":  # keep its text; a remote image would expose the visitor
                child.type, child.content, child.children = "text", child.content and f"[{child.content}]", None
            elif child.type == "link_open":
                child.attrs = _link_attributes(str(child.attrs["href"]))
    html = renderer.renderer.render(tokens, renderer.options, {})
    scrolls = '<div class="table" role="group" aria-label="Table" tabindex="0"><table>'  # scrollable by keyboard
    return html.replace("<table>", scrolls).replace("</table>", "</table></div>")


def _link_attributes(address: str) -> dict:
    """A link's attributes; none for local files and other schemes than http and https."""
    web = address.startswith(("https://", "http://"))
    return {"href": address, "target": "_blank", "rel": "noopener noreferrer nofollow"} if web else {}


def card_html(entry: ModelEntry) -> str:
    """The model card without its front matter, collapsed."""
    path = entry.folder / CARD
    if not path.is_file():
        return "<p>This model has no card.</p>"
    with path.open(encoding="utf-8", errors="replace") as handle:
        text = handle.read(MAX_CARD_CHARS + 1)
    cut = "\n\n*The model card is too long; the rest is not shown.*" if len(text) > MAX_CARD_CHARS else ""
    body = safe_html(FRONT_MATTER.sub("", text[:MAX_CARD_CHARS], count=1) + cut)
    return _collapsed("Model card", body)


def figures_html(entry: ModelEntry) -> str:
    """Metrics, reliability diagrams and failure cases, if stored with the entry."""
    if entry.metrics is None:
        return "<p>No metrics available.</p>"
    variants = entry.metrics.variants
    first = variants[THREE_SEQUENCES]
    counts = f"{first['patients']:,} patients, {first['slices']:,} slices"
    protocol = f"<p>{counts}: {escape(entry.metrics.protocol)}. Brackets: 95% confidence intervals over patients.</p>"
    parts = [protocol, safe_html(figure_table(variants))]
    if "classification" in entry.tasks:
        shown = [variant for variant in VARIANTS if RELIABILITY in variants.get(variant, {})]
        figures = "".join(
            f"<figure>{reliability_svg(entry, variant)}<figcaption>{VARIANTS[variant]}</figcaption></figure>" for variant in shown
        )
        numbers = f"<details><summary>Table</summary>{safe_html(reliability_table(variants))}</details>"
        diagrams = f"<p>{RELIABILITY_NOTE}</p><div class='diagrams'>{figures}</div>{numbers}"
        parts.append(_collapsed("Calibration", diagrams if shown else "<p>No reliability diagram available.</p>"))
    failures = f"<p>{FAILURES_NOTE}</p>{safe_html(failure_tables(variants))}" if FAILURES in first else ""
    parts.append(_collapsed("Failure cases", failures or "<p>No failure analysis available.</p>"))
    return "".join(parts)


def _collapsed(title: str, content: str) -> str:
    return f"<details class='card'><summary>{title}</summary>{content}</details>"


def model_html(entry: ModelEntry) -> str:
    """The page's description of one entry. Entries are untrusted: everything is escaped or checked."""
    title = model_title(entry.name, entry)
    about = [entry.name] * (title != entry.name) + [output_names(entry), f"{entry.parameters:,} parameters"]
    try:
        figures = figures_html(entry)
    except Exception:
        log.exception("cannot show the metrics of %s", entry.folder)
        figures = "<p>The metrics have an unknown format and are not shown.</p>"
    return f"""
<article class="model"><h2>{escape(title)} <small>{escape(" · ".join(about))}</small></h2>
<p>{escape(entry.summary)}</p>{figures}{card_html(entry)}</article>"""


def run_selfcheck(name: str) -> str:
    """Verify a model's output on this machine against the stored one; return a sentence."""
    with errors_as_messages("Could not verify this model"):
        found = check(name)
    state, sign = ("passed", "✓") if found.passed else ("failed", "✗")
    return f"<p class='{state}'><span aria-hidden='true'>{sign}</span> {escape(found.sentence)}.</p>"


def overview_html(seconds: Mapping[str, float] | None = None) -> str:
    """A table of all models, with a button to use each.

    Args:
        seconds: for one slice on this machine, by model; None where it was not measured.
    """
    rows = "".join(_overview_row(name, entry, (seconds or {}).get(name)) for name, entry in best_first())
    head = "".join(f"<th scope='col'>{one}</th>" if one else "<td></td>" for one in ("Model", *COLUMNS))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    scrolls = f"<div class='table' role='group' aria-label='Models' tabindex='0'>{table}</div>"
    return f"<div class='model'>{scrolls}<p>{OVERVIEW_NOTE}</p></div>"


def _overview_row(name: str, entry: ModelEntry, seconds: float | None) -> str:
    title, default = escape(model_title(name, entry)), " <small>(default)</small>" if name == DEFAULT else ""
    weights = (entry.folder / WEIGHTS).stat().st_size / 1e6
    cells = (
        output_names(entry),
        input_names(entry),
        headline(entry, VOLUMETRIC_DICE),
        headline(entry, AUC),
        f"{weights:.0f} MB",
        MISSING if seconds is None else f"{1000 * seconds:.0f} ms",
        escape(str(licence(entry) or "unknown")),
        f"<button type='button' data-model='{escape(name)}' aria-label='Use it: {title}'>Use it</button>",
    )
    row = "".join(f"<td data-column='{column}'>{cell}</td>" for column, cell in zip(COLUMNS, cells, strict=True))
    return f"<tr><th scope='row'>{model_heading(name, entry)}{default}</th>{row}</tr>"


@cache
def seconds_for_a_slice() -> dict[str, float]:
    """How long each available model takes for a slice on this machine, measured once."""
    scan = read_slice(SLICE)
    for _ in range(2):  # the first run warms up
        comparison = compare_models(scan, list(available_models))
    return {result.name: result.seconds for result in comparison.results}


def measure() -> str:
    """The table of all models with the time that each takes on this machine."""
    return overview_html(seconds_for_a_slice())


def use(event: gr.EventData) -> tuple:
    """Select a model for the tasks that it has, and return to the Analyse tab."""
    name = event.model
    if name not in available_models:
        raise gr.Error("Unknown model.", print_exception=False)
    tasks = available_models[name].tasks
    fields = [gr.Dropdown(value=name) if task in tasks else gr.skip() for task in ("segmentation", "classification")]
    return *fields, gr.Tabs(selected=ANALYSE)


def models_tab(tab: gr.Tab, tabs: gr.Tabs, analyse: AnalyseTab) -> None:
    """Add the tab's components and events to the current Blocks.

    Args:
        tab: this tab.
        tabs: all tabs, of which a model's button opens the Analyse tab.
        analyse: that tab.
    """
    overview = gr.HTML(overview_html(), js_on_load=USE_SCRIPT, elem_id="overview", elem_classes="verdict-box", padding=False)
    with gr.Row(equal_height=False, elem_classes="panes"):
        with gr.Column(scale=4, min_width=320):
            chosen = gr.Dropdown(model_choices(), value=DEFAULT, label="Model details")
        with gr.Column(scale=6, min_width=320):
            button = gr.Button("Verify on this machine", size="md", elem_id="selfcheck", elem_classes="outlined")
            gr.Markdown("Runs the model on a bundled synthetic slice and compares the output with the one stored at release.")
            answer = gr.HTML(elem_id="selfcheck-answer", elem_classes="verdict-box", padding=False)
    shown = gr.HTML(model_html(available_models[DEFAULT]), elem_id="model", elem_classes="verdict-box", padding=False)
    chosen.input(lambda name: (model_html(available_models[name]), None), chosen, [shown, answer], **PRIVATE)
    button.click(run_selfcheck, chosen, answer, api_visibility="private", show_progress_on=answer, **GPU)
    if not ZERO_GPU:  # it would be charged to the visitor's quota
        tab.select(measure, None, overview, api_visibility="private", show_progress="hidden", **GPU)
    analyse.analyse_after(overview.click(use, None, [analyse.segmenter, analyse.classifier, tabs], **PRIVATE))
