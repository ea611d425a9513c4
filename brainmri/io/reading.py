"""Files to arrays: PNG, JPEG and TIFF slices here, and the way in for whole studies of every kind.

Limits are checked on the file's size and header before pixels are decoded. Every refusal is an `UnreadableImage`
whose message names the problem and the accepted inputs.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from brainmri.io.dicom import NAME, list_series, read_dicom
from brainmri.io.files import StudyFile, folder_files, is_zip, listed_files, zip_files
from brainmri.io.limits import MAX_SLICES, MAX_STUDY_BYTES, UnreadableImage, check_extent, refuse_study
from brainmri.io.nifti import compose, is_nifti, list_volumes, read_nifti
from brainmri.io.pixels import FLAIR, MAX_SIDE, MIN_SIDE, to_unit
from brainmri.io.scan import Scan
from brainmri.io.sequences import ONE_SEQUENCE, SEQUENCES, Candidate

MAX_BYTES = 64 * 2**20
ACCEPTED = (
    f"PNG, JPEG and TIFF slices (8 or 16 bit, one page, {MIN_SIDE} to {MAX_SIDE} pixels a side, up to {MAX_BYTES // 2**20} MiB)"
)
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NUMBERED = re.compile(r"(?P<case>.+)_(?P<number>\d{1,9})")


def _refuse(name: str, problem: str) -> UnreadableImage:
    return UnreadableImage(f"{name}: {problem}. Accepted: {ACCEPTED}.")


def _unit(pixels: np.ndarray, name: str, value_range: tuple[float, float] | None = None) -> np.ndarray:
    try:
        return to_unit(pixels, value_range)
    except ValueError as error:
        raise UnreadableImage(f"{name}: {error}. Accepted: {ACCEPTED}.") from error


def _check_sides(width: int, height: int, name: str) -> None:
    if not (MIN_SIDE <= min(width, height) and max(width, height) <= MAX_SIDE):
        raise _refuse(name, f"got an image of {width} x {height} pixels")


def _assumptions(unit: np.ndarray) -> tuple[str, ...]:
    if np.array_equal(unit[..., 0], unit[..., 1]) and np.array_equal(unit[..., 1], unit[..., 2]):
        return (ONE_SEQUENCE,)
    return ()


def _check_page(page: tifffile.TiffPage, name: str) -> None:
    """Refuse a page for its header, before its pixels are decoded."""
    if page.samplesperpixel not in (1, 3, 4) or page.dtype is None or page.dtype.itemsize > 8:
        raise _refuse(name, f"got a TIFF with {page.samplesperpixel} samples of {page.dtype} a pixel")
    if page.size != page.imagewidth * page.imagelength * page.samplesperpixel:
        raise _refuse(name, f"got a TIFF with pages of {page.imagedepth} planes, expected one slice a page")
    if math.prod(page.chunks) > 4 * MAX_SIDE**2:  # as large as a page may be; a tile larger than its page is decoded whole
        raise _refuse(name, f"got a TIFF in tiles of {page.tilewidth} x {page.tilelength} pixels")


def _page_pixels(page: tifffile.TiffPage, name: str) -> np.ndarray:
    pixels = page.asarray()
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        colours = page.colormap  # (3, 256) uint16
        pixels = (np.moveaxis(colours, 0, -1)[pixels] >> 8).astype(np.uint8)
    elif page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        pixels = -pixels if pixels.dtype.kind == "f" else ~pixels  # the same for every page of a stack
    elif page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    return pixels


def _decode_tiff(data: bytes, name: str, most: int = 1) -> np.ndarray:
    """(S, H, W[, 3 or 4]), a slice a page; more than `most` of them are refused."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            pages, first = tiff.pages, tiff.pages[0]
            # ImageJ may keep a whole stack behind one page
            slices = len(pages) if len(pages) > 1 else tiff.series[0].size // first.size
            if slices > most == 1:
                raise _refuse(name, f"expected one slice, got a TIFF of {slices} pages; read it as a study")
            if slices == 1:
                _check_sides(first.imagewidth, first.imagelength, name)
            else:
                check_extent(name, slices, first.imagelength, first.imagewidth)
            _check_page(first, name)
            if slices > len(pages):
                return tiff.series[0].asarray().reshape(-1, *first.shape)
            if len({(page.shape, page.dtype, page.photometric) for page in pages}) > 1:
                raise refuse_study(name, "got a TIFF whose pages differ in size or type")
            for page in pages:
                _check_page(page, name)
            return np.stack([_page_pixels(page, name) for page in pages])
    except UnreadableImage:
        raise
    except Exception as error:  # a broken TIFF fails in many ways, all of them the file's fault
        raise _refuse(name, f"got a damaged or unsupported TIFF ({type(error).__name__})") from error


