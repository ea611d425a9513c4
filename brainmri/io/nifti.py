"""NIfTI files to scans.

nibabel and pydicom read the files: MONAI's readers order DICOM by instance number alone, skip MONOCHROME1 and check no limit.
"""

from __future__ import annotations

import contextlib
import gzip
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from brainmri.io.files import StudyFile, digest
from brainmri.io.limits import MAX_STUDY_BYTES, UnreadableImage, check_extent, check_ratio, refuse_study
from brainmri.io.pixels import FLAIR
from brainmri.io.scan import Geometry, Scan
from brainmri.io.sequences import (
    HOW_TO_CHOOSE,
    SEQUENCES,
    Candidate,
    Choice,
    check_assignment,
    choose_single,
    sequence_of,
)
from brainmri.io.stack import compose, refuse_other_grid, same_grid

if TYPE_CHECKING:
    from nibabel import Nifti1Image
    from nibabel.arrayproxy import ArrayProxy

NIFTI_SUFFIXES = (".nii", ".nii.gz")

_MASK = re.compile(r"(?<![a-z])(seg|segmentation|mask|labels?|roi)(?![a-z])")


def is_nifti(name: str) -> bool:
    """Whether a file has a NIfTI name."""
    return name.lower().endswith(NIFTI_SUFFIXES)


def is_mask(name: str) -> bool:
    """Whether a file is named as a mask."""
    return bool(_MASK.search(name.lower()))


@dataclass(frozen=True, kw_only=True)
class _Head:
    """The header of a NIfTI file, checked against the limits.

    Attributes:
        image_class: nibabel's class for it.
        dtype: of the voxels as stored.
        shape: (i, j, k), or (i, j, k, 3).
        end: bytes up to the last voxel.
        geometry: where the voxels lie.
        warnings: assumptions of the reader.
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
    return _choose(volumes, len(_images(files))).candidates([volume.label for volume in volumes])


def read_nifti(files: list[StudyFile], name: str, assign: Mapping[int, int | None] | None = None) -> Scan:
    """NIfTI files of one study to a scan.

    Args:
        files: one FLAIR volume; one file with three, pre-contrast T1, FLAIR and post-contrast T1 along its fourth axis; or
            a file for each sequence, chosen by name; masks and other sequences are ignored.
        assign: by channel, an index into `list_volumes`, instead of the choice by name.

    Raises:
        UnreadableImage: when no file can be chosen as FLAIR, an assigned sequence lies on another grid than the FLAIR, or a
            file is damaged or outside the limits.
    """
    volumes = _volumes(files, name)
    labels = [volume.label for volume in volumes]
    choice = _choose(volumes, len(_images(files))) if assign is None else check_assignment(assign, labels, name)
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


def _images(files: list[StudyFile]) -> list[StudyFile]:
    """The files but for masks, unless there are only masks."""
    return [file for file in files if not is_mask(file.name.name)] or files


def _volumes(files: list[StudyFile], name: str) -> list[_Volume]:
    """Every volume that can be read, in the order of the files; an unreadable file named as a sequence is refused."""
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


def _choose(volumes: list[_Volume], files: int) -> Choice:
    """The volume of each sequence, by the names of the files."""
    if files == 1:
        if volumes[0].part is None:
            return choose_single(volumes[0].file.name.name, "the file is named as")
        return Choice(indices={channel: channel for channel in SEQUENCES})
    named: dict[int, list[int]] = {}
    for index, volume in enumerate(volumes):
        channel = sequence_of(volume.file.name.name)
        if channel is not None:
            named.setdefault(channel, []).append(index)
    matched = {volumes[index].file for found in named.values() for index in found}
    warnings, problem = [], None
    if others := files - len(matched):
        warnings.append(f"{others} NIfTI files are ignored: their names match none of the three sequences")
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
def _opened(file: StudyFile, name: str) -> Iterator[gzip.GzipFile | BinaryIO]:
    """A file's bytes, unpacked; every failure to read them becomes an `UnreadableImage`."""
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
            warnings = ("the file has no orientation; its slices are read as axial, from the neck upwards",)
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
        stored = cast("ArrayProxy", image.dataobj)
        plain = head.dtype == np.uint8 and (stored.slope, stored.inter) == (1, 0)
        voxels = stored.get_unscaled() if plain else image.get_fdata(dtype=np.float32)
        return voxels.reshape(head.shape, order="F")


class NiftiReader:
    """NIfTI, recognised by its name."""

    format = "NIfTI"
    preview = False

    def sniff(self, file: StudyFile) -> bool:
        return is_nifti(file.name.name)

    def list_sequences(self, files: list[StudyFile], name: str) -> tuple[Candidate, ...]:
        return list_volumes(files, name)

    def read(self, files: list[StudyFile], name: str, assign: Mapping[int, int | None] | None = None) -> Scan:
        return read_nifti(files, name, assign)
