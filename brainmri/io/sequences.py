"""Which file or series is read as which channel: the candidates, and the choice of a reader or its caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from brainmri.io.limits import refuse
from brainmri.io.pixels import FLAIR
from brainmri.io.sequence_names import FLAIR_T2, POST_T1, PRE_T1, describe, identify

PRE, POST = 0, 2
SEQUENCES = {PRE: PRE_T1, FLAIR: FLAIR_T2, POST: POST_T1}
ONE_SEQUENCE = "only one sequence was provided; it is used for all three channels"
HOW_TO_CHOOSE_STUDY = "Please upload one of them, choose one in the list on the page, or give its index from 0 as study=… in code"
HOW_TO_CHOOSE = "choose the sequences in the fields on the page, or in code with read_study(…, assign=…)"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A volume or a series that may be read as one of the sequences.

    Attributes:
        label: its name on the page: a NIfTI file's name, or which of its volumes; a DICOM series' number, its description if
            that cannot identify anybody, and its slices; with several studies, the number of its study. Labels may repeat.
        channel: the default: 0 pre-contrast T1, 1 FLAIR, 2 post-contrast T1, None if it is ignored.
        study: the index of its study, if the input holds several.
    """

    label: str
    channel: int | None
    study: int = 0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of several candidates are read.

    Attributes:
        indices: by channel, an index into the candidates.
        warnings: assumptions, and what is ignored.
        problem: why no candidate can be chosen as FLAIR; None where one is.
        single_sequence: `Scan.single_sequence`.
    """

    indices: dict[int, int]
    warnings: tuple[str, ...] = ()
    problem: str | None = None
    single_sequence: str | None = None

    def candidates(self, labels: Sequence[str], study: int = 0) -> tuple[Candidate, ...]:
        """Every candidate of a study, with the channel it was chosen for."""
        channels = {index: channel for channel, index in self.indices.items()}
        return tuple(Candidate(label=label, channel=channels.get(index), study=study) for index, label in enumerate(labels))

    def labels(self, labels: Sequence[str]) -> tuple[str | None, str | None, str | None]:
        """The labels of pre-contrast T1, FLAIR and post-contrast T1; None for a missing sequence."""
        pre, flair, post = (labels[self.indices[channel]] if channel in self.indices else None for channel in (PRE, FLAIR, POST))
        return pre, flair, post


def channel_of(sequence: str | None) -> int | None:
    """The channel of a sequence, or None."""
    return next((channel for channel, name in SEQUENCES.items() if name == sequence), None)


def sequence_of(words: str) -> int | None:
    """The channel that a file name or a series description names, or None."""
    return channel_of(identify(words))


def choose_single(sequence: str | None, subject: str) -> Choice:
    """The only candidate, read as FLAIR, with a warning if it is another sequence.

    Args:
        sequence: what it is, as of `identify`.
        subject: of the warning, "the file" or "the series".
    """
    if sequence == FLAIR_T2:
        return Choice(indices={FLAIR: 0}, single_sequence=sequence)
    if sequence is None:
        return Choice(indices={FLAIR: 0}, warnings=(ONE_SEQUENCE,))
    warning = f"{subject} is {describe(sequence)}, not FLAIR"
    return Choice(indices={FLAIR: 0}, warnings=(warning, ONE_SEQUENCE), single_sequence=sequence)


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
        raise refuse(name, f"channel {unknown[0]!r} was assigned. Please use {known}")
    indices = {channel: index for channel, index in sorted(assign.items()) if index is not None}
    for channel, index in indices.items():
        if not isinstance(index, int) or not 0 <= index < len(labels):
            raise refuse(
                name, f"{index!r} was assigned to the {SEQUENCES[channel]}. Please choose 0 to {len(labels) - 1}, or None"
            )
    if FLAIR not in indices:
        raise refuse(name, "no FLAIR was assigned, which the models need. Please choose it")
    chosen = list(indices.values())
    if doubled := [SEQUENCES[channel] for channel, index in indices.items() if chosen.count(index) > 1]:
        raise refuse(name, f"the same one was assigned to the {' and the '.join(doubled)}. Please assign different ones, or none")
    return Choice(indices=indices)
