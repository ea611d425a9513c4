"""Several inputs analysed one after the other: a table on the page, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable

import gradio as gr
from markupsafe import Markup

from brainmri.analysis.findings import percent
from brainmri.analysis.forward import Progress
from brainmri.io.limits import UnreadableImage
from brainmri.report.templates import STATES
from brainmri.ui.answer import slice_size, study_size
from brainmri.ui.common import make_output_folder
from brainmri.ui.decoding import list_inputs, read_input
from brainmri.ui.inference import ZERO_GPU, analyse_slice, analyse_study
from brainmri.ui.inputs import SLICE, Input
from brainmri.ui.logs import record_upload_size

DECIDED, MEASURED = ("verdict", "reason"), ("probability", "area_px", "lesion_count", "lesion_volume_ml", "largest_diameter_mm")
COLUMNS = ("input", "kind", "size", *DECIDED, *MEASURED, "warnings", "problem")


def analyse_input(one: Input, segmenter: str, classifier: str, sequence: str | None, progress: Progress | None = None) -> dict:
    """A row of the table: the main fields of the record, or the problem of an input that cannot be read.

    The probability of a study is the highest of its slices that look like brain MRI slices. What is no brain has neither a
    probability nor measurements. The size is that of the verdict's box. `progress` is called as by `analyse_study`.
    """
    row = dict.fromkeys(COLUMNS) | {"input": one.label, "kind": one.kind}
    try:
        scan = read_input(one)
        if one.kind == SLICE:
            found = analyse_slice(scan, segmenter, classifier, None, sequence, progress)
            size = slice_size(scan.pixels, found)
        else:
            found = analyse_study(scan, segmenter, classifier, None, progress)
            size = study_size(scan.pixels, found)
    except UnreadableImage as error:
        return row | {"problem": str(error)}
    record, shown = found.record(), DECIDED if found.out_of_distribution else (*DECIDED, *MEASURED)
    return row | {name: record.get(name) for name in shown} | {"size": size, "warnings": "; ".join(record["warnings"])}


def analyse_inputs(
    files: list[str], segmenter: str, classifier: str, sequence: str | None, progress: gr.Progress, check: Callable[..., None]
) -> list[dict]:
    """The rows of all inputs among uploaded files; `check` may end the analyses."""
    record_upload_size(files)
    found, rows = list_inputs(files), []
    for number, one in enumerate(found):
        progress((number, len(found)), desc="Analysing", unit="inputs")
        rows.append(analyse_input(one, segmenter, classifier, sequence, None if ZERO_GPU else check))
        check()
    return rows


def write_csv(rows: list[dict]) -> str:
    """Write the rows to a file in Gradio's cache; return its path."""
    path = make_output_folder() / "results.csv"
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def rows_html(rows: list[dict]) -> Markup:
    """The rows with verdict or problem, probability and size."""
    cells = Markup("").join(
        Markup("<tr><th scope='row'>{}</th><td>{}</td><td>{}</td><td>{}</td></tr>").format(
            row["input"],
            STATES[row["verdict"]][2] if row["verdict"] else row["problem"],
            "" if row["probability"] is None else percent(row["probability"]),
            row["size"] or "",
        )
        for row in rows
    )
    head = Markup("").join(Markup("<th scope='col'>{}</th>").format(name) for name in ("Input", "Verdict", "Probability", "Size"))
    table = "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>"
    scrolls = f"<div class='model'><div class='table' role='group' aria-label='All results' tabindex='0'>{table}</div></div>"
    return Markup(scrolls).format(head, cells)
