"""What volumes of every format share: one intensity scale, and sequences of one grid as a scan."""

from __future__ import annotations

import numpy as np

from brainmri.io.limits import refuse
from brainmri.io.pixels import FLAIR
from brainmri.io.scan import Geometry, Scan
from brainmri.io.sequences import ONE_SEQUENCE, POST, PRE, SEQUENCES

PERCENTILES = (0.5, 99.5)
FILLED = 0.005  # share of the voxels; fewer that are alike do not move the percentiles
# degrees; less is routine: axial slices are planned along the skull base or the commissures, and augmentation rotates as far
MAX_TILT = 20
SHORT = 50  # mm; a volume that covers less of a head is a fragment


def scale_to_unit(volume: np.ndarray) -> np.ndarray:
    """One sequence to float32 in [0, 1]: 8-bit by the range its format declares, the rest by percentiles of the volume."""
    if volume.dtype == np.uint8:
        return volume.astype(np.float32) / 255
    # percentiles, because one very bright voxel (a vessel, a ghost) would make the brain too dark to be found
    volume = _without_fill(volume)
    low, high = np.percentile(volume, PERCENTILES)
    if low == high:  # nearly all voxels are empty
        low, high = volume.min(), volume.max()
    span = float(high) - float(low)
    return np.clip((volume - np.float32(low)) / np.float32(span), 0, 1) if span > 0 else np.zeros(volume.shape, np.float32)


def _without_fill(volume: np.ndarray) -> np.ndarray:
    """A volume in which the darkest of the other values takes the place of one that stands for no value, such as -32768.

    Resampled volumes are filled with one outside of what was scanned. MR intensities are not negative, and standardised ones come
    close to their lowest; so it is a negative value, of many voxels, further below the others than these are apart.
    """
    lowest = volume.min()
    filled = volume == lowest
    if lowest >= 0 or filled.all() or filled.mean() < FILLED:
        return volume
    darkest, brightest = volume.min(where=~filled, initial=volume.max()), volume.max()
    far = float(darkest) - float(lowest) > float(brightest) - float(darkest) > 0
    return np.where(filled, darkest, volume) if far else volume


def compose(
    sequences: dict[int, np.ndarray],
    geometry: Geometry | None,
    *,
    name: str,
    sha256: str,
    warnings: list[str],
    labels: tuple[str | None, str | None, str | None] = (None, None, None),
    single_sequence: str | None = None,
    orientation: int = 1,
    incomplete: str | None = None,
) -> Scan:
    """The sequences of one study as a scan. FLAIR replaces missing ones, as in training.

    Args:
        sequences: by channel, FLAIR among them; volumes on one grid, uint8 or float32, on `geometry`'s stored grid, or
            (S, H, W) axial already where it is None.
        labels: the label of each channel's sequence, as it is shown.
        single_sequence, orientation, incomplete: as of `Scan`.

    Raises:
        UnreadableImage: for NaN or infinite voxels, or a FLAIR whose voxels all have the same value.
    """
    warnings = list(warnings)
    if set(sequences) == {FLAIR}:
        if ONE_SEQUENCE not in warnings:
            warnings.append("only FLAIR was provided; it is used for all three channels")
    elif missing := [words for channel, words in SEQUENCES.items() if channel not in sequences]:
        warnings.append(f"FLAIR is used in place of the {missing[0]}")
    if geometry and geometry.plane != "axial":
        warnings.append(f"the slices are {geometry.plane}; they are analysed as acquired")
    if geometry and geometry.tilt > MAX_TILT:
        warnings.append(
            f"the slices are tilted by {geometry.tilt:.0f} degrees against the anatomical axes; they are analysed as acquired"
        )
    if geometry and (part := _describe_fragment(geometry)):
        warnings.append(part)
    shape = geometry.scan_shape if geometry else sequences[FLAIR].shape
    pixels = np.empty((*shape, 3), np.float32)
    for channel in (FLAIR, PRE, POST):
        volume = sequences.get(channel)
        if volume is None:
            pixels[..., channel] = pixels[..., FLAIR]
            continue
        if not np.isfinite(volume).all():
            raise refuse(name, "got NaN or infinite voxels. Please replace them, or export the volume again")
        if channel == FLAIR and volume.min() == volume.max():
            raise refuse(name, "all voxels of the FLAIR have the same value. Please export the volume again")
        pixels[..., channel] = scale_to_unit(geometry.to_scan(volume) if geometry else volume)
    return Scan(
        pixels=pixels,
        name=name,
        sha256=sha256,
        warnings=tuple(warnings),
        geometry=geometry,
        sequences=labels,
        single_sequence=single_sequence,
        orientation=orientation,
        incomplete=incomplete,
    )


def _describe_fragment(geometry: Geometry) -> str | None:
    """That a volume covers only a slab of a head; None if it covers more, or its size is unknown."""
    lengths = np.multiply(geometry.shape, np.linalg.norm(geometry.affine[:3, :3], axis=0))
    thin = int(lengths.argmin())
    if not geometry.plausible or lengths[thin] >= SHORT:
        return None
    count = geometry.shape[thin] - len(geometry.missing) * (thin == 0)
    slices, verb = ("slice", "was") if count == 1 else ("slices", "were")
    return f"only {count} {slices} ({lengths[thin]:.0f} mm) {verb} provided. The result covers only this part of the head"
