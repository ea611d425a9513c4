"""The chart of a study: outlined area, probability and verdict along the head."""

from __future__ import annotations

from markupsafe import Markup, escape

from brainmri.analysis.findings import Study, count
from brainmri.report.templates import STATES
from brainmri.report.viewer import counted, slice_caption


def chart_svg(study: Study) -> Markup:
    """A chart along the head: bars for the outlined area, a line for the probability, and the verdict of each slice below.

    A click selects the slice in the viewer, whose script also redraws the bars when the mask changes.
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

    def text(left: float, baseline: float, content: str, anchor: str, kind: str = "") -> str:
        return f'<text class="{kind}" x="{left:.1f}" y="{baseline:.1f}" text-anchor="{anchor}">{escape(content)}</text>'

    parts = [
        f'<line class="axis" x1="{left}" x2="{x(slices):.1f}" y1="{y(level):.1f}" y2="{y(level):.1f}"/>' for level in (0, 0.5, 1)
    ]
    parts += [text(x(slices) + 6, y(level) + 4, f"{level:.0%}", "start") for level in (0, 0.5, 1)]
    largest = f"{max_area:,.1f}" if study.measured else f"{max_area:,.0f}"
    parts += [text(left - 6, y(1) + 4, largest if any(areas) else "", "end", "largest")]
    parts += [text(left - 6, y(0) + 4, "0", "end"), text(left, 14, f"bars: area ({unit})", "start")]
    parts += [text(x(slices), 14, "line: probability of tumour", "end")]

    def bar(kind: str, number: int, width: float, top: float, bottom: float) -> str:
        left, height = x(number) + (step - width) / 2, bottom - top
        place = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
        return f'<rect class="{kind}" data-slice="{number + 1}" {place}/>'

    parts += [bar("area", n, 0.8 * step, y(area / max_area), bottom) for n, area in enumerate(areas)]
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
        f"<title>{escape(slice_caption(n, finding, study))}</title></rect>"
        for n, finding in enumerate(study.findings, 1)
    ]
    label = f"Outlined area and probability of tumour in {count(slices, 'slice')}, {counted(study)}"
    return Markup(
        f'<svg class="study-chart" data-top="{top}" data-height="{height}" viewBox="0 0 {width} {bottom + 32}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )
