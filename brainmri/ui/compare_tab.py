"""The Compare tab and the endpoint `/compare`: one slice or study, several models, the outlines of all in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape

import gradio as gr

from brainmri.analysis.compare import Comparison, ModelResult, disagreement, overlap
from brainmri.analysis.findings import percent, sentence
from brainmri.io.scan import Scan
from brainmri.report.comparison import crop_box, outline_colour, outlined_slices, outlines_picture
from brainmri.report.render import heat_picture, overlay_picture
from brainmri.ui.answer import empty_state, refusal
from brainmri.ui.blocks import ERROR_LOGGED
from brainmri.ui.common import (
    ASSETS,
    GPU,
    PRIVATE,
    REPLACE_SCRIPT,
    errors_as_messages,
    model_choices,
    model_heading,
    model_title,
    sequence_input,
)
from brainmri.ui.decoding import list_inputs, read_input
from brainmri.ui.inference import available_models, compare_models
from brainmri.ui.logs import record_refusal, record_scan_size, record_upload_size
from brainmri.zoo.titles import TITLES

EXAMPLE = ASSETS / "examples" / "small-lesion.png"
EMPTY = empty_state("Drop a slice or a study, or pick the example, to compare models.")
FAILED = "Could not compare the models"


def compare(image: str, models: list[str] | None = None, sequence: str | None = None) -> tuple[dict, list]:
    """Compare several models on one brain MRI slice or study. Research demo, not for diagnosis.

    Args:
        image: slice as PNG, JPEG or TIFF, red = pre-contrast T1, green = FLAIR, blue = post-contrast T1, greyscale = one sequence; or a volume or a zip of a study
        models: names of the models; default: all available models
        sequence: MR sequence of a greyscale slice or of a study with a single one; default: taken from names and headers, or recognised

    Returns:
        record: for each model, probability of tumour (of a study the highest, with its slice), outlined area or volume, seconds, and what it was not evaluated on; mean Dice between the masks; warnings
        pictures: of a slice, an overlay for each mask and a map of where the masks disagree; of a study, the outlines of all models in up to 12 slices
    """  # noqa: E501  each argument is one line in the API view
    if not image:
        raise gr.Error("Please upload a slice or a study.", print_exception=False)
    with errors_as_messages(FAILED):
        scan, _ = read_one([image])
        found = compare_models(scan, models or list(available_models), sequence)
        return _record(found), _pictures(found.results, scan) if scan.pixels.ndim == 3 else outlines(found.results, scan)[0]


def _record(found: Comparison) -> dict:
    dice = overlap(found.results)
    return {
        "models": [result.record() for result in found.results],
        "mean_dice_between_masks": None if dice is None else round(dice, 4),
        "warnings": list(found.warnings),
    }


def _pictures(results: Sequence[ModelResult], scan: Scan) -> list[tuple]:
    pictures = [
        (overlay_picture(scan.pixels, result.mask), f"{result.name}: {int(result.mask.sum()):,} pixels")
        for result in results
        if result.mask is not None
    ]
    where = disagreement(results)
    return pictures if where is None else [*pictures, (heat_picture(scan.pixels, where), "Where the masks disagree")]


def outlines(results: Sequence[ModelResult], scan: Scan) -> tuple[list[tuple], int]:
    """The outlines of all models on the slice or, cropped alike, on slices of the study.

    Returns:
        Pictures with captions, none without masks; the index of the one with the largest outline.
    """
    masks = {place: result.mask for place, result in enumerate(results) if result.mask is not None}
    if not masks:
        return [], 0
    if scan.pixels.ndim == 3:
        return [(outlines_picture(scan.pixels, masks), None)], 0
    shown, front = outlined_slices(list(masks.values()))
    box = crop_box([plane for mask in masks.values() for plane in mask], scan.pixels.shape[1:3])
    pictures = [
        outlines_picture(scan.pixels[number], {place: mask[number] for place, mask in masks.items()}, box) for number in shown
    ]
    captions = [f"Slice {number + 1} of {len(scan.pixels)}" for number in shown]
    return list(zip(pictures, captions, strict=True)), front


def read_one(files: list[str]) -> tuple[Scan, str]:
    """The first input of an upload, and its name; a warning counts several inputs."""
    record_upload_size(files)
    chosen, *others = list_inputs(files)
    scan = read_input(chosen)
    record_scan_size(scan)
    if others:
        scan = replace(scan, warnings=(*scan.warnings, f"only the first of {len(others) + 1} inputs is compared"))
    return scan, chosen.label


def analyse(files: list[str] | None, models: list[str]) -> tuple:
    """Compare the selected models for the page; return a table and pictures, or the reason of a refusal."""
    try:
        if not files:
            raise gr.Error("Please drop a file or pick the example first.", title="Nothing to compare")
        if not models:
            raise gr.Error("Please select at least one model.", title="Nothing to compare")
        with errors_as_messages(FAILED):
            scan, name = read_one(files)
            found = compare_models(scan, models)
    except gr.Error as error:
        record_refusal()
        return refusal(error.title, error.message), gr.Gallery(visible=False)
    pictures, front = outlines(found.results, scan)
    gallery = gr.Gallery(pictures, visible=bool(pictures), selected_index=front, label=f"Outlines on {name}")
    return table_html(_record(found), name), gallery


def table_html(record: dict, name: str) -> str:
    """A table with one row for each model, which is also the legend of the picture."""

    def row(number: int, model: dict) -> str:
        probability = "-" if model["probability"] is None else percent(model["probability"])
        if "likeliest_slice" in model:
            probability += f" (slice {model['likeliest_slice']})"
        size = outlined_size(model)
        swatch = "" if size == "-" else f"<i class='swatch' style='background:{outline_colour(number)}'></i>"
        seconds = model["seconds"]
        duration = f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
        cells = "".join(f"<td>{cell}</td>" for cell in (probability, size, duration))
        heading = model_heading(model["name"], available_models[model["name"]])
        marks = "".join(f" <sup>{footnotes.index(warning) + 1}</sup>" for warning in model["warnings"])
        return f"<tr><th scope='row'>{swatch}{heading}{marks}</th>{cells}</tr>"

    footnotes = [*dict.fromkeys(warning for model in record["models"] for warning in model["warnings"])]
    study = any("likeliest_slice" in model or "voxels" in model for model in record["models"])
    titles = ("Highest probability of tumour", "Outlined volume") if study else ("Probability of tumour", "Outlined area")
    heads = "".join(f"<th scope='col'>{head}</th>" for head in ("Model", *titles, "Time"))
    dice = record["mean_dice_between_masks"]
    agreement = "" if dice is None else f" The masks have a mean Dice of {dice:.2f} with each other."
    specialists = {one["name"]: available_models[one["name"]].specialist for one in record["models"]}
    replaced = "".join(
        f' On the Analyse tab, "{escape(TITLES.get(specialist.name, specialist.name))}" replaces '
        f'"{escape(model_title(model, available_models[model]))}" for slices like those it was trained on.'
        for model, specialist in specialists.items()
        if specialist
    )
    rows = "".join(row(number, model) for number, model in enumerate(record["models"]))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    scrolls = f"<div class='table' role='group' aria-label='Results' tabindex='0'>{table}</div>"
    notes = "".join(f"<p class='warning'><b>Note:</b> {escape(warning)}.</p>" for warning in record["warnings"])
    below = "".join(
        f"<p class='warning'><sup>{number}</sup> {escape(sentence(one))}</p>" for number, one in enumerate(footnotes, 1)
    )
    return f"<div class='model'><p><b>{escape(name)}</b>.{agreement}{replaced}</p>{notes}{scrolls}{below}</div>"


def outlined_size(model: dict) -> str:
    """The area or volume that a model outlined, from its record; "-" for a model without masks."""
    if "volume_ml" in model:
        return f"{model['volume_ml']:.1f} mL"
    for key, unit in (("area_px", "pixels"), ("voxels", "voxels")):
        if model.get(key) is not None:
            return f"{model[key]:,} {unit}"
    return "-"


def fail() -> tuple:
    """The outputs after an error of the server, which was logged."""
    return refusal("Analysis failed", ERROR_LOGGED), gr.Gallery(visible=False)


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
                "Example: small synthetic lesion",
                size="md",
                visible=EXAMPLE.is_file(),
                elem_id="compare-example",
                elem_classes="outlined",
            )
            models = gr.CheckboxGroup(model_choices(), value=[name for _, name in model_choices()], label="Models")
            button = gr.Button("Compare", variant="primary", size="lg")
        with gr.Column(scale=6, min_width=320):
            table = gr.HTML(
                EMPTY, js_on_load=REPLACE_SCRIPT, elem_id="comparison-table", elem_classes="verdict-box", padding=False
            )  # fmt: skip
            pictures = gr.Gallery(
                visible=False, interactive=False, format="webp", preview=True, object_fit="contain", height=560,
                buttons=["download", "fullscreen"], elem_id="comparison-pictures",
            )  # fmt: skip

    outputs = [table, pictures]
    run = {
        "fn": analyse, "inputs": [files, models], "outputs": outputs, "api_visibility": "private",
        "show_progress_on": table, **GPU,
    }  # fmt: skip
    dropped = drop.upload(None, drop, [files, drop], js="(files) => [files, null]", show_progress="hidden", **PRIVATE)
    chosen = example.click(lambda: [str(EXAMPLE)], None, files, show_progress="hidden", **PRIVATE)
    for analysis in (button.click(**run), dropped.success(**run), chosen.success(**run)):
        analysis.failure(fail, None, outputs, **PRIVATE)

    image, endpoint = gr.File(label="Slice or study", type="filepath", visible=False), gr.Button(visible=False)
    record, gallery = gr.JSON(visible=False), gr.Gallery(format="png", visible=False)
    endpoint.click(compare, [image, models, sequence_input()], [record, gallery], api_name="compare", **GPU)