def _image_pixels(image: Image.Image, name: str) -> np.ndarray:
    """Any PIL mode to (H, W) or (H, W, 3 or 4), 16-bit kept as it is."""
    _check_sides(*image.size, name)
    if image.mode in ("1", "P", "PA", "LA", "La", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa"):
        alpha = image.mode in ("PA", "LA", "La", "RGBa") or "transparency" in image.info
        image = image.convert("RGBA" if alpha else "L" if image.mode == "1" else "RGB")
    if image.mode not in ("L", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
        raise _refuse(name, f"got an image of mode {image.mode}")
    return np.asarray(image)


def _decode_picture(data: bytes, name: str) -> np.ndarray:
    try:
        # the formats are named, so that Pillow's other decoders are never reached by an upload
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        _check_sides(*image.size, name)
        if getattr(image, "n_frames", 1) != 1:
            raise _refuse(name, f"got an animation of {image.n_frames} frames")
        return _image_pixels(image, name)
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise _refuse(name, "got an image with more pixels than can be decoded safely") from error
    except UnidentifiedImageError as error:
        raise _refuse(name, "this is not an image in an accepted format") from error
    except Exception as error:  # a broken picture fails in many ways, all of them the file's fault
        raise _refuse(name, f"got a damaged image ({error})") from error


def read_bytes(data: bytes, name: str) -> Scan:
    """Decode one slice from a file's bytes; the format is told from the bytes, not from the name.

    Raises:
        UnreadableImage: for anything but an accepted, undamaged slice within the limits.
    """
    if not data:
        raise _refuse(name, "got an empty file")
    if len(data) > MAX_BYTES:
        raise _refuse(name, f"got a file of {len(data) / 2**20:.0f} MiB")
    unit = _unit(_decode_tiff(data, name)[0] if data[:4] in TIFF_MAGIC else _decode_picture(data, name), name)
    return Scan(pixels=unit, name=name, sha256=hashlib.sha256(data).hexdigest(), warnings=_assumptions(unit))


def read_slice(source: str | Path | Image.Image | np.ndarray) -> Scan:
    """One slice from a file, a PIL image or an array.

    Args:
        source: a path; a PIL image; or an array (H, W), (H, W, 3) or (H, W, 4), 8-bit, 16-bit or float
            (16-bit and float are scaled from their own minimum to their own maximum).

    Raises:
        FileNotFoundError: when the path is not a file.
        UnreadableImage: when it is refused.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            raise UnreadableImage(f"{path.name}: expected one slice, got a folder; read it as a study. Accepted: {ACCEPTED}.")
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not a file")
        return _read_slice(StudyFile(path=path))
    if isinstance(source, Image.Image):
        pixels, name = _image_pixels(source, "image"), "image"
    elif isinstance(source, np.ndarray):
        pixels, name = source, "array"
    else:
        raise UnreadableImage(f"expected a path, a PIL image or a NumPy array, got a {type(source).__name__}")
    unit = _unit(pixels, name)
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    return Scan(pixels=unit, name=name, sha256=digest, warnings=_assumptions(unit))


def holds_one_slice(path: Path) -> bool:
    """Whether a path is one slice rather than a study: a file that is no volume, no zip and no stack of pages."""
    if not path.exists():
        return path.suffix.lower() in SUFFIXES  # as it would be, for the message
    file = StudyFile(path=path)
    if not path.is_file() or is_nifti(path.name) or is_zip(path) or is_dicom(file):
        return False
    with file.open() as handle:
        if handle.read(4) not in TIFF_MAGIC:
            return True
    try:
        with tifffile.TiffFile(path) as tiff:
            return len(tiff.pages) == 1 and tiff.series[0].size == tiff.pages[0].size
    except Exception:  # damaged: for the reader of slices to say
        return True


def _read_slice(file: StudyFile) -> Scan:
    if file.size > MAX_BYTES:
        raise _refuse(file.name.name, f"got a file of {file.size / 2**20:.0f} MiB")
    return read_bytes(file.read(), file.name.name)


@dataclass(frozen=True, kw_only=True)
class _Files:
    """The files of one study, all of one kind; the other two are empty.

    Attributes:
        name: the study's.
        archive: the zip that they are from.
    """

    name: str
    dicom: list[StudyFile]
    nifti: list[StudyFile]
    pictures: list[StudyFile]
    archive: StudyFile | None


def read_study(source: str | Path | Sequence[str | Path] | np.ndarray, assign: Mapping[int, int | None] | None = None) -> Scan:
    """A study: slices, a multi-page TIFF, NIfTI or DICOM, in a file, a folder or a zip, or as several files; or an array.

    Args:
        source: a path, or a list of the paths of files; what lies there is told from its bytes, NIfTI from its suffix.
            Slices are named `<case>_<number>`, counting along the head, masks (`…_mask`) left aside. Or an array (S, H, W)
            or (S, H, W, 3) of 8-bit, 16-bit or float, axial, from the neck upwards.
        assign: for NIfTI and DICOM, what is read as which sequence, instead of what names and descriptions tell: by channel
            (0 pre-contrast T1, 1 FLAIR, 2 post-contrast T1) an index into `list_sequences(source)`; a channel that is
            missing or None is not there, and FLAIR stands in for it.

    Returns:
        The scan, pixels (S, H, W, 3); with its geometry for NIfTI and DICOM that tell where they lie.

    Raises:
        FileNotFoundError: when nothing is there.
        UnreadableImage: when no study can be told in it, it is damaged or outside the limits, or it cannot be read as
            assigned.
    """
    if isinstance(source, np.ndarray):
        _refuse_assignment(assign, "an array")
        return _read_array(source)
    files = _files(source)
    if files.dicom:
        scan = read_dicom(files.dicom, assign)
    elif files.nifti:
        scan = read_nifti(files.nifti, files.name, assign)
    else:
        _refuse_assignment(assign, files.name)
        scan = _read_pictures(files.pictures, files.name)
    return replace(scan, sha256=files.archive.digest()) if files.archive else scan


def list_sequences(source: str | Path | Sequence[str | Path] | np.ndarray) -> tuple[Candidate, ...]:
    """What in a study may be read as which sequence, and what `read_study` reads it as unless told otherwise.

    Only headers are read, so the pixels behind them may still be refused.

    Args:
        source: as for `read_study`.

    Returns:
        The volumes of NIfTI files or the series of DICOM files; none for slices, TIFF stacks and arrays, whose channels are
        their colours. None of them has channel 1 where it cannot be told which is the FLAIR: the caller has to assign it.

    Raises:
        FileNotFoundError: when nothing is there.
        UnreadableImage: when no study can be told in it, or a header is damaged or outside the limits.
    """
    if isinstance(source, np.ndarray):
        return ()
    files = _files(source)
    if files.dicom:
        return list_series(files.dicom)
    return list_volumes(files.nifti, files.name) if files.nifti else ()


def _refuse_assignment(assign: Mapping[int, int | None] | None, name: str) -> None:
    if assign is not None:
        raise UnreadableImage(
            f"{name}: sequences were assigned to slices, whose colours they are; only volumes of NIfTI and series of DICOM files "
            "can be assigned"
        )


def _files(source: str | Path | Sequence[str | Path]) -> _Files:
    """The files of a path, a folder, a zip or a list, within the limits."""
    paths = [Path(path) for path in source] if isinstance(source, list | tuple) else [Path(source)]
    if len(paths) != 1:
        return _of_one_kind(listed_files(paths), NAME, loose=True)
    path = paths[0]
    if path.is_dir():
        return _of_one_kind(folder_files(path), path.name)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is neither a file nor a folder")
    if path.stat().st_size > MAX_STUDY_BYTES:
        raise refuse_study("the file", f"got {path.stat().st_size / 2**20:.0f} MiB")
    if is_zip(path):
        return _of_one_kind(zip_files(path), path.name, archive=StudyFile(path=path))
    return _of_one_kind([StudyFile(path=path)], path.name)


def _of_one_kind(files: list[StudyFile], name: str, archive: StudyFile | None = None, loose: bool = False) -> _Files:
    """The files of the one kind of study among them; for `loose` files, given one by one, folders have no meaning."""
    dicom, nifti, pictures = [], [], []
    for file in files:
        if is_dicom(file):
            dicom.append(file)
        elif is_nifti(file.name.name):
            nifti.append(file)
        elif file.name.suffix.lower() in SUFFIXES and not file.name.stem.endswith("_mask"):
            pictures.append(file)
    if dicom and nifti:
        raise refuse_study(NAME, "got DICOM and NIfTI files together; upload one study of one format")
    if not (dicom or nifti or pictures):
        raise refuse_study(NAME, f"expected slices or a volume, got {len(files)} other files")
    if pictures and not (dicom or nifti or loose):
        nearest = min(len(file.name.parts) for file in pictures)
        pictures = [file for file in pictures if len(file.name.parts) == nearest]
        if len({file.name.parent for file in pictures}) > 1:
            raise refuse_study(name, "got slices in several folders; upload one study at a time")
    # beside a volume pictures are taken for its previews
    return _Files(name=name, dicom=dicom, nifti=nifti, pictures=[] if dicom or nifti else pictures, archive=archive)


def _read_array(source: np.ndarray) -> Scan:
    if source.ndim not in (3, 4) or not 1 <= len(source) <= MAX_SLICES:
        raise UnreadableImage(
            f"expected an array of shape (S, H, W) or (S, H, W, 3) with 1 to {MAX_SLICES} slices, got {source.shape}"
        )
    if source.dtype.kind not in "buif" or not source.size:
        raise UnreadableImage(f"expected 8-bit, 16-bit or float pixels, got {source.dtype}")
    shared = (source.min(), source.max())  # one scale from end to end for 16-bit and float, so that slices stay comparable
    pixels = np.stack([_unit(pixels, f"slice {number}", shared) for number, pixels in enumerate(source, 1)])
    digest = hashlib.sha256(np.ascontiguousarray(source).tobytes()).hexdigest()
    return Scan(pixels=pixels, name="array", sha256=digest, warnings=_assumptions(pixels))


def is_dicom(file: StudyFile) -> bool:
    """Whether a file's first bytes say DICOM."""
    with file.open() as handle:
        return handle.read(132)[128:] == b"DICM"


def _read_pictures(files: list[StudyFile], name: str) -> Scan:
    """Slices, each a file, in order along the head; or one multi-page TIFF."""
    if len(files) == 1:
        return _read_picture(files[0], name)
    if len(files) > MAX_SLICES:
        raise refuse_study(name, f"got {len(files)} slices")
    numbered = _in_order(files, name)
    scans = []
    for file in numbered.values():
        scan = _read_slice(file)
        if not scans:
            check_extent(name, len(files), *scan.pixels.shape[:2])
        scans.append(scan)
    shapes = {s.pixels.shape for s in scans}
    if len(shapes) > 1:
        sizes = ", ".join(f"{w} x {h}" for h, w, _ in sorted(shapes))
        raise UnreadableImage(f"{name}: got slices of different sizes ({sizes})")
    digest = hashlib.sha256("".join(s.sha256 for s in scans).encode()).hexdigest()
    pixels = np.stack([s.pixels for s in scans])
    warnings = _assumptions(pixels)
    first, last = min(numbered), max(numbered)
    if absent := last - first + 1 - len(numbered):
        warnings += (f"{absent} of the slices' numbers from {first} to {last} did not come; slices may be missing",)
    return Scan(pixels=pixels, name=name, sha256=digest, warnings=warnings)


def _read_picture(file: StudyFile, name: str) -> Scan:
    """The slices of a multi-page TIFF; a lone slice is a study of one."""
    with file.open() as handle:
        tiff = handle.read(4) in TIFF_MAGIC
    pixels = _decode_tiff(file.read(), name, most=MAX_SLICES) if tiff else None
    if pixels is None or len(pixels) == 1:
        scan = _read_slice(file)
        return replace(scan, pixels=scan.pixels[None], name=name)
    warnings = ["the file tells no orientation; its pages are taken for axial slices, from the neck upwards"]
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float32)
    if pixels.ndim == 3:
        sequences = {FLAIR: pixels}
        warnings.append(ONE_SEQUENCE)
    else:
        sequences = {channel: pixels[..., channel] for channel in SEQUENCES}
    return compose(sequences, None, name=name, sha256=file.digest(), warnings=warnings)


def _in_order(files: list[StudyFile], name: str) -> dict[int, StudyFile]:
    """The slices of a study by number, in order along the head: `<case>_<n>.<suffix>` by n."""
    numbered, cases = {}, set()
    for file in files:
        match = NUMBERED.fullmatch(file.name.stem)
        if not match:
            raise UnreadableImage(
                f"{name}: {file.name.name} has no slice number; a study's slices are named <case>_<number>, counting along the "
                "head"
            )
        numbered[int(match["number"])] = file
        cases.add(match["case"])
    if len(cases) > 1:
        raise UnreadableImage(f"{name}: got slices of {len(cases)} cases; upload one study at a time")
    if len(numbered) < len(files):
        raise UnreadableImage(f"{name}: two slices have the same number; one study a folder, please")
    return dict(sorted(numbered.items()))
