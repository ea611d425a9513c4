"""The endpoints `/predict` and `/study`, for programs. The Analyse tab shows the same results to people."""

from __future__ import annotations

import gradio as gr

from brainmri.io.sequences import SEQUENCES
from brainmri.report.render import gallery
from brainmri.ui.common import GPU, errors_as_messages, model_choices, sequence_input, threshold_input
from brainmri.ui.decoding import read_slice, read_study
from brainmri.ui.inference import ZERO_GPU, analyse_slice, analyse_study
from brainmri.ui.logs import record_scan_size, record_upload_size
from brainmri.ui.results import CHANNELS, assignment, pack_study, slice_files
from brainmri.zoo.registry import DEFAULT


def predict(
    image: str, segmenter: str = DEFAULT, classifier: str = DEFAULT, threshold: float | None = None, sequence: str | None = None
) -> tuple:
    """Detect and outline a tumour in one brain MRI slice. Research demo, not for diagnosis.

    Args:
        image: slice as PNG, JPEG or TIFF; red = pre-contrast T1, green = FLAIR, blue = post-contrast T1; greyscale = one sequence
        segmenter: name of the model that draws the mask
        classifier: name of the model that predicts the verdict
        threshold: mask threshold on the probability map, 0.05 to 0.95; default: the segmenter's own
        sequence: MR sequence of a greyscale slice; default: recognised, or FLAIR for models that recognise none

    Returns:
        record: verdict (tumour, no tumour or review) with its reason, probability, outlined area, warnings and provenance
        pictures: images of the slice, the mask and the probability map, with captions
        mask: PNG of the slice's size, 255 inside the outline, else 0
        overlay: PNG of the slice with the outline
        finding: the record as a JSON file
    """
    if not image:
        raise gr.Error("Please upload a slice.", print_exception=False)
    with errors_as_messages("Could not analyse this slice"):
        record_upload_size([image])
        scan = read_slice(image)
        record_scan_size(scan)
        finding = analyse_slice(scan, segmenter, classifier, threshold, sequence)
        return finding.record(), gallery(scan.pixels, finding), *slice_files(scan, finding)


def study(
    files: list[str], segmenter: str = DEFAULT, classifier: str = DEFAULT, threshold: float | None = None,
    flair: int | None = None, pre: int | None = None, post: int | None = None, study: int | None = None,
    sequence: str | None = None, progress=gr.Progress(),
) -> tuple:  # fmt: skip
    """Detect and outline tumours in a brain MRI study, with a report. Research demo, not for diagnosis.

    Args:
        files: a zip, NIfTI volumes, DICOM files, a multi-page TIFF, or slices named <case>_<number>
        segmenter: name of the model that draws the mask
        classifier: name of the model that predicts the verdict
        threshold: mask threshold on the probability map, 0.05 to 0.95; default: the segmenter's own
        flair: index of the FLAIR among the volumes or series, from 0; default: detected from names and descriptions
        pre: index of the pre-contrast T1; needs flair
        post: index of the post-contrast T1; needs flair
        study: index of the study, from 0, if the files hold several; an error without it lists them in order
        sequence: MR sequence of a study with a single one; default: taken from names and headers, or recognised

    Returns:
        record: verdict (tumour, no tumour or review) with its reason, lesions, a row for each slice, warnings and provenance
        everything: zip of report, masks, table, montage and record
        report: self-contained HTML report with a slice viewer
    """
    if not files:
        raise gr.Error("Please upload a study.", print_exception=False)
    with errors_as_messages("Could not analyse this study"):
        record_upload_size(files)
        chosen = flair, pre, post
        scan = read_study(files, None if chosen == (None, None, None) else assignment(chosen), study)
        record_scan_size(scan)

        def slices(done: int, total: int) -> None:
            progress((done, total), desc="Analysing", unit="slices")

        # on ZeroGPU the analysis runs in another process and cannot report progress
        found = analyse_study(scan, segmenter, classifier, threshold, None if ZERO_GPU else slices, sequence)
        packed, report, record = pack_study(scan, found)
        return record, packed, report


def analysis_endpoints() -> None:
    """Add the endpoints to the current Blocks, with hidden components that give inputs and outputs their types."""
    record = gr.JSON(visible=False)
    image = gr.File(label="Slice", type="filepath", visible=False)
    files = gr.File(label="Study", file_count="multiple", type="filepath", visible=False)
    segmenter, classifier = (
        gr.Dropdown(model_choices(task), value=DEFAULT, label=label, visible=False)
        for task, label in (("segmentation", "Segmenter"), ("classification", "Classifier"))
    )
    models = [segmenter, classifier, threshold_input()]
    pictures = gr.Gallery(format="png", visible=False)
    outputs = [gr.DownloadButton(label, visible=False) for label in ("Mask", "Overlay", "Finding", "All files", "Report")]
    labels = [*(SEQUENCES[channel] for channel in CHANNELS), "Study"]
    sequence = sequence_input()
    numbers = [gr.Number(None, precision=0, minimum=0, label=label, visible=False) for label in labels]
    slice_inputs, study_inputs = [image, *models, sequence], [files, *models, *numbers, sequence]
    gr.Button(visible=False).click(predict, slice_inputs, [record, pictures, *outputs[:3]], api_name="predict", **GPU)
    gr.Button(visible=False).click(study, study_inputs, [record, *outputs[3:]], api_name="study", **GPU)
