"""The Study tab and the endpoint `/study`: upload, choice of sequences, verdict, viewer, lesions, downloads."""

from __future__ import annotations

import json

import gradio as gr
from markupsafe import Markup

from brainmri.analysis.findings import Study
from brainmri.io.pixels import FLAIR
from brainmri.io.scan import Scan
from brainmri.io.sequences import POST, PRE, SEQUENCES
from brainmri.report.chart import chart_svg
from brainmri.report.html import lesions_html, montage_html, summary
from brainmri.report.outputs import pack, write_study
from brainmri.report.render import montage_picture
from brainmri.report.viewer import study_viewer
from brainmri.ui.common import (
    ASSETS,
    GPU,
    PRIVATE,
    SCROLL_TO_RESULT,
    VIEWER_SCRIPT,
    empty_state,
    errors_as_messages,
    make_output_folder,
    model_fields,
    recognised_sentences,
    safe_stem,
    threshold_input,
    verdict_html,
)
from brainmri.ui.decoding import list_sequences, read_study
from brainmri.ui.inference import ZERO_GPU, analyse_study, available_models
from brainmri.ui.logs import record_scan_size, record_upload_size
from brainmri.zoo.registry import DEFAULT

EXAMPLE = ASSETS / "examples" / "study-flair.nii.gz"
CHANNELS = (FLAIR, PRE, POST)  # in the order of the fields
ABSENT = -1  # value of a T1 field without a sequence
EMPTY = empty_state("Upload a study or pick the example to see the verdict.")
SELECT_FLAIR = empty_state("Cannot tell which sequence is the FLAIR. Please select it, then press <b>Analyse</b>.")


def study(
    files: list[str], segmenter: str = DEFAULT, classifier: str = DEFAULT, threshold: float | None = None,
    flair: int | None = None, pre: int | None = None, post: int | None = None, progress=gr.Progress(),
) -> tuple:  # fmt: skip
    """Detect and outline lower-grade gliomas in a brain MRI study, with a report. Research demo, not for diagnosis.

    Args:
        files: a zip, NIfTI volumes, DICOM files, a multi-page TIFF, or slices named <case>_<number>
        segmenter: name of the model that draws the mask
        classifier: name of the model that predicts the verdict
        threshold: mask threshold on the probability map, 0.05 to 0.95; default: the segmenter's own
        flair: index of the FLAIR among the volumes or series, from 0; default: detected from names and descriptions
        pre: index of the pre-contrast T1; used only if flair is given
        post: index of the post-contrast T1; used only if flair is given

    Returns:
        record: verdict (tumour, no tumour or review) with its reason, lesions, a row for each slice, warnings and provenance
        everything: zip of report, masks, table, montage and record
        report: self-contained HTML report with a slice viewer
    """
    if not files:
        raise gr.Error("Please upload a study or pick the example.", duration=15, print_exception=False)
    with errors_as_messages("Could not analyse this study"):
        scan, found = _analyse(files, segmenter, classifier, threshold, (flair, pre, post), progress)
        packed, report, record = _write_files(scan, found)
        return record, packed, report


def _analyse(files, segmenter, classifier, threshold, chosen, progress) -> tuple[Scan, Study]:
    progress((0, None), desc="Reading")
    assign: dict[int, int | None] | None = None
    if chosen[0] is not None:
        assign = {channel: None if n == ABSENT else n for channel, n in zip(CHANNELS, chosen, strict=True)}
    record_upload_size(files)
    scan = read_study(files, assign)
    record_scan_size(scan)

    def slices(done: int, total: int) -> None:
        progress((done, total), desc="Analysing", unit="slices")

    # on ZeroGPU the analysis runs in another process and cannot report progress
    return scan, analyse_study(scan, segmenter, classifier, threshold, None if ZERO_GPU else slices)


def _write_files(scan: Scan, found: Study) -> tuple[str, str, dict]:
    """Write the zip and the report; return their paths and the written record, which has the warnings of writing."""
    folder = make_output_folder() / safe_stem(scan.name, "study")
    files = write_study(scan, found, folder)
    return str(pack(files, folder.with_suffix(".zip"))), str(files[0]), json.loads(files[-1].read_text(encoding="utf-8"))


def detect_sequences(files: list[str] | None) -> tuple:
    """Fill the sequence fields with the uploaded volumes or series; show them if there is a choice."""
    if not files:
        return clear_sequences()
    with errors_as_messages("Could not analyse this study"):
        candidates = list_sequences(files)
    choices = [(candidate.label, index) for index, candidate in enumerate(candidates)]
    detected = {candidate.channel: index for index, candidate in enumerate(candidates)}
    absent = {FLAIR: [], PRE: [("none", ABSENT)], POST: [("none", ABSENT)]}
    fields = [
        gr.Dropdown([*absent[channel], *choices], value=detected.get(channel, None if channel == FLAIR else ABSENT))
        for channel in CHANNELS
    ]
    return gr.Column(visible=bool(choices)), *fields


