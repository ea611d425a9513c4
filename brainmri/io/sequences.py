"""Which file or series is which sequence: what names and descriptions call them, and what a reader or its caller chose."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from brainmri.io.limits import UnreadableImage
from brainmri.io.pixels import FLAIR

PRE, POST = 0, 2
SEQUENCES = {PRE: "pre-contrast T1", FLAIR: "FLAIR", POST: "post-contrast T1"}
ONE_SEQUENCE = "only one sequence was provided; it is read as FLAIR and used for all three channels"
HOW_TO_CHOOSE = "say which is which, on the page in the fields of the sequences, in code with read_study(…, assign=…)"

# what file names and series descriptions call the sequences; `t2f`, `t1n`, `t1c` are BraTS's names
_T1_FLAIR = re.compile(r"(?<![a-z0-9])t1w?[^a-z0-9]*flair")  # weighted like T1, whatever it is called
_FLAIR = re.compile(r"flair|dark.?fluid|(?<![a-z0-9])t2f(?![a-z])")
_T1 = re.compile(r"(?<![a-z0-9])s?t1(?!\d)|mp2?rage|spgr|bravo")
_OTHER = re.compile(r"(?<![a-z0-9])(s?t2|pd|dwi|dti|adc|diff|trace|swi|swan|perf|asl|cb[fv]|loc|scout|survey|subtr)")
_PRE = re.compile(
    r"(?<![a-z])pre(contrast|gad|gd)?(?![a-z])(?!.?op)|without|w/o|nati[fv]|(?<![a-z])no[nt]?.?contrast|(?<=t1)n(?![a-z])"
)
_POST = re.compile(
    r"(?<![a-z])post(contrast|gad|gd)?(?![a-z])(?!.?op)|(?<![a-z])(gd|gado?|gadolinium|ce|km|[ck]ontrast)(?![a-z])"
    r"|(?<=t1)c(?![a-z])|\+ ?c(?![a-z])|(?<![a-z])c ?\+"
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A volume or a series that may be read as one of the sequences.

    Attributes:
        label: what to call it on the page: a NIfTI file's name, or which of its volumes; a DICOM series' number, harmless
            description and slices. Two may be called alike.
        channel: the default: 0 pre-contrast T1, 1 FLAIR, 2 post-contrast T1, None if it is ignored.
    """

    label: str
    channel: int | None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of several candidates are read.

    Attributes:
        indices: by channel, an index into the candidates.
        warnings: assumptions, and what is ignored.
        problem: why no candidate can be chosen as FLAIR; None where one is.
    """

    indices: dict[int, int]
    warnings: tuple[str, ...] = ()
    problem: str | None = None

    def candidates(self, labels: Sequence[str]) -> tuple[Candidate, ...]:
        """Every candidate, with the channel it was chosen for."""
        channels = {index: channel for channel, index in self.indices.items()}
        return tuple(Candidate(label=label, channel=channels.get(index)) for index, label in enumerate(labels))

    def labels(self, labels: Sequence[str]) -> tuple[str | None, str | None, str | None]:
        """The labels of pre-contrast T1, FLAIR and post-contrast T1, None for what is not there."""
        pre, flair, post = (labels[self.indices[channel]] if channel in self.indices else None for channel in (PRE, FLAIR, POST))
        return pre, flair, post


def sequence_of(words: str) -> int | None:
    """The channel that a file name or a series description names, or None."""
    words = words.lower()
    if _FLAIR.search(words) and not _T1_FLAIR.search(words):
        return FLAIR
    contrast = PRE if _PRE.search(words) else POST if _POST.search(words) else None
    if _T1.search(words):
        return PRE if contrast is None else contrast
    return None if _OTHER.search(words) else contrast


def choose_single(words: str, called: str) -> Choice:
    """The only candidate, read as FLAIR, with a warning where its name says that it is another sequence.

    Args:
        words: a file name or a series description.
        called: the start of the warning, "the file is named as" or "the series is described as".
    """
    channel = sequence_of(words)
    if channel == FLAIR:
        return Choice(indices={FLAIR: 0})
    if channel is None:
        return Choice(indices={FLAIR: 0}, warnings=(ONE_SEQUENCE,))
    warning = (
        f"{called} {SEQUENCES[channel]}, which the networks cannot analyse alone; do not rely on this result, upload the FLAIR"
    )
    return Choice(indices={FLAIR: 0}, warnings=(warning, ONE_SEQUENCE))


def check_assignment(assign: Mapping[int, int | None], labels: Sequence[str], name: str) -> Choice:
    """The caller's choice, checked.

    Args:
        assign: by channel, an index into the candidates; FLAIR is used for a channel that is missing or None.
        labels: of the candidates.
        name: of the study, for messages.

    Raises:
        UnreadableImage: without a FLAIR, for an unknown channel or index, or for one candidate as two sequences.
    """
    if unknown := [channel for channel in assign if channel not in SEQUENCES]:
        known = ", ".join(f"{channel} ({words})" for channel, words in SEQUENCES.items())
        raise UnreadableImage(f"{name}: channel {unknown[0]!r} was assigned; the channels are {known}")
    indices = {channel: index for channel, index in sorted(assign.items()) if index is not None}
    for channel, index in indices.items():
        if not isinstance(index, int) or not 0 <= index < len(labels):
            raise UnreadableImage(
                f"{name}: {index!r} was assigned to the {SEQUENCES[channel]}; choose 0 to {len(labels) - 1}, or None"
            )
    if FLAIR not in indices:
        raise UnreadableImage(f"{name}: nothing was assigned to the FLAIR, which the networks need; choose the one that is FLAIR")
    chosen = list(indices.values())
    if doubled := [SEQUENCES[channel] for channel, index in indices.items() if chosen.count(index) > 1]:
        raise UnreadableImage(f"{name}: the same was assigned to the {' and the '.join(doubled)}; each needs its own, or none")
    return Choice(indices=indices)
