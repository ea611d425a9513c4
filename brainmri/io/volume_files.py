"""Headers and voxels of volume files: NIfTI-1 and -2, plain or as a pair, Analyze and MGH, by nibabel; NRRD and MetaImage.

Formats and compression are recognised by the bytes. Sizes are checked before voxels are unpacked.
"""

from __future__ import annotations

import contextlib
import gzip
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np

from brainmri.io.files import StudyFile
from brainmri.io.foreign import describe_foreign
from brainmri.io.itk_files import NO_ORIENTATION, NO_SIZE, itk_format, load_itk_voxels, read_itk_head
from brainmri.io.limits import (
    FORMATS,
    MAX_RATIO,
    MAX_STUDY_BYTES,
    RATIO_COUNTS,
    UnreadableImage,
    check_extent,
    check_ratio,
    describe_size,
    refuse,
)
from brainmri.io.scan import Geometry, NiftiSpace, is_possible

NOT_A_VOLUME = f"another file. Please upload {FORMATS}"
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
HEADER_BYTES = 540  # of the longest header, NIfTI-2
PADDING = 2**16  # bytes of zeros behind a gzip file that are tolerated
UNITS = {1: "meter", 2: "mm", 3: "micron"}  # by NIfTI's code
SAME_SIZE = 0.05  # how far sizes in two places of a header may differ, as a share
TO_MM = {"meter": 1000.0, "micron": 0.001}
_MGH_TYPES = (0, 1, 3, 4)
AGREEMENT = 0.5  # least cosine between the left-right axes of a header's sform and qform; a registration turns a head by less
NOT_GIVEN = "so the sides of lesions are not given"
PLACEHOLDER = f"the file's orientation is only the default of a converter; left and right are unknown, {NOT_GIVEN}"


@dataclass(frozen=True, kw_only=True)
class VolumeHead:
    """The header of a volume file, checked against the limits.

    Attributes:
        file: with the voxels.
        dtype: of the voxels as stored.
        shape: (i, j, k), or (i, j, k, 3).
        offset: of the first voxel, in bytes.
        scaling: slope and intercept, or (None, None).
        geometry: where the voxels lie.
        warnings: assumptions of the reader.
        itk: the format, if SimpleITK reads it.
    """

    file: StudyFile
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    scaling: tuple[float | None, float | None]
    geometry: Geometry
    warnings: tuple[str, ...]
    itk: str | None = None

    @property
    def end(self) -> int:
        """Bytes up to the last voxel."""
        return self.offset + int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


