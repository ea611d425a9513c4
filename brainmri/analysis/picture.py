"""Decide prepared slices: of a picture, of a sheet together, of each of several pictures, or of one head."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from brainmri.analysis.colours import strange_colours
from brainmri.analysis.coverage import cut_off, unfit_size
from brainmri.analysis.decision import SliceDecisions, decide_apart, for_review
from brainmri.analysis.findings import NO_TUMOUR, Decision, slice_numbers
from brainmri.analysis.forward import Prediction
from brainmri.analysis.preparation import NO_NEIGHBOURS, Prepared
from brainmri.analysis.recognition import Recognition
from brainmri.analysis.specialist import Decided
from brainmri.io.images import READ_AS_ONE_HEAD
from brainmri.io.scan import Scan

Decide = Callable[[Prepared], Decided]  # applies the rules


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureDecision:
    """The decision on a picture, or on the slices of one head.

    Attributes:
        prepared: the slice or slices; of a sheet, the one with the highest probability of tumour.
        decisions: of the whole picture (S = 1), or of each slice with a head, on the pixels of the input.
        specialist: the specialist's prediction of the prepared slices, if it decided them.
        recognition: what was recognised about them; None for a sheet of slices, or if no network recognises anything.
        warnings: what was changed before the analysis.
        place: of a sheet, the place of `prepared` in it, counted from 1, and the number of its slices; None for one slice.
    """

    prepared: Prepared
    decisions: SliceDecisions
    specialist: Prediction | None
    recognition: Recognition | None
    warnings: tuple[str, ...]
    place: tuple[int, int] | None = None

    @property
    def decision(self) -> Decision:
        """What is explained: the verdict on the slice or the sheet."""
        return Decision(
            verdict=self.decisions.verdicts[0][0],
            probability=float(self.decisions.probabilities[0]),
            mask=self.decisions.masks[0],
            by_specialist=self.specialist is not None,
        )


def decide_picture(parts: Iterable[Prepared], decide: Decide, height: int, width: int) -> PictureDecision:
    """Decide the slices of a picture of height times width pixels."""
    decided = [_decide_part(part, decide, height, width) for part in parts]
    return decided[0] if len(decided) == 1 else _join(decided)


def decide_pictures(parts: Iterable[Prepared], decide: Decide, height: int, width: int) -> Iterator[PictureDecision]:
    """Decide each of several pictures by itself; the slices of a picture follow one another."""
    for _, of_picture in itertools.groupby(parts, lambda part: part.view.numbers.tolist()):
        yield decide_picture(of_picture, decide, height, width)


def decide_head(part: Prepared, decide: Decide, scan: Scan) -> PictureDecision:
    """Decide the slices of one head together."""
    height, width = scan.pixels.shape[1:3]
    return _decide_part(part, decide, height, width, measured=scan.geometry is not None)


def changes(decided: list[PictureDecision]) -> tuple[str, ...]:
    """What was changed before the analysis; of several pictures, with their numbers."""
    if len(decided) == 1:
        return decided[0].warnings
    return (NO_NEIGHBOURS, *with_numbers((one.prepared, one.warnings) for one in decided))


def without_one_head(warnings: tuple[str, ...]) -> tuple[str, ...]:
    """The reader's warnings, for pictures that were not read as one head after all."""
    return tuple(warning for warning in warnings if READ_AS_ONE_HEAD not in warning)


def with_numbers(noted: Iterable[tuple[Prepared, Iterable[str]]]) -> tuple[str, ...]:
    """Notes on several pictures, each once, with the numbers of the pictures that it is about."""
    numbers: dict[str, list[int]] = {}
    for part, notes in noted:
        for note in notes:
            numbers.setdefault(note, []).append(int(part.view.numbers[0]))
    return tuple(f"{slice_numbers(of_one)}: {note}" for note, of_one in numbers.items())


def problems(part: Prepared, measured: bool) -> list[str | None]:
    """Why each slice is for review, whatever models find in it; None for a slice without a problem.

    Args:
        part: slices that belong together.
        measured: whether they have a geometry.
    """
    unfit = unfit_size(*part.view.panel.box[2:], measured)
    return [unfit or (None if measured else strange_colours(pixels)) for pixels in part.slices]


def missing_part(part: Prepared) -> str | None:
    """Why the head of slices that may be axial cannot be called free of tumour; None if it is whole, or for other slices."""
    if part.recognition is None:
        return None
    plane = part.recognition.plane
    return cut_off(*part.slices) if plane is None or plane.name == "axial" else None


def _decide_part(part: Prepared, decide: Decide, height: int, width: int, measured: bool = False) -> PictureDecision:
    """Decide slices that belong together; measured are those with a geometry."""
    decisions, specialist = decide(part)
    decisions = for_review(decisions, problems(part, measured))
    if len(part.slices) == 1 and (missing := missing_part(part)):
        decisions = for_review(decisions, [missing], of=(NO_TUMOUR,))
    maps, masks = (part.view.restore(values, height, width) for values in (decisions.maps, decisions.masks))
    return PictureDecision(
        prepared=part, decisions=replace(decisions, maps=maps, masks=masks), specialist=specialist,
        recognition=part.recognition, warnings=part.warnings,
    )  # fmt: skip


def _join(parts: list[PictureDecision]) -> PictureDecision:
    """Join the decisions on the slices of a sheet."""
    verdicts = [part.decisions.verdicts[0][0] for part in parts]
    verdict, reason, _ = decide_apart(verdicts, f"The picture is a sheet of {len(parts)} slices")
    strange = [part.decisions.ood[0] for part in parts]
    in_distribution = [one for one in strange if one is None or one.reason is None]
    decisions = SliceDecisions(
        maps=np.max([part.decisions.maps for part in parts], axis=0),
        masks=np.any([part.decisions.masks for part in parts], axis=0),
        min_areas=np.min([part.decisions.min_areas for part in parts], axis=0),
        probabilities=np.max([part.decisions.probabilities for part in parts], axis=0),
        verdicts=[(verdict, reason)],
        ood=[(in_distribution or strange)[0]],
    )
    warnings = tuple(dict.fromkeys(warning for part in parts for warning in part.warnings))
    number = max(range(len(parts)), key=lambda number: parts[number].decisions.probabilities[0])
    return replace(parts[number], decisions=decisions, recognition=None, warnings=warnings, place=(number + 1, len(parts)))
