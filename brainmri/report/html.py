"""A study as HTML: its summary, the table of lesions and the self-contained report."""

from __future__ import annotations

from markupsafe import Markup
from PIL import Image

from brainmri.analysis.findings import Study, count, ranges
from brainmri.io.scan import Scan
from brainmri.report.chart import chart_svg
from brainmri.report.templates import STATES, template
from brainmri.report.viewer import counted, picture_uri, study_viewer, viewer_script, viewer_style
from brainmri.zoo.titles import shown_name

COLUMNS = {  # of the table of slices, where the record's name is no plain word
    "area_px": "area (pixels)", "area_mm2": "area (mm²)", "diameter_mm": "diameter (mm)", "diameter_px": "diameter (pixels)",
    "ood_distance": "distance to training slices", "ood_other": "log-odds of other images",
    "out_of_distribution": "unlike training slices",
}  # fmt: skip


def report_html(scan: Scan, study: Study, title: str, montage: Image.Image) -> str:
    """The report: one HTML file that loads nothing from elsewhere.

    Args:
        scan: the study's pixels, (S, H, W, 3).
        study: its result.
        title: for example the name of the input.
        montage: `montage_picture` of the study.
    """
    state, symbol, label = STATES[study.verdict]
    return template("report.html").render(
        title=title, state=state, symbol=symbol, label=label, summary=summary(study), record=study.record(),
        viewer=study_viewer(scan, study, chart_svg(study), references=False), lesions=lesions_html(study),
        models=deciding_models(study.provenance), columns=COLUMNS,
        montage=montage_html(study, montage), css=viewer_style(), js=viewer_script(),
    )  # fmt: skip


def summary(study: Study) -> str:
    """The outlined lesions in one or two sentences."""
    if not study.lesions:
        return "Nothing is outlined."
    volume = study.volume_mm3
    size = f"{int(study.mask.sum()):,} voxels" if volume is None else f"{volume / 1000:.1f} mL"
    diameter = f"{max(study.diameters):.0f} {'mm' if study.measured else 'pixels'}"
    unknown = "" if study.measured else " Voxel size unknown, so no volume in mL."
    return f"Outlined: {count(len(study.lesions), 'lesion')}, {size} in total, largest diameter {diameter}.{unknown}"


def deciding_models(provenance: dict) -> str:
    """The models that decided, by the names people know: the specialist, or the chosen segmenter and classifier."""
    specialist = provenance.get("specialist")
    if specialist and specialist["decided"]:
        return shown_name(specialist["name"])
    segmenter, classifier = (provenance[role]["name"] for role in ("segmenter", "classifier"))
    return shown_name(segmenter) if segmenter == classifier else f"{shown_name(segmenter)}, verdict by {shown_name(classifier)}"


def lesions_html(study: Study) -> Markup:
    """A table of the lesions."""
    size = "Volume" if study.measured else "Voxels"
    head = ("Lesion", size, "Largest diameter", "Outlined slices", "Centre (slice, row, column)", "Side")
    rows = []
    for number, lesion in enumerate(study.lesions, 1):
        rows.append((
            number,
            f"{lesion.voxels:,}" if lesion.volume_mm3 is None else f"{lesion.volume_mm3 / 1000:.2f} mL",
            f"{lesion.diameter:.0f} {'mm' if study.measured else 'px'} in slice {lesion.widest + 1}",
            ranges(range(lesion.slices[0], lesion.slices[1] + 1)),
            "{:.0f}, {:.0f}, {:.0f}".format(lesion.centroid[0] + 1, *lesion.centroid[1:]),
            lesion.side or "unknown",
        ))  # fmt: skip
    cells = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row)) for row in rows
    )
    titles = Markup("").join(Markup('<th scope="col">{}</th>').format(title) for title in head)
    scrollable = Markup('<div class="table" role="group" aria-label="Lesions" tabindex="0">{}</div>')
    return scrollable.format(Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(titles, cells))


def montage_html(study: Study, montage: Image.Image) -> Markup:
    """The montage of a study's slices as an image element."""
    element = '<img class="montage" src="{}" alt="Overlays of the slices, numbered {}">'
    return Markup(element).format(picture_uri(montage), counted(study))
