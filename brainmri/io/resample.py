"""One sequence on the grid of another: whether their grids are equal, and resampling through the affines."""

from __future__ import annotations

from typing import cast

import numpy as np

from brainmri.io.limits import UnreadableImage, refuse
from brainmri.io.scan import Geometry
from brainmri.io.sequences import SEQUENCES

MAX_ROTATION = 30  # degrees between the axes of two sequences of one examination; more is an error in a header
MAX_PIXEL = 3.0  # mm; coarser pixels within the slices of the other grid add nothing but blur
MIN_COVERED = 2 / 3  # of the other grid's voxels


def same_grid(one: Geometry, other: Geometry) -> bool:
    """Whether two stored arrays have the same shape and their corners lie within a tenth of a voxel of each other."""
    if one.shape != other.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, side - 1) for side in one.shape], [1])).reshape(4, -1)
    return bool(np.abs((one.affine - other.affine) @ corners).max() < 0.1 * min(one.spacing))


def refuse_other_grid(name: str, channel: int, label: str, problem: str) -> UnreadableImage:
    """The error for an assigned sequence that cannot be resampled to the FLAIR's grid, to be raised."""
    return refuse(name, f"{label}, assigned to the {SEQUENCES[channel]}, {problem}. Please assign another T1, or none")


def rotation_between(one: Geometry, other: Geometry) -> float:
    """Degrees between the axes of two grids, each axis of one against the nearest of the other; the largest of three."""
    return float(np.degrees(np.arccos(np.clip(np.abs(_cosines(one, other)).max(axis=1), 0, 1)).max()))


def _cosines(one: Geometry, other: Geometry) -> np.ndarray:
    """(3, 3) cosines between the axes of two grids."""
    first, second = (g.affine[:3, :3] / np.linalg.norm(g.affine[:3, :3], axis=0) for g in (one, other))
    return first.T @ second


def explain_misfit(source: Geometry, target: Geometry) -> str | None:
    """Why a sequence cannot be resampled to another grid; None if it can."""
    if not (source.oriented and target.oriented):
        return "has no orientation"
    rotation = rotation_between(source, target)
    if rotation > MAX_ROTATION:
        return f"is rotated by {rotation:.0f} degrees against it"
    lengths = np.linalg.norm(source.affine[:3, :3], axis=0)
    nearest = np.abs(_cosines(target, source)).argmax(axis=1)
    _, height, width = target.spacing
    for axis, side in zip(target.axes[1:], (height, width), strict=True):
        if lengths[nearest[axis]] > max(MAX_PIXEL, 2 * side):
            return f"was acquired in another plane, with {lengths[nearest[axis]]:.1f} mm between its slices"
    covered = _measure_coverage(source, target)
    return f"covers only {100 * covered:.0f}% of it" if covered < MIN_COVERED else None


def _measure_coverage(source: Geometry, target: Geometry) -> float:
    """The share of the target's grid, sampled, that lies within the source."""
    ranges = [np.linspace(0, side - 1, min(side, 24)) for side in target.shape]
    points = np.stack(
        [*(axis.ravel() for axis in np.meshgrid(*ranges, indexing="ij")), np.ones(np.prod([len(r) for r in ranges]))]
    )
    index = (np.linalg.inv(source.affine) @ target.affine @ points)[:3]
    return float(((index >= -0.5) & (index <= np.array(source.shape)[:, None] - 0.5)).all(axis=0).mean())


def describe_difference(source: Geometry, target: Geometry) -> str:
    """By how much two grids differ, for a warning: voxel sizes, distance of the centres, rotation."""
    sizes = [" x ".join(f"{length:.1f}" for length in np.linalg.norm(g.affine[:3, :3], axis=0)) for g in (source, target)]
    centres = [g.affine @ [*((side - 1) / 2 for side in g.shape), 1] for g in (source, target)]
    words = f"its voxels measure {sizes[0]} mm, those of the FLAIR {sizes[1]} mm"
    words += f"; its centre lies {np.linalg.norm(centres[0] - centres[1]):.1f} mm away"
    rotation = rotation_between(source, target)
    return f"{words}; it is rotated by {rotation:.1f} degrees" if rotation >= 0.1 else words


def resample(volume: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """A volume on one grid, resampled linearly to another; outside the source it is as dark as its darkest voxel.

    Thin slices are averaged over the thickness of the target's slices.

    Args:
        volume: of `source.shape`, uint8 or float32.

    Returns:
        A volume of `target.shape` and the same dtype.
    """
    from scipy.ndimage import affine_transform

    to_source = np.linalg.inv(source.affine) @ target.affine
    axis = target.axes[0]
    step = np.linalg.norm(source.affine[:3, :3], axis=0)[np.abs(_cosines(target, source)).argmax(axis=1)[axis]]
    samples = int(np.clip(round(target.spacing[0] / step), 1, 5))
    wide = volume.astype(np.float32)
    total = np.zeros(target.shape, np.float32)
    for number in range(samples):
        shift = np.zeros(3)
        shift[axis] = (number + 0.5) / samples - 0.5
        offset = to_source[:3, :3] @ shift + to_source[:3, 3]
        total += affine_transform(
            wide,
            to_source[:3, :3],
            cast(float, offset),
            output_shape=target.shape,
            order=1,
            mode="constant",
            cval=float(wide.min()),
        )
    mean = total / np.float32(samples)
    return np.rint(mean).astype(np.uint8) if volume.dtype == np.uint8 else mean
