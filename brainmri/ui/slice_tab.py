"""The Slice tab and the endpoint `/predict`: upload, verdict, gallery, downloads."""

from __future__ import annotations

import gradio as gr

from brainmri.analysis.explain import Explanation
from brainmri.analysis.findings import Finding
from brainmri.analysis.stability import Stability
from brainmri.io.images import SUFFIXES
from brainmri.io.scan import Scan
from brainmri.report.outputs import write_slice
from brainmri.report.render import gallery, heat_picture
from brainmri.ui.common import (
    ASSETS,
    GPU,
    PRIVATE,
    SCROLL_TO_RESULT,
    empty_state,
    errors_as_messages,
    make_output_folder,
    model_fields,
    probability_scale,
    recognised_sentences,
    safe_stem,
    threshold_input,
    verdict_html,
)
from brainmri.ui.decoding import read_slice
from brainmri.ui.inference import ZERO_GPU, analyse_and_explain_slice, analyse_slice, available_models, explain_slice
from brainmri.ui.logs import record_scan_size, record_upload_size
from brainmri.zoo.attributes import SEQUENCES, THREE_SEQUENCES
from brainmri.zoo.registry import DEFAULT

EXAMPLES = {
    "large-lesion": "Large lesion",
    "small-lesion": "Small lesion",
    "frontal-lesion": "Frontal lesion",
    "flair-only": "FLAIR only",
    "healthy-ventricles": "Healthy, ventricles",
    "healthy-high": "Healthy, high slice",
}
FAILED = "Could not analyse this slice"
EMPTY = empty_state("Upload a slice or pick an example to see the verdict.")


def predict(image: str, segmenter: str = DEFAULT, classifier: str = DEFAULT, threshold: float | None = None) -> tuple:
    """Detect and outline a lower-grade glioma in one axial brain MRI slice. Research demo, not for diagnosis.

    Args:
        image: slice as PNG, JPEG or TIFF; red = pre-contrast T1, green = FLAIR, blue = post-contrast T1; greyscale = FLAIR
        segmenter: name of the model that draws the mask
        classifier: name of the model that predicts the verdict
        threshold: mask threshold on the probability map, 0.05 to 0.95; default: the segmenter's own

    Returns:
        record: verdict (tumour, no tumour or review) with its reason, probability, outlined area, warnings and provenance
        pictures: images of the slice, the mask and the probability map, with captions
        mask: PNG of the slice's size, 255 inside the outline, else 0
        overlay: PNG of the slice with the outline
        finding: the record as a JSON file
    """
    with errors_as_messages(FAILED):
        scan = _read(image)
        finding = analyse_slice(scan, segmenter, classifier, threshold)
        return _write_results(scan, finding)


def _read(image: str | None) -> Scan:
    if not image:
        raise gr.Error("Please upload a slice or pick an example.", duration=15, print_exception=False)
    record_upload_size([image])
    scan = read_slice(image)
    record_scan_size(scan)
    return scan


def _write_results(scan: Scan, finding: Finding) -> tuple:
    """The record, the pictures with captions, and the paths of the written mask, overlay and record."""
    files = write_slice(scan, finding, make_output_folder(), safe_stem(scan.name, "slice"))
    return finding.record(), gallery(scan.pixels, finding), *map(str, files)


def analyse(image: str | None, segmenter: str, classifier: str, threshold: float, sequence: str) -> tuple:
    """Run `predict` for the page, with the MR sequence chosen there, and show the results.

    On ZeroGPU the explanation is shown too: a call of its own would wait for a GPU again.
    """
    if image is None:
        return clear()
    with errors_as_messages(FAILED):
        scan = _read(image)
        choices = segmenter, classifier, threshold, sequence or None
        if ZERO_GPU:
            finding, *explained = analyse_and_explain_slice(scan, *choices)
            shown = _show_explanation(scan, *explained)
        else:
            finding, shown = analyse_slice(scan, *choices), (None, None)
        record, pictures, *files = _write_results(scan, finding)
    return finding_html(record), gr.Column(visible=True), gr.Gallery(pictures, selected_index=0), *files, record, *shown


def explain(image: str | None, segmenter: str, classifier: str, threshold: float, sequence: str) -> tuple:
    """Explain the verdict and test the outline's stability. This is slower, so it runs after the verdict."""
    if image is None:
        return None, None
    with errors_as_messages(FAILED):
        scan = _read(image)
        return _show_explanation(scan, *explain_slice(scan, segmenter, classifier, threshold, sequence or None))


def _show_explanation(scan: Scan, explanation: Explanation, stability: Stability) -> tuple[str, list]:
    """The text and the pictures with captions."""
    pictures = [
        (heat_picture(scan.pixels, explanation.saliency), "Evidence map (class activation)"),
        (heat_picture(scan.pixels, stability.share), f"Stability: how often each pixel is outlined in {stability.runs} runs"),
    ]
    return f"{explanation.sentence} {stability.sentence}", pictures


