"""Files to arrays: PNG, JPEG and TIFF slices, a folder of slices; every limit and every refusal.

Limits are checked on the file's size and header before pixels are decoded. Every refusal is an `UnreadableImage`
whose message names what came and what is accepted.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from brainmri.preprocess import MAX_SIDE, MIN_SIDE, to_unit

MAX_BYTES = 64 * 2**20
MAX_SLICES = 512
ACCEPTED = (
    f"PNG, JPEG and TIFF slices (8 or 16 bit, one page, {MIN_SIDE} to {MAX_SIDE} pixels a side, up to {MAX_BYTES // 2**20} MiB)"
)
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
NUMBERED = re.compile(r"(?P<case>.+)_(?P<number>\d+)")


class UnreadableImage(ValueError):
    """An input that is refused; the message is fit for the page."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Pixels as read, brought to float32 in [0, 1] and three channels, and where they came from.

    Attributes:
        pixels: (H, W, 3) for a slice or (S, H, W, 3) for a study; pre-contrast T1, FLAIR, post-contrast T1.
        name: the file's or folder's name, for messages and output names.
        sha256: of the input's bytes (of the pixels, for an array or an image in memory).
        warnings: what a reader had to assume.
    """

    pixels: np.ndarray
    name: str
    sha256: str
    warnings: tuple[str, ...] = ()


def _refuse(name: str, came: str) -> UnreadableImage:
    return UnreadableImage(f"{name}: {came}. Accepted: {ACCEPTED}.")


def _unit(pixels: np.ndarray, name: str, value_range: tuple[float, float] | None = None) -> np.ndarray:
    try:
        return to_unit(pixels, value_range)
    except ValueError as error:
        raise UnreadableImage(f"{name}: {error}. Accepted: {ACCEPTED}.") from error


def _check_sides(width: int, height: int, name: str) -> None:
    if not (MIN_SIDE <= min(width, height) and max(width, height) <= MAX_SIDE):
        raise _refuse(name, f"an image of {width} x {height} pixels came")


def _assumptions(unit: np.ndarray) -> tuple[str, ...]:
    if np.array_equal(unit[..., 0], unit[..., 1]) and np.array_equal(unit[..., 1], unit[..., 2]):
        return ("one sequence came; it is taken for FLAIR and stands in all three channels",)
    return ()


def _decode_tiff(data: bytes, name: str) -> np.ndarray:
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            if len(tiff.pages) != 1:
                raise _refuse(
                    name, f"a TIFF of {len(tiff.pages)} pages came, and multi-page files are not read yet; save one slice"
                )
            page = tiff.pages[0]
            _check_sides(page.imagewidth, page.imagelength, name)
            if page.samplesperpixel not in (1, 3, 4) or page.dtype is None or page.dtype.itemsize > 8:
                raise _refuse(name, f"a TIFF with {page.samplesperpixel} samples of {page.dtype} a pixel came")
            pixels = page.asarray()
            if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
                colours = page.colormap  # (3, 256) uint16
                pixels = (np.moveaxis(colours, 0, -1)[pixels] >> 8).astype(np.uint8)
            elif page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
                pixels = pixels.max() - pixels if pixels.dtype != np.uint8 else 255 - pixels
            elif page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
                pixels = np.moveaxis(pixels, 0, -1)
            return pixels
    except UnreadableImage:
        raise
    except Exception as error:  # a broken TIFF fails in many ways, all of them the file's fault
        raise _refuse(name, f"a damaged or unsupported TIFF came ({type(error).__name__})") from error


def _image_pixels(image: Image.Image, name: str) -> np.ndarray:
    """Any PIL mode to (H, W) or (H, W, 3 or 4), 16-bit kept as it is."""
    _check_sides(*image.size, name)
    if image.mode in ("1", "P", "PA", "LA", "La", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa"):
        alpha = image.mode in ("PA", "LA", "La", "RGBa") or "transparency" in image.info
        image = image.convert("RGBA" if alpha else "L" if image.mode == "1" else "RGB")
    if image.mode not in ("L", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
        raise _refuse(name, f"an image of mode {image.mode} came")
    return np.asarray(image)


def _decode_picture(data: bytes, name: str) -> np.ndarray:
    try:
        # the formats are named, so that Pillow's other decoders are never reached by an upload
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError as error:
        raise _refuse(name, "an image of more pixels than can be decoded safely came") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise _refuse(name, "this is not an image in an accepted format") from error
    _check_sides(*image.size, name)
    if getattr(image, "n_frames", 1) != 1:
        raise _refuse(name, f"an animation of {image.n_frames} frames came")
    try:
        return _image_pixels(image, name)
    except UnreadableImage:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise _refuse(name, f"a damaged {image.format} came ({error})") from error


def read_bytes(data: bytes, name: str) -> Scan:
    """Decode one slice from a file's bytes; the format is told from the bytes, not from the name.

    Raises:
        UnreadableImage: for anything but an accepted, undamaged slice within the limits.
    """
    if not data:
        raise _refuse(name, "an empty file came")
    if len(data) > MAX_BYTES:
        raise _refuse(name, f"a file of {len(data) / 2**20:.0f} MiB came")
    tiff = data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    unit = _unit(_decode_tiff(data, name) if tiff else _decode_picture(data, name), name)
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
            raise UnreadableImage(
                f"{path.name}: a folder came where one slice is expected; read it as a study. Accepted: {ACCEPTED}."
            )
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not a file")
        if path.stat().st_size > MAX_BYTES:
            raise _refuse(path.name, f"a file of {path.stat().st_size / 2**20:.0f} MiB came")
        return read_bytes(path.read_bytes(), path.name)
    if isinstance(source, Image.Image):
        pixels, name = _image_pixels(source, "image"), "image"
    elif isinstance(source, np.ndarray):
        pixels, name = source, "array"
    else:
        raise UnreadableImage(f"a {type(source).__name__} came; a path, a PIL image or a numpy array is accepted")
    unit = _unit(pixels, name)
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    return Scan(pixels=unit, name=name, sha256=digest, warnings=_assumptions(unit))


def slice_files(folder: Path) -> list[Path]:
    """The slices of a study folder in order along the head: `<case>_<n>.<suffix>` by n, masks (`…_mask`) left out."""
    files = [
        p
        for p in folder.iterdir()
        if p.suffix.lower() in SUFFIXES and not p.stem.endswith("_mask") and not p.name.startswith(".")
    ]
    numbered = [(int(m["number"]), p) for p in files if (m := NUMBERED.fullmatch(p.stem))]
    if len(numbered) != len(files):
        odd = next(p.name for p in files if not NUMBERED.fullmatch(p.stem))
        raise UnreadableImage(
            f"{folder.name}: {odd} has no slice number; a study's slices are named <case>_<number>, counting along the head"
        )
    if len({n for n, _ in numbered}) != len(numbered):
        raise UnreadableImage(f"{folder.name}: two slices have the same number; one study a folder, please")
    return [p for _, p in sorted(numbered)]


def read_study(source: str | Path | np.ndarray) -> Scan:
    """A study from a folder of slices in the dataset's naming, or from an array.

    Args:
        source: a folder; or (S, H, W) or (S, H, W, 3) of 8-bit, 16-bit or float.

    Raises:
        FileNotFoundError: when the folder is not there.
        UnreadableImage: when there are no slices, too many, of different sizes, or one is refused.
    """
    if isinstance(source, np.ndarray):
        if source.ndim not in (3, 4) or not 1 <= len(source) <= MAX_SLICES:
            raise UnreadableImage(
                f"an array of shape {source.shape} came; a study is (S, H, W) or (S, H, W, 3), 1 to {MAX_SLICES} slices"
            )
        if source.dtype.kind not in "buif" or not source.size:
            raise UnreadableImage(f"an array of {source.dtype} came; 8-bit, 16-bit and float pixels are accepted")
        shared = (source.min(), source.max())  # one scale from end to end for 16-bit and float, so that slices stay comparable
        pixels = np.stack([_unit(pixels, f"slice {number}", shared) for number, pixels in enumerate(source, 1)])
        digest = hashlib.sha256(np.ascontiguousarray(source).tobytes()).hexdigest()
        return Scan(pixels=pixels, name="array", sha256=digest, warnings=_assumptions(pixels))
    folder = Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    files = slice_files(folder)
    if not files:
        raise UnreadableImage(
            f"{folder.name}: no slices came; a study is a folder of {', '.join(SUFFIXES)} named <case>_<number>"
        )
    if len(files) > MAX_SLICES:
        raise UnreadableImage(f"{folder.name}: {len(files)} slices came; up to {MAX_SLICES} are accepted")
    scans = [read_slice(p) for p in files]
    shapes = {s.pixels.shape for s in scans}
    if len(shapes) > 1:
        raise UnreadableImage(
            f"{folder.name}: slices of different sizes came ({', '.join(f'{w} x {h}' for h, w, _ in sorted(shapes))})"
        )
    digest = hashlib.sha256("".join(s.sha256 for s in scans).encode()).hexdigest()
    pixels = np.stack([s.pixels for s in scans])
    return Scan(pixels=pixels, name=folder.name, sha256=digest, warnings=_assumptions(pixels))
