"""One slice: upload, verdict, gallery, downloads; and the endpoint `/predict`."""

from __future__ import annotations

import gradio as gr

from brainmri.io.reading import SUFFIXES
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
    safe_stem,
    threshold_input,
    verdict_html,
)
from brainmri.ui.decoding import read_slice
from brainmri.ui.inference import analyse_slice, available_models, explain_slice
from brainmri.ui.logs import record_scan_size, record_upload_size
from brainmri.zoo.registry import DEFAULT

EXAMPLES = {
    "large-lesion": "Large lesion",
    "small-lesion": "Small lesion",
    "frontal-lesion": "Frontal lesion",
    "flair-only": "FLAIR only",
    "healthy-ventricles": "Healthy, ventricles",
    "healthy-high": "Healthy, high slice",
}
EMPTY = empty_state("Upload a slice or choose an example; the verdict appears here.")


def predict(image: str, segmenter: str = DEFAULT, classifier: str = DEFAULT, threshold: float | None = None) -> tuple:
    """Look for a lower-grade glioma in one axial brain MR slice: verdict, mask, overlay. A research demo, not for diagnosis.

    Args:
        image: the slice, a PNG, JPEG or TIFF file; red is pre-contrast T1, green FLAIR, blue post-contrast T1; grey is FLAIR
        segmenter: name of the model that draws the mask
        classifier: name of the model that gives the verdict
        threshold: of the mask, on the probability map, 0.05 to 0.95; the segmenter's own when left out

    Returns:
        record: verdict (tumour, no tumour or review) with its reason, probability, outlined area, warnings and provenance
        pictures: captioned views of the slice, the mask and the probability map
        mask: PNG of the slice's size, 255 where tumour is outlined, else 0
        overlay: PNG, the outline on the slice
        finding: JSON file of the record
    """
    if not image:
        raise gr.Error("No slice came; upload one or choose an example.", duration=15, print_exception=False)
    with errors_as_messages("This slice was refused"):
        record_upload_size([image])
        scan = read_slice(image)
        record_scan_size(scan)
        finding = analyse_slice(scan, segmenter, classifier, threshold)
        files = write_slice(scan, finding, make_output_folder(), safe_stem(scan.name, "slice"))
        return finding.record(), gallery(scan.pixels, finding), *map(str, files)


def analyse(image: str | None, segmenter: str, classifier: str, threshold: float) -> tuple:
    """`predict` for the page: the verdict in words, and the results shown."""
    if image is None:
        return clear()
    record, pictures, *files = predict(image, segmenter, classifier, threshold)
    return finding_html(record), gr.Column(visible=True), gr.Gallery(pictures, selected_index=0), *files, record, None, None


def explain(image: str | None, segmenter: str, classifier: str, threshold: float) -> tuple:
    """Why the verdict is what it is, and whether the outline stands small changes; slower, so after the verdict."""
    if image is None:
        return None, None
    with errors_as_messages("This slice was refused"):
        record_upload_size([image])
        scan = read_slice(image)
        record_scan_size(scan)
        explanation, stability = explain_slice(scan, segmenter, classifier, threshold)
    pictures = [
        (heat_picture(scan.pixels, explanation.saliency), "What the verdict looked at"),
        (heat_picture(scan.pixels, stability.share), f"How often each pixel was outlined in {stability.runs} tries"),
    ]
    return f"{explanation.sentence} {stability.sentence}", pictures


def clear() -> tuple:
    """The tab's outputs before any analysis."""
    return EMPTY, gr.Column(visible=False), None, None, None, None, None, None, None


def finding_html(record: dict) -> str:
    """The verdict as the page shows it, from `Finding.record()`."""
    area, pixels = record["area_px"], record["height"] * record["width"]
    outlined = f"{area:,} of {pixels:,} pixels ({100 * area / pixels:.1f} %)" if area else "nothing"
    out_of_distribution = (
        record["ood"] and record["ood"]["out_of_distribution"]
    )  # a probability of tumour in what is no brain would mislead
    scale = "" if out_of_distribution else probability_scale(record["probability"], record["provenance"]["review_band"])
    return verdict_html(record["verdict"], [record["reason"], f"Outlined: {outlined}."], record["warnings"], scale)


def slice_tab() -> None:
    """The tab's components and events, in the Blocks at hand."""
    examples = {ASSETS / "examples" / f"{stem}.png": label for stem, label in EXAMPLES.items()}
    examples = {path: label for path, label in examples.items() if path.is_file()}
    paths = [str(path) for path in examples]

    def pick(event: gr.SelectData) -> tuple:
        return paths[event.index], gr.Gallery(selected_index=None)

    with gr.Row(equal_height=False, elem_classes="panes", elem_id="panes"):
        with gr.Column(scale=4, min_width=320):
            upload = gr.File(label="Slice (PNG, JPEG or TIFF)", file_types=list(SUFFIXES), type="filepath", height=130)
            gr.Markdown("Or choose an example. All are **synthetic**, of no patient.", visible=bool(paths))
            samples = gr.Gallery(
                list(zip(paths, examples.values(), strict=True)), show_label=False, columns=3, object_fit="contain",
                height="auto", allow_preview=False, interactive=False, buttons=[], format="png",
                elem_id="examples", visible=bool(paths),
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
                with gr.Accordion("Why, and how stable", open=True):
                    why = gr.Markdown(elem_id="why", min_height=40)
                    reasons = gr.Gallery(
                        show_label=False, columns=2, object_fit="contain", height="auto", format="png", buttons=["fullscreen"],
                        interactive=False, elem_id="reasons",
                    )  # fmt: skip
                with gr.Accordion("Record and provenance", open=False):
                    record = gr.JSON(label="Finding", show_label=False)

    inputs, outputs = [upload, segmenter, classifier, threshold], [verdict, results, pictures, *files, record, why, reasons]
    run = {"fn": analyse, "inputs": inputs, "outputs": outputs, "api_visibility": "private", **GPU}
    chosen = samples.select(pick, None, [upload, samples], show_progress="hidden", **PRIVATE)
    switched = segmenter.input(lambda name: available_models[name].mask_threshold, segmenter, threshold, **PRIVATE)
    runs = [
        gr.on([button.click, upload.upload, classifier.input, threshold.release], trigger_mode="always_last", **run),
        chosen.then(**run),
        switched.then(**run),
    ]
    for analysis in runs:
        analysis.failure(clear, None, outputs, **PRIVATE)  # nothing of an earlier slice stays beside a refused one
        analysis.success(None, None, None, js=SCROLL_TO_RESULT % "verdict", **PRIVATE)
        analysis.success(explain, inputs, [why, reasons], api_visibility="private", show_progress_on=why, **GPU)
    upload.clear(clear, None, outputs, cancels=runs, **PRIVATE)

    # the endpoint for programs: the same function without the page's dressing
    own, endpoint = threshold_input(), gr.Button(visible=False)
    endpoint.click(predict, [upload, segmenter, classifier, own], [record, pictures, *files], api_name="predict", **GPU)
