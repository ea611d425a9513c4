"""The README's results are those that the entries store."""

from dataclasses import replace

import pytest

from brainmri.zoo.metrics import Measurements
from brainmri.zoo.registry import list_models
from tests.test_language import ROOT
from train.release.readme_results import results_table

ENTRIES = {entry.name: entry for entry in list_models()}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def row(dataset: str, sequence: str, plane: str, slices: int, tumours: int, dice: float | None, called_tumour: float) -> dict:
    shares = {"called_tumour": called_tumour, "called_no_tumour": 0.0, "review": 1 - called_tumour, "right": None}
    return {"dataset": dataset, "sequence": sequence, "plane": plane, "slices": slices, "tumours": tumours, "dice": dice} | shares


def test_planes_are_merged_by_their_slices():
    rows = [
        row("heads", "T1", "axial", 30, 0, None, 0.0),
        row("figshare glioma", "T1c", "axial", 30, 30, 0.9, 0.5),
        row("figshare glioma", "T1c", "coronal", 10, 10, 0.5, 0.9),
        row("ms_t1", "T1", "axial", 30, 0, None, 0.0),  # not among the README's datasets
        row("heads", "PD", "axial", 19, 0, None, 0.0),  # too few
    ]
    entry = replace(ENTRIES["resunet-lgg"], metrics=Measurements(inputs={"validated": {"rows": rows}}))
    assert results_table(entry).splitlines()[2:] == [
        "| glioma (figshare) | T1c | 40 | 40 | 0.800 | 60% | 40% | 0% |",
        "| people without a known tumour | T1 | 30 | 0 | - | 0% | 100% | 0% |",
    ]
    with pytest.raises(ValueError, match="measured by kind of input"):
        results_table(ENTRIES["resunet-lgg"])


@pytest.mark.parametrize("entry", [e for e in ENTRIES.values() if e.metrics and e.metrics.inputs], ids=lambda entry: entry.name)
def test_the_readme_shows_the_results_by_kind_of_input(entry):
    assert results_table(entry) in README, f"python -m train.release.readme_results {entry.name} prints the table"


def test_the_readme_shows_the_results_on_heads_without_tumour():
    healthy = ENTRIES["effunet-pair-lgg"].metrics.healthy["sources"]
    synthetic = [one for name, one in healthy.items() if name.startswith("synthetic heads")]
    slices, called, review = (
        sum(figure if isinstance(figure, int) else figure["count"] for figure in (one[name] for one in synthetic))
        for name in ("slices", "slices_called_tumour", "slices_to_review")
    )
    assert called == 0
    assert (
        f"| Synthetic heads without tumour, {slices} slices | none called tumour by `effunet-pair-lgg`, {review} for review |"
        in README
    )
