"""The values of the page's list of inputs, which are inputs as JSON, and of the fields for their sequences."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict

from brainmri.io.sequences import Candidate
from brainmri.ui.inputs import Input
from brainmri.ui.results import ABSENT, CHANNELS, assignment


def encode(one: Input, files: Sequence[str]) -> str:
    """An input as JSON, with its files as indices into the uploaded ones."""
    return json.dumps(asdict(one) | {"files": [list(files).index(file) for file in one.files]})


def decode(item: str, files: Sequence[str]) -> Input:
    """The inverse of `encode`.

    Raises:
        ValueError: for an item that does not belong to these files.
    """
    try:
        fields = json.loads(item)
        candidates = tuple(Candidate(**candidate) for candidate in fields["candidates"])
        own = {"files": tuple(files[number] for number in fields["files"]), "candidates": candidates}
        return Input(**fields | own | {"unreadable": tuple(fields["unreadable"])})
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError("expected an input from the list; drop the file again") from error


def of_study(candidates: Sequence[Candidate], study: int | None) -> list[tuple[int, Candidate]]:
    """The candidates of a study, or all where it is None, each with its index."""
    return [(number, candidate) for number, candidate in enumerate(candidates) if study in (None, candidate.study)]


def detected(candidates: Sequence[Candidate], study: int | None) -> tuple[int, ...]:
    """Indices of the candidates, in the order of `CHANNELS`, as the reader chose them."""
    found = {candidate.channel: number for number, candidate in of_study(candidates, study)}
    return tuple(found.get(channel, ABSENT) for channel in CHANNELS)


def field_value(number: int, item: str) -> str:
    """The value of a sequence field: a candidate's index, with a checksum of the input that it belongs to."""
    return f"{number} {zlib.crc32(item.encode()):08x}"


def selected(values: Sequence[str | None], item: str, chosen: Input) -> tuple[int, ...]:
    """The indices of `values`; the detected ones for values of an earlier input, which the browser may still send."""
    own = {field_value(number, item): number for number in range(ABSENT, len(chosen.candidates))}
    return tuple(
        own.get(value or "", number) for value, number in zip(values, detected(chosen.candidates, chosen.study), strict=True)
    )


def own_assignment(given: tuple[int, ...], chosen: Input) -> dict[int, int | None] | None:
    """The visitor's own choice of sequences, which overrules names and headers; None where it is the detected one."""
    own = given[0] != ABSENT and chosen.candidates and given != detected(chosen.candidates, chosen.study)
    return assignment(given) if own else None
