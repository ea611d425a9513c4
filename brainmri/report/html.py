"""A study as HTML: the slice viewer, the chart along the head, the table of lesions and the self-contained report."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path

from markupsafe import Markup, escape
from PIL import Image

from brainmri.analysis.findings import NO_TUMOUR, REVIEW, TUMOUR, Finding, Study, count, percent, ranges
from brainmri.io.scan import Scan
from brainmri.report.render import flair_picture, heat_layer, overlay_layer, projection_pictures, proportions

# verdict to its class in the style sheets, its symbol and its label
STATES = {TUMOUR: ("tumour", "▲", "Tumour"), NO_TUMOUR: ("clear", "●", "No tumour"), REVIEW: ("review", "◆", "Please review")}
TEMPLATES = Path(__file__).parents[1] / "templates"
MAX_SIDE = 384  # pixels; longer side of a slice in the viewer
MIN_PEAK = 0.02  # the viewer has no probability map for slices with a lower maximum


def viewer_script() -> str:
    """The viewer's JavaScript, which defines `mountStudyViewer(section)`."""
    return (TEMPLATES / "viewer.js").read_text(encoding="utf-8")


def viewer_style() -> str:
    """The viewer's style sheet."""
    return (TEMPLATES / "viewer.css").read_text(encoding="utf-8")


def viewer_html(scan: Scan, study: Study) -> Markup:
    """The viewer: a `section` with all slices of the study, which `viewer_script` makes interactive."""
    height, width = proportions(scan.pixels.shape[1:3], study.geometry, MAX_SIDE)
    projections = [_webp(picture) for picture in projection_pictures(scan.pixels, study)] if study.lesions else []
    frames = [
        {
            "flair": _webp(_shrink(flair_picture(pixels))),
            "overlay": _png(_shrink(overlay_layer(finding.mask), Image.Resampling.NEAREST)) if finding.area_px else None,
            "heat": _webp(_shrink(heat_layer(finding.probability_map))) if finding.probability_map.max() > MIN_PEAK else None,
            "caption": _caption(number, finding, study),
        }
        for number, (pixels, finding) in enumerate(zip(scan.pixels, study.findings, strict=True), 1)
    ]
    return Markup(template("viewer.html").render(
        data={"frames": frames, "projections": projections}, projections=projections, width=width, height=height,
        slices=len(frames), first=first_slice(study) + 1, chart=chart_svg(study),
    ))  # fmt: skip


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
        viewer=viewer_html(scan, study), lesions=lesions_html(study), montage=montage_html(montage),
        css=viewer_style(), js=viewer_script(),
    )  # fmt: skip


def first_slice(study: Study) -> int:
    """Index of the slice to show first: the one with the largest outlined area or, without any, the highest probability."""
    return max(range(len(study.findings)), key=lambda n: (study.findings[n].area_px, study.findings[n].probability))


def summary(study: Study) -> str:
    """The outlined lesions in one or two sentences."""
    if not study.lesions:
        return "Nothing is outlined."
    volume = study.volume_mm3
    size = f"{int(study.mask.sum()):,} voxels" if volume is None else f"{volume / 1000:.1f} mL"
    diameter = f"{max(study.diameters):.0f} {'mm' if study.measured else 'pixels'}"
    unknown = "" if study.measured else " Voxel size unknown, so no volume in mL."
    return f"Outlined: {count(len(study.lesions), 'lesion')}, {size} in total, largest diameter {diameter}.{unknown}"


def lesions_html(study: Study) -> Markup:
    """A table of the lesions."""
    size = "volume" if study.measured else "voxels"
    head = ("lesion", size, "largest diameter", "slices", "centre (slice, row, column)", "side")
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


def montage_html(montage: Image.Image) -> Markup:
    """The montage of a study's slices as an image element."""
    source = _webp(montage)
    return Markup('<img class="montage" src="{}" alt="Overlays of the slices, numbered from the neck upwards">').format(source)