@contextlib.contextmanager
def open_unpacked(file: StudyFile, name: str) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked; every failure to read them becomes an `UnreadableImage`."""
    try:
        with file.open() as raw:
            start = raw.read(4)
            raw.seek(0)
            if start[:2] == GZIP:
                if file.size > PADDING and not any(_end(raw, PADDING)):  # gzip skips zeros byte by byte
                    raise refuse(name, "got a gzip file that ends in more than 64 KiB of zeros. Please copy or download it again")
                yield cast(IO[bytes], gzip.GzipFile(fileobj=raw))
            elif start == ZSTD:
                yield io.BytesIO(_unpack_zstd(raw.read(), file.size))
            else:
                yield raw
    except UnreadableImage:
        raise
    except Exception as error:  # damaged files raise exceptions of many types
        raise refuse(name, f"got a damaged volume file ({type(error).__name__}). Please export it again") from error


def _end(stream: IO[bytes], size: int) -> bytes:
    """The last bytes of a stream, which stays at its beginning."""
    stream.seek(-size, io.SEEK_END)
    found = stream.read()
    stream.seek(0)
    return found


def _unpack_zstd(data: bytes, packed: int) -> bytes:
    import imagecodecs

    most = min(MAX_STUDY_BYTES, max(RATIO_COUNTS, MAX_RATIO * packed))
    return bytes(imagecodecs.zstd_decode(data, out=most))


def volume_format(file: StudyFile) -> str | None:
    """ "NIfTI", "NIfTI pair", "Analyze", "MGH", "NRRD" or "MetaImage", by the first bytes; None for others and damaged files."""
    try:
        with open_unpacked(file, "the file") as stream:
            start = stream.read(HEADER_BYTES)
    except UnreadableImage:
        return None
    return _format_of(start, file.name.name.lower())


def _format_of(start: bytes, name: str) -> str | None:
    if start[344:348] == b"n+1\0" or start[4:8] == b"n+2\0":
        return "NIfTI"
    if start[344:348] == b"ni1\0" or start[4:8] == b"ni2\0":
        return "NIfTI pair"
    if ".hdr" in name and start[:4] in ((348).to_bytes(4, "little"), (348).to_bytes(4, "big")):
        return "Analyze"
    version, *sides, frames, kind = np.frombuffer(start[:24].ljust(24, b"\0"), ">i4").tolist()
    if version == 1 and all(1 <= side <= 4096 for side in sides) and frames >= 1 and kind in _MGH_TYPES:
        return "MGH"
    return itk_format(start)


def read_head(file: StudyFile, name: str, voxels: StudyFile | None = None) -> VolumeHead:
    """Read a file's header and check it.

    Args:
        voxels: the file with the voxels, for the header of a pair.

    Raises:
        UnreadableImage: when it is damaged, of an unsupported type, outside the limits, or lacks its other half.
    """
    with open_unpacked(file, name) as stream:
        start = stream.read(HEADER_BYTES)
        kind = _format_of(start, file.name.name.lower())
        if kind is None:
            raise refuse(name, f"expected a volume, as the file's name says, got {describe_foreign(start) or NOT_A_VOLUME}")
        if kind in ("NIfTI pair", "Analyze") and voxels is None:
            raise refuse(name, "got the header of a pair without its voxels. Please upload the .hdr and the .img file together")
        if kind == itk_format(start):
            dtype, shape, geometry, warnings = read_itk_head(file, kind, name)
            return VolumeHead(
                file=file,
                dtype=dtype,
                shape=shape,
                offset=0,
                scaling=(None, None),
                geometry=geometry,
                warnings=warnings,
                itk=kind,
            )
        header = _parse(kind, start)
        dtype, shape = header.get_data_dtype(), tuple(int(side) for side in header.get_data_shape())
        if dtype.kind not in "iuf" or dtype.itemsize > 8:
            found = "colours. Please save grey values" if dtype.fields else f"{dtype}. Please save grey values"
            raise refuse(name, f"expected integer or float voxels, got {found}")
        shape = (
            *shape[:3],
            *[1] * (3 - len(shape)),
            *(side for side in shape[3:] if side not in (0, 1)),
        )  # a slice, or a single time point
        if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
            raise refuse(name, f"expected one volume, or three along the fourth axis, got shape {shape}. Please save one volume")
        geometry, warnings = (
            _mgh_geometry(start, header, shape[:3]) if kind == "MGH" else _geometry(kind, header, shape[:3], name)
        )
        check_extent(name, *geometry.scan_shape)
        offset = header.get_data_offset()
        if kind == "NIfTI":  # some programs write 0
            offset = max(offset, 352 if len(header.binaryblock) == 348 else 544)
        head = VolumeHead(
            file=voxels or file,
            dtype=dtype,
            shape=shape,
            offset=int(offset),
            scaling=_scaling(header),
            geometry=geometry,
            warnings=warnings,
        )
        if head.end > MAX_STUDY_BYTES:
            raise refuse(name, describe_size(head.end))
    with open_unpacked(head.file, name) as stream:
        if isinstance(stream, gzip.GzipFile):
            check_ratio(name, head.file.size, head.end)
    return head


def _parse(kind: str, start: bytes) -> Any:
    """nibabel's header of the first bytes of a file."""
    import nibabel
    from nibabel.freesurfer.mghformat import MGHHeader

    if kind == "MGH":
        return MGHHeader(start[:284], check=False)
    if kind == "Analyze":
        return nibabel.AnalyzeImage.header_class(start[:348], check=False)
    if kind == "NIfTI pair":
        pair = nibabel.Nifti1Pair if start[344:348] == b"ni1\0" else nibabel.Nifti2Pair
        return pair.header_class(start[: 348 if pair is nibabel.Nifti1Pair else 540], check=False)
    if start[344:348] == b"n+1\0":
        return nibabel.Nifti1Header(start[:348], check=False)
    return nibabel.Nifti2Header(start[:540], check=False)


