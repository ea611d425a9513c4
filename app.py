"""The web page: thin handlers over `brainmri.predict` and `brainmri.render`.

    python app.py [--models DIR_OR_REPO…]        # http://127.0.0.1:7860, or the port in GRADIO_SERVER_PORT

Nothing of a request outlives it but the files it offers for download: the only state is what models are offered, and a bounded
cache of their networks.
"""

from __future__ import annotations

try:
    import spaces  # ZeroGPU has to be told before anything touches CUDA
except ImportError:
    spaces = None

import argparse
import json
import logging
import re
import tempfile
from functools import lru_cache
from html import escape
from pathlib import Path

import gradio as gr

import brainmri
from brainmri.entry import ModelEntry
from brainmri.findings import NO_TUMOUR, REVIEW, TUMOUR, Finding, percent
from brainmri.hub import HubError
from brainmri.predict import Pipeline
from brainmri.reading import ACCEPTED, MAX_BYTES, SUFFIXES, Scan, read_slice
from brainmri.render import gallery, mask_picture, overlay_picture
from brainmri.zoo import DEFAULT, LoadedModel, embedded, find_entry, pins

ASSETS = Path(__file__).parent / "assets"
EXAMPLES = {
    "large-lesion": "Large lesion",
    "small-lesion": "Small lesion",
    "frontal-lesion": "Frontal lesion",
    "flair-only": "FLAIR only",
    "healthy-ventricles": "Healthy, ventricles",
    "healthy-high": "Healthy, high slice",
}
SWEEP, KEEP = 5 * 60, 25 * 60  # seconds between sweeps of the temporary files, and the age at which a sweep deletes them
QUEUE = 32
STATES = {TUMOUR: ("tumour", "▲", "Tumour"), NO_TUMOUR: ("clear", "●", "No tumour"), REVIEW: ("review", "◆", "Please review")}

INTRO = """
# Brain MRI: tumour or not, and where
Give it one axial brain MR slice. It says whether the slice shows a lower-grade glioma and outlines it; where the verdict and the
outline disagree, it asks for a human. **A research demo, not a medical device: not for diagnosis.**
"""
ABOUT = f"""
**Limits.** Trained on lower-grade gliomas of adults (TCGA-LGG, axial slices; pre-contrast T1, FLAIR and post-contrast T1 as red,
green and blue). Other tumours, other sequences, other planes, children and post-operative scans were not seen in training, and
the answer on them means little. It sees one slice, never the patient. A healthy-looking answer does not rule a tumour out.

**Input.** {ACCEPTED}. A greyscale picture is taken for FLAIR.

**Probability.** Calibrated on validation patients by one temperature. Inside the review band (hatched on the scale), or when
verdict and mask disagree, the answer is *please review*.

**Your data.** The slice is processed on the machine that serves this page and sent nowhere else; nothing is collected and no run
is recorded. The upload and the results lie in temporary files there, reachable by whoever has their long address, and are deleted
within {(SWEEP + KEEP) // 60} minutes. Please upload nothing that names a patient.
"""
EMPTY = '<div class="verdict empty" role="status">Upload a slice or choose an example; the verdict appears here.</div>'
# on a phone the results lie below the controls; the wait lets the gallery, which takes the focus as it opens, scroll first
SHOW_VERDICT = """() => { setTimeout(() => {
    const verdict = document.querySelector("#verdict"), box = verdict.getBoundingClientRect();
    if (box.top < 0 || box.bottom > window.innerHeight) verdict.scrollIntoView({behavior: "smooth", block: "start"});
}, 500); }"""

log = logging.getLogger(__name__)


# what a visitor may choose: the zoo, and what whoever runs the page added to it
offered: dict[str, ModelEntry] = {}


def offer(sources: list[str]) -> None:
    """Offer the zoo, pulling what was published and is not at hand, and other entries: folders, OWNER/NAME on the Hub."""
    offered.clear()
    for source in [*sorted({*embedded(), *pins()}), *sources]:
        offered[source] = find_entry(source)


@lru_cache(maxsize=4)
def network(name: str) -> LoadedModel:
    """A network that is offered, kept for the next request; nobody else's name makes the server load or fetch anything."""
    if name not in offered:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(offered)}")
    return brainmri.load(name, weights=offered[name].folder)


def infer(scan: Scan, segmenter: str, classifier: str, threshold: float | None) -> Finding:
    """The part that needs an accelerator; names go in rather than networks, since ZeroGPU runs it in another process."""
    return Pipeline(network(segmenter), network(classifier), mask_threshold=threshold)(scan)


if spaces is not None:
    infer = spaces.GPU(duration=20)(infer)


