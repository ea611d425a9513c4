"""Which input a visitor gave last, so that the page shows nothing of an earlier one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
