"""What is known of each model: figures, reliability, where it fails, its card; and whether it computes here what it should."""

from __future__ import annotations

import logging
import re
from html import escape

import gradio as gr
from markdown_it import MarkdownIt

from brainmri.report.metric_tables import failure_tables, figure_table, reliability_svg, reliability_table
from brainmri.ui.common import GPU, PRIVATE, errors_as_messages, model_choices
from brainmri.ui.inference import available_models, check
from brainmri.zoo.entry import CARD, ModelEntry
from brainmri.zoo.metrics import FAILURES, RELIABILITY, THREE_SEQUENCES, VARIANTS
from brainmri.zoo.registry import DEFAULT

log = logging.getLogger(__name__)

MAX_CARD_CHARS = 50_000  # characters of a card that are shown
FRONT_MATTER = re.compile(r"\A---\r?\n.*?\r?\n---\r?\n", re.DOTALL)
TASK_LABELS = {("segmentation",): "mask", ("classification",): "verdict"}
FAILURES_NOTE = """The same patients; groups and worst patients on three sequences, slice by slice. Tumours are grouped by their pixels
over all slices, slices in order from the neck upwards. Slice Dice is over slices with tumour, the verdict by slice at 0.5."""
RELIABILITY_NOTE = """Where the verdict says 80 %, four of five slices should show a tumour: the dots should lie on the dashed line. The
larger a dot, the more slices; whiskers are 95 % intervals over patients, none where all agree; the review band is shaded."""


def safe_html(markdown: str, shift: int = 2) -> str:
    """Markdown to HTML that is safe from whomever it comes: no raw HTML, no pictures, links to the web alone.

    Args:
        shift: levels by which headings are lowered, to fit under the page's own.
    """
    renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = renderer.parse(markdown)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + shift)}"
        for child in token.children or ():
            if child.type == "image":  # its words stay; a picture from elsewhere would tell on the visitor
                child.type, child.content, child.children = "text", child.content and f"[{child.content}]", None
            elif child.type == "link_open":
                child.attrs = _link_attributes(str(child.attrs["href"]))
    html = renderer.renderer.render(tokens, renderer.options, {})
    scrolls = '<div class="table" role="group" aria-label="Table" tabindex="0"><table>'  # by keyboard too, where it is narrow
    return html.replace("<table>", scrolls).replace("</table>", "</table></div>")


def _link_attributes(address: str) -> dict:
    """A link's attributes; none where it leads to a file beside the card or to an address that is not the web's."""
    web = address.startswith(("https://", "http://"))
    return {"href": address, "target": "_blank", "rel": "noopener noreferrer nofollow"} if web else {}


def card_html(entry: ModelEntry) -> str:
    """The entry's card without its front matter, folded up."""
    path = entry.folder / CARD
    if not path.is_file():
        return "<p>This entry has no card.</p>"
    with path.open(encoding="utf-8", errors="replace") as handle:
        text = handle.read(MAX_CARD_CHARS + 1)
    cut = "\n\n*The rest of this card is too long to be shown.*" if len(text) > MAX_CARD_CHARS else ""
    body = safe_html(FRONT_MATTER.sub("", text[:MAX_CARD_CHARS], count=1) + cut)
    return f"<details class='card'><summary>The whole card</summary>{body}</details>"


def figures_html(entry: ModelEntry) -> str:
    """Its figures, reliability diagrams and failures, as far as they were measured and stored."""
    if not entry.metrics:
        return "<p>Not measured.</p>"
    variants = entry.metrics["variants"]
    first = variants[THREE_SEQUENCES]
    counts = f"{first['patients']:,} patients, {first['slices']:,} slices"
    protocol = f"<p>{counts}: {escape(entry.metrics['protocol'])}. In brackets 95 % intervals over patients.</p>"
    parts = [protocol, safe_html(figure_table(variants))]
    if "classification" in entry.tasks:
        parts.append("<h3>Can its probabilities be believed?</h3>")
        shown = [variant for variant in VARIANTS if RELIABILITY in variants.get(variant, {})]
        figures = "".join(
            f"<figure>{reliability_svg(entry, variant)}<figcaption>{VARIANTS[variant]}</figcaption></figure>" for variant in shown
        )
        numbers = f"<details><summary>The numbers</summary>{safe_html(reliability_table(variants))}</details>"
        diagrams = f"<p>{RELIABILITY_NOTE}</p><div class='diagrams'>{figures}</div>{numbers}"
        parts.append(diagrams if shown else "<p>The reliability diagram was not stored with this entry.</p>")
    parts.append("<h3>Where it fails</h3>")
    if FAILURES in first:
        parts += [f"<p>{FAILURES_NOTE}</p>", safe_html(failure_tables(variants))]
    else:
        parts.append("<p>Where it fails was not stored with this entry.</p>")
    return "".join(parts)


def model_html(entry: ModelEntry) -> str:
    """What the page tells of one entry, which may be a stranger's: whatever it holds is escaped or checked."""
    does = TASK_LABELS.get(entry.tasks, "mask and verdict")
    try:
        figures = figures_html(entry)
    except Exception:
        log.exception("the figures of %s cannot be shown", entry.folder)
        figures = "<p>Its measured figures are not of this layout, so they are not shown.</p>"
    return f"""
<article class="model"><h2>{escape(entry.name)} <small>{does} · {entry.parameters:,} parameters</small></h2>
<p>{escape(entry.summary)}</p>{figures}{card_html(entry)}</article>"""


def run_selfcheck(name: str) -> str:
    """Whether a model computes on this machine what it did when it was released, in a sentence."""
    with errors_as_messages("The check could not be made"):
        found = check(name)
    state, sign = ("well", "✓") if found.well else ("ill", "✗")
    return f"<p class='{state}'><span aria-hidden='true'>{sign}</span> {escape(found.sentence)}.</p>"


def models_tab() -> None:
    """The tab's components and events, in the Blocks at hand."""
    with gr.Row(equal_height=False, elem_classes="panes"):
        with gr.Column(scale=4, min_width=320):
            chosen = gr.Dropdown(model_choices(), value=DEFAULT, label="Model")
            button = gr.Button("Check this machine", size="sm", elem_id="selfcheck")
        with gr.Column(scale=6, min_width=320):
            gr.Markdown(
                "The check asks the model about a bundled synthetic slice, here and now, and compares with the answer that was "
                "stored when it was released."
            )
            answer = gr.HTML(elem_id="selfcheck-answer", elem_classes="verdict-box", padding=False)
    shown = gr.HTML(model_html(available_models[DEFAULT]), elem_id="model", elem_classes="verdict-box", padding=False)
    chosen.input(lambda name: (model_html(available_models[name]), None), chosen, [shown, answer], **PRIVATE)
    button.click(run_selfcheck, chosen, answer, api_visibility="private", show_progress_on=answer, **GPU)