def chart_svg(study: Study) -> Markup:
    """A chart along the head: bars for the outlined area, a line for the probability, and the verdict of each slice below.

    A click selects the slice in the viewer.
    """
    slices = len(study.findings)
    width, left, right, top, height = 620, 56, 56, 24, 120
    step = (width - left - right) / slices
    areas = [f.area_px if f.area_mm2 is None else f.area_mm2 / 100 for f in study.findings]
    max_area = max(areas) or 1.0
    unit = "cm²" if study.measured else "pixels"
    bottom = top + height

    def x(number: int) -> float:
        return left + number * step

    def y(probability: float) -> float:
        return bottom - probability * height

    def text(left: float, baseline: float, content: str, anchor: str) -> str:
        return f'<text x="{left:.1f}" y="{baseline:.1f}" text-anchor="{anchor}">{escape(content)}</text>'

    parts = [
        f'<line class="axis" x1="{left}" x2="{x(slices):.1f}" y1="{y(level):.1f}" y2="{y(level):.1f}"/>' for level in (0, 0.5, 1)
    ]
    parts += [text(x(slices) + 6, y(level) + 4, f"{level:.0%}", "start") for level in (0, 0.5, 1)]
    parts += [text(left - 6, y(1) + 4, f"{max_area:,.1f}" if study.measured else f"{max_area:,.0f}", "end")]
    parts += [text(left - 6, y(0) + 4, "0", "end"), text(left, 14, f"bars: area ({unit})", "start")]
    parts += [text(x(slices), 14, "line: probability of tumour", "end")]

    def bar(kind: str, number: int, width: float, top: float, bottom: float) -> str:
        left = x(number) + (step - width) / 2
        return f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}"/>'

    parts += [bar("area", n, 0.8 * step, y(area / max_area), bottom) for n, area in enumerate(areas) if area]
    middles = [(x(n) + step / 2, y(finding.probability)) for n, finding in enumerate(study.findings)]
    parts += [f'<polyline class="line" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in middles)}"/>']
    parts += [bar(STATES[f.verdict][0], n, max(step - 1, 0.5), bottom + 4, bottom + 10) for n, f in enumerate(study.findings)]
    interval = next(n for n in (1, 2, 5, 10, 20, 50, 100) if n * step >= 30)  # slices between two numbers
    parts += [
        text(x(n) + step / 2, bottom + 26, str(n + 1), "middle") for n in range(slices) if (n + 1) % interval == 0 or n == 0
    ]
    parts += [f'<rect class="current" x="0" y="{top}" width="0" height="{height + 12}"/>']
    parts += [
        f'<rect class="hit" data-slice="{n}" x="{x(n - 1):.1f}" y="{top}" width="{step:.1f}" height="{height + 12}">'
        f"<title>{escape(_caption(n, finding, study))}</title></rect>"
        for n, finding in enumerate(study.findings, 1)
    ]
    label = f"Outlined area and probability of tumour in {count(slices, 'slice')}, from the neck upwards"
    return Markup(
        f'<svg class="study-chart" viewBox="0 0 {width} {bottom + 32}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def _caption(number: int, finding: Finding, study: Study) -> str:
    """A slice's number, verdict, probability and outlined area in one line."""
    area = f"{finding.area_px:,} pixels" if finding.area_mm2 is None else f"{finding.area_mm2 / 100:.1f} cm²"
    outlined = f"{area} outlined" if finding.area_px else "nothing outlined"
    verdict = STATES[finding.verdict][2].lower()
    chance = f"{percent(finding.probability)} for tumour"
    if finding.out_of_distribution:
        chance = "does not look like a brain MR slice"
    return f"Slice {number} of {len(study.findings)}: {verdict}, {chance}, {outlined}"


def _shrink(picture: Image.Image, resample: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
    """Shrink a slice's picture to `MAX_SIDE` if it is larger."""
    scale = MAX_SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture if scale >= 1 else picture.resize((width, height), resample)


def _data_uri(picture: Image.Image, kind: str, **options) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _webp(picture: Image.Image) -> str:
    return _data_uri(picture, "WEBP", quality=85, method=2)


def _png(picture: Image.Image) -> str:
    return _data_uri(picture, "PNG")


@cache
def template(name: str):
    """One of the package's Jinja templates; values are escaped as HTML."""
    from jinja2 import Environment, FileSystemLoader

    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template(name)
