"""What reading hands on, a `Scan` and its `Geometry`; its refusal, `UnreadableImage`; and the limits of a study."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

EXTENT = (30, 1000)  # mm that a side of an axial slice may measure; outside it the spacing is in another unit, or damaged
AXIAL = "SPL"  # where the axes of a scan's pixels point: slices to superior, rows to posterior, columns to the patient's left


@dataclass(frozen=True, kw_only=True)
class Instance:
    """The DICOM frame of a slice, which a segmentation has to reference; it is never printed.

    Attributes:
        uid: SOPInstanceUID.
        frame: frame number within the instance, from 1.
        path: the file, or the zip it lies in.
        member: its name within the zip.
    """

    uid: str = field(repr=False)
    frame: int = field(repr=False)
    path: Path = field(repr=False)
    member: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Geometry:
    """Where an array as it was stored lies in the patient, and the way between it and a scan's axial pixels.

    The scan's slices are the array with axes permuted and flipped to the nearest anatomical ones, never resampled, so
    the way back is exact.

    Attributes:
        shape: of the stored array: (i, j, k) of a NIfTI file; (slices, rows, columns) of DICOM, slices along their normal.
        affine: (4, 4) float64, index into the stored array to mm, towards the patient's right, anterior and superior.
        instances: for DICOM, the frame behind each index along the stored array's first axis.
        oriented: False where the file tells sizes only and the directions had to be assumed.

    Raises:
        ValueError: when the affine is not invertible.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    instances: tuple[Instance, ...] = field(default=(), repr=False)
    oriented: bool = True

    def __post_init__(self) -> None:
        if not np.isfinite(self.affine).all() or np.linalg.matrix_rank(self.affine[:3, :3]) < 3:
            raise ValueError("the affine is damaged")

    def _turn(self, back: bool = False) -> np.ndarray:
        """(3, 2): for each axis the one it goes to, and 1 or -1 for its direction."""
        from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

        stored, axial = io_orientation(self.affine), axcodes2ornt(AXIAL)
        return ornt_transform(axial, stored) if back else ornt_transform(stored, axial)

    @property
    def axes(self) -> tuple[int, int, int]:
        """The stored array's axes along which the scan's slices, rows and columns were taken."""
        slices, rows, columns = (int(axis) for axis in np.argsort(self._turn()[:, 0]))
        return slices, rows, columns

    @property
    def directions(self) -> tuple[int, int, int]:
        """1 where the scan's slices, rows, columns count as the stored array does, -1 where they count from its end."""
        turn = self._turn()
        slices, rows, columns = (int(turn[axis, 1]) for axis in self.axes)
        return slices, rows, columns

    @property
    def axial_shape(self) -> tuple[int, int, int]:
        """S, H, W of the scan's pixels."""
        slices, height, width = (self.shape[axis] for axis in self.axes)
        return slices, height, width

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between the scan's slices, rows and columns."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        slices, rows, columns = (float(lengths[axis]) for axis in self.axes)
        return slices, rows, columns

    @property
    def voxel_volume(self) -> float:
        """Cubic millimetres, of sheared voxels too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def plausible(self) -> bool:
        """Whether axial slices are of a size that can show a head, so that sizes in millimetres are plausible."""
        _, tall, wide = np.multiply(self.axial_shape, self.spacing)
        return bool(EXTENT[0] <= min(tall, wide) and max(tall, wide) <= EXTENT[1])

    def to_mm(self, index: tuple[float, float, float]) -> tuple[float, float, float]:
        """Slice, row and column of the scan, from 0, to mm towards the patient's right, anterior and superior."""
        stored = np.ones(4)
        for axis, direction, position in zip(self.axes, self.directions, index, strict=True):
            stored[axis] = position if direction == 1 else self.shape[axis] - 1 - position
        right, anterior, superior = (float(c) for c in (self.affine @ stored)[:3])
        return right, anterior, superior

    @property
    def tilt(self) -> float:
        """Degrees by which the axes lie away from the nearest anatomical axes, the largest of the three."""
        cosines = np.abs(self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)).max(axis=0)
        return float(np.degrees(np.arccos(np.clip(cosines, 0, 1)).max()))

    def to_axial(self, volume: np.ndarray) -> np.ndarray:
        """A volume on the stored array's grid, of `shape`, to the scan's (S, H, W); a view."""
        return self._apply(volume, self.shape, self._turn())

    def to_original(self, volume: np.ndarray) -> np.ndarray:
        """A mask or probability map (S, H, W) on the scan's grid to the stored array's `shape`, value by value; a view.

        Raises:
            ValueError: when it is not on the scan's grid.
        """
        return self._apply(volume, self.axial_shape, self._turn(back=True))

    def _apply(self, volume: np.ndarray, expected: tuple[int, int, int], turn: np.ndarray) -> np.ndarray:
        from nibabel.orientations import apply_orientation

        if volume.shape != expected:
            raise ValueError(f"expected a volume of shape {expected}, got {volume.shape}")
        return apply_orientation(volume, turn)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Pixels as float32 in [0, 1] with three channels, and their source.

    Attributes:
        pixels: (H, W, 3) for a slice or (S, H, W, 3) for a study, axial, from the neck upwards, nose up, the patient's
            right on the left; pre-contrast T1, FLAIR, post-contrast T1.
        name: the file's or folder's name, for messages and output names; "study" for DICOM, whose names may name a patient.
        sha256: of the input's bytes: a file's or a zip's own; of several files, of their hexadecimal digests in order
            (of the pixels, for an array or an image in memory).
        warnings: what a reader had to assume.
        geometry: where the pixels lie in the patient, where the files know it.
        sequences: by channel, the label of its sequence; None where FLAIR is used in its place, and for slices, whose
            channels are their colours.
    """

    pixels: np.ndarray
    name: str
    sha256: str
    warnings: tuple[str, ...] = ()
    geometry: Geometry | None = None
    sequences: tuple[str | None, str | None, str | None] = (None, None, None)
