"""The stability of a mask under changes that should not matter: mirroring, shifts, brightness, threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from brainmri.analysis.forward import Progress, predict_slices
from brainmri.zoo.preprocess import SQUARE
from brainmri.zoo.registry import LoadedModel

SHIFT = 0.03  # share of the image's side
GAMMAS = (0.8, 1.25)  # exponents of the brightness
THRESHOLDS = (-0.2, -0.1, 0.0, 0.1, 0.2)  # added to the mask threshold


@dataclass(frozen=True, kw_only=True, eq=False)
class Stability:
    """The mask of one slice under small changes.

    Attributes:
        share: (H, W) float32 in [0, 1], the share of masks that contain each pixel.
        area: the median area in pixels.
        interval: the 5th and 95th percentile of the area in pixels.
        runs: the number of masks.
        sentence: the result in one sentence.
    """

    share: np.ndarray
    area: float
    interval: tuple[float, float]
    runs: int
    sentence: str


def stability(
    segmenter: LoadedModel,
    pixels: np.ndarray,
    threshold: float,
    progress: Progress | None = None,
    spacing: tuple[float, float] = SQUARE,
) -> Stability:
    """Segment a slice repeatedly under small changes.

    Args:
        segmenter: the model that draws the mask.
        pixels: (H, W, 3) in [0, 1].
        threshold: the mask threshold, in (0, 1).
        progress: as for `predict_slices`, of the changed slices.
        spacing: between rows and between columns, in a common unit.

    Raises:
        ValueError: if the model gives no mask.
    """
    height, width = pixels.shape[:2]
    down, right = max(1, round(SHIFT * height)), max(1, round(SHIFT * width))
    shifts = [(0, 0), (down, 0), (-down, 0), (0, right), (0, -right)]
    changed = [_shifted(pixels, *shift) for shift in shifts] + [pixels[:, ::-1]] + [pixels**gamma for gamma in GAMMAS]
    maps = predict_slices(segmenter, None, np.stack(changed), spacing, progress=progress).maps
    if maps is None:
        raise ValueError(f"expected a segmenter, got {segmenter.entry.name}, which gives no mask; choose another model")
    aligned = [_shifted(m, -y, -x) for m, (y, x) in zip(maps, shifts, strict=False)] + [maps[5][:, ::-1], *maps[6:]]
    levels = np.clip(threshold + np.array(THRESHOLDS), 0.02, 0.98)
    masks = np.stack(aligned)[:, None] > levels[:, None, None].astype(np.float32)  # (changes, thresholds, H, W)
    masks = masks.reshape(-1, height, width)
    areas = masks.sum(axis=(1, 2))
    median, (low, high) = float(np.median(areas)), np.percentile(areas, (5, 95))
    return Stability(
        share=masks.mean(axis=0, dtype=np.float32),
        area=median,
        interval=(float(low), float(high)),
        runs=len(masks),
        sentence=_sentence(areas, median, low, high),
    )


def _sentence(areas: np.ndarray, median: float, low: float, high: float) -> str:
    changes = "small changes of image and threshold"
    outlined = int((areas > 0).sum())
    if not outlined:
        return f"Stable: none of {len(areas)} {changes} produced an outline."
    if median == 0 or outlined < 0.9 * len(areas):
        return f"Unstable: {outlined} of {len(areas)} {changes} produced an outline."
    spread = 100 * max(high - median, median - low) / median
    word = "Stable" if spread <= 10 else "Fairly stable" if spread <= 25 else "Unstable"
    return f"{word}: in 90% of {len(areas)} {changes}, the outline has {low:,.0f} to {high:,.0f} pixels."


def _shifted(array: np.ndarray, down: int, right: int) -> np.ndarray:
    """Shift an (H, W, ...) array and fill the uncovered edges with zeros."""
    moved = np.zeros_like(array)
    height, width = array.shape[:2]
    moved[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = array[
        max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)
    ]
    return moved
