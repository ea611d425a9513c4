"""The Compare tab and the endpoint `/compare`: one slice, several models, the outlines of all in one picture."""

from __future__ import annotations

from dataclasses import replace
from html import escape

import gradio as gr

from brainmri.analysis.compare import ModelResult, disagreement, overlap
from brainmri.analysis.findings import percent
from brainmri.io.scan import Scan
from brainmri.report.comparison import outline_colour, outlines_picture
from brainmri.report.render import heat_picture, overlay_picture
from brainmri.report.viewer import first_slice
from brainmri.ui.answer import empty_state, refusal
from brainmri.ui.blocks import ERROR_LOGGED
from brainmri.ui.common import ASSETS, GPU, PRIVATE, REPLACE_SCRIPT, errors_as_messages, model_choices, model_heading
from brainmri.ui.decoding import list_inputs, read_slice, read_study
from brainmri.ui.inference import analyse_study, available_models, compare_models
from brainmri.ui.inputs import SLICE
from brainmri.ui.logs import record_refusal, record_scan_size, record_upload_size
from brainmri.zoo.registry import DEFAULT

EXAMPLE = ASSETS / "examples" / "small-lesion.png"
EMPTY = empty_state("Drop a slice or a study, or pick the example, to compare models.")
FAILED = "Could not compare the models"


def compare(image: str, models: list[str] | None = None) -> tuple[dict, list]:
    """Compare several models on one brain MRI slice. Research demo, not for diagnosis.

    Args:
        image: slice as PNG, JPEG or TIFF; red = pre-contrast T1, green = FLAIR, blue = post-contrast T1; greyscale = one sequence
        models: names of the models; default: all available models

    Returns:
        record: probability of tumour, outlined area and seconds for each model; mean Dice between the masks
        pictures: an overlay for each mask, and a map of where the masks disagree
    """
    if not image:
        raise gr.Error("Please upload a slice.", print_exception=False)
    with errors_as_messages(FAILED):
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


def read_one_slice(files: list[str]) -> tuple[Scan, str]:
    """The slice to compare on, and its name: of a study, the one in which the default model outlines most."""
    record_upload_size(files)
    chosen = list_inputs(files)[0]
    if chosen.kind == SLICE:
        return read_slice(chosen.files[0]), chosen.label
    scan = read_study(chosen.files, None, chosen.study)
    number = first_slice(analyse_study(scan, DEFAULT, DEFAULT, None))
    return replace(scan, pixels=scan.pixels[number], geometry=None), f"{chosen.label}, slice {number + 1}"


def analyse(files: list[str] | None, models: list[str]) -> tuple:
    """Compare the selected models for the page; return a table and a picture, or the reason of a refusal."""
    try:
        if not files:
            raise gr.Error("Please drop a file or pick the example first.", title="Nothing to compare")
        if not models:
            raise gr.Error("Please select at least one model.", title="Nothing to compare")
        with errors_as_messages(FAILED):
            scan, name = read_one_slice(files)
            record_scan_size(scan)
            results = compare_models(scan, models)
    except gr.Error as error:
        record_refusal()
        return refusal(error.title, error.message), gr.Image(visible=False)
    masks = {number: result.mask for number, result in enumerate(results) if result.mask is not None}
    picture = outlines_picture(scan.pixels, masks)
    return table_html(_record(results), name), gr.Image(picture, visible=bool(masks), label=f"Outlines on {name}")


def table_html(record: dict, name: str) -> str:
    """A table with one row for each model, which is also the legend of the picture."""

    def row(number: int, model: dict) -> str:
        probability = "-" if model["probability"] is None else percent(model["probability"])
        area, swatch = "-", ""
        if model["area_px"] is not None:
            area = f"{model['area_px']:,} pixels"
            swatch = f"<i class='swatch' style='background:{outline_colour(number)}'></i>"
        cells = "".join(f"<td>{cell}</td>" for cell in (probability, area, f"{1000 * model['seconds']:.0f} ms"))
        heading = model_heading(model["name"], available_models[model["name"]])
        return f"<tr><th scope='row'>{swatch}{heading}</th>{cells}</tr>"

    heads = "".join(f"<th scope='col'>{head}</th>" for head in ("Model", "Probability of tumour", "Outlined area", "Time"))
    dice = record["mean_dice_between_masks"]
    agreement = "" if dice is None else f" The masks overlap with a mean Dice of {dice:.2f}."
    specialists = {one["name"]: available_models[one["name"]].specialist for one in record["models"]}
    replaced = "".join(
        f" On the Analyse tab, {escape(specialist.name)} replaces {escape(model)} for slices like those it was trained on."
        for model, specialist in specialists.items()
        if specialist
    )
    rows = "".join(row(number, model) for number, model in enumerate(record["models"]))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    scrolls = f"<div class='table' role='group' aria-label='Results' tabindex='0'>{table}</div>"
    return f"<div class='model'><p><b>{escape(name)}</b>.{agreement}{replaced}</p>{scrolls}</div>"


def fail() -> tuple:
    """The outputs after an error of the server, which was logged."""
    return refusal("Analysis failed", ERROR_LOGGED), gr.Image(visible=False)


def compare_tab() -> None:
    """Add the tab's components and events to the current Blocks."""
    with gr.Row(equal_height=False, elem_classes="panes"):
        with gr.Column(scale=4, min_width=320):
            drop = gr.File(
                label="Slice or study", file_count="multiple", type="filepath", height=96, elem_id="compare-drop",
                elem_classes="drop-zone",
            )  # fmt: skip
            files = gr.File(file_count="multiple", type="filepath", interactive=False, visible="hidden")
            example = gr.Button(
                "Example: small synthetic lesion", size="sm", visible=EXAMPLE.is_file(), elem_id="compare-example"
            )
            models = gr.CheckboxGroup(model_choices(), value=[name for _, name in model_choices()], label="Models")
            button = gr.Button("Compare", variant="primary", size="lg")
        with gr.Column(scale=6, min_width=320):
            table = gr.HTML(
                EMPTY, js_on_load=REPLACE_SCRIPT, elem_id="comparison-table", elem_classes="verdict-box", padding=False
            )  # fmt: skip
            picture = gr.Image(
                visible=False, interactive=False, format="png", buttons=["download", "fullscreen"], elem_id="comparison-picture"
            )

    outputs = [table, picture]
    run = {
        "fn": analyse, "inputs": [files, models], "outputs": outputs, "api_visibility": "private",
        "show_progress_on": table, **GPU,
    }  # fmt: skip
    dropped = drop.upload(None, drop, [files, drop], js="(files) => [files, null]", show_progress="hidden", **PRIVATE)
    chosen = example.click(lambda: [str(EXAMPLE)], None, files, show_progress="hidden", **PRIVATE)
    for analysis in (button.click(**run), dropped.success(**run), chosen.success(**run)):
        analysis.failure(fail, None, outputs, **PRIVATE)

    image, endpoint = gr.File(label="Slice", type="filepath", visible=False), gr.Button(visible=False)
    record, pictures = gr.JSON(visible=False), gr.Gallery(format="png", visible=False)
    endpoint.click(compare, [image, models], [record, pictures], api_name="compare", **GPU)