def clear_sequences() -> tuple:
    return gr.Column(visible=False), *(gr.Dropdown([], value=None) for _ in CHANNELS)


def analyse(
    files: list[str] | None, segmenter: str, classifier: str, threshold: float, flair: int | None, pre: int | None,
    post: int | None, progress=gr.Progress(),
) -> tuple:  # fmt: skip
    """Run `study` for the page and show the results."""
    if not files:
        return clear()
    with errors_as_messages("Could not analyse this study"):
        if flair is None and list_sequences(files):  # the user has to choose
            return SELECT_FLAIR, *clear()[1:]
        scan, found = _analyse(files, segmenter, classifier, threshold, (flair, pre, post), progress)
        packed, report, record = _write_files(scan, found)
        verdict = verdict_html(found.verdict, [found.reason, summary(found), *recognised_sentences(record)], record["warnings"])
        overlays = Markup("<details><summary>Overlays</summary>{}</details>").format(
            montage_html(montage_picture(scan.pixels, found))
        )
        shown = study_viewer(scan, found, chart_svg(found)) + (lesions_html(found) if found.lesions else "") + overlays
        return verdict, gr.Column(visible=True), shown, packed, report, record


def clear() -> tuple:
    """Reset the tab's outputs."""
    return EMPTY, gr.Column(visible=False), None, None, None, None


def study_tab() -> None:
    """Add the tab's components and events to the current Blocks."""
    with gr.Row(equal_height=False, elem_classes="panes"):
        with gr.Column(scale=4, min_width=320):
            upload = gr.File(
                label="Study (zip, NIfTI, DICOM, TIFF)",
                file_count="multiple",
                type="filepath",
                height=150,
                elem_id="study-upload",
            )
            example = gr.Button("Example: synthetic FLAIR volume", size="sm", visible=EXAMPLE.is_file(), elem_id="study-example")
            with gr.Column(visible=False, elem_id="sequences") as selection:
                fields = [gr.Dropdown([], label=SEQUENCES[channel], interactive=True) for channel in CHANNELS]
            segmenter, classifier, threshold = model_fields()
            button = gr.Button("Analyse", variant="primary", size="lg")
        with gr.Column(scale=6, min_width=320):
            verdict = gr.HTML(EMPTY, elem_id="study-verdict", elem_classes="verdict-box", padding=False)
            with gr.Column(visible=False) as results:
                viewer = gr.HTML(js_on_load=VIEWER_SCRIPT, elem_id="study-viewer", padding=False)
                with gr.Row(elem_classes="downloads", elem_id="study-downloads"):
                    files = [gr.DownloadButton(f"↓ {name}", size="md", min_width=90) for name in ("All files (zip)", "Report")]
                with gr.Accordion("Record and provenance", open=False):
                    record = gr.JSON(label="Study", show_label=False)

    inputs, outputs = [upload, segmenter, classifier, threshold, *fields], [verdict, results, viewer, *files, record]
    run = {"fn": analyse, "inputs": inputs, "outputs": outputs, "api_visibility": "private", "show_progress_on": verdict, **GPU}
    detection = {"fn": detect_sequences, "inputs": upload, "outputs": [selection, *fields], "show_progress": "hidden", **PRIVATE}
    chosen = example.click(lambda: [str(EXAMPLE)], None, upload, show_progress="hidden", **PRIVATE).then(**detection)
    uploaded = upload.upload(**detection)
    switched = segmenter.input(lambda name: available_models[name].mask_threshold, segmenter, threshold, **PRIVATE)
    runs = [
        gr.on([button.click, classifier.input, threshold.release], trigger_mode="always_last", **run),
        *(event.success(**run) for event in (chosen, uploaded)),
        switched.then(**run),
    ]
    for analysis in (*runs, chosen, uploaded):
        analysis.failure(clear, None, outputs, **PRIVATE)  # show no earlier result beside a refused study
    for analysis in runs:
        analysis.success(None, None, None, js=SCROLL_TO_RESULT % "study-verdict", **PRIVATE)
    upload.clear(clear, None, outputs, cancels=[*runs], **PRIVATE).then(clear_sequences, None, [selection, *fields], **PRIVATE)

    own, endpoint = threshold_input(), gr.Button(visible=False)
    numbers = [gr.Number(None, precision=0, minimum=0, label=SEQUENCES[channel], visible=False) for channel in CHANNELS]
    endpoint.click(study, [upload, segmenter, classifier, own, *numbers], [record, *files], api_name="study", **GPU)
