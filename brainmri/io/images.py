"""Slices as PNG, JPEG and TIFF images, and studies of them: files named `<case>_<number>`, multi-page TIFF, arrays."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from brainmri.io.files import StudyFile
from brainmri.io.limits import MAX_SLICES, UnreadableImage, check_extent, refuse_study
from brainmri.io.pixels import FLAIR, MAX_SIDE, MIN_SIDE, to_unit
from brainmri.io.scan import Scan
from brainmri.io.sequences import ONE_SEQUENCE, SEQUENCES, Candidate
from brainmri.io.stack import compose

MAX_BYTES = 64 * 2**20
ACCEPTED = (
    f"PNG, JPEG and TIFF slices (8 or 16 bit, one page, {MIN_SIDE} to {MAX_SIDE} pixels a side, up to {MAX_BYTES // 2**20} MiB)"
)
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NUMBERED = re.compile(r"(?P<case>.+)_(?P<number>\d{1,9})")


def _refuse(name: str, problem: str) -> UnreadableImage:
    return UnreadableImage(f"{name}: {problem}. Accepted: {ACCEPTED}.")


def unit_pixels(pixels: np.ndarray, name: str, value_range: tuple[float, float] | None = None) -> np.ndarray:
    try:
        return to_unit(pixels, value_range)
    except ValueError as error:
        raise UnreadableImage(f"{name}: {error}. Accepted: {ACCEPTED}.") from error


def _check_sides(width: int, height: int, name: str) -> None:
    if not (MIN_SIDE <= min(width, height) and max(width, height) <= MAX_SIDE):
        raise _refuse(name, f"got an image of {width} x {height} pixels")


def channel_warnings(unit: np.ndarray) -> tuple[str, ...]:
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
        colours = np.asarray(page.colormap)  # (3, 256) uint16
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
            pages = [page.aspage() for page in tiff.pages]
            first = pages[0]
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


def image_pixels(image: Image.Image, name: str) -> np.ndarray:
    """Any PIL mode to (H, W) or (H, W, 3 or 4), 16-bit kept as it is."""
    _check_sides(*image.size, name)
    if image.mode in ("1", "P", "PA", "LA", "La", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa"):
        alpha = image.mode in ("PA", "LA", "La", "RGBa") or "transparency" in image.info
        image = image.convert("RGBA" if alpha else "L" if image.mode == "1" else "RGB")
    if image.mode not in ("L", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
        raise _refuse(name, f"got an image of mode {image.mode}")
    return np.asarray(image)


def _decode_image(data: bytes, name: str) -> np.ndarray:
    try:
        # the formats are named, so that Pillow's other decoders are never reached by an upload
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        _check_sides(*image.size, name)
        frames = getattr(image, "n_frames", 1)
        if frames != 1:
            raise _refuse(name, f"got an animation of {frames} frames")
        return image_pixels(image, name)
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise _refuse(name, "got an image with more pixels than can be decoded safely") from error
    except UnidentifiedImageError as error:
        raise _refuse(name, "this is not an image in an accepted format") from error
    except Exception as error:  # a broken picture fails in many ways, all of them the file's fault
        raise _refuse(name, f"got a damaged image ({error})") from error


def read_bytes(data: bytes, name: str) -> Scan:
    """Decode one slice from a file's bytes; the format is recognised by the bytes, not by the name.

    Raises:
        UnreadableImage: for anything but an accepted, undamaged slice within the limits.
    """
    if not data:
        raise _refuse(name, "got an empty file")
    if len(data) > MAX_BYTES:
        raise _refuse(name, f"got a file of {len(data) / 2**20:.0f} MiB")
    unit = unit_pixels(_decode_tiff(data, name)[0] if data[:4] in TIFF_MAGIC else _decode_image(data, name), name)
    return Scan(pixels=unit, name=name, sha256=hashlib.sha256(data).hexdigest(), warnings=channel_warnings(unit))


def read_slice_file(file: StudyFile) -> Scan:
    if file.size > MAX_BYTES:
        raise _refuse(file.name.name, f"got a file of {file.size / 2**20:.0f} MiB")
    return read_bytes(file.read(), file.name.name)


def refuse_assignment(assign: Mapping[int, int | None] | None, name: str) -> None:
    """Refuse to assign sequences to images, whose channels are their colours."""
    if assign is not None:
        raise UnreadableImage(
            f"{name}: got sequences assigned to slices, whose colours are their sequences; assign NIfTI volumes or DICOM series"
        )


def read_array(source: np.ndarray) -> Scan:
    if source.ndim not in (3, 4) or not 1 <= len(source) <= MAX_SLICES:
        raise UnreadableImage(
            f"expected an array of shape (S, H, W) or (S, H, W, 3) with 1 to {MAX_SLICES} slices, got {source.shape}"
        )
    if source.dtype.kind not in "buif" or not source.size:
        raise UnreadableImage(f"expected 8-bit, 16-bit or float pixels, got {source.dtype}")
    shared = (source.min(), source.max())  # one scale from end to end for 16-bit and float, so that slices stay comparable
    pixels = np.stack([unit_pixels(pixels, f"slice {number}", shared) for number, pixels in enumerate(source, 1)])
    digest = hashlib.sha256(np.ascontiguousarray(source).tobytes()).hexdigest()
    return Scan(pixels=pixels, name="array", sha256=digest, warnings=channel_warnings(pixels))


def read_images(files: list[StudyFile], name: str) -> Scan:
    """Slices, each a file, in order along the head; or one multi-page TIFF."""
    if len(files) == 1:
        return read_stack(files[0], name)
    if len(files) > MAX_SLICES:
        raise refuse_study(name, f"got {len(files)} slices")
    numbered = sort_by_number(files, name)
    scans = []
    for file in numbered.values():
        scan = read_slice_file(file)
        if not scans:
            check_extent(name, len(files), *scan.pixels.shape[:2])
        scans.append(scan)
    shapes = {s.pixels.shape for s in scans}
    if len(shapes) > 1:
        sizes = ", ".join(f"{w} x {h}" for h, w, _ in sorted(shapes))
        raise UnreadableImage(f"{name}: got slices of different sizes ({sizes})")
    digest = hashlib.sha256("".join(s.sha256 for s in scans).encode()).hexdigest()
    pixels = np.stack([s.pixels for s in scans])
    warnings = channel_warnings(pixels)
    first, last = min(numbered), max(numbered)
    if absent := last - first + 1 - len(numbered):
        warnings += (f"{absent} of the slices' numbers from {first} to {last} are missing; upload the missing slices",)
    return Scan(pixels=pixels, name=name, sha256=digest, warnings=warnings)


def read_stack(file: StudyFile, name: str) -> Scan:
    """The slices of a multi-page TIFF; a single slice is a study of one."""
    with file.open() as handle:
        tiff = handle.read(4) in TIFF_MAGIC
    pixels = _decode_tiff(file.read(), name, most=MAX_SLICES) if tiff else None
    if pixels is None or len(pixels) == 1:
        scan = read_slice_file(file)
        return replace(scan, pixels=scan.pixels[None], name=name)
    warnings = ["the file has no orientation; its pages are read as axial slices, from the neck upwards"]
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float32)
    if pixels.ndim == 3:
        sequences = {FLAIR: pixels}
        warnings.append(ONE_SEQUENCE)
    else:
        sequences = {channel: pixels[..., channel] for channel in SEQUENCES}
    return compose(sequences, None, name=name, sha256=file.digest(), warnings=warnings)


def sort_by_number(files: list[StudyFile], name: str) -> dict[int, StudyFile]:
    """The slices of a study by number, in order along the head: `<case>_<n>.<suffix>` by n."""
    numbered, cases = {}, set()
    for file in files:
        match = NUMBERED.fullmatch(file.name.stem)
        if not match:
            raise UnreadableImage(
                f"{name}: {file.name.name} has no slice number; name a study's slices <case>_<number>, counted along the head"
            )
        numbered[int(match["number"])] = file
        cases.add(match["case"])
    if len(cases) > 1:
        raise UnreadableImage(f"{name}: got slices of {len(cases)} cases; upload one study at a time")
    if len(numbered) < len(files):
        raise UnreadableImage(f"{name}: two slices have the same number; upload one study a folder")
    return dict(sorted(numbered.items()))


class ImageReader:
    """PNG, JPEG and TIFF: slices named `<case>_<number>`, counted along the head, or one multi-page TIFF. Masks are ignored."""

    format = "image"
    preview = True

    def sniff(self, file: StudyFile) -> bool:
        return file.name.suffix.lower() in SUFFIXES and not file.name.stem.endswith("_mask")

    def list_sequences(self, files: list[StudyFile], name: str) -> tuple[Candidate, ...]:
        return ()

    def read(
        self, files: list[StudyFile], name: str, assign: Mapping[int, int | None] | None = None, study: int | None = None
    ) -> Scan:
        refuse_assignment(assign, name)
        return read_images(files, name)
