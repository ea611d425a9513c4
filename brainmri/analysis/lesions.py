"""From a study's mask to its lesions: which islands count, how large they are and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from brainmri.io.scan import Geometry
from brainmri.zoo.preprocess import head_box

# islands below this share of the largest lesion are dropped; chosen on validation patients, see train/EXPERIMENTS.md
ISLAND = 0.15
# a lesion with less than this share of its voxels beyond the midline belongs to one side
BEYOND = 0.05


class Part(NamedTuple):
    """A connected component of a mask within one slice; edges and corners connect.

    Attributes:
        plane: the slice, from 0.
        pixel: row and column of one of its pixels.
        across: the largest distance across it (Feret), in mm where the geometry is plausible, else in pixels.
    """

    plane: int
    pixel: tuple[int, int]
    across: float


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """One connected lesion; faces, edges and corners connect.

    Attributes:
        voxels: how many.
        volume_mm3: None where the voxel size is unknown.
        diameter: the largest distance across it within one slice (Feret), in mm; in pixels where the voxel size is unknown.
        widest: the slice, from 0, in which it is that wide.
        slices: its first and last slice, from 0.
        centroid: slice, row and column, from 0.
        centroid_mm: towards the patient's right, anterior and superior; None where the files have no orientation.
        side: "left" or "right" of the patient's midline, "both" across it; None where the files have no orientation.
    """

    voxels: int
    volume_mm3: float | None
    diameter: float
    widest: int
    slices: tuple[int, int]
    centroid: tuple[float, float, float]
    centroid_mm: tuple[float, float, float] | None
    side: str | None

    def record(self) -> dict:
        """Ready for JSON; slices counted from 1, as people do."""
        volume = self.volume_mm3
        known = volume is not None
        return {
            "voxels": self.voxels,
            "volume_mm3": None if volume is None else round(volume, 1),
            "volume_ml": None if volume is None else round(volume / 1000, 3),
            "largest_diameter_mm" if known else "largest_diameter_px": round(self.diameter, 1),
            "largest_diameter_slice": self.widest + 1,
            "slices": [self.slices[0] + 1, self.slices[1] + 1],
            "centroid_slice_row_column": [round(self.centroid[0] + 1, 1), *(round(c, 1) for c in self.centroid[1:])],
            "centroid_mm_right_anterior_superior": self.centroid_mm and [round(c, 1) for c in self.centroid_mm],
            "side": self.side,
        }


def without_islands(mask: np.ndarray) -> np.ndarray:
    """An (S, H, W) bool mask without the islands that are small beside its largest lesion."""
    from skimage.measure import label

    labels = np.asarray(label(mask, connectivity=3))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0  # the background
    return (sizes >= max(1.0, ISLAND * sizes.max()))[labels]


def find_parts(mask: np.ndarray, geometry: Geometry | None) -> list[Part]:
    """What is outlined in each slice of an (S, H, W) bool mask; `geometry` is None where the files have no orientation."""
    from scipy.ndimage import find_objects
    from skimage.measure import label, regionprops

    spacing = geometry.spacing[1:] if geometry is not None and geometry.plausible else (1.0, 1.0)
    boxes = find_objects(mask.view(np.uint8))
    if not boxes:
        return []
    planes, rows, columns = boxes[0]  # around all lesions: most of a head is none
    return [
        Part(
            number,
            (int(part.coords[0][0]) + rows.start, int(part.coords[0][1]) + columns.start),
            float(part.feret_diameter_max),
        )
        for number, plane in enumerate(mask[boxes[0]], planes.start)
        for part in regionprops(label(plane, connectivity=2), spacing=spacing)
    ]


def diameters(parts: Sequence[Part], slices: int) -> list[float]:
    """For each slice the largest diameter of its parts, 0 where there is none."""
    widest = [0.0] * slices
    for part in parts:
        widest[part.plane] = max(widest[part.plane], part.across)
    return widest


def midline(pixels: np.ndarray) -> float:
    """The column of the head's midline in (S, H, W, 3) pixels, which is the middle of its outline from above."""
    _, left, _, wide = head_box(pixels.max(axis=0))
    return left + (wide - 1) / 2


def find_lesions(mask: np.ndarray, parts: Sequence[Part], geometry: Geometry | None, middle: float) -> tuple[Lesion, ...]:
    """The lesions in a mask, the largest first.

    Args:
        mask: (S, H, W) bool, axial, the patient's right on the image's left.
        parts: `find_parts` of this mask.
        geometry: where the slices lie in the patient; None where the files have no orientation.
        middle: the column of the head's midline.
    """
    from skimage.measure import label, regionprops

    measured = geometry if geometry is not None and geometry.plausible else None
    labels = np.asarray(label(mask, connectivity=3))
    rising = sorted(reversed(parts), key=lambda part: part.across)  # the last of a lesion is its widest, of several the first
    widest = {int(labels[part.plane, *part.pixel]): part for part in rising}
    lesions = []
    for region in regionprops(labels):
        first, last = region.bbox[0], region.bbox[3] - 1
        part = widest[region.label]
        columns = region.coords[:, 2]
        right = float((columns < middle).mean())
        side = "right" if right > 1 - BEYOND else "left" if right < BEYOND else "both"
        plane, row, column = (float(c) for c in region.coords.mean(axis=0))
        centroid = (plane, row, column)
        lesions.append(
            Lesion(
                voxels=int(region.num_pixels),
                volume_mm3=float(region.num_pixels * measured.voxel_volume) if measured else None,
                diameter=part.across,
                widest=part.plane,
                slices=(int(first), int(last)),
                centroid=centroid,
                centroid_mm=measured.to_mm(centroid) if measured and measured.oriented else None,
                side=side if geometry is not None and geometry.oriented else None,
            )
        )
    return tuple(sorted(lesions, key=lambda lesion: -lesion.voxels))