def clear() -> tuple:
    """Reset the tab's outputs."""
    return EMPTY, gr.Column(visible=False), None, None, None, None, None, None, None


def finding_html(record: dict) -> str:
    """The verdict box for a `Finding.record()`."""
    area, pixels = record["area_px"], record["height"] * record["width"]
    outlined = f"{area:,} of {pixels:,} pixels ({100 * area / pixels:.1f}%)" if area else "nothing"
    out_of_distribution = (
        record["ood"] and record["ood"]["out_of_distribution"]
    )  # a probability of tumour in what is no brain would mislead
    scale = "" if out_of_distribution else probability_scale(record["probability"], record["provenance"]["review_band"])
    sentences = [record["reason"], f"Outlined: {outlined}.", *recognised_sentences(record)]
    return verdict_html(record["verdict"], sentences, record["warnings"], scale)


def slice_tab() -> None:
    """Add the tab's components and events to the current Blocks."""
    examples = {ASSETS / "examples" / f"{stem}.png": label for stem, label in EXAMPLES.items()}
    examples = {path: label for path, label in examples.items() if path.is_file()}
    paths = [str(path) for path in examples]

    def pick(event: gr.SelectData) -> tuple:
        return paths[event.index], gr.Gallery(selected_index=None)

    with gr.Row(equal_height=False, elem_classes="panes", elem_id="panes"):
        with gr.Column(scale=4, min_width=320):
            upload = gr.File(label="Slice (PNG, JPEG or TIFF)", file_types=list(SUFFIXES), type="filepath", height=130)
            gr.Markdown("Or pick an example. All examples are **synthetic**, not from patients.", visible=bool(paths))
            samples = gr.Gallery(
                list(zip(paths, examples.values(), strict=True)), show_label=False, columns=3, object_fit="contain",
                height="auto", allow_preview=False, interactive=False, buttons=[], format="png",
                elem_id="examples", visible=bool(paths),
            )  # fmt: skip
            sequence = gr.Dropdown(
                [("Recognise it", ""), *((name, name) for name in SEQUENCES if name != THREE_SEQUENCES)],
                value="", label="Sequence of a greyscale slice",
                visible=any("attributes" in entry.arguments for entry in available_models.values()),
            )  # fmt: skip
            segmenter, classifier, threshold = model_fields()
            button = gr.Button("Analyse", variant="primary", size="lg")
        with gr.Column(scale=6, min_width=320):
            verdict = gr.HTML(EMPTY, elem_id="verdict", elem_classes="verdict-box", padding=False)
            with gr.Column(visible=False) as results:
                pictures = gr.Gallery(
                    show_label=False, columns=5, preview=True, object_fit="contain", height=460, format="png",
                    buttons=["download", "fullscreen"], interactive=False, elem_id="pictures",
                )  # fmt: skip
                with gr.Row(elem_id="downloads", elem_classes="downloads"):
                    names = ("Mask", "Overlay", "Finding")
                    files = [gr.DownloadButton(f"↓ {name}", size="md", min_width=90) for name in names]
                with gr.Accordion("Explanation and stability", open=True):
                    explanation = gr.Markdown(elem_id="explanation", min_height=40)
                    evidence = gr.Gallery(
                        show_label=False, columns=2, object_fit="contain", height="auto", format="png", buttons=["fullscreen"],
                        interactive=False, elem_id="evidence",
                    )  # fmt: skip
                with gr.Accordion("Record and provenance", open=False):
                    record = gr.JSON(label="Finding", show_label=False)

    inputs = [upload, segmenter, classifier, threshold]
    outputs = [verdict, results, pictures, *files, record, explanation, evidence]
    run = {"fn": analyse, "inputs": [*inputs, sequence], "outputs": outputs, "api_visibility": "private", **GPU}
    chosen = samples.select(pick, None, [upload, samples], show_progress="hidden", **PRIVATE)
    switched = segmenter.input(lambda name: available_models[name].mask_threshold, segmenter, threshold, **PRIVATE)
    runs = [
        gr.on(
            [button.click, upload.upload, classifier.input, sequence.input, threshold.release], trigger_mode="always_last", **run
        ),
        chosen.then(**run),
        switched.then(**run),
    ]
    for analysis in runs:
        analysis.failure(clear, None, outputs, **PRIVATE)  # show no earlier result beside a refused slice
        analysis.success(None, None, None, js=SCROLL_TO_RESULT % "verdict", **PRIVATE)
        if not ZERO_GPU:
            analysis.success(
                explain, run["inputs"], [explanation, evidence], api_visibility="private", show_progress_on=explanation, **GPU
            )
    upload.clear(clear, None, outputs, cancels=[*runs], **PRIVATE)

    own, endpoint = threshold_input(), gr.Button(visible=False)
    endpoint.click(predict, [upload, segmenter, classifier, own], [record, pictures, *files], api_name="predict", **GPU)