def predict(image: str, segmenter: str = DEFAULT, classifier: str = DEFAULT, threshold: float | None = None) -> tuple:
    """Analyse one brain MR slice.

    Args:
        image: a PNG, JPEG or TIFF slice.
        segmenter: model that draws the mask.
        classifier: model that gives the verdict.
        threshold: on the probability map, 0.05 to 0.95; the segmenter's own when left out.

    Returns:
        The finding's record, captioned pictures, and three files: mask (PNG, 0 and 255), overlay (PNG), finding (JSON).
    """
    if not image:
        raise gr.Error("No slice came; upload one or choose an example.", duration=15, print_exception=False)
    try:
        scan = read_slice(image)
        finding = infer(scan, segmenter, classifier, threshold)
        return finding.record(), gallery(scan.pixels, finding), *write_files(scan, finding)
    except gr.Error:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise gr.Error(escape(str(error)), title="This slice was refused", duration=15, print_exception=False) from error
    except Exception as error:
        log.exception("analysis failed")
        sorry = "Something went wrong on our side, and it was logged. Please try again or try another slice."
        raise gr.Error(sorry, duration=15, print_exception=False) from error


def write_files(scan: Scan, finding: Finding) -> tuple[str, str, str]:
    """Mask, overlay and record in a fresh folder of Gradio's cache, from where they are served and swept."""
    cache = Path(gr.utils.get_upload_folder())
    cache.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=cache))
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(scan.name).stem)[:80].strip("._") or "slice"
    mask, overlay, record = (folder / f"{stem}{end}" for end in ("_mask.png", "_overlay.png", "_finding.json"))
    mask_picture(finding.mask).save(mask)
    overlay_picture(scan.pixels, finding.mask).save(overlay)
    record.write_text(json.dumps(finding.record(), indent=2) + "\n", encoding="utf-8")
    return str(mask), str(overlay), str(record)


def analyse(image: str | None, segmenter: str, classifier: str, threshold: float) -> tuple:
    """`predict` for the page: the verdict in words, and the results shown."""
    if image is None:
        return blank()
    record, pictures, *files = predict(image, segmenter, classifier, threshold)
    return verdict_html(record), gr.Column(visible=True), gr.Gallery(pictures, selected_index=0), *files, record


def blank() -> tuple:
    """The page's outputs before any analysis."""
    return EMPTY, gr.Column(visible=False), None, None, None, None, None


def verdict_html(record: dict) -> str:
    """The verdict as the page shows it, from `Finding.record()`."""
    state, sign, words = STATES[record["verdict"]]
    low, high = (100 * edge for edge in record["provenance"]["review_band"])
    p, area, pixels = record["probability"], record["area_px"], record["height"] * record["width"]
    outlined = f"{area:,} of {pixels:,} pixels ({100 * area / pixels:.1f} %)" if area else "nothing"
    warnings = "".join(f"<p class='warning'><b>Note:</b> {escape(w)}.</p>" for w in record["warnings"])
    return f"""
<section class="verdict {state}" role="status">
  <h2><span aria-hidden="true">{sign}</span> {words}</h2>
  <p class="probability"><b>{percent(p)}</b> probability of tumour</p>
  <div class="scale" aria-hidden="true">
    <i class="band" style="left:{low:.2f}%;width:{high - low:.2f}%"></i><i class="needle" style="left:{100 * p:.2f}%"></i>
  </div>
  <p>{escape(record["reason"])} Outlined: {outlined}.</p>{warnings}
</section>"""


def model_html(entry: ModelEntry) -> str:
    """What the page tells of one entry of the zoo: its figures in a table, a column for each variant of the input."""
    does = {("segmentation",): "mask", ("classification",): "verdict"}.get(entry.tasks, "mask and verdict")
    title = f"<h3>{escape(entry.name)} <small>{does} · {entry.parameters:,} parameters</small></h3>"
    if not entry.metrics:
        return f"<article class='model'>{title}<p>{escape(entry.summary)}. Not measured.</p></article>"
    variants = entry.metrics["variants"]
    names = [name for name, figure in next(iter(variants.values())).items() if isinstance(figure, dict) and "value" in figure]

    def cell(figure: dict) -> str:
        interval = " <small>({:.3f} to {:.3f})</small>".format(*figure["interval_95"]) if "interval_95" in figure else ""
        return f"<td>{figure['value']:.3f}{interval}</td>"

    head = "".join(f"<th scope='col'>{escape(variant)}</th>" for variant in variants)
    rows = "".join(f"<tr><th scope='row'>{escape(n)}</th>{''.join(cell(v[n]) for v in variants.values())}</tr>" for n in names)
    return f"""
<article class="model">{title}
<p>{escape(entry.summary)}. Measured on: {escape(entry.metrics["protocol"])}; 95 % intervals over patients in brackets.</p>
<div class="table"><table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div></article>"""


