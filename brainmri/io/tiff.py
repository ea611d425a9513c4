"""TIFF files: a slice or a stack of pages, by the axes and the photometric interpretation that the file declares."""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import tifffile
from PIL import Image

from brainmri.io.limits import MAX_SLICES, RESIZE, UnreadableImage, check_extent, refuse
from brainmri.io.orientation import TAG, turn_upright
from brainmri.io.pixels import MAX_SIDE, MIN_SIDE

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SAMPLES = {  # by photometric interpretation
    "MINISBLACK": (1, 2, 3), "MINISWHITE": (1,), "RGB": (3, 4), "PALETTE": (1,), "SEPARATED": (4,), "YCBCR": (3,), "CIELAB": (3,),
    "ICCLAB": (3,),
}  # fmt: skip
MAX_PAGES = 6 * MAX_SLICES  # of three channels, with a thumbnail or a mask each
_PREMULTIPLIED, _STRAIGHT = 1, 2  # of ExtraSamples; 0 is unspecified


@dataclass(frozen=True, kw_only=True)
class Tiff:
    """A decoded TIFF.

    Attributes:
        pixels: (S, H, W[, 3 or 4]), upright; a fourth channel is alpha.
        orientation: that was applied, 1 to 8.
        warnings: what was ignored.
    """

    pixels: np.ndarray
    orientation: int
    warnings: tuple[str, ...]


def check_sides(width: int, height: int, name: str) -> None:
    if not (MIN_SIDE <= min(width, height) and max(width, height) <= MAX_SIDE):
        raise refuse(name, f"got an image of {width} x {height} pixels, expected {MIN_SIDE} to {MAX_SIDE} a side. {RESIZE}")


def holds_one_page(file: BinaryIO) -> bool:
    """Whether a TIFF has one slice; True for a damaged one, which is refused when it is read."""
    file.seek(0)
    try:
        with tifffile.TiffFile(file) as tiff:
            pages = _full_pages(tiff)
            return len(pages) == 1 and tiff.series[0].size == pages[0].size
    except Exception:  # damaged files raise exceptions of many types
        return True


def decode_tiff(data: bytes, name: str, most: int = 1) -> Tiff:
    """Decode a TIFF with at most `most` slices.

    Raises:
        UnreadableImage: for more slices, axes or colours that have no meaning here, or a damaged file.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            return _decode(tiff, name, most)
    except UnreadableImage:
        raise
    except Exception as error:  # damaged files raise exceptions of many types
        raise refuse(name, f"is a damaged or unsupported TIFF ({type(error).__name__}). Please export it again") from error


def _decode(tiff: tifffile.TiffFile, name: str, most: int) -> Tiff:
    pages = _full_pages(tiff)
    first = pages[0]
    if first.size != first.imagewidth * first.imagelength * first.samplesperpixel:
        raise refuse(name, f"got a TIFF with pages of {first.imagedepth} planes. Please save one slice per page")
    axes = _leading_axes(tiff, len(pages), name)
    channels = dict(axes).get("C", 1)
    slices = math.prod(length for _, length in axes) // channels
    if slices > most == 1:
        raise refuse(name, f"expected one slice, got a TIFF of {slices} pages. Please read it as a study")
    if slices == 1:
        check_sides(first.imagewidth, first.imagelength, name)
    else:
        check_extent(name, slices, first.imagelength, first.imagewidth)
    if len({(page.shape, page.dtype, page.photometric, _orientation(page)) for page in pages}) > 1:
        raise refuse(name, "got a TIFF whose pages differ in size or type. Please save all pages in one size and type")
    for page in pages:
        _check_page(page, name)
    if slices * channels > len(pages):  # ImageJ may keep a whole stack behind one page
        pixels = tiff.series[0].asarray().reshape(-1, *first.shape)
    else:
        pixels = np.stack([_page_pixels(page) for page in pages])
    if channels > 1:
        pixels = pixels.reshape(*(length for _, length in axes), *pixels.shape[1:])
        pixels = np.moveaxis(pixels, [axis for axis, _ in axes].index("C"), -1).reshape(slices, *first.shape[:2], channels)
    warnings = ()
    if first.samplesperpixel == (4 if first.photometric == tifffile.PHOTOMETRIC.RGB else 2):
        colours, extra = pixels[..., :-1], pixels[..., -1:]
        straight = first.extrasamples[:1] == (_STRAIGHT,)  # a premultiplied alpha is already composited on black
        if straight:
            pixels = np.concatenate([np.repeat(colours, 3 // colours.shape[-1], axis=-1), extra], axis=-1)
        else:
            pixels = colours if colours.shape[-1] == 3 else colours[..., 0]
        if not straight and first.extrasamples[:1] != (_PREMULTIPLIED,):
            last = "fourth" if first.samplesperpixel == 4 else "second"
            warnings = (f"the {last} channel is neither colour nor transparency and is ignored",)
    orientation = _orientation(first)
    return Tiff(pixels=turn_upright(pixels, orientation, (1, 2)), orientation=orientation, warnings=warnings)


def _full_pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The pages without thumbnails and transparency masks of others.

    Raises:
        ValueError: for too many pages, of which a damaged file can have endlessly many: the last one may point back to another.
    """
    pages = [page.aspage() for page in itertools.islice(tiff.pages, MAX_PAGES + 1)]
    if len(pages) > MAX_PAGES:
        raise ValueError(f"expected at most {MAX_PAGES} pages, got more")
    return [page for page in pages if not (page.is_reduced or page.is_mask)] or pages


