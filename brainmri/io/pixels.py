"""Pixels of any type brought to float32 in [0, 1], three channels."""

from __future__ import annotations

import numpy as np

FLAIR = 1  # channels are pre-contrast T1, FLAIR, post-contrast T1
MIN_SIDE, MAX_SIDE = 32, 4096


def to_unit(image: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """Bring pixels to float32 in [0, 1], three channels.

    8-bit pixels are divided by 255, the range their format declares. 16-bit and float pixels carry no declared range
    (12-bit data sits in 16-bit files), so they are scaled from their own minimum to their own maximum.

    Args:
        image: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); uint8, another integer, bool or float; finite.
        value_range: minimum and maximum to scale 16-bit and float pixels from, where a study's slices share one.

    Returns:
        (H, W, 3) float32 in [0, 1]. A single channel is used for all three; a fourth channel is
        alpha, composited on black.

    Raises:
        ValueError: for another shape, a side outside 32 to 4096, or NaN and infinite values.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ValueError(f"expected an image of shape (H, W), (H, W, 3) or (H, W, 4), got {image.shape}")
    height, width = image.shape[:2]
    if not (MIN_SIDE <= min(height, width) and max(height, width) <= MAX_SIDE):
        raise ValueError(f"expected {MIN_SIDE} to {MAX_SIDE} pixels a side, got {width} x {height}")
    if image.dtype.kind not in "buif":
        raise ValueError(f"expected 8-bit, 16-bit or float pixels, got {image.dtype}")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError("the image has NaN or infinite pixels. Please replace them, or export the slice again")
    alpha = None
    channels = image.shape[2]
    if channels == 4:
        opaque = np.iinfo(image.dtype).max if image.dtype.kind in "ui" else 1.0
        alpha = np.clip(image[..., 3:].astype(np.float32) / opaque, 0, 1)
        image = image[..., :3]
    if image.dtype == np.uint8:
        unit = image.astype(np.float32) / 255
    else:
        wide = image.astype(np.float64)
        low, high = (float(v) for v in value_range or (wide.min(), wide.max()))
        # halved first, so that the span of the widest float64 range does not overflow
        span = high / 2 - low / 2
        unit = ((wide / 2 - low / 2) / span).astype(np.float32) if span > 0 else np.zeros(wide.shape, np.float32)
    if alpha is not None:
        unit = unit * alpha
    return np.repeat(unit, 3, axis=2) if channels == 1 else unit
