"""Prepare an input for the networks: find its slices and turn them upright. All networks get the same slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from brainmri.analysis.forward import Prediction, with_head
from brainmri.analysis.frame import Panel, find_panels
from brainmri.analysis.neighbours import follow_one_another
from brainmri.analysis.recognition import Recognition, find_turn, known_sequence, recognise, sequence_of
from brainmri.io.scan import Scan
from brainmri.zoo.preprocess import SQUARE

Predict = Callable[[np.ndarray], Prediction]  # of slices (S, H, W, 3) in [0, 1]

PAGE_REMOVED = "the page around the slice was left out"
INVERTED = "the grey values are inverted; they were inverted back before the analysis"
NO_NEIGHBOURS = "neighbouring slices are no more alike than others, so each was analysed by itself"
NEGATIVE = 0.75  # grey value of a study's background from which it may be a negative; z-scores have one of about 0.4


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """How slices were taken out of an input (N, H, W, 3), which for a picture is (1, H, W, 3).

    Attributes:
        head: (N,) bool, which slices were taken.
        panel: where they are in the picture.
        inverted: whether their grey values were inverted back.
        turned: degrees counter-clockwise by which the input shows them turned.
    """

    head: np.ndarray
    panel: Panel
    inverted: bool = False
    turned: int = 0

    @classmethod
    def whole(cls, height: int, width: int) -> View:
        """The view of a picture that is nothing but one upright slice."""
        return cls(head=np.ones(1, bool), panel=Panel(box=(0, 0, height, width)))

    @property
    def numbers(self) -> np.ndarray:
        """(S,) indices of the slices in the input."""
        return np.flatnonzero(self.head)

    @property
    def _chosen(self) -> slice | np.ndarray:
        """The slices as an index; contiguous ones as a slice, which copies nothing."""
        numbers = self.numbers
        contiguous = numbers[-1] - numbers[0] < len(numbers)
        return slice(numbers[0], numbers[-1] + 1) if contiguous else numbers

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """The upright slices (S, h, w, 3) of the input (N, H, W, 3) in [0, 1], as the networks see them."""
        part = pixels[self._chosen]
        part = self.panel.cut_inverted(part) if self.inverted else self.panel.cut(part)
        return np.ascontiguousarray(np.rot90(part, -self.turned // 90, axes=(1, 2)))

    def cut_masks(self, masks: np.ndarray) -> np.ndarray:
        """The part (S, h, w) of masks (N, H, W) of the input that belongs to the upright slices."""
        top, left, height, width = self.panel.box
        part = masks[self._chosen, top : top + height, left : left + width]
        return np.ascontiguousarray(np.rot90(part, -self.turned // 90, axes=(1, 2)))

    def restore(self, values: np.ndarray, height: int, width: int) -> np.ndarray:
        """Values (S, h, w) of the upright slices on the pixels (S, height, width) that these slices have in the input."""
        restored = np.zeros((len(values), height, width), values.dtype)
        top, left, rows, columns = self.panel.box
        restored[:, top : top + rows, left : left + columns] = np.rot90(values, self.turned // 90, axes=(1, 2))
        return restored


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """Slices of an input that are decided together: one of a picture, all with a head of a study.

    Attributes:
        slices: (S, h, w, 3) in [0, 1], upright, in order along the head.
        view: how they were taken out of the input.
        spacing: between rows and between columns, in a common unit.
        mode: of the rules, "slice" or "study" (`mode_of`).
        predicted: the prediction of the networks that turned them upright.
        recognition: what these recognised; None if they recognise nothing.
        sequence: the MR sequence, one of `brainmri.zoo.attributes.SEQUENCES`; None if unknown.
        warnings: what was changed.
    """

    slices: np.ndarray
    view: View
    spacing: tuple[float, float]
    mode: str
    predicted: Prediction
    recognition: Recognition | None
    sequence: str | None
    warnings: tuple[str, ...]


def prepare_pictures(scan: Scan, predict: Predict, sequence: str | None = None, find_slices: bool = True) -> Iterator[Prepared]:
    """Prepare every picture with a head of a scan (N, H, W, 3) by itself; arguments are those of `prepare_picture`."""
    for number in np.flatnonzero(with_head(scan.pixels)):
        place = np.arange(len(scan.pixels)) == number
        for part in prepare_picture(scan.pixels[number], predict, sequence, find_slices):
            yield replace(part, view=replace(part.view, head=place))


def prepare_picture(
    pixels: np.ndarray, predict: Predict, sequence: str | None = None, find_slices: bool = True
) -> tuple[Prepared, ...]:
    """Find the slices in a picture (H, W, 3) in [0, 1] and turn them upright: one, or those of a sheet in reading order.

    Args:
        predict: runs the networks.
        sequence: the MR sequence as the user gives it; None to recognise it.
        find_slices: whether to look for slices on a page or a sheet; otherwise the picture is one slice.
    """
    panels = find_panels(pixels) if find_slices else (_whole(pixels[None]),)
    return tuple(_prepare_panel(panel, pixels[None], predict, sequence) for panel in panels)


def _prepare_panel(panel: Panel, picture: np.ndarray, predict: Predict, sequence: str | None) -> Prepared:
    """Prepare one slice of a picture (1, H, W, 3)."""
    view = View(head=np.ones(1, bool), panel=panel)
    predicted, warnings = predict(view.cut(picture)), ()
    if panel.page is not None:
        warnings = (PAGE_REMOVED,)
        inverted = replace(view, panel=panel.negative(picture[0]), inverted=True)
        other = predict(inverted.cut(picture))
        if _strangeness(other) < _strangeness(predicted):
            view, predicted = inverted, other
            warnings = (INVERTED,) if view.panel.page is None else (PAGE_REMOVED, INVERTED)
    view, predicted, turned = _turn_upright(picture, view, predicted, predict)
    return _prepared(view.cut(picture), view, predicted, sequence, (*warnings, *turned))


def prepare_study(scan: Scan, predict: Predict, sequence: str | None = None, find_negatives: bool = True) -> Prepared:
    """Take the slices with a head out of a study of one head, invert negatives, and turn slices without geometry upright.

    Args:
        scan: the study, pixels (S, H, W, 3) in [0, 1].
        predict: runs the networks.
        sequence: the MR sequence as the file or the user gives it; None to recognise it.
        find_negatives: whether to look for inverted grey values.
    """
    pixels, spacing = scan.pixels, scan.geometry.spacing[1:] if scan.geometry else None
    view, warnings = View(head=with_head(pixels), panel=_whole(pixels)), ()
    predicted = predict(view.cut(pixels))
    if find_negatives and _border(pixels) >= NEGATIVE:
        inverted = replace(view, head=with_head(1 - pixels), inverted=True)
        other = predict(inverted.cut(pixels))
        if _strangeness(other) < _strangeness(predicted):
            view, predicted, warnings = inverted, other, (INVERTED,)
    if spacing is None:
        view, predicted, turned = _turn_upright(pixels, view, predicted, predict)
        warnings += turned
    mode = "study" if len(pixels) > 1 else "slice"
    return _prepared(view.cut(pixels), view, predicted, sequence, warnings, mode, spacing or SQUARE)


def holds_pictures(scan: Scan) -> bool:
    """Whether a study is of pictures to analyse one by one: without a place in the patient, and not neighbours in one head."""
    return scan.pixels.ndim == 4 and scan.geometry is None and mode_of(scan) == "slice"


def mode_of(scan: Scan) -> str:
    """The mode of the rules for a scan: "study" for several slices of one head, else "slice".

    Slices without geometry, such as numbered pictures, may be of different heads; those that are not neighbours are not smoothed.
    """
    pixels = scan.pixels
    if pixels.ndim == 3 or len(pixels) == 1:
        return "slice"
    known = scan.geometry is not None or follow_one_another([pixels[number] for number in np.flatnonzero(with_head(pixels))])
    return "study" if known else "slice"


def _turn_upright(
    pixels: np.ndarray, view: View, predicted: Prediction, predict: Predict
) -> tuple[View, Prediction, tuple[str, ...]]:
    """Turn the slices of a view upright: the view, its prediction and a warning if they were turned."""
    slices = view.cut(pixels)
    turned, upright = find_turn(
        predicted, lambda quarters: predict(np.ascontiguousarray(np.rot90(slices, quarters, axes=(1, 2))))
    )
    if not turned:
        return view, predicted, ()
    subject, were = ("the slice is", "it was") if len(slices) == 1 else ("the slices are", "they were")
    return replace(view, turned=turned), upright, (f"{subject} turned by {turned}°; {were} analysed upright",)


def _prepared(
    slices: np.ndarray, view: View, predicted: Prediction, sequence: str | None, warnings: tuple[str, ...],
    mode: str = "slice", spacing: tuple[float, float] = SQUARE,
) -> Prepared:  # fmt: skip
    recognition = recognise(predicted, slices, view.turned, sequence)
    known = sequence_of(recognition) or known_sequence(slices, sequence)
    return Prepared(
        slices=slices, view=view, spacing=spacing, mode=mode, predicted=predicted, recognition=recognition, sequence=known,
        warnings=warnings,
    )  # fmt: skip


def _whole(pixels: np.ndarray) -> Panel:
    """All of the pixels (N, H, W, 3)."""
    return Panel(box=(0, 0, *pixels.shape[1:3]))


def _border(pixels: np.ndarray) -> float:
    """The grey value around the slices (N, H, W, 3)."""
    edges = (pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1])
    return float(np.median(np.concatenate([edge.mean(axis=2).ravel() for edge in edges])))


def _strangeness(predicted: Prediction) -> tuple[int, float]:
    """How far slices are from brain MR slices, for comparison: how many are out of distribution, then their mean distance."""
    if not predicted.ood:
        return 0, 0.0
    return sum(one.reason is not None for one in predicted.ood), float(np.mean([one.distance for one in predicted.ood]))
