"""The Compare tab and the endpoint `/compare`: one slice, several models, results side by side."""

from __future__ import annotations

from html import escape

import gradio as gr

from brainmri.analysis.compare import ModelResult, disagreement, overlap
from brainmri.analysis.findings import percent
from brainmri.io.images import SUFFIXES
from brainmri.report.render import heat_picture, overlay_picture
from brainmri.ui.common import ASSETS, GPU, PRIVATE, empty_state, errors_as_messages
from brainmri.ui.decoding import read_slice
from brainmri.ui.inference import available_models, compare_models
from brainmri.ui.logs import record_scan_size, record_upload_size

EXAMPLE = ASSETS / "examples" / "small-lesion.png"
EMPTY = empty_state("Upload a slice or pick the example to compare models.")


def compare(image: str, models: list[str] | None = None) -> tuple[dict, list]:
    """Compare several models on one axial brain MRI slice. Research demo, not for diagnosis.

    Args:
        image: slice as PNG, JPEG or TIFF; red = pre-contrast T1, green = FLAIR, blue = post-contrast T1; greyscale = FLAIR
        models: names of the models; default: all available models

    Returns:
        record: probability of tumour, outlined area and seconds for each model; mean Dice between the masks
        pictures: an overlay for each mask, and a map of where the masks disagree
    """
    if not image:
        raise gr.Error("Please upload a slice or pick the example.", duration=15, print_exception=False)
    with errors_as_messages("Could not analyse this slice"):
        record_upload_size([image])
        scan = read_slice(image)
        record_scan_size(scan)
        results = compare_models(scan, models or list(available_models))
        return _record(results), _pictures(results, scan.pixels)


def _record(results: list[ModelResult]) -> dict:
    dice = overlap(results)
    return {
        "models": [result.record() for result in results],
        "mean_dice_between_masks": None if dice is None else round(dice, 4),
    }


def _pictures(results: list[ModelResult], pixels) -> list[tuple]:
    pictures = [
        (overlay_picture(pixels, result.mask), f"{result.name}: {int(result.mask.sum()):,} pixels")
        for result in results
        if result.mask is not None
    ]
    where = disagreement(results)
    return pictures if where is None else [*pictures, (heat_picture(pixels, where), "Where the masks disagree")]


def analyse(image: str | None, models: list[str]) -> tuple:
    """Run `compare` for the page; return a table and the pictures."""
    if image is None:
        return clear()
    if not models:
        raise gr.Error("Please select at least one model.", duration=15, print_exception=False)
    record, pictures = compare(image, models)
    return table_html(record), gr.Gallery(pictures, visible=bool(pictures))


def table_html(record: dict) -> str:
    """A table with one row for each model."""

    def row(model: dict) -> str:
        probability = "-" if model["probability"] is None else percent(model["probability"])
        area = "-" if model["area_px"] is None else f"{model['area_px']:,} pixels"
        cells = "".join(f"<td>{cell}</td>" for cell in (probability, area, f"{1000 * model['seconds']:.0f} ms"))
        return f"<tr><th scope='row'>{escape(model['name'])}</th>{cells}</tr>"

    heads = "".join(f"<th scope='col'>{head}</th>" for head in ("Model", "Probability of tumour", "Outlined area", "Time"))
    dice = record["mean_dice_between_masks"]
    agreement = "" if dice is None else f"<p>The masks overlap with a mean Dice of {dice:.2f}.</p>"
    rows = "".join(row(model) for model in record["models"])
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<div class='model'><div class='table' role='group' aria-label='Results' tabindex='0'>{table}</div>{agreement}</div>"


def clear() -> tuple:
    """The tab's outputs before any analysis."""
    return EMPTY, gr.Gallery(None, visible=False)


def compare_tab() -> None:
    """Add the tab's components and events to the current Blocks."""
    with gr.Row(equal_height=False, elem_classes="panes"):
        with gr.Column(scale=4, min_width=320):
            upload = gr.File(label="Slice (PNG, JPEG or TIFF)", file_types=list(SUFFIXES), type="filepath", height=130)
            example = gr.Button(
                "Example: small synthetic lesion", size="sm", visible=EXAMPLE.is_file(), elem_id="compare-example"
            )
            models = gr.CheckboxGroup(list(available_models), value=list(available_models), label="Models")
            button = gr.Button("Compare", variant="primary", size="lg")
        with gr.Column(scale=6, min_width=320):
            table = gr.HTML(EMPTY, elem_id="comparison-table", elem_classes="verdict-box", padding=False)
            pictures = gr.Gallery(
                show_label=False, columns=2, object_fit="contain", height="auto", format="png", buttons=["fullscreen"],
                interactive=False, visible=False, elem_id="comparison-pictures",
            )  # fmt: skip

    inputs, outputs = [upload, models], [table, pictures]
    run = {"fn": analyse, "inputs": inputs, "outputs": outputs, "api_visibility": "private", "show_progress_on": table, **GPU}
    chosen = example.click(lambda: str(EXAMPLE), None, upload, show_progress="hidden", **PRIVATE)
    runs = [gr.on([button.click, upload.upload], **run), chosen.then(**run)]
    for analysis in runs:
        analysis.failure(clear, None, outputs, **PRIVATE)
    upload.clear(clear, None, outputs, cancels=[*runs], **PRIVATE)

    record, endpoint = gr.JSON(visible=False), gr.Button(visible=False)
    endpoint.click(compare, [upload, models], [record, pictures], api_name="compare", **GPU)
