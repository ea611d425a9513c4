"""An entry's measured figures as Markdown tables and a diagram, for its card and for the page.

The figures are those of `Measurements.variants`, by the ids of `brainmri.zoo.metrics`; the tables print the
labels.
"""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from brainmri.report.templates import template
from brainmri.zoo.entry import ModelEntry, require_metrics, rules_of
from brainmri.zoo.metrics import (
    ACCURACY,
    FAILURES,
    FLAIR_ONLY,
    RELIABILITY,
    SENSITIVITY,
    SLICE_DICE,
    SPECIFICITY,
    THREE_SEQUENCES,
    TUMOUR_FREE_RUNS,
    VARIANTS,
    VOLUMETRIC_DICE,
    WHOLE_STUDY,
    Figure,
    is_figure,
    label,
)

# of a tumour-free run: the smallest distance to an annotated slice, and the smallest length, in slices
MIN_DISTANCE, MIN_LENGTH = 3, 4
SIZE_RATIO = 1.25  # an outline more than this many times larger or smaller than the tumour has the wrong size

COLUMNS = {  # short labels, for tables whose caption has the details
    VOLUMETRIC_DICE: "volumetric Dice", SLICE_DICE: "slice Dice", ACCURACY: "verdict accuracy", SENSITIVITY: "sensitivity",
    SPECIFICITY: "specificity",
}  # fmt: skip


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def format_figure(figure: Figure | None) -> str:
    """A figure with its interval and counts, if it has them; a dash for None."""
    if figure is None:
        return "-"
    interval = " [{:.3f}, {:.3f}]".format(*figure["interval_95"]) if "interval_95" in figure else ""
    counts = f" ({figure['count']} of {figure['of']})" if "count" in figure and "of" in figure else ""
    return f"{figure['value']:.3f}{interval}{counts}"


def figure_table(variants: Mapping[str, dict]) -> str:
    """A table of all figures with their intervals, one column per variant."""
    columns = [variant for variant in VARIANTS if variant in variants]
    metrics = [metric for metric, figure in variants[THREE_SEQUENCES].items() if is_figure(figure)]
    rows = [[label(metric), *(format_figure(variants[variant].get(metric)) for variant in columns)] for metric in metrics]
    return markdown_table(["Metric", *(VARIANTS[variant] for variant in columns)], rows)


def scope_table(measured: Mapping[str, dict[str, float]]) -> str:
    """A table of the slices that are like a specialist's training data (`brainmri.zoo.records.SpecialistConfig.measured`)."""
    rows = [
        [kind, f"{one['slices']:.0f}", f"{one['inside']:.1%}", f"{one['decided']:.0%} of {one['batches']:.0f}"]
        for kind, one in measured.items()
    ]
    return markdown_table(["slices", "number", "in scope", "decided, if each patient or group is a study"], rows)


def ood_table(measured: Mapping[str, Mapping[str, dict]]) -> str:
    """A table of what an out-of-distribution detector rejects (`brainmri.zoo.metrics.Measurements.ood`)."""
    rows = [[kind, str(one["images"]), f"{one['share']:.1%}", "-", "-"] for kind, one in measured["real"].items()]
    for kind, one in measured["negatives"].items():
        others = [measured.get(part, {}).get(kind) for part in ("halves", "review")]
        shares = [f"{other['share']:.1%}" if other else "-" for other in (one, *others)]
        rows.append([kind, str(one["images"]), *shares])
    return markdown_table(["images", "number", "rejected", "rejected, half of the kind known", "for review"], rows)


def reliability_table(variants: Mapping[str, dict]) -> str:
    """A table of the share of slices with tumour in each bin of probability, one column per variant; "" without bins."""
    columns = [variant for variant in VARIANTS if RELIABILITY in variants.get(variant, {})]
    rows: dict[tuple[float, float], dict[str, str]] = {}
    for variant in columns:
        for one in variants[variant][RELIABILITY]:
            low, high = one["range"]
            rows.setdefault((low, high), {})[variant] = f"{one['tumour']:.1%} of {one['slices']:,}"
    if not rows:
        return ""
    cells = [[f"{low:.1%} to {high:.1%}", *(rows[low, high].get(v, "-") for v in columns)] for low, high in sorted(rows)]
    return markdown_table(["probability of tumour", *(VARIANTS[variant] for variant in columns)], cells)


