"""Which input a visitor gave last, so that the page shows nothing of an earlier one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import gradio as gr
from markupsafe import Markup

SESSIONS = 10_000  # that are kept, the most recent ones
_lock = Lock()


@dataclass
class Latest:
    """The last input of a session. All requests of the session share it, also those that run at the same time.

    Attributes:
        upload: the number of the last upload, as the browser counts them; 0 before the first.
        chosen: the uploaded files and the value of the input that is selected among them; None while they are not known.
    """

    upload: int = 0
    chosen: tuple[list[str], str] | None = None

    def give(self, upload: int) -> None:
        """Await the files of a new upload; 0 if there is none after all. Requests may arrive in another order than sent."""
        if upload == 0 or upload > self.upload:
            self.upload, self.chosen = upload, None

    def choose(self, files: Sequence[str], item: str) -> None:
        """Select an input among the files of the upload."""
        self.chosen = [*files], item

    def replaced(self, files: Sequence[str], item: str) -> bool:
        """Whether another input was given or selected after this one."""
        return self.upload > 0 and self.chosen != ([*files], item)


def latest_of(request: gr.Request) -> Latest:
    """The last input of a request's session.

    Gradio's own `gr.State` would open a connection that keeps Node programs with its client from ending.
    """
    with _lock:  # requests at the same time must not each get one of their own
        return _of_session(request.session_hash or "")


@lru_cache(maxsize=SESSIONS)
def _of_session(_session: str) -> Latest:
    return Latest()


def of_upload(upload: int, box: Markup) -> Markup:
    """A box with the number of the upload that it answers."""
    return Markup('<div data-upload="{}">{}</div>').format(upload, box)
