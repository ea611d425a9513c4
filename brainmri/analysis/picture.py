"""Analyse one uploaded picture: find its slices, turn them upright, predict and decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from brainmri.analysis.decision import SliceDecisions
from brainmri.analysis.findings import NO_TUMOUR, REVIEW, TUMOUR, slice_numbers
from brainmri.analysis.forward import Prediction
from brainmri.analysis.frame import Panel, find_panels
from brainmri.analysis.recognition import Recognition, find_turn, known_sequence, recognise, sequence_of
from brainmri.analysis.specialist import Decided

Predict = Callable[[np.ndarray], Prediction]  # of slices (S, H, W, 3) in [0, 1]
Decide = Callable[[np.ndarray, Prediction, str | None], Decided]  # of upright slices, their prediction and their sequence

PAGE_REMOVED = "the page around the slice was left out"
INVERTED = "the grey values are inverted; they were inverted back before the analysis"


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceView:
    """How a slice was taken out of an uploaded picture.

    Attributes:
        panel: where it is in the picture.
        inverted: whether its grey values were inverted back.
        turned: degrees counter-clockwise by which the picture shows it turned.
    """

    panel: Panel
    inverted: bool
    turned: int

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """The upright slice (h, w, 3) of the picture (H, W, 3) in [0, 1], as the networks see it."""
        part = self.panel.cut_inverted(pixels) if self.inverted else self.panel.cut(pixels)
        return np.ascontiguousarray(np.rot90(part, -self.turned // 90))

    def cut_mask(self, mask: np.ndarray) -> np.ndarray:
        """The part (h, w) of a mask (H, W) of the picture that belongs to the upright slice."""
        top, left, height, width = self.panel.box
        return np.ascontiguousarray(np.rot90(mask[top : top + height, left : left + width], -self.turned // 90))

    def restore(self, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Values (h, w) of the upright slice on the grid (H, W) of the picture, 0 elsewhere."""
        picture = np.zeros(shape, values.dtype)
        self.panel.paste(np.rot90(values, self.turned // 90), picture)
        return picture


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureDecision:
    """The decision on a picture.

    Attributes:
        view: how the slice was taken out of the picture; of a sheet, the slice with the highest probability of tumour.
        decisions: of one slice, the whole picture (S = 1).
        predicted: the prediction of that slice.
        specialist: the specialist's prediction of that slice, if it decided it.
        recognition: what was recognised about the slice; None for a sheet of slices, or if no network recognises anything.
        warnings: what was changed before the analysis.
    """

    view: SliceView
    decisions: SliceDecisions
    predicted: Prediction
    specialist: Prediction | None
    recognition: Recognition | None
    warnings: tuple[str, ...]


def decide_picture(
    pixels: np.ndarray, predict: Predict, decide: Decide, sequence: str | None = None, find_slices: bool = True
) -> PictureDecision:
    """Analyse a picture (H, W, 3) in [0, 1] of one slice or of a sheet of slices.

    Args:
        predict: runs the networks.
        decide: applies the rules.
        sequence: the MR sequence as the file or the user gives it; None to recognise it.
        find_slices: whether to look for slices on a page or a sheet; otherwise the picture is one slice.
    """
    panels = find_panels(pixels) if find_slices else (Panel(box=(0, 0, *pixels.shape[:2])),)
    parts = [_decide_panel(panel, pixels, predict, decide, sequence) for panel in panels]
    return parts[0] if len(parts) == 1 else _join(parts, panels, pixels.shape[:2])


def _decide_panel(panel: Panel, pixels: np.ndarray, predict: Predict, decide: Decide, sequence: str | None) -> PictureDecision:
    warnings: list[str] = []
    view = SliceView(panel=panel, inverted=False, turned=0)
    slices = view.cut(pixels)[None]
    predicted = predict(slices)
    if panel.page is not None:
        warnings.append(PAGE_REMOVED)
        inverted = replace(view, inverted=True)
        other = predict(inverted.cut(pixels)[None])
        if _strangeness(other) < _strangeness(predicted):
            view, predicted = inverted, other
            warnings.append(INVERTED)
    turned = find_turn(predicted, lambda quarters: predict(np.ascontiguousarray(np.rot90(view.cut(pixels), quarters))[None]))
    if turned:
        warnings.append(f"the slice is turned by {turned}°; it was analysed upright")
        view = replace(view, turned=turned)
        predicted = predict(view.cut(pixels)[None])
    cut = view.cut(pixels)[None]
    recognition = recognise(predicted, cut, turned, sequence)
    decisions, specialist = decide(cut, predicted, sequence_of(recognition) or known_sequence(cut, sequence))
    shape = pixels.shape[:2]
    decisions = replace(decisions, maps=view.restore(decisions.maps[0], shape)[None],
                        masks=view.restore(decisions.masks[0], shape)[None])  # fmt: skip
    return PictureDecision(
        view=view, decisions=decisions, predicted=predicted, specialist=specialist, recognition=recognition,
        warnings=tuple(warnings),
    )  # fmt: skip


def _strangeness(predicted: Prediction) -> tuple[bool, float]:
    """How far a slice is from brain MR slices, for comparison: whether it is out of distribution, then its distance."""
    if not predicted.ood:
        return False, 0.0
    return predicted.ood[0].reason is not None, predicted.ood[0].distance


def _join(parts: list[PictureDecision], panels: tuple[Panel, ...], shape: tuple[int, int]) -> PictureDecision:
    """Join the decisions on the slices of a sheet: tumour where any slice shows one, else review where any is for review."""
    verdicts = [part.decisions.verdicts[0][0] for part in parts]
    by_verdict = {verdict: [number for number, one in enumerate(verdicts) if one == verdict] for verdict in (TUMOUR, REVIEW)}
    sheet = f"The picture is a sheet of {len(panels)} slices"
    if shown := by_verdict[TUMOUR]:
        verdict, reason = TUMOUR, f"{sheet}; {slice_numbers(shown)} show{'s' * (len(shown) == 1)} a tumour."
    elif undecided := by_verdict[REVIEW]:
        needed = f"{slice_numbers(undecided)} need{'s' * (len(undecided) == 1)} review"
        verdict, reason = REVIEW, f"{sheet}; none clearly shows a tumour, but {needed}."
    else:
        verdict, reason = NO_TUMOUR, f"{sheet}; none of them shows a tumour."
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
    likeliest = max(parts, key=lambda part: part.decisions.probabilities[0])
    return replace(likeliest, decisions=decisions, recognition=None, warnings=warnings)
