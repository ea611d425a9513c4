"""Which input a visitor gave last, so that the page shows nothing of an earlier one, and stops analysing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from threading import Lock
from typing import ParamSpec, TypeVar

import gradio as gr
from markupsafe import Markup

from brainmri.ui.logs import record_superseded

P = ParamSpec("P")
Result = TypeVar("Result")

SESSIONS = 10_000  # that are kept, the most recent ones
_lock = Lock()


class Superseded(Exception):
    """The session has a newer input, which the analysis of this one would only delay."""


@dataclass
class Latest:
    """The last input of a session. All requests of the session share it, also those that run at the same time.

    Attributes:
        upload: the number of the last upload, as the browser counts them; 0 before the first.
        chosen: of the uploaded files, and of the value of the input that is selected among them, the hashes, since their names
            may identify a patient, and a session may have thousands; None while they are not known.
    """

    upload: int = 0
    chosen: tuple[int, int] | None = None

    def give(self, upload: int) -> None:
        """Await the files of a new upload; 0 if there is none after all. Requests may arrive in another order than sent."""
        if upload == 0 or upload > self.upload:
            self.upload, self.chosen = upload, None

    def choose(self, files: Sequence[str], item: str) -> None:
        """Select an input among the files of the upload."""
        self.chosen = hash((*files,)), hash(item)

    def replaced(self, files: Sequence[str], item: str | None = None) -> bool:
        """Whether another input was given or selected after this one; without an item, after all inputs of these files."""
        if self.upload == 0:
            return False
        chosen = self.chosen  # other requests change it
        return chosen is None or chosen[0] != hash((*files,)) or (item is not None and chosen[1] != hash(item))

    def watch(self, files: Sequence[str], item: str | None = None) -> Callable[..., None]:
        """A function for an analysis to call, with any arguments: it raises `Superseded` once another input is selected.

        Files that are still on their way end nothing: if they don't arrive, this input remains the last one.
        """

        def stop_if_superseded(*_: int) -> None:
            if self.chosen is not None and self.replaced(files, item):
                raise Superseded

        return stop_if_superseded


def latest_of(request: gr.Request) -> Latest:
    """The last input of a request's session.

    Gradio's own `gr.State` would open a connection that keeps Node programs with its client from ending.
    """
    with _lock:  # requests at the same time must not each get one of their own
        return _of_session(request.session_hash or "")


@lru_cache(maxsize=SESSIONS)
def _of_session(_session: str) -> Latest:
    return Latest()


def skip_if_superseded(handler: Callable[P, Result]) -> Callable[P, Result | dict]:
    """Decorator: an analysis that ends with `Superseded` changes nothing on the page."""

    @wraps(handler)
    def handle(*arguments: P.args, **named: P.kwargs) -> Result | dict:
        try:
            return handler(*arguments, **named)
        except Superseded:
            record_superseded()
            return gr.skip()

    return handle


def of_upload(upload: int, box: Markup, refused: bool = False) -> Markup:
    """A box with the number of the upload that it answers; `refused` if nothing of that upload is analysed."""
    return Markup('<div data-upload="{}"{}>{}</div>').format(upload, Markup(" data-refused") if refused else "", box)
