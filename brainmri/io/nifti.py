"""Volumes to scans: NIfTI files, and what volumes of every kind share: one scale, axial slices.

nibabel and pydicom read the files: MONAI's readers order DICOM by instance number alone, skip MONOCHROME1 and check no limit.
"""

from __future__ import annotations

import contextlib
import gzip
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from brainmri.io.files import StudyFile, digest
from brainmri.io.limits import MAX_STUDY_BYTES, UnreadableImage, check_extent, check_ratio, refuse_study
from brainmri.io.pixels import FLAIR
from brainmri.io.scan import Geometry, Scan
from brainmri.io.sequences import (
    HOW_TO_CHOOSE,
    ONE_SEQUENCE,
    POST,
    PRE,
    SEQUENCES,
    Candidate,
    Choice,
    assigned,
    lone,
    sequence_of,
)

if TYPE_CHECKING:
    from nibabel import Nifti1Image

NIFTI_SUFFIXES = (".nii", ".nii.gz")
PERCENTILES = (0.5, 99.5)
# degrees; less is routine: axial slices are planned along the skull base or the commissures, and training turns them by as much
MAX_TILT = 20

_MASK = re.compile(r"(?<![a-z])(seg|segmentation|mask|labels?|roi)(?![a-z])")


def is_nifti(name: str) -> bool:
    """Whether a file's name says NIfTI."""
    return name.lower().endswith(NIFTI_SUFFIXES)


def is_mask(name: str) -> bool:
    """Whether a file's name says that it holds labels rather than an image."""
    return bool(_MASK.search(name.lower()))


def _scaled(volume: np.ndarray) -> np.ndarray:
    """One sequence to float32 in [0, 1]: 8-bit by the range its format declares, the rest by percentiles of the volume."""
    if volume.dtype == np.uint8:
        return volume.astype(np.float32) / 255
    # not the extremes: one hot voxel, a vessel or a ring of ghosts would push the brain into the dark and out of the head's box
    low, high = np.percentile(volume, PERCENTILES)
    if low == high:  # fewer voxels than that hold anything
        low, high = volume.min(), volume.max()
    span = float(high) - float(low)
    return np.clip((volume - np.float32(low)) / np.float32(span), 0, 1) if span > 0 else np.zeros(volume.shape, np.float32)


def compose(
    sequences: dict[int, np.ndarray],
    geometry: Geometry | None,
    *,
    name: str,
    sha256: str,
    warnings: list[str],
    labels: tuple[str | None, str | None, str | None] = (None, None, None),
) -> Scan:
    """The sequences of one study to a scan, missing ones filled with FLAIR, as the networks learned it.

    Args:
        sequences: by channel, FLAIR among them; volumes on one grid, uint8 or float32, on `geometry`'s stored grid, or
            (S, H, W) axial already where it is None.
        labels: what was read as each channel, in words fit to show.

    Raises:
        UnreadableImage: for NaN or infinite voxels, or a FLAIR of one value alone.
    """
    warnings = list(warnings)
    if set(sequences) == {FLAIR}:
        if ONE_SEQUENCE not in warnings:
            warnings.append("only FLAIR was provided; it is used for all three channels")
    elif missing := [words for channel, words in SEQUENCES.items() if channel not in sequences]:
        warnings.append(f"FLAIR stands in for the {missing[0]}")
    if geometry and geometry.tilt > MAX_TILT:
        warnings.append(
            f"the slices are tilted by {geometry.tilt:.0f} degrees against the anatomical axes; the networks know axial ones, "
            "and they are analysed as they were acquired"
        )
    shape = geometry.axial_shape if geometry else sequences[FLAIR].shape
    pixels = np.empty((*shape, 3), np.float32)
    for channel in (FLAIR, PRE, POST):
        volume = sequences.get(channel)
        if volume is None:
            pixels[..., channel] = pixels[..., FLAIR]
            continue
        if not np.isfinite(volume).all():
            raise refuse_study(name, "got NaN or infinite voxels; replace them, or export the volume again")
        if channel == FLAIR and volume.min() == volume.max():
            raise refuse_study(name, "all voxels of the FLAIR have the same value; export the volume again")
        pixels[..., channel] = _scaled(geometry.to_axial(volume) if geometry else volume)
    return Scan(pixels=pixels, name=name, sha256=sha256, warnings=tuple(warnings), geometry=geometry, sequences=labels)


def same_grid(one: Geometry, other: Geometry) -> bool:
    """Whether two stored arrays have the same shape and their corners lie within a tenth of a voxel of each other."""
    if one.shape != other.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, side - 1) for side in one.shape], [1])).reshape(4, -1)
    return bool(np.abs((one.affine - other.affine) @ corners).max() < 0.1 * min(one.spacing))