def _scaling(header: Any) -> tuple[float | None, float | None]:
    """Slope and intercept of a header; None where there are none, or they are no numbers."""
    if "scl_slope" not in header:
        return None, None
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return None, None
    return slope, intercept if np.isfinite(intercept) else 0.0


def _mgh_geometry(start: bytes, header: Any, shape: tuple[int, int, int]) -> tuple[Geometry, tuple[str, ...]]:
    oriented = start[28:30] != b"\0\0"  # nibabel fills in the default, as FreeSurfer does
    sized = oriented and bool((header["delta"] > 0).all())
    if not sized:
        header["delta"] = 1
    notes = ["the file has no orientation; it is read as coronal, as FreeSurfer does"] * (not oriented) + [NO_SIZE] * (not sized)
    affine = np.asarray(header.get_affine(), np.float64)
    return Geometry(shape=shape, affine=affine, oriented=oriented, sized=sized), tuple(notes)


def _geometry(kind: str, header: Any, shape: tuple[int, int, int], name: str) -> tuple[Geometry, tuple[str, ...]]:
    """Where a volume lies, and what had to be assumed."""
    sides = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
    sized = bool((np.isfinite(sides) & (sides > 0)).all())
    if kind == "Analyze":
        note = "Analyze files have no orientation; the slices are read as axial, and left and right may be swapped"
        affine = np.asarray(header.get_best_affine(), np.float64) if sized else np.diag([-1.0, 1, 1, 1])
        return Geometry(shape=shape, affine=affine, oriented=False, sized=sized), (note, *[NO_SIZE] * (not sized))
    space = _nifti_space(header)
    if sized and not any(space.codes) and (header["sform_code"] > 0 or header["qform_code"] > 0):
        raise refuse(name, "got a header whose sform and qform are damaged. Please export the volume again")
    affine, warnings = space.sform if space.sform is not None else space.qform, []
    if affine is None:
        # NIfTI's method 1: indices count towards the right, anterior and superior
        affine, warnings = np.diag([*(sides if sized else np.ones(3)), 1.0]), [NO_ORIENTATION, *[NO_SIZE] * (not sized)]
    elif sized and np.abs((lengths := np.linalg.norm(affine[:3, :3], axis=0)) / sides - 1).max() > SAME_SIZE:
        found, other = (" x ".join(f"{side:.3g}" for side in one) for one in (lengths, sides))
        warnings.append(f"the header gives two voxel sizes, {found} by its sform and {other} by its pixdim; the first are used")
    base = np.asarray(header.get_base_affine(), np.float64)
    problem = _explain_unknown_sides(space, affine, base) if any(space.codes) else None
    warnings += [problem] if problem else []
    sized = sized or any(space.codes)
    oriented = any(space.codes) and problem is None
    geometry = Geometry(shape=shape, affine=affine, oriented=oriented, sized=sized, nifti=space)
    if space.unit not in TO_MM:
        return geometry, tuple(warnings)
    in_mm = np.diag([*[TO_MM[space.unit]] * 3, 1.0]) @ affine
    converted = Geometry(shape=shape, affine=in_mm, oriented=geometry.oriented, sized=sized, nifti=space)
    if geometry.plausible and not converted.plausible:
        return geometry, (*warnings, f"the header gives sizes in {space.unit}, which is impossible; they are read as mm")
    return converted, tuple(warnings)


