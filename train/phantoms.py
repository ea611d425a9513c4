"""Synthetic brain-like slices, generated from a seed: for tests, and for `--smoke` without a dataset.

They show what the networks rely on (a bright scalp, a dark skull, grey and white matter, dark ventricles, a lesion that is
bright on FLAIR) and are written in the layout of the LGG dataset. A network trained on them learns nothing about patients.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

# intensities in [0, 1] on pre-contrast T1, FLAIR and post-contrast T1; grey matter is brighter than white on FLAIR only
SCALP = (0.55, 0.50, 0.58)
SKULL = (0.05, 0.04, 0.06)
FLUID = (0.12, 0.06, 0.12)
GREY = (0.24, 0.30, 0.27)
WHITE = (0.31, 0.24, 0.34)
LESION = (0.19, 0.55, 0.22)
NOISE = 0.012


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise with `cells` cells a side: (size, size) float32, about -2 to 2."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def _soft(inside: np.ndarray, edge: float) -> np.ndarray:
    """A signed depth (positive inside) to a coverage in [0, 1] that rises over `edge`."""
    return np.clip(inside / edge + 0.5, 0, 1)


def _draw(
    size: int, lesion: tuple[float, float, float] | None, anatomy: int, noise: int, head: float, flair_only: bool
) -> tuple[np.ndarray, np.ndarray]:
    """One slice and its mask; `anatomy` and `noise` are seeds; the slices of a volume share the anatomy only.

    Returns:
        (size, size, 3) uint8, and (size, size) bool.
    """
    rng = np.random.default_rng(anatomy)
    # coordinates from the centre, down and to the right, in units of the head's radius
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    y, x = (axis / (0.46 * head))[:, None], (axis / (0.36 * head))[None, :]
    pixel = 1 / (0.41 * head * size)
    ripple, folds, boundary = _smooth_noise(rng, size, 7), _smooth_noise(rng, size, 22), _smooth_noise(rng, size, 12)

    depth = 1 + 0.015 * ripple - np.hypot(y, x)
    brain = depth - 0.21
    white = _soft(brain - 0.13 + 0.07 * folds, 3 * pixel)  # the folds of the cortex
    horns = [0.10 - np.hypot(0.45 * (y + 0.02), x - side * (0.11 + 0.10 * y)) for side in (-1, 1)]
    ventricles = np.maximum(*horns) * min(1, 2 * head - 1)
    fissure = 0.012 - np.abs(x) + np.where(np.abs(y) > 0.42, 0, -1)
    fluid = np.maximum(_soft(ventricles, 2 * pixel), 0.7 * _soft(fissure, 2 * pixel))

    abnormal = np.full((size, size), -1, np.float32)
    if lesion is not None:
        row, column, radius = lesion
        from_centre = np.hypot(axis[:, None] + 0.5 - row, axis[None, :] + 0.5 - column)
        abnormal = np.minimum(radius * (1 + 0.15 * boundary) - from_centre, 0.4 * brain)  # clipped to the brain

    channels = []
    for k in (1, 1, 1) if flair_only else (0, 1, 2):
        picture = np.zeros((size, size), np.float32)
        tissue = GREY[k] + (WHITE[k] - GREY[k]) * white
        tissue = tissue + (FLUID[k] - tissue) * fluid
        for value, cover in (
            (SCALP[k], _soft(depth, 2 * pixel)),
            (SKULL[k], _soft(depth - 0.09, 2 * pixel)),
            (FLUID[k], _soft(depth - 0.17, 2 * pixel)),
            (tissue, _soft(brain, 2 * pixel)),
            (LESION[k] * (1 + 0.12 * folds), _soft(abnormal, 2 / size)),
        ):
            picture += (value - picture) * cover
        channels.append(picture)
    image = np.stack(channels, axis=-1) * (1 + 0.06 * _smooth_noise(rng, size, 3))[..., None]

    # Rician noise, the magnitude of a complex signal with Gaussian noise: never negative, slightly above 0 in air
    gaussian = np.random.default_rng([anatomy, noise]).standard_normal((2, size, size, 3)) * NOISE
    if flair_only:
        gaussian[...] = gaussian[..., :1]  # one sequence in three channels has the same noise in each
    image = np.hypot(image + gaussian[0], gaussian[1])
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), abnormal > 0


def phantom_slice(
    size: int = 256, lesion: tuple[float, float, float] | None = (0.35, 0.45, 0.12), seed: int = 0, flair_only: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """One axial slice, nose up, and the true mask of its lesion.

    Args:
        size: side in pixels.
        lesion: (row, column, radius) as fractions of the side; None for a healthy slice.
        seed: determines the anatomy, the outline of the lesion and the noise.
        flair_only: FLAIR in all three channels, as in the dataset where the other sequences are missing.

    Returns:
        (size, size, 3) uint8: pre-contrast T1, FLAIR, post-contrast T1; and (size, size) bool.
    """
    return _draw(size, lesion, seed, 0, 1.0, flair_only)


def phantom_volume(slices: int = 8, size: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A head, smaller in the first and last slices, with one lesion in about half of the slices.

    Returns:
        (slices, size, size, 3) uint8, and (slices, size, size) bool.
    """
    rng = np.random.default_rng(seed)
    side = rng.choice((-1, 1))
    row, column, radius = rng.uniform(-0.12, 0.12), side * rng.uniform(0.09, 0.13), rng.uniform(0.10, 0.13)
    reach = max(1, round(slices / 2))
    first = rng.integers((slices - reach) // 2, (slices - reach + 1) // 2 + 1)
    images, masks = [], []
    for n in range(slices):
        along = (n + 0.5) / slices * 2 - 1
        head = float(np.sqrt(1 - 0.65 * along**2))
        lesion = None
        if first <= n < first + reach:
            through = (
                (n - first + 0.5) / reach * 2 - 1
            ) * 0.8  # short of the poles, so that every slice of the lesion shows some of it
            lesion = (0.5 + row * head, 0.5 + column * head, radius * head * float(np.sqrt(1 - through**2)))
        image, mask = _draw(size, lesion, seed, n, head, False)
        images.append(image)
        masks.append(mask)
    return np.stack(images), np.stack(masks)


def write_phantom_dataset(root: str | Path, patients: int = 2, slices: int = 8, size: int = 64, seed: int = 0) -> list[str]:
    """Write phantom volumes in the layout of the LGG dataset: `root/kaggle_3m/<case>/<case>_<n>.tif` and `_<n>_mask.tif`.

    Returns:
        The names of the cases, in order; they alternate between two institutions, because splits are stratified by institution.
    """
    cases = []
    for patient in range(1, patients + 1):
        case = f"TCGA_{'CS' if patient % 2 else 'DU'}_{patient:04d}_20000101"
        folder = Path(root) / "kaggle_3m" / case
        folder.mkdir(parents=True, exist_ok=True)
        images, masks = phantom_volume(slices, size, seed + patient - 1)
        for n, (image, mask) in enumerate(zip(images, masks, strict=True), start=1):
            Image.fromarray(image).save(folder / f"{case}_{n}.tif")
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{case}_{n}_mask.tif")
        cases.append(case)
    return cases