@dataclass(frozen=True, kw_only=True)
class _Head:
    """What a NIfTI file's header announces, within the limits.

    Attributes:
        image_class: nibabel's class for it.
        dtype: of the voxels as stored.
        shape: (i, j, k), or (i, j, k, 3).
        end: bytes up to the last voxel.
        geometry: where the voxels lie.
        warnings: what had to be assumed.
    """

    image_class: type[Nifti1Image]
    dtype: np.dtype
    shape: tuple[int, ...]
    end: int
    geometry: Geometry
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Volume:
    """One volume of a NIfTI file: all of it, or the part at an index along its fourth axis."""

    file: StudyFile
    head: _Head
    label: str
    part: int | None = None


def list_volumes(files: list[StudyFile], name: str) -> tuple[Candidate, ...]:
    """The volumes in the NIfTI files of one study, and what `read_nifti` reads each as; headers only.

    Raises:
        UnreadableImage: as `read_nifti` does for a header.
    """
    volumes = _volumes(files, name)
    return _told(volumes, len(_images(files))).candidates([volume.label for volume in volumes])


def read_nifti(files: list[StudyFile], name: str, assign: Mapping[int, int | None] | None = None) -> Scan:
    """NIfTI files of one study to a scan.

    Args:
        files: one FLAIR volume; one file with three, pre-contrast T1, FLAIR and post-contrast T1 along its fourth axis; or
            a file a sequence, told by name, masks and other sequences left aside.
        assign: by channel, an index into `list_volumes`, instead of what the names tell.

    Raises:
        UnreadableImage: when the FLAIR cannot be told, a sequence was assigned what lies on another grid than the FLAIR, or
            a file is damaged or outside the limits.
    """
    volumes = _volumes(files, name)
    labels = [volume.label for volume in volumes]
    choice = _told(volumes, len(_images(files))) if assign is None else assigned(assign, labels, name)
    if choice.problem:
        raise refuse_study(name, choice.problem)
    chosen = {channel: volumes[index] for channel, index in choice.indices.items()}
    head = chosen[FLAIR].head
    for channel, volume in chosen.items():
        if not same_grid(head.geometry, volume.head.geometry):
            raise refuse_other_grid(name, channel, volume.label)
    heads = {chosen[channel].file: chosen[channel].head for channel in sorted(chosen)}  # a file is read once for all its volumes
    voxels = {file: _load(file, head, name) for file, head in heads.items()}
    return compose(
        {c: voxels[v.file] if v.part is None else voxels[v.file][..., v.part] for c, v in chosen.items()},
        head.geometry,
        name=name,
        sha256=digest(list(heads)),
        warnings=[*choice.warnings, *head.warnings],
        labels=choice.labels(labels),
    )


def refuse_other_grid(name: str, channel: int, label: str) -> UnreadableImage:
    """The refusal of what was assigned to a T1 and does not lie where the FLAIR does, to be raised."""
    return UnreadableImage(
        f"{name}: {label}, assigned to the {SEQUENCES[channel]}, lies on another grid than the FLAIR, whose slices, pixels and "
        "position a T1 has to share; choose another, or none"
    )


def _images(files: list[StudyFile]) -> list[StudyFile]:
    """The files but for masks, unless there are only masks."""
    return [file for file in files if not is_mask(file.name.name)] or files


def _volumes(files: list[StudyFile], name: str) -> list[_Volume]:
    """Every volume that can be read, as the files come; one that cannot is refused where a sequence is to be found in it."""
    images = _images(files)
    volumes, refusals = [], []
    for file in images:
        try:
            head = _head(file, name)
        except UnreadableImage as refusal:
            if sequence_of(file.name.name) is not None:
                raise
            refusals.append(refusal)  # a time series or a map beside the sequences
            continue
        label = file.name.name
        if len(head.shape) == 3:
            volumes.append(_Volume(file=file, head=head, label=label))
            continue
        for part in range(head.shape[3]):
            which = f"volume {part + 1} of {head.shape[3]}"
            volumes.append(_Volume(file=file, head=head, label=which if len(images) == 1 else f"{label}, {which}", part=part))
    if not volumes:
        raise refusals[0]
    return volumes


