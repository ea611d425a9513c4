"""The README's table of results by kind of input: python -m train.release.readme_results [NAME] prints it.

The figures are those of the entry's `metrics.inputs` (`train.evaluation.inputs`), over all planes. They are of weights of the
same recipe, on patients and groups of pictures that these were not trained on. A test compares the README with the table.
"""

from __future__ import annotations

import argparse

from brainmri.report.metric_tables import markdown_table
from brainmri.zoo.attributes import SEQUENCES
from brainmri.zoo.entry import ModelEntry, require_metrics
from brainmri.zoo.registry import DEFAULT, find_entry
from train.evaluation.inputs import merge_rows

# how the README names the datasets of `train.evaluation.inputs`, in its order; others are left out
NAMES = {
    "figshare meningioma": "meningioma (figshare)",
    "figshare pituitary": "pituitary tumour (figshare)",
    "figshare glioma": "glioma (figshare)",
    "lgg": "lower-grade glioma (TCGA)",
    "heads": "people without a known tumour",
    "alzheimer, skull removed": "people with and without dementia, skull removed",
}
FEWEST = 20  # slices of a row, else it is left out
VERDICTS = ("called_tumour", "review", "called_no_tumour")
HEADER = ["data", "sequence", "slices", "with tumour", "Dice", "called tumour", "for review", "called no tumour"]


def results_table(entry: ModelEntry) -> str:
    """The table in Markdown.

    Args:
        entry: with figures by kind of input.

    Raises:
        ValueError: without these.
    """
    inputs = require_metrics(entry).inputs
    if inputs is None:
        raise ValueError(f"expected an entry measured by kind of input, got {entry.name}; run train.release.release_inputs first")
    table = []
    for dataset, title in NAMES.items():
        for sequence in SEQUENCES:
            rows = [row for row in inputs["validated"]["rows"] if (row["dataset"], row["sequence"]) == (dataset, sequence)]
            if sum(row["slices"] for row in rows) >= FEWEST:
                merged = merge_rows(rows)
                dice = "-" if merged["dice"] is None else f"{merged['dice']:.3f}"
                counts = (str(merged[name]) for name in ("slices", "tumours"))
                table.append([title, sequence, *counts, dice, *(f"{merged[name]:.0%}" for name in VERDICTS)])
    return markdown_table(HEADER, table)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default=DEFAULT, help=f"entry (default: {DEFAULT})")
    try:
        print(results_table(find_entry(parser.parse_args(arguments).name)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
