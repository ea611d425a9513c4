"""The values of a call to an endpoint, checked before Gradio reads them, so that every refusal names the parameter."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from html import escape
from reprlib import repr as shorten
from typing import Any

import gradio as gr

ADDED = ("sequence",)  # parameters added at the end; a list of values from before lacks them
FILE = 'as {"path": …} with the path that /gradio_api/upload gives'


def with_added(event: Any, values: list[Any]) -> list[Any]:
    """The values of a call, completed by None for the parameters in `ADDED` that it lacks."""
    missing = _parameters(event)[len(values) :]
    return [*values, *[None] * len(missing)] if {*missing} <= {*ADDED} else values


def check_values(event: Any, values: Sequence[Any]) -> None:
    """Refuse the values of a call by their number, their types and ranges, and unknown models.

    Args:
        event: the endpoint, as Gradio keeps it, with `fn` and `inputs`.
        values: as decoded from JSON, one for each of `event.inputs`.

    Raises:
        gr.Error: with the parameter, what is expected and what was given.
    """
    names = _parameters(event)
    if len(values) != len(names):
        raise _error(f"expected {len(names)} values ({', '.join(names)}), got {len(values)}")
    for name, component, value in zip(names, event.inputs, values, strict=True):
        expected = _describe_misfit(component, value)
        if expected:
            raise _error(f"{name}: expected {expected}, got {shorten(value)}")


def _parameters(event: Any) -> list[str]:
    return list(inspect.signature(event.fn).parameters)[: len(event.inputs)]


def _error(message: str) -> gr.Error:
    return gr.Error(escape(f"{message}; /gradio_api/info lists the parameters.", quote=False), duration=15, print_exception=False)


def _describe_misfit(component: Any, value: Any) -> str | None:
    """What a component expects, if a value is something else."""
    if isinstance(component, gr.File) and value is not None:
        if component.file_count == "multiple":
            return None if isinstance(value, list) and all(map(_is_file, value)) else f"a list of files, each {FILE}"
        return None if _is_file(value) else f"a file, {FILE}"
    if isinstance(component, gr.Number) and value is not None:
        return None if _is_in_range(component, value) else _describe_range(component)
    if isinstance(component, gr.Dropdown | gr.CheckboxGroup):
        choices = [str(choice) for _, choice in component.choices]
        one_of = f"one of {', '.join(choices)}"
        if isinstance(component, gr.Dropdown):
            return None if value in choices or (value is None and component.value is None) else one_of
        return None if isinstance(value, list) and all(one in choices for one in value) else f"a list of models, each {one_of}"
    return None


def _is_file(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("path"), str)


def _is_in_range(component: gr.Number, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    low, high = (bound if bound is not None else value for bound in (component.minimum, component.maximum))
    return low <= value <= high and (component.precision != 0 or value == int(value))


def _describe_range(component: gr.Number) -> str:
    kind = "a whole number" if component.precision == 0 else "a number"
    return (
        f"{kind} of at least {component.minimum}"
        if component.maximum is None
        else f"{kind} from {component.minimum} to {component.maximum}"
    )
