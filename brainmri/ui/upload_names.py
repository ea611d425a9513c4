"""The names of uploaded files as their visitors know them; Gradio removes characters such as brackets from them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def with_own_names(values: list, inputs: list) -> list:
    """The values of a request whose files have the visitor's own names.

    Args:
        values: as Gradio gives them to a handler: paths, lists of paths, and others, which stay as they are.
        inputs: of the request, one for each value, in which a file is a dict with the name `orig_name`.
    """
    return [_named(value, given) for value, given in zip(values, inputs, strict=True)]


def _named(value: Any, given: Any) -> Any:
    if isinstance(value, list) and isinstance(given, list) and len(value) == len(given):
        return [_named(*pair) for pair in zip(value, given, strict=True)]
    if not (isinstance(value, str) and isinstance(given, dict) and isinstance(own := given.get("orig_name"), str)):
        return value
    path = Path(value)
    if own == path.name or not own.isprintable() or own in ("", ".", "..") or {"/", "\\"} & {*own}:
        return value
    named = path.with_name(own)  # in a folder of its own, which Gradio names by the bytes
    try:
        if not named.exists():
            os.link(path, named)
    except OSError:  # a name that the file system cannot store, or one without links
        return value
    return str(named)
