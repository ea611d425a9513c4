"""The package's templates, and how verdicts are shown in them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from brainmri.analysis.findings import NO_TUMOUR, REVIEW, TUMOUR

TEMPLATES = Path(__file__).parents[1] / "templates"
# verdict to its class in the style sheets, its symbol and its label
STATES = {TUMOUR: ("tumour", "▲", "Tumour"), NO_TUMOUR: ("clear", "●", "No tumour"), REVIEW: ("review", "◆", "Please review")}


@cache
def template(name: str):
    """One of the package's Jinja templates; values are escaped as HTML."""
    from jinja2 import Environment, FileSystemLoader

    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template(name)