def reliability_svg(entry: ModelEntry, variant: str, background: str = "none") -> Markup:
    """The reliability diagram: the share of slices with a tumour over the predicted probability.

    Larger dots stand for more slices; whiskers are 95% intervals; the review band is shaded. Lines and labels use the text
    colour of the page.

    Args:
        entry: an entry whose metrics have the variant's bins (`train.evaluation.metrics.reliability`).
        variant: one of `VARIANTS`.
        background: a CSS colour, for files that may be shown on any background.
    """
    bins = require_metrics(entry).variants[variant][RELIABILITY]
    return Markup(template("reliability.svg").render(
        name=f"Reliability diagram of {entry.name}, {VARIANTS[variant]}: share of slices with tumour over predicted probability",
        bins=bins, max_slices=max(one["slices"] for one in bins), background=background,
        review=rules_of(entry, entry).band("study" if variant == WHOLE_STUDY else "slice"),
    ))  # fmt: skip


def describe_error(true: int, predicted: int, overlap: int) -> str:
    """Describe the error of a mask by the first rule that applies.

    Args:
        true: pixels of the tumour.
        predicted: pixels of the mask.
        overlap: pixels in both.
    """
    if not predicted:
        return "nothing found" if true else "none"
    if not true:
        return "false alarm"
    if not overlap:
        return "found elsewhere"
    missed, false = 1 - overlap / true > 0.5, 1 - overlap / predicted > 0.5
    if missed and false:
        return "mostly missed, mostly false alarm"
    if missed:
        return "mostly missed"
    if false:
        return "mostly false alarm"
    if predicted > SIZE_RATIO * true:
        return "outline too large"
    if true > SIZE_RATIO * predicted:
        return "outline too small"
    return "right size, inaccurate border"


def failure_tables(variants: Mapping[str, dict]) -> str:
    """The failure analysis in Markdown: groups and worst patients of the first variant, and whole studies of every variant.

    Args:
        variants: the figures by variant, as `train.evaluation.evaluate.summarise` returns them.
    """
    first = next(iter(variants.values()))[FAILURES]
    groups = first["groups"] | {VARIANTS[name]: variants[name] for name in (THREE_SEQUENCES, FLAIR_ONLY) if name in variants}
    columns = [metric for metric in COLUMNS if any(metric in figures for figures in groups.values())]
    parts = [
        markdown_table(
            ["group", "patients", "slices", *(COLUMNS[metric] for metric in columns)],
            [
                [
                    group,
                    str(figures["patients"]),
                    str(figures["slices"]),
                    *(format_figure(figures.get(metric)) for metric in columns),
                ]
                for group, figures in groups.items()
            ],
        )
    ]
    if "worst" in first:
        parts += [_worst_table(first["worst"]), _study_table(variants)]
        if runs := first["studies"].get(TUMOUR_FREE_RUNS):
            parts.append(
                f"Tumour-free runs: {MIN_LENGTH} or more neighbouring slices that show a head, {MIN_DISTANCE} or more slices "
                f"from any annotated one, analysed as a study; {runs['slices']} slices of {runs['patients']} patients. "
                "These patients have a tumour elsewhere, and a run is shorter than a study: a healthy head has more slices to "
                "raise a false alarm in."
            )
    return "\n\n".join(parts)


def _worst_table(patients: list[dict]) -> str:
    rows = []
    for patient in patients:
        true, predicted, overlap = (patient[name] for name in ("true_pixels", "predicted_pixels", "overlap_pixels"))
        shares = [f"{1 - overlap / pixels:.0%}" if pixels else "-" for pixels in (true, predicted)]
        pixels = [f"{true:,}", f"{predicted:,}"]
        error = describe_error(true, predicted, overlap)
        rows.append([patient["patient"], f"{patient['volumetric_dice']:.3f}", *pixels, *shares, error])
    header = ["patient", "volumetric Dice", "tumour pixels", "predicted pixels", "of the tumour missed", "of the mask false"]
    return markdown_table([*header, "error"], rows)


def _study_table(variants: Mapping[str, dict]) -> str:
    by_slice = {name: figures for name, figures in variants.items() if name != WHOLE_STUDY}
    studies = [figures[FAILURES]["studies"] for figures in by_slice.values()]
    metrics = [metric for metric, figure in studies[0].items() if is_figure(figure)]
    rows = [
        ["volumetric Dice slice by slice, mean over patients", *(format_figure(f[VOLUMETRIC_DICE]) for f in by_slice.values())]
    ]
    rows += [[label(metric), *(format_figure(figures.get(metric)) for figures in studies)] for metric in metrics]
    return markdown_table(["Metric", *(VARIANTS[name] for name in by_slice)], rows)
