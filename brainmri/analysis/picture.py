"""Decide a prepared picture: its slice, or the slices of a sheet together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from brainmri.analysis.coverage import several_heads
from brainmri.analysis.decision import SliceDecisions, decide_apart, for_review
from brainmri.analysis.findings import Decision
from brainmri.analysis.forward import Prediction
from brainmri.analysis.preparation import Prepared
from brainmri.analysis.recognition import Recognition
from brainmri.analysis.specialist import Decided

Decide = Callable[[Prepared], Decided]  # applies the rules


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureDecision:
    """The decision on a picture.

    Attributes:
        prepared: the slice; of a sheet, the one with the highest probability of tumour.
        decisions: of one slice, the whole picture (S = 1).
        specialist: the specialist's prediction of that slice, if it decided it.
        recognition: what was recognised about the slice; None for a sheet of slices, or if no network recognises anything.
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


def decide_picture(parts: tuple[Prepared, ...], decide: Decide, shape: tuple[int, ...]) -> PictureDecision:
    """Decide the slices of a picture of shape (H, W)."""
    decided = [_decide_part(part, decide, shape) for part in parts]
    return decided[0] if len(decided) == 1 else _join(decided)


def _decide_part(part: Prepared, decide: Decide, shape: tuple[int, ...]) -> PictureDecision:
    decisions, specialist = decide(part)
    decisions = for_review(decisions, several_heads(*part.view.panel.box[2:]))
    maps, masks = (part.view.restore(values, (1, *shape)) for values in (decisions.maps, decisions.masks))
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
