"""From a study's mask to its lesions: remove small islands, measure size and position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np

from brainmri.analysis.coverage import cut_edges
from brainmri.io.scan import Geometry
from brainmri.zoo.preprocess import SQUARE, head_box

# islands smaller than this share of the largest lesion are removed; chosen on validation patients, see train/EXPERIMENTS.md
MIN_ISLAND_SHARE = 0.15
MIDLINE_TOLERANCE = 0.05  # a lesion is on one side if less than this share of its voxels lies on the other


class Part(NamedTuple):
    """A connected component of a mask within one slice (8-connectivity).

    Attributes:
        plane: index of the slice.
        pixel: row and column of one of its pixels.
        diameter: the largest Feret diameter, in mm; in pixels without a plausible geometry.
    """

    plane: int
    pixel: tuple[int, int]
    diameter: float


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """A connected component of a study's mask (26-connectivity).

    Attributes:
        voxels: number of voxels.
        volume_mm3: volume in cubic millimetres; None if the voxel size is unknown.
        diameter: the largest Feret diameter within one slice, in mm; in pixels if the voxel size is unknown.
        widest: index of the slice with this diameter.
        slices: indices of its first and last slice.
        centroid: slice, row and column, from 0.
        centroid_mm: mm towards the patient's right, anterior and superior; None if the files store no orientation.
        side: "left" or "right" of the patient's midline, or "both"; None if the files store no orientation, or one side of the
            head is cut off.
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
        """The lesion for JSON; slices are counted from 1."""
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
    """Remove the islands of an (S, H, W) bool mask that are small compared with its largest lesion."""
    from skimage.measure import label

    labels = np.asarray(label(mask, connectivity=3))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0  # the background
    return (sizes >= max(1.0, MIN_ISLAND_SHARE * sizes.max()))[labels]


def find_parts(mask: np.ndarray, geometry: Geometry | None) -> list[Part]:
    """The connected components in each slice of an (S, H, W) bool mask; `geometry` is None if the files store none."""
    from scipy.ndimage import find_objects
    from skimage.measure import label, regionprops

    spacing = geometry.spacing[1:] if geometry is not None and geometry.plausible else SQUARE
    boxes = find_objects(mask.view(np.uint8))
    if not boxes:
        return []
    planes, rows, columns = boxes[0]  # search only the bounding box of all lesions
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
    """The largest diameter in each slice; 0 in slices without a part."""
    widest = [0.0] * slices
    for part in parts:
        widest[part.plane] = max(widest[part.plane], part.diameter)
    return widest


def midline(pixels: np.ndarray) -> float | None:
    """The column of the head's midline in (S, H, W, 3) pixels: the middle of its bounding box over all slices.

    None if the head is cut off at one side, so that the middle of the rest lies in the other half.
    """
    whole = pixels.max(axis=0)
    *_, cut_left, cut_right = cut_edges(whole)
    _, left, _, wide = head_box(whole)
    return left + (wide - 1) / 2 if cut_left == cut_right else None


def not_measured(geometry: Geometry | None, middle: float | None) -> tuple[str, ...]:
    """Why sizes or sides of lesions are not given although the files store a geometry; arguments as for `find_lesions`."""
    warnings = []
    if geometry and geometry.sized and not geometry.plausible:
        warnings.append("the voxel size cannot be that of a head; volumes are in voxels and distances in pixels")
    if geometry and geometry.oriented and geometry.plane != "sagittal" and middle is None:
        warnings.append("the head is cut off at one side, so the sides of lesions are not given")
    return tuple(warnings)


def _side(columns: np.ndarray, middle: float) -> str:
    """The side of the midline on which a lesion's voxels lie, the patient's right on the image's left."""
    right = float((columns < middle).mean())
    return "right" if right > 1 - MIDLINE_TOLERANCE else "left" if right < MIDLINE_TOLERANCE else "both"


def find_lesions(
    mask: np.ndarray, parts: Sequence[Part], geometry: Geometry | None, middle: float | None, apart: bool = False
) -> tuple[Lesion, ...]:
    """The lesions in a mask, the largest first.

    Args:
        mask: (S, H, W) bool, axial, the patient's right on the image's left.
        parts: `find_parts` of this mask.
        geometry: the position of the slices in the patient; None if the files store none.
        middle: the column of the head's midline; None if unknown.
        apart: whether the slices are of different heads, so that no lesion extends over several.
    """
    from scipy import ndimage
    from skimage.measure import regionprops

    measured = geometry if geometry is not None and geometry.plausible else None
    touching = np.ones((3, 3, 3), bool)
    touching[::2] = not apart
    labels, _ = cast(tuple[np.ndarray, int], ndimage.label(mask, touching))
    # of a lesion's parts the last one wins: the widest, and of equally wide ones the first in the head
    ascending = sorted(reversed(parts), key=lambda part: part.diameter)
    widest = {int(labels[part.plane, *part.pixel]): part for part in ascending}
    has_sides = geometry is not None and geometry.oriented and geometry.plane != "sagittal"
    lesions = []
    for region in regionprops(labels):
        first, last = region.bbox[0], region.bbox[3] - 1
        part = widest[region.label]
        plane, row, column = (float(c) for c in region.coords.mean(axis=0))
        centroid = (plane, row, column)
        lesions.append(
            Lesion(
                voxels=int(region.num_pixels),
                volume_mm3=float(region.num_pixels * measured.voxel_volume) if measured else None,
                diameter=part.diameter,
                widest=part.plane,
                slices=(int(first), int(last)),
                centroid=centroid,
                centroid_mm=measured.to_mm(centroid) if measured and measured.oriented else None,
                side=_side(region.coords[:, 2], middle) if has_sides and middle is not None else None,
            )
        )
    return tuple(sorted(lesions, key=lambda lesion: -lesion.voxels))
