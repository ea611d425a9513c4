"""What an entry analyses, returns and reaches, in a few words, for the tables of models."""

from __future__ import annotations

from brainmri.zoo.attributes import SEQUENCES
from brainmri.zoo.entry import ModelEntry
from brainmri.zoo.metrics import THREE_SEQUENCES, WHOLE_STUDY

OUTPUTS = {"segmentation": "mask", "classification": "verdict"}  # by task
MISSING = "-"


def input_names(entry: ModelEntry) -> str:
    """The images that an entry analyses: the sequences that it was trained and evaluated on."""
    if "attributes" in entry.arguments:
        return "any sequence and plane"
    known = [name for name in SEQUENCES if name in entry.evaluated_on]
    return f"axial; {' or '.join([*known, *sorted(entry.evaluated_on - {*known})])}"


def output_names(entry: ModelEntry) -> str:
    """What an entry returns: mask, verdict or both."""
    return " and ".join(name for task, name in OUTPUTS.items() if task in entry.tasks)


def headline(entry: ModelEntry, metric: str) -> str:
    """A metric to three digits, in whole studies where it was measured there, else slice by slice; "-" without one."""
    for variant in (WHOLE_STUDY, THREE_SEQUENCES):
        measured = (entry.metrics.variants if entry.metrics else {}).get(variant, {}).get(metric)
        if isinstance(measured, dict) and isinstance(measured.get("value"), float):
            return f"{measured['value']:.3f}"
    return MISSING