def build(models: list[str] | None = None) -> gr.Blocks:
    """The page, not launched yet.

    Args:
        models: folders or OWNER/NAME on the Hub to offer beside the zoo.
    """
    offer(models or [])
    labels = {name: entry.name if name == entry.name else f"{entry.name} ({name})" for name, entry in offered.items()}
    segmenters, classifiers = (
        [(labels[name], name) for name, entry in offered.items() if task in entry.tasks]
        for task in ("segmentation", "classification")
    )
    examples = {ASSETS / "examples" / f"{stem}.png": label for stem, label in EXAMPLES.items()}
    examples = {path: label for path, label in examples.items() if path.is_file()}
    paths = [str(path) for path in examples]

    def pick(event: gr.SelectData) -> tuple:
        return paths[event.index], gr.Gallery(selected_index=None)

    with gr.Blocks(title="Brain MRI demo", analytics_enabled=False, delete_cache=(SWEEP, KEEP)) as page:
        gr.Markdown(INTRO, elem_id="intro")
        with gr.Row(equal_height=False, elem_id="panes"):
            with gr.Column(scale=4, min_width=320):
                upload = gr.File(label="Slice (PNG, JPEG or TIFF)", file_types=list(SUFFIXES), type="filepath", height=130)
                gr.Markdown("Or choose an example. All are **synthetic**, of no patient.", visible=bool(paths))
                samples = gr.Gallery(
                    list(zip(paths, examples.values(), strict=True)), show_label=False, columns=3, object_fit="contain",
                    height="auto", allow_preview=False, interactive=False, buttons=[], format="png",
                    elem_id="examples", visible=bool(paths),
                )  # fmt: skip
                with gr.Accordion("Models and mask threshold", open=False):
                    segmenter = gr.Dropdown(segmenters, value=DEFAULT, label="Segmenter", info="Draws the mask.")
                    classifier = gr.Dropdown(classifiers, value=DEFAULT, label="Classifier", info="Gives the verdict.")
                    threshold = gr.Slider(
                        0.05, 0.95, offered[DEFAULT].mask_threshold, step=0.05, label="Mask threshold",
                        info="Lower outlines more, higher only what is surest. The verdict's probability does not depend on it.",
                    )  # fmt: skip
                button = gr.Button("Analyse", variant="primary", size="lg")
            with gr.Column(scale=6, min_width=320):
                verdict = gr.HTML(EMPTY, elem_id="verdict", padding=False)
                with gr.Column(visible=False) as results:
                    pictures = gr.Gallery(
                        show_label=False, columns=5, preview=True, object_fit="contain", height=460, format="png",
                        buttons=["download", "fullscreen"], interactive=False, elem_id="pictures",
                    )  # fmt: skip
                    with gr.Row(elem_id="downloads"):
                        names = ("Mask", "Overlay", "Finding")
                        files = [gr.DownloadButton(f"↓ {name}", size="md", min_width=90) for name in names]
                    with gr.Accordion("Record and provenance", open=False):
                        record = gr.JSON(label="Finding", show_label=False)
        with gr.Accordion("Models", open=False):
            gr.HTML("".join(model_html(entry) for entry in offered.values()))
        with gr.Accordion("About, limits and your data", open=False):
            gr.Markdown(ABOUT)

        gpu = {"concurrency_limit": 1, "concurrency_id": "gpu"}
        inputs, outputs = [upload, segmenter, classifier, threshold], [verdict, results, pictures, *files, record]
        run = {"fn": analyse, "inputs": inputs, "outputs": outputs, "api_visibility": "private", **gpu}
        private = {"api_visibility": "private", "queue": False}
        chosen = samples.select(pick, None, [upload, samples], show_progress="hidden", **private)
        switched = segmenter.input(lambda name: offered[name].mask_threshold, segmenter, threshold, **private)
        runs = [
            gr.on([button.click, upload.upload, classifier.input, threshold.release], trigger_mode="always_last", **run),
            chosen.then(**run),
            switched.then(**run),
        ]
        for analysis in runs:
            analysis.failure(blank, None, outputs, **private)  # nothing of an earlier slice stays beside a refused one
            analysis.success(None, None, None, js=SHOW_VERDICT, **private)
        upload.clear(blank, None, outputs, cancels=runs, **private)

        # the endpoint for programs: the same function without the page's dressing
        own = gr.Number(None, minimum=0.05, maximum=0.95, label="Mask threshold", visible=False)
        endpoint = gr.Button(visible=False)
        endpoint.click(predict, [upload, segmenter, classifier, own], [record, pictures, *files], api_name="predict", **gpu)
    return page.queue(max_size=QUEUE)


def launch_options() -> dict:
    """How the page is served, wherever it is served."""
    theme = gr.themes.Default(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", radius_size="lg",
        font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"),  # none fetched from elsewhere
    ).set(
        # white on the lighter teal of the default is hard to read
        button_primary_background_fill="*primary_700", button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800", button_primary_background_fill_hover_dark="*primary_600",
    )  # fmt: skip
    return {
        "theme": theme,
        "css_paths": ASSETS / "page.css",
        "allowed_paths": [str(ASSETS / "examples")],
        "max_file_size": MAX_BYTES,
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
    }


def main() -> None:
    """Load the default network, so that the first visitor does not wait for it, and serve the page."""
    parser = argparse.ArgumentParser(description="The demo's page. Research demo, not a medical device.")
    parser.add_argument(
        "--models", nargs="*", default=[], metavar="DIR_OR_REPO", help="more entries: folders, OWNER/NAME on the Hub"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    try:
        page = build(options.models)
    except (ValueError, FileNotFoundError, HubError) as error:
        parser.error(str(error))
    network(DEFAULT)
    page.launch(**launch_options())


if __name__ == "__main__":
    main()