def _orientation(page: tifffile.TiffPage) -> int:
    tag = page.tags.get(TAG)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _leading_axes(tiff: tifffile.TiffFile, pages: int, name: str) -> list[tuple[str, int]]:
    """The axes over pages, with their lengths: one of slices, one of channels ("C"), or both."""
    if len(tiff.series) != 1:
        return [("I", pages)]
    series = tiff.series[0]
    axes = [(axis, length) for axis, length in zip(series.axes, series.shape, strict=True) if axis not in "YXS" and length > 1]
    declared = (tiff.imagej_metadata or {}).get("mode") in ("composite", "color") or (tiff.is_ome and axes == [("C", 3)])
    if [axis for axis, _ in axes] == ["C"] and not declared:
        return [("I", axes[0][1])]  # programs that know no other axis call slices channels
    slices = [axis for axis, _ in axes if axis != "C"]
    channels = dict(axes).get("C", 1)
    coloured = "S" in series.axes
    if len(slices) > 1 or channels not in (1, 3) or (coloured and channels > 1) or len(axes) != len(dict(axes)):
        found = ", ".join(f"{length} along {axis}" for axis, length in axes)
        raise refuse(
            name,
            f"got a TIFF of several axes ({found}), expected one axis of slices and at most three channels (pre-contrast T1, "
            "FLAIR, post-contrast T1). Please save one channel and one time point",
        )
    return axes


def _check_page(page: tifffile.TiffPage, name: str) -> None:
    """Refuse a page for its header, before its pixels are decoded."""
    photometric = getattr(page.photometric, "name", str(page.photometric))
    if page.samplesperpixel not in _SAMPLES.get(photometric, ()) or page.dtype is None or page.dtype.itemsize > 8:
        raise refuse(
            name,
            f"got a TIFF with {page.samplesperpixel} channels of {page.dtype} ({photometric}). Please save it as grey or RGB",
        )
    if photometric in ("SEPARATED", "CIELAB", "ICCLAB") and page.dtype != np.uint8:
        raise refuse(name, f"got a TIFF with colours of {page.dtype} ({photometric}). Please save it as grey or RGB")
    if photometric == "YCBCR" and page.compression not in (6, 7):  # tifffile converts colours of JPEG only
        raise refuse(name, "got a TIFF with colours as YCBCR without JPEG. Please save it as grey or RGB")
    if math.prod(page.chunks) > 4 * MAX_SIDE**2:  # as large as a page may be; a tile larger than its page is decoded whole
        raise refuse(name, f"got a TIFF in tiles of {page.tilewidth} x {page.tilelength} pixels. Please save it without tiles")


def _page_pixels(page: tifffile.TiffPage) -> np.ndarray:
    """(H, W[, 3 or 4]) as grey or RGB."""
    pixels = page.asarray()
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    photometric = getattr(page.photometric, "name", "")
    if photometric == "PALETTE":
        colours = np.asarray(page.colormap)  # (3, 256) uint16
        shift = 8 if colours.max(initial=0) > 255 else 0  # some programs write 8 of the 16 bits
        return (np.moveaxis(colours, 0, -1)[pixels] >> shift).astype(np.uint8)
    if pixels.dtype == np.uint8 and page.bitspersample < 8:  # 2 to 7 bits, unpacked
        pixels = np.rint(pixels * (255 / (2**page.bitspersample - 1))).astype(np.uint8)
    if photometric == "MINISWHITE":
        return -pixels if pixels.dtype.kind == "f" else ~pixels  # the same for every page of a stack
    if photometric == "SEPARATED":
        return np.asarray(Image.fromarray(pixels, "CMYK").convert("RGB"))
    if photometric in ("CIELAB", "ICCLAB"):
        return _rgb_from_lab(pixels, signed=photometric == "CIELAB")
    return pixels


def _rgb_from_lab(pixels: np.ndarray, signed: bool) -> np.ndarray:
    """8-bit CIE L*a*b* (TIFF 6.0, section 23, and its ICC variant, in which a* and b* are offset by 128) to sRGB."""
    from skimage.color import lab2rgb

    lab = pixels.astype(np.float32)
    lab[..., 0] *= 100 / 255
    lab[..., 1:] = pixels[..., 1:].view(np.int8) if signed else lab[..., 1:] - 128
    return np.rint(lab2rgb(lab) * 255).astype(np.uint8)