def _explain_unknown_sides(space: NiftiSpace, affine: np.ndarray, base: np.ndarray) -> str | None:
    """Why the transforms of a header do not tell left from right; None if they do.

    Args:
        affine: (4, 4), the transform that is used.
        base: (4, 4), what nibabel assumes for a header without a transform.
    """
    from nibabel.orientations import aff2axcodes

    if space.sform is not None and space.qform is not None:
        one, other = ((form[:3, :3] / np.linalg.norm(form[:3, :3], axis=0))[0] for form in (space.sform, space.qform))
        if one @ other < AGREEMENT * np.linalg.norm(one) * np.linalg.norm(other):
            codes = " and ".join("".join(aff2axcodes(form)) for form in (space.sform, space.qform))
            return f"the header's sform and qform ({codes}) disagree about left and right; the sform is used, {NOT_GIVEN}"
    return PLACEHOLDER if _is_placeholder(affine, base, space.codes) else None


def _is_placeholder(affine: np.ndarray, base: np.ndarray, codes: tuple[int, int]) -> bool:
    """Whether a transform is one that programs write for voxels of unknown orientation, although its code claims another.

    These are nibabel's default, and axes along those of the body from a first voxel at exactly 0: ITK's default, the identity,
    and, as nibabel saves what is made by hand, the voxel sizes alone. No scanner puts the corner of its volume there.
    """
    sizes, tolerance = affine.diagonal()[:3], 1e-3 * np.linalg.norm(affine[:3, :3], axis=0).min()
    if np.abs(affine - base).max() < tolerance:
        return True
    if np.abs(affine - np.diag([*sizes, 1.0])).max() >= tolerance:
        return False
    itk = (np.sign(sizes) == (-1, -1, 1)).all()
    return bool(itk or ((sizes > 0).all() and (np.allclose(sizes, 1) or codes == (2, 0))))


def _nifti_space(header: Any) -> NiftiSpace:
    """The transforms of a header; those with a code that are damaged count as missing."""
    from nibabel.spatialimages import HeaderDataError

    if abs(header["pixdim"][0]) != 1:
        header["pixdim"][0] = 1  # as the standard reads it
    found: dict[str, tuple[np.ndarray | None, int]] = {}
    for name in ("sform", "qform"):
        found[name] = None, 0
        code = _known_code(int(header[f"{name}_code"]))
        try:
            transform = np.asarray(getattr(header, f"get_{name}")(), np.float64) if code else None
            if transform is not None and is_possible(transform):
                getattr(header.copy(), f"set_{name}")(transform, code=code)  # as it will be written
                found[name] = transform, code
        except (HeaderDataError, ValueError, np.linalg.LinAlgError):
            continue
    unit = UNITS.get(int(header["xyzt_units"]) & 7, "unknown")
    (sform, sform_code), (qform, qform_code) = found["sform"], found["qform"]
    return NiftiSpace(sform=sform, qform=qform, codes=(sform_code, qform_code), unit=unit)


def _known_code(code: int) -> int:
    """A code of the NIfTI standard: 0 where there is no transform, 2 (aligned to another file) for an unknown code."""
    return 0 if code < 0 else code if code <= 5 else 2


def load_voxels(head: VolumeHead, name: str) -> np.ndarray:
    """The voxels of a file, of the header's shape, uint8 or float32."""
    from nibabel.arrayproxy import ArrayProxy

    if head.itk:
        with open_unpacked(head.file, name):
            return load_itk_voxels(head.file, head.itk, name)
    with open_unpacked(head.file, name) as stream:
        data = stream.read(head.end)  # no more than the header announces, however much is packed
        if len(data) < head.end:
            raise refuse(name, "the volume file ends too early. Please copy or download it again")
        stream.read(1)  # a packed file that ends here has its checksum compared
        slope, inter = head.scaling
        spec = (head.shape, head.dtype, head.offset, 1.0 if slope is None else slope, inter or 0.0)
        stored = ArrayProxy(io.BytesIO(data), spec)
        unscaled = head.dtype == np.uint8 and (stored.slope, stored.inter) == (1, 0)
        return np.asarray(stored.get_unscaled() if unscaled else np.asarray(stored, dtype=np.float32))
