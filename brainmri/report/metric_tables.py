"""An entry's measured figures as Markdown tables and a diagram, for its card and for the page.

`train.release.release` measures and stores them as `metrics["variants"]` in `config.json`: figures by name for each variant of the input.
"""

from __future__ import annotations

from markupsafe import Markup

from brainmri.report.html import template
from brainmri.zoo.entry import STUDY, VARIANTS, ModelEntry, rules_of

# figures that `train.evaluation.evaluate.summarise` gives of all patients under these very names
VOLUMETRIC_DICE, SLICE_DICE = "volumetric Dice, mean over patients", "slice Dice, mean over tumour slices"
ACCURACY = "verdict accuracy at 0.5, by slice"
SENSITIVITY = "verdict sensitivity at 0.5, by slice"
SPECIFICITY = "verdict specificity at 0.5, by slice"
RELIABILITY = (
    "reliability of the verdict, by slice"  # a variant's key of the bins that `train.evaluation.metrics.reliability` gives
)
FAILURES = "where it fails"  # a variant's key of what `train.evaluation.failures.failures` gives

FAR, LONG = 3, 4  # slices between a tumour-free run and the nearest annotated slice, counted to it; slices of a run at least
RESIZED = 1.25  # an outline that many times larger or smaller than the tumour has the wrong size

COLUMNS = {
    VOLUMETRIC_DICE: "volumetric Dice", SLICE_DICE: "slice Dice", ACCURACY: "verdict accuracy", SENSITIVITY: "sensitivity",
    SPECIFICITY: "specificity",
}  # fmt: skip


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def shown(figure: dict | None) -> str:
    """A figure with its interval and counts, where it has them; a dash for none."""
    if figure is None:
        return "-"
    interval = " [{:.3f}, {:.3f}]".format(*figure["interval_95"]) if "interval_95" in figure else ""
    counts = f" ({figure['count']} of {figure['of']})" if "count" in figure else ""
    return f"{figure['value']:.3f}{interval}{counts}"


def figure_table(variants: dict[str, dict]) -> str:
    """Every figure with its interval, a column for each variant of the input."""
    columns = [variant for variant in VARIANTS if variant in variants]
    names = [name for name, figure in variants[VARIANTS[0]].items() if isinstance(figure, dict) and "value" in figure]
    return markdown_table(["figure", *columns], [[name, *(shown(variants[v].get(name)) for v in columns)] for name in names])


def reliability_table(variants: dict[str, dict]) -> str:
    """The share of tumours among the slices of each bin of probability, a column for each variant; empty where none is stored."""
    columns = [variant for variant in VARIANTS if RELIABILITY in variants.get(variant, {})]
    rows: dict[tuple[float, float], dict[str, str]] = {}
    for variant in columns:
        for one in variants[variant][RELIABILITY]:
            rows.setdefault(tuple(one["range"]), {})[variant] = f"{one['tumour']:.1%} of {one['slices']:,}"
    if not rows:
        return ""
    cells = [[f"{low:.1%} to {high:.1%}", *(rows[low, high].get(v, "-") for v in columns)] for low, high in sorted(rows)]
    return markdown_table(["probability of tumour", *columns], cells)


def reliability_svg(entry: ModelEntry, variant: str, background: str = "none") -> Markup:
    """The reliability diagram: which share of the slices has a tumour, over the probability that the verdict gave them.

    The larger a dot, the more slices; whiskers are 95 % intervals; the review band is shaded. Its ink is the text's colour.

    Args:
        entry: with the variant's bins, as `train.evaluation.metrics.reliability` gives them.
        background: a CSS colour, for a file that may be shown on any ground.
    """
    bins = entry.metrics["variants"][variant][RELIABILITY]
    return Markup(template("reliability.svg").render(
        name=f"Reliability diagram of {entry.name}, {variant}: share of slices with tumour over predicted probability",
        bins=bins, most=max(one["slices"] for one in bins), background=background,
        review=rules_of(entry, entry).band("study" if variant == STUDY else "slice"),
    ))  # fmt: skip


def error_in_words(true: int, predicted: int, both: int) -> str:
    """What is wrong with a mask, from its pixels, the tumour's and those in both; the first rule that applies."""
    if not predicted:
        return "nothing found" if true else "none"
    if not true:
        return "false alarm"
    if not both:
        return "found elsewhere"
    missed, false = 1 - both / true > 0.5, 1 - both / predicted > 0.5
    if missed and false:
        return "mostly missed, mostly false alarm"
    if missed:
        return "mostly missed"
    if false:
        return "mostly false alarm"
    if predicted > RESIZED * true:
        return "outlined too large"
    if true > RESIZED * predicted:
        return "outlined too small"
    return "size right, border off"


def failure_tables(variants: dict[str, dict]) -> str:
    """Where it fails, in Markdown: the first variant's groups and worst patients, and every variant's studies.

    Args:
        variants: the figures of `summarise` by variant of the input.
    """
    first = next(iter(variants.values()))
    groups = first[FAILURES]["groups"] | {name: variants[name] for name in VARIANTS[:2] if name in variants}
    columns = [name for name in COLUMNS if any(name in figures for figures in groups.values())]
    parts = [
        markdown_table(
            ["group", "patients", "slices", *(COLUMNS[name] for name in columns)],
            [
                [group, str(figures["patients"]), str(figures["slices"]), *(shown(figures.get(name)) for name in columns)]
                for group, figures in groups.items()
            ],
        )
    ]
    if "worst" in first[FAILURES]:
        parts += [_worst_table(first[FAILURES]["worst"]), _study_table(variants)]
        if runs := first[FAILURES]["studies"].get("tumour-free runs"):
            parts.append(
                f"Tumour-free runs: {LONG} or more neighbouring slices that show a head, {FAR} or more from any annotated slice, "
                f"taken for a study of their own; {runs['slices']} slices of {runs['patients']} patients. These patients have a "
                "tumour elsewhere, and a run is shorter than a study: a healthy head has more slices to raise a false alarm in."
            )
    return "\n\n".join(parts)


def _worst_table(patients: list[dict]) -> str:
    rows = []
    for patient in patients:
        true, predicted, both = (patient[name] for name in ("tumour pixels", "predicted pixels", "pixels in both"))
        shares = [f"{1 - both / pixels:.0%}" if pixels else "-" for pixels in (true, predicted)]
        pixels = [f"{true:,}", f"{predicted:,}"]
        words = error_in_words(true, predicted, both)
        rows.append([patient["patient"], f"{patient['volumetric Dice']:.3f}", *pixels, *shares, words])
    header = ["patient", "volumetric Dice", "tumour pixels", "predicted pixels", "of the tumour missed", "of the mask false"]
    return markdown_table([*header, "error"], rows)


def _study_table(variants: dict[str, dict]) -> str:
    judged = {variant: figures for variant, figures in variants.items() if variant != STUDY}  # not the studies of studies
    studies = [figures[FAILURES]["studies"] for figures in judged.values()]
    names = [name for name, figure in studies[0].items() if "value" in figure]
    rows = [["volumetric Dice slice by slice, mean over patients", *(shown(f[VOLUMETRIC_DICE]) for f in judged.values())]]
    rows += [[name, *(shown(figures.get(name)) for figures in studies)] for name in names]
    return markdown_table(["figure", *judged], rows)
