"""What reading returns: a `Scan` and its `Geometry`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from brainmri.io.pixels import MIN_SIDE

LENGTHS = (1e-9, 1e9)  # of a side of a voxel, in whatever unit; outside them numbers overflow
EXTENT = (30, 1000)  # mm, of a side of a slice; outside it the spacing is in another unit, or damaged
# by plane, where a scan's axes point: slices, rows, columns
PLANES = {
    "axial": "SPL",  # slices from the neck upwards, nose up, the patient's right on the left
    "coronal": "AIL",  # slices from back to front, crown up, the patient's right on the left
    "sagittal": "LIP",  # slices from right to left, crown up, nose to the left
}
# a stack that is not axial is read in its own plane if its slices are this far apart: in mm, and in multiples of its pixels
APART = (3.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """The DICOM frame of a slice, which a segmentation has to reference; it is never printed.

    Attributes:
        uid: SOPInstanceUID.
        frame: frame number within the instance, from 1.
        path: the file, or the zip that contains it.
        member: its name within the zip.
    """

    uid: str = field(repr=False)
    frame: int = field(repr=False)
    path: Path = field(repr=False)
    member: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class NiftiSpace:
    """The transforms of a NIfTI header as they were read, so that results carry the same ones.

    Attributes:
        sform: (4, 4) float64, in `unit`; None where its code is 0.
        qform: (4, 4) float64, in `unit`; None where its code is 0.
        codes: of sform and qform, 0 to 5.
        unit: "mm", "meter", "micron" or "unknown".
    """

    sform: np.ndarray | None
    qform: np.ndarray | None
    codes: tuple[int, int]
    unit: str


def is_possible(affine: np.ndarray) -> bool:
    """Whether an affine (4, 4) is invertible, and its voxels have a possible size in some unit."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    sized = np.isfinite(affine).all() and LENGTHS[0] <= lengths.min() and lengths.max() <= LENGTHS[1]
    return bool(sized) and int(np.linalg.matrix_rank(affine[:3, :3])) == 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Geometry:
    """Where a stored array lies in the patient, and how its voxels map to those of a scan.

    A scan's slices are the array with its axes permuted and flipped to the nearest anatomical ones, never resampled, so masks
    return to the array exactly.

    Attributes:
        shape: of the stored array: (i, j, k) of a NIfTI file; (slices, rows, columns) of DICOM, slices along their normal,
            with the missing ones.
        affine: (4, 4) float64, index into the stored array to mm, towards the patient's right, anterior and superior.
        instances: for DICOM, the frame of each slice that is not missing.
        missing: for DICOM, the indices along the first axis where a slice is missing.
        oriented: False where the file has sizes only, or directions that cannot be trusted, so that left and right are unknown.
        sized: False where the file has no voxel size and 1 mm had to be assumed.
        nifti: for NIfTI, the header's own transforms.

    Raises:
        ValueError: when the affine is not invertible, or its voxels are of no possible size in any unit.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    instances: tuple[Instance, ...] = field(default=(), repr=False)
    missing: tuple[int, ...] = ()
    oriented: bool = True
    sized: bool = True
    nifti: NiftiSpace | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not is_possible(self.affine):
            raise ValueError("the affine is damaged")

    @property
    def plane(self) -> str:
        """ "axial", "coronal" or "sagittal": the plane of the scan's slices.

        Axial, unless the voxels are too long in another direction for axial slices of use, or too few for them: a 2-D series
        and a slab keep their own plane.
        """
        from nibabel.orientations import io_orientation

        lengths, voxels = np.linalg.norm(self.affine[:3, :3], axis=0), np.array(self.shape)
        longest, fewest = int(lengths.argmax()), int(voxels.argmin())
        apart = lengths[longest] >= max(APART[0], APART[1] * np.delete(lengths, longest).max())
        if apart and np.delete(voxels, longest).min() >= MIN_SIDE:
            across = longest
        elif voxels[fewest] < MIN_SIDE <= np.delete(voxels, fewest).min():
            across = fewest
        else:
            return "axial"
        return ("sagittal", "coronal", "axial")[int(io_orientation(self.affine)[across, 0])]

    def _turn(self, back: bool = False) -> np.ndarray:
        """(3, 2): for each axis the one it becomes, and 1 or -1 for its direction."""
        from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

        stored, scan = io_orientation(self.affine), axcodes2ornt(PLANES[self.plane])
        return ornt_transform(scan, stored) if back else ornt_transform(stored, scan)

    @property
    def axes(self) -> tuple[int, int, int]:
        """The stored array's axes along which the scan's slices, rows and columns lie."""
        slices, rows, columns = (int(axis) for axis in np.argsort(self._turn()[:, 0]))
        return slices, rows, columns

    @property
    def directions(self) -> tuple[int, int, int]:
        """1 where the scan's slices, rows, columns count like the stored array's, -1 where they count from its end."""
        turn = self._turn()
        slices, rows, columns = (int(turn[axis, 1]) for axis in self.axes)
        return slices, rows, columns

    @property
    def scan_shape(self) -> tuple[int, int, int]:
        """S, H, W of the scan's pixels."""
        slices, height, width = (self.shape[axis] for axis in self.axes)
        return slices - len(self.missing) * (self.axes[0] == 0), height, width

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between the scan's slices, rows and columns."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        slices, rows, columns = (float(lengths[axis]) for axis in self.axes)
        return slices, rows, columns

    @property
    def voxel_volume(self) -> float:
        """Cubic millimetres, also of sheared voxels."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def plausible(self) -> bool:
        """Whether the slices have a size that can show a head, so that sizes in millimetres are plausible."""
        _, tall, wide = np.multiply(self.scan_shape, self.spacing)
        return bool(self.sized and EXTENT[0] <= min(tall, wide) and max(tall, wide) <= EXTENT[1])

    def to_mm(self, index: tuple[float, float, float]) -> tuple[float, float, float]:
        """Slice, row and column of the scan, from 0, to mm towards the patient's right, anterior and superior."""
        stored = np.ones(4)
        for axis, direction, position in zip(self.axes, self.directions, index, strict=True):
            side = self.shape[axis]
            if axis == self.axes[0] == 0 and self.missing:
                present = self._present()
                along = position if direction == 1 else len(present) - 1 - position
                stored[axis] = np.interp(along, np.arange(len(present)), present)
            else:
                stored[axis] = position if direction == 1 else side - 1 - position
        right, anterior, superior = (float(c) for c in (self.affine @ stored)[:3])
        return right, anterior, superior

    @property
    def tilt(self) -> float:
        """Degrees between the axes and the nearest anatomical axes, the largest of the three."""
        cosines = np.abs(self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)).max(axis=0)
        return float(np.degrees(np.arccos(np.clip(cosines, 0, 1)).max()))

    def to_scan(self, volume: np.ndarray) -> np.ndarray:
        """A volume on the stored array's grid, of `shape`, to the scan's (S, H, W), without missing slices.

        Where slices are missing from a volume that is read in another plane, its voxels there are kept.
        """
        if self.missing and self.axes[0] == 0 and volume.shape == self.shape:
            return self._apply(volume[self._present()], (len(self._present()), *self.shape[1:]), self._turn())
        return self._apply(volume, self.shape, self._turn())

    def to_original(self, volume: np.ndarray) -> np.ndarray:
        """A mask or probability map (S, H, W) on the scan's grid to the stored array's `shape`; 0 where a slice is missing.

        Raises:
            ValueError: when it is not on the scan's grid.
        """
        stored = self._apply(volume, self.scan_shape, self._turn(back=True))
        if not self.missing:
            return stored
        whole = np.zeros(self.shape, volume.dtype)
        present = self._present()
        whole[present] = stored if self.axes[0] == 0 else stored[present]
        return whole

    def _present(self) -> np.ndarray:
        """The indices along the first axis where a slice is not missing."""
        return np.setdiff1d(np.arange(self.shape[0]), self.missing)

    def _apply(self, volume: np.ndarray, expected: tuple[int, int, int], turn: np.ndarray) -> np.ndarray:
        from nibabel.orientations import apply_orientation

        if volume.shape != expected:
            raise ValueError(f"expected a volume of shape {expected}, got {volume.shape}")
        return apply_orientation(volume, turn)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Pixels as float32 in [0, 1] with three channels, and their source.

    Attributes:
        pixels: (H, W, 3) for a slice or (S, H, W, 3) for a study; pre-contrast T1, FLAIR, post-contrast T1. Axial from the neck
            upwards, nose up, the patient's right on the left, unless `geometry.plane` is another plane (`PLANES`).
        name: the file's or folder's name, for messages and output names; "study" for DICOM, whose names may name a patient.
        sha256: of the input's bytes: a file's or a zip's own; of several files, of their hexadecimal digests in order
            (of the pixels, for an array or an image in memory).
        warnings: the reader's assumptions, and what it left out.
        geometry: where the pixels lie in the patient, if the files say so.
        sequences: by channel, the label of its sequence; None where FLAIR is used in its place, and for slices, whose
            channels are their colours.
        single_sequence: what the only sequence is, by its name or header: "FLAIR", "pre-contrast T1", "post-contrast T1", "T2"
            and so on; of a picture only what its name says if that is no sequence: "CT", "subtraction"; None where there are
            several, and where it is not known.
        orientation: the EXIF orientation (1 to 8) that was applied to the stored pixels.
        incomplete: why the slices do not show the whole head though the files hold, or held, more of it: a clause for a message;
            None where nothing is known to be missing. A study without tumour in such slices is to be reviewed.
    """

    pixels: np.ndarray
    name: str
    sha256: str
    warnings: tuple[str, ...] = ()
    geometry: Geometry | None = None
    sequences: tuple[str | None, str | None, str | None] = (None, None, None)
    single_sequence: str | None = None
    orientation: int = 1
    incomplete: str | None = None
