"""NRRD and MetaImage volumes in one file, read by SimpleITK, which is optional."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from brainmri.io.extras import install_command
from brainmri.io.files import StudyFile
from brainmri.io.limits import MAX_STUDY_BYTES, check_extent, check_ratio, describe_size, refuse
from brainmri.io.scan import Geometry

NRRD, META = "NRRD", "MetaImage"
_IO = {NRRD: "NrrdImageIO", META: "MetaImageIO"}
_SUFFIX = {NRRD: ".nrrd", META: ".mha"}
_HEADER_BYTES = 65536
NO_ORIENTATION = "the file has no orientation; its slices are read as axial, from the neck upwards"
NO_SIZE = "the file has no voxel size; volumes are in voxels and distances in pixels"
# NRRD's spaces that say where left and right, front and back, top and bottom are; others are the scanner's or any
_ANATOMICAL = re.compile(rb"^space: *(?:(?:left|right)-|[LR][AP]S)", re.MULTILINE | re.IGNORECASE)
# MetaImage's fields of an orientation; SimpleITK reads only the matrix
_MATRIX = re.compile(rb"^\s*(?:TransformMatrix|Rotation|Orientation)\s*=([^\r\n]*)", re.MULTILINE)
_LETTERS = re.compile(rb"^\s*AnatomicalOrientation\s*=\s*(\S+)", re.MULTILINE)
# the fields with voxel sizes
_SIZES = {
    NRRD: re.compile(rb"^(?:spacings|space directions):", re.MULTILINE | re.IGNORECASE),
    META: re.compile(rb"^\s*Element(?:Spacing|Size)\s*=", re.MULTILINE),
}


def itk_format(start: bytes) -> str | None:
    """`NRRD` or `META`, by the first bytes of a file."""
    if start[:5] == b"NRRD0":
        return NRRD
    return META if re.match(rb"\s*(Comment|ObjectType|NDims)\s*=", start[:64]) else None


def read_itk_head(file: StudyFile, kind: str, name: str) -> tuple[np.dtype, tuple[int, ...], Geometry, tuple[str, ...]]:
    """Type, shape and geometry of a volume, and what had to be assumed.

    Raises:
        UnreadableImage: without SimpleITK, for voxels in another file, or outside the limits.
    """
    text = _header_text(file, kind, name)
    with _reader(file, kind, name) as reader:
        reader.ReadImageInformation()
        sitk = _simple_itk(name, kind)
        shape = tuple(int(side) for side in reader.GetSize())
        if len(shape) != 3 or (components := reader.GetNumberOfComponents()) != 1:
            found = f"shape {shape}" if len(shape) != 3 else f"{components} values per voxel"
            raise refuse(
                name, f"expected a volume with three axes and one value per voxel, got {found}. Please save one sequence per file"
            )
        dtype = np.dtype(sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], reader.GetPixelID())).dtype)
        directions = np.array(reader.GetDirection(), np.float64).reshape(3, 3)
        spacing, origin = np.array(reader.GetSpacing(), np.float64), np.array(reader.GetOrigin(), np.float64)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions * spacing, origin
    affine[:2] *= -1  # ITK counts towards left and posterior
    oriented, sized = _is_oriented(text, kind), _SIZES[kind].search(text) is not None
    if not oriented:
        affine = np.diag([*np.abs(spacing), 1.0])
    geometry = Geometry(shape=shape, affine=affine, oriented=oriented, sized=sized)
    check_extent(name, *geometry.scan_shape)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size > MAX_STUDY_BYTES:
        raise refuse(name, describe_size(size))
    check_ratio(name, file.size, size)
    return dtype, shape, geometry, (*[NO_ORIENTATION] * (not oriented), *[NO_SIZE] * (not sized))


def _is_oriented(text: bytes, kind: str) -> bool:
    """Whether a header says where left and right are.

    MetaIO writes an identity matrix with the letters ??? for volumes whose orientation it does not know. Without a matrix
    SimpleITK assumes the identity, so only the letters of the identity, RAI, are an orientation.
    """
    if kind == NRRD:
        return _ANATOMICAL.search(text) is not None
    matrix, letters = _MATRIX.search(text), _LETTERS.search(text)
    if matrix is None:
        return letters is not None and letters[1].upper() == b"RAI"
    identity = [float(value) for value in matrix[1].split()] == np.eye(3).ravel().tolist()
    return not (identity and letters is not None and letters[1] == b"???")


def load_itk_voxels(file: StudyFile, kind: str, name: str) -> np.ndarray:
    """The voxels of a volume, (i, j, k), uint8 or float32."""
    with _reader(file, kind, name) as reader:
        voxels = _simple_itk(name, kind).GetArrayFromImage(reader.Execute()).transpose(2, 1, 0)
    return voxels if voxels.dtype == np.uint8 else voxels.astype(np.float32)


def _simple_itk(name: str, kind: str) -> Any:
    try:
        import SimpleITK
    except ImportError:
        raise refuse(
            name, f"got a {kind} volume. Please convert it to NIfTI, or install SimpleITK ({install_command('itk')})"
        ) from None
    return SimpleITK


def _header_text(file: StudyFile, kind: str, name: str) -> bytes:
    """The header, which must not name another file: it could be any file of this machine."""
    with file.open() as handle:
        start = handle.read(_HEADER_BYTES)
    if itk_format(start) != kind:
        raise refuse(name, f"got a compressed {kind} file. Please unpack it, or save it with compression inside the file")
    if kind == NRRD:
        text = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0]
        if re.search(rb"^encoding: *bz", text, re.MULTILINE | re.IGNORECASE):
            raise refuse(name, "got an NRRD file packed by bzip2. Please save it with gzip or without compression")
        detached = re.search(rb"^data ?file:", text, re.MULTILINE | re.IGNORECASE) is not None
    else:
        found = re.search(rb"ElementDataFile\s*=\s*([^\r\n]*)", start)
        text, detached = start[: found.end()] if found else start, found is None or found[1].strip() != b"LOCAL"
    if detached:
        raise refuse(name, f"got a {kind} header whose voxels are in another file. Please save it as one {_SUFFIX[kind]} file")
    return text


@contextlib.contextmanager
def _reader(file: StudyFile, kind: str, name: str) -> Iterator[Any]:
    """SimpleITK's reader of a file, which has to be on the disk."""
    sitk = _simple_itk(name, kind)
    with contextlib.ExitStack() as stack:
        path = file.path
        if file.data is not None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / f"volume{_SUFFIX[kind]}"
            path.write_bytes(file.data)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.SetImageIO(_IO[kind])
        yield reader
