"""The contract of a reader: one class for each format of a study. `brainmri.io.reading.READERS` lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from brainmri.io.files import StudyFile
from brainmri.io.scan import Scan
from brainmri.io.sequences import Candidate


class OpenStudy(Protocol):
    """Files of one format that belong together, with their headers read."""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """What may be read as which sequence; empty where channels are colours.

        Raises:
            UnreadableImage: when a header is damaged or outside the limits.
        """
        ...

    @property
    def pictures(self) -> tuple[str | None, ...]:
        """For each study that the files hold, the file name if it is a single picture beside others, else None.

        There are several studies for different examinations, patients or cases, and for pictures that are no slices of one head.
        """
        ...

    def read(self, assign: Mapping[int, int | None] | None = None, study: int | None = None) -> Scan:
        """The files as a scan with pixels (S, H, W, 3).

        Args:
            assign: by channel (0 pre-contrast T1, 1 FLAIR, 2 post-contrast T1) an index into `candidates`, instead of the
                automatic choice.
            study: which of several studies, from 0; None for the only one.

        Raises:
            UnreadableImage: when the files are damaged, outside the limits, or cannot be read as assigned.
        """
        ...


class Reader(Protocol):
    """Reads files of one format.

    Attributes:
        format: its name, for messages.
        preview: whether files of this format beside those of another one are previews, which are ignored.
    """

    format: str
    preview: bool

    def sniff(self, file: StudyFile) -> bool:
        """Whether a file has this format, by its first bytes or its name."""
        ...

    def open(self, files: list[StudyFile], name: str) -> OpenStudy:
        """Read no more than the headers of the files.

        Args:
            files: of this format.
            name: the study's, for messages.

        Raises:
            UnreadableImage: when a header is damaged or outside the limits.
        """
        ...