def _told(volumes: list[_Volume], files: int) -> Choice:
    """What the names of that many files tell."""
    if files == 1:
        if volumes[0].part is None:
            return lone(volumes[0].file.name.name, "the file is named for")
        return Choice(indices={channel: channel for channel in SEQUENCES})
    named: dict[int, list[int]] = {}
    for index, volume in enumerate(volumes):
        channel = sequence_of(volume.file.name.name)
        if channel is not None:
            named.setdefault(channel, []).append(index)
    told = {volumes[index].file for found in named.values() for index in found}
    warnings, problem = [], None
    if others := files - len(told):
        warnings.append(f"{others} NIfTI files whose names tell none of the three sequences were left aside")
    if doubled := [c for c, found in named.items() if len({volumes[index].file for index in found}) > 1]:
        problem = f"two NIfTI files are named as {SEQUENCES[doubled[0]]}; {HOW_TO_CHOOSE}"
    elif FLAIR not in named:
        problem = f"none of {files} NIfTI files is named as FLAIR (flair, t1 or pre, t1ce or post); {HOW_TO_CHOOSE}"
    indices = {channel: found[0] for channel, found in named.items() if len(found) == 1}
    flair = named.get(FLAIR, [])
    if not doubled and len(flair) > 1:  # all three along its fourth axis
        return Choice(indices={channel: flair[channel] for channel in SEQUENCES}, warnings=tuple(warnings))
    if FLAIR in indices:
        grid = volumes[indices[FLAIR]].head.geometry
        for channel in sorted(set(named) - set(doubled) - {FLAIR}):
            if channel not in indices or not same_grid(grid, volumes[indices[channel]].head.geometry):
                warnings.append(f"the {SEQUENCES[channel]} lies on another grid than the FLAIR and was left out")
                indices.pop(channel, None)
    return Choice(indices=indices, warnings=tuple(warnings), problem=problem)


def _is_packed(file: StudyFile) -> bool:
    return file.name.suffix.lower() == ".gz"


@contextlib.contextmanager
def _opened(file: StudyFile, name: str) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked, every failure to make sense of them refused."""
    try:
        with file.open() as raw:
            yield gzip.GzipFile(fileobj=raw) if _is_packed(file) else raw
    except UnreadableImage:
        raise
    except Exception as error:  # a broken file fails in many ways, all of them the file's fault
        raise refuse_study(name, f"got a damaged NIfTI file ({type(error).__name__})") from error


def _head(file: StudyFile, name: str) -> _Head:
    """Read a file's header and check it."""
    import nibabel

    with _opened(file, name) as stream:
        head = stream.read(540)
        if head[344:348] == b"n+1\0":
            image_class, length = nibabel.Nifti1Image, 348
        elif head[4:8] == b"n+2\0":
            image_class, length = nibabel.Nifti2Image, 540
        else:
            raise refuse_study(name, "the file has a NIfTI name but is not one (or is the header of a pair, .hdr and .img)")
        header = image_class.header_class(head[:length], check=False)
        dtype, shape = header.get_data_dtype(), tuple(int(side) for side in header.get_data_shape())
        if dtype.kind not in "iuf" or dtype.itemsize > 8:
            raise refuse_study(name, f"expected integer or float NIfTI voxels, got voxels of type {dtype}")
        if len(shape) == 4 and shape[3] == 1:
            shape = shape[:3]
        if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
            raise refuse_study(name, f"expected one volume, or three along the fourth axis, got a NIfTI file of shape {shape}")
        affine, warnings = header.get_best_affine(), ()
        oriented = bool(header["sform_code"] or header["qform_code"])
        if not oriented:
            # NIfTI's method 1: indices count towards the right, anterior and superior
            affine = np.diag([*(abs(float(side)) or 1.0 for side in header["pixdim"][1:4]), 1.0])
            warnings = ("the file tells no orientation; its slices are taken for axial, from the neck upwards",)
        geometry = Geometry(shape=shape[:3], affine=np.asarray(affine, np.float64), oriented=oriented)
        check_extent(name, *geometry.axial_shape)
        end = header.get_data_offset() + int(np.prod(shape)) * dtype.itemsize
        if end > MAX_STUDY_BYTES:
            raise refuse_study(name, f"got a NIfTI file of {end / 2**20:.0f} MiB")
        if _is_packed(file):
            check_ratio(name, file.size, end)
        return _Head(image_class=image_class, dtype=dtype, shape=shape, end=end, geometry=geometry, warnings=warnings)


def _load(file: StudyFile, head: _Head, name: str) -> np.ndarray:
    """A file's voxels, of the header's shape, uint8 or float32."""
    with _opened(file, name) as stream:
        data = stream.read(head.end)  # no more than the header announces, however much is packed
        if len(data) < head.end:
            raise refuse_study(name, "the NIfTI file ends too early")
        stream.read(1)  # a packed file that ends here has its checksum compared
        image = head.image_class.from_bytes(data)
        plain = head.dtype == np.uint8 and (image.dataobj.slope, image.dataobj.inter) == (1, 0)
        voxels = image.dataobj.get_unscaled() if plain else image.get_fdata(dtype=np.float32)
        return voxels.reshape(head.shape, order="F")
