"""Slices as PNG, JPEG, TIFF, WebP and BMP, and studies of them: files named `<case>_<number>`, multi-page TIFF, arrays."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np
from PIL import Image, UnidentifiedImageError

from brainmri.io.files import StudyFile
from brainmri.io.foreign import describe_foreign
from brainmri.io.limits import MAX_BYTES, MAX_SLICES, UnreadableImage, check_extent, describe_size, refuse
from brainmri.io.orientation import TAG, orientation_warnings, turn_upright
from brainmri.io.other_images import SEGMENTATION, other_image
from brainmri.io.pixels import FLAIR, MAX_SIDE, to_unit
from brainmri.io.scan import Scan
from brainmri.io.sequence_names import describe, plain
from brainmri.io.sequences import HOW_TO_CHOOSE_STUDY, ONE_SEQUENCE, SEQUENCES, Candidate
from brainmri.io.slice_grouping import NUMBERED, holds_pages, split_slices
from brainmri.io.stack import compose
from brainmri.io.tiff import MAGIC as TIFF_MAGIC
from brainmri.io.tiff import check_sides, decode_tiff

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
NOT_AN_IMAGE = "not an image. Please upload a PNG, JPEG, TIFF, WebP or BMP slice"
OF_SEVERAL_CASES = "studies, of different folders or cases"
SINGLE_PICTURES = "pictures of different sizes or without slice numbers, each a study of its own"
NAME_SLICES = "Please name slices <case>_<number> if they are of one head and size"
READ_AS_ONE_HEAD = "numbered pictures were read as neighbouring slices of one head"
NAMED_AS = "the file is named as {}; if it is something else, choose its sequence"
_LAST_NUMBER = re.compile(r"(?<!^sub)[-_]\d+$")  # of a slice; "sub_12" is a subject
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # named, so that Pillow's other decoders are never reached by an upload


@dataclass(frozen=True, kw_only=True, eq=False)
class _Decoded:
    """A slice's pixels, upright, (H, W[, 3 or 4]), with the orientation that was applied, warnings and SHA-256."""

    pixels: np.ndarray
    orientation: int
    warnings: tuple[str, ...]
    sha256: str


def other_by_name(name: str) -> str | None:
    """What a picture's name says that it is, if that is none of the sequences that a network may recognise.

    Masks are recognised by `find_masks`: "lesion_3.png" is a slice with a lesion.
    """
    return other_image(_LAST_NUMBER.sub("", plain(PurePath(name).stem)), (SEGMENTATION,))


def unit_pixels(pixels: np.ndarray, name: str, value_range: tuple[float, float] | None = None) -> np.ndarray:
    try:
        return to_unit(pixels, value_range)
    except ValueError as error:
        raise refuse(name, str(error)) from error


def channel_warnings(unit: np.ndarray) -> tuple[str, ...]:
    if np.array_equal(unit[..., 0], unit[..., 1]) and np.array_equal(unit[..., 1], unit[..., 2]):
        return (ONE_SEQUENCE,)
    return ()


def has_image_magic(start: bytes) -> bool:
    """Whether bytes are the start of a PNG, JPEG, TIFF, WebP or BMP file."""
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    bmp = start[:2] == b"BM" and start[6:10] == bytes(4)
    return start[:4] in (b"\x89PNG", *TIFF_MAGIC) or start[:3] == b"\xff\xd8\xff" or webp or bmp


def image_pixels(image: Image.Image, name: str) -> np.ndarray:
    """Any PIL mode to (H, W) or (H, W, 3 or 4), 16-bit kept as it is."""
    check_sides(*image.size, name)
    if image.mode in ("1", "P", "PA", "LA", "La", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa"):
        alpha = image.mode in ("PA", "LA", "La", "RGBa") or "transparency" in image.info
        image = image.convert("RGBA" if alpha else "L" if image.mode == "1" else "RGB")
    if image.mode not in ("L", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
        raise refuse(name, f"got an image of mode {image.mode}. Please save it as grey or RGB")
    return np.asarray(image)


def separate_pictures(files: list[StudyFile]) -> list[list[StudyFile]]:
    """The pictures of one folder or case; each by itself if none has a slice number, or if they differ in size.

    Only headers are read. Where two of a case have the same number, or only some of pictures of one size have one, they stay
    together and are refused when they are read.
    """
    numbered = [match for file in files if (match := NUMBERED.fullmatch(file.name.stem))]
    twice = len({(match["case"], int(match["number"])) for match in numbered}) < len(numbered)
    apart = not numbered or (not twice and len({_size(file) for file in files} - {None}) > 1)
    return [[file] for file in files] if apart else [files]


def _size(file: StudyFile) -> tuple[int, int] | None:
    """Width and height of an upright picture, by its header; None where that is damaged."""
    try:
        with file.open() as handle, Image.open(handle, formats=(*FORMATS, "TIFF")) as image:
            width, height = image.size
            return (width, height) if image_orientation(image) < 5 else (height, width)
    except Exception:  # damaged headers raise exceptions of many types; reading the picture reports them
        return None


def image_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it is damaged."""
    try:
        value = image.getexif().get(TAG, 1)
    except Exception:  # damaged EXIF raises exceptions of many types
        return 1
    return value if value in range(1, 9) else 1


def _decode_image(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """Pixels, upright, and the orientation that was applied."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        check_sides(*image.size, name)
        frames = getattr(image, "n_frames", 1)
        if frames != 1 and image.format != "MPO":  # the further pictures of an MPO are previews or another view
            raise refuse(name, f"got an animation of {frames} frames. Please save one of them as PNG")
        # before the orientation, which a PNG may have after its pixels
        pixels = _decode_deep_png(data) if _is_deep_png(data) else image_pixels(image, name)
        orientation = image_orientation(image)
        return turn_upright(pixels, orientation), orientation
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise refuse(name, f"got an image with too many pixels. Please save it with at most {MAX_SIDE} a side") from error
    except UnidentifiedImageError as error:
        foreign = describe_foreign(data[:1024])
        raise refuse(name, f"is {foreign or NOT_AN_IMAGE}") from error
    except Exception as error:  # damaged images raise exceptions of many types
        raise refuse(name, f"is a damaged image ({error}). Please export it again") from error


def _is_deep_png(data: bytes) -> bool:
    """Whether a file is a PNG with 16 bits for each of several samples, which Pillow would cut to 8."""
    return data[:4] == b"\x89PNG" and data[24] == 16 and data[25] in (2, 4, 6)


def _decode_deep_png(data: bytes) -> np.ndarray:
    """(H, W, 3 or 4) uint16."""
    import imagecodecs

    pixels = imagecodecs.png_decode(data)
    return pixels[..., [0, 0, 0, 1]] if pixels.shape[-1] == 2 else pixels


def read_bytes(data: bytes, name: str) -> Scan:
    """Decode one slice from a file's bytes; the format is recognised by the bytes, not by the name.

    Raises:
        UnreadableImage: for anything but an accepted, undamaged slice within the limits.
    """
    return _scan(_decode(data, name), name)


def _scan(decoded: _Decoded, name: str, value_range: tuple[float, float] | None = None) -> Scan:
    unit = unit_pixels(decoded.pixels, name, value_range)
    other = other_by_name(name)
    named = (NAMED_AS.format(describe(other)),) if other else ()
    return Scan(
        pixels=unit,
        name=name,
        sha256=decoded.sha256,
        warnings=(*channel_warnings(unit), *named, *decoded.warnings),
        single_sequence=other,
        orientation=decoded.orientation,
    )


def _decode(data: bytes, name: str) -> _Decoded:
    if not data:
        raise refuse(name, f"is {describe_foreign(data)}")
    if len(data) > MAX_BYTES:
        raise refuse(name, describe_size(len(data), most=MAX_BYTES))
    warnings: tuple[str, ...] = ()
    if data[:4] in TIFF_MAGIC:
        tiff = decode_tiff(data, name)
        pixels, orientation, warnings = tiff.pixels[0], tiff.orientation, tiff.warnings
    else:
        pixels, orientation = _decode_image(data, name)
    warnings = (*warnings, *orientation_warnings(orientation))
    return _Decoded(pixels=pixels, orientation=orientation, warnings=warnings, sha256=hashlib.sha256(data).hexdigest())


def read_slice_file(file: StudyFile) -> Scan:
    return _scan(_decode_file(file), file.name.name)


def _decode_file(file: StudyFile) -> _Decoded:
    if file.size > MAX_BYTES:
        raise refuse(file.name.name, describe_size(file.size, most=MAX_BYTES))
    return _decode(file.read(), file.name.name)


def refuse_assignment(assign: Mapping[int, int | None] | None, name: str) -> None:
    """Refuse to assign sequences to images, whose channels are their colours."""
    if assign is not None:
        raise refuse(name, "got sequences assigned to slices, whose colours are their sequences. Please leave them out")


def read_array(source: np.ndarray) -> Scan:
    if source.ndim not in (3, 4) or not 1 <= len(source) <= MAX_SLICES:
        raise UnreadableImage(
            f"expected an array of shape (S, H, W) or (S, H, W, 3) with 1 to {MAX_SLICES} slices, got {source.shape}"
        )
    if source.dtype.kind not in "buif" or not source.size:
        raise UnreadableImage(f"expected 8-bit, 16-bit or float pixels, got {source.dtype}")
    shared = (source.min(), source.max())  # one scale for all 16-bit and float slices, so that they stay comparable
    pixels = np.stack([unit_pixels(pixels, f"slice {number}", shared) for number, pixels in enumerate(source, 1)])
    digest = hashlib.sha256(np.ascontiguousarray(source).tobytes()).hexdigest()
    return Scan(pixels=pixels, name="array", sha256=digest, warnings=channel_warnings(pixels))


def read_images(files: list[StudyFile], name: str) -> Scan:
    """Slices, one per file, in order along the head; or one multi-page TIFF."""
    if len(files) == 1:
        return read_stack(files[0], name)
    if len(files) > MAX_SLICES:
        raise refuse(name, f"got {len(files)} slices, expected at most {MAX_SLICES}. Please upload fewer")
    numbered = sort_by_number(files, name)
    slices = []
    for file in numbered.values():
        one = _decode_file(file)
        if not slices:
            check_extent(name, len(files), *one.pixels.shape[:2])
        slices.append(one)
    shapes = {one.pixels.shape[:2] for one in slices}
    if len(shapes) > 1:
        sizes = ", ".join(f"{w} x {h}" for h, w in sorted(shapes))
        raise refuse(name, f"got slices of different sizes ({sizes}). Please export all slices in the same size")
    # one scale for all 16-bit and float slices, so that they stay comparable
    deep = [one.pixels[..., :3] if one.pixels.ndim == 3 else one.pixels for one in slices if one.pixels.dtype != np.uint8]
    shared = (min(float(one.min()) for one in deep), max(float(one.max()) for one in deep)) if deep else None
    scans = [_scan(one, file.name.name, shared) for one, file in zip(slices, numbered.values(), strict=True)]
    digest = hashlib.sha256("".join(s.sha256 for s in scans).encode()).hexdigest()
    pixels = np.stack([s.pixels for s in scans])
    orientations = {s.orientation for s in scans}
    orientation = orientations.pop() if len(orientations) == 1 else 1
    others = dict.fromkeys(w for s in scans for w in s.warnings if w != ONE_SEQUENCE)
    one_head = f"{len(files)} {READ_AS_ONE_HEAD}; if they are of different people, rename them or upload them one at a time"
    warnings = (*channel_warnings(pixels), one_head, *others)
    if orientations:
        warnings += ("the files have different orientation tags; the mask file is upright",)
    first, last = min(numbered), max(numbered)
    if absent := last - first + 1 - len(numbered):
        warnings += (f"{absent} of the slices' numbers from {first} to {last} are missing. Please upload the missing slices",)
    other = next((s.single_sequence for s in scans if s.single_sequence), None)
    return Scan(pixels=pixels, name=name, sha256=digest, warnings=warnings, single_sequence=other, orientation=orientation)


def read_stack(file: StudyFile, name: str) -> Scan:
    """The slices of a multi-page TIFF; a single slice is a study of one."""
    with file.open() as handle:
        is_tiff = handle.read(4) in TIFF_MAGIC
    tiff = decode_tiff(file.read(), name, most=MAX_SLICES) if is_tiff else None
    if tiff is None or len(tiff.pixels) == 1:
        scan = read_slice_file(file)
        return replace(scan, pixels=scan.pixels[None], name=name)
    pixels = tiff.pixels
    warnings = ["the file has no orientation; its pages are read as axial slices, from the neck upwards", *tiff.warnings]
    warnings += orientation_warnings(tiff.orientation)
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float32)
    if pixels.ndim == 3:
        sequences = {FLAIR: pixels}
        warnings.append(ONE_SEQUENCE)
    else:
        sequences = {channel: pixels[..., channel] for channel in SEQUENCES}
    digest, other = file.digest(), other_by_name(file.name.name)
    if other:
        warnings.append(NAMED_AS.format(describe(other)))
    return compose(
        sequences, None, name=name, sha256=digest, warnings=warnings, single_sequence=other, orientation=tiff.orientation
    )


def sort_by_number(files: list[StudyFile], name: str) -> dict[int, StudyFile]:
    """The slices of a study by number, in order along the head: `<case>_<n>.<suffix>` by n."""
    numbered = {}
    for file in files:
        match = NUMBERED.fullmatch(file.name.stem)
        if not match:
            raise refuse(
                name,
                f"{file.name.name} has no slice number. Please name slices <case>_<number>, counted along the head, "
                "or give single slices one by one, as files and not in a zip or folder",
            )
        numbered[int(match["number"])] = file
    if len(numbered) < len(files):
        raise refuse(name, "two slices have the same number. Please upload one study at a time")
    return dict(sorted(numbered.items()))


@dataclass(frozen=True, kw_only=True)
class _OpenImages:
    """Slices.

    Attributes:
        studies: the files of each study.
        name: of all of them, for messages.
        left_out: how many pictures are in no study.
        pictures: the names of those studies that are single pictures beside others; None for others.
        kind: what several studies are, for messages.
    """

    studies: list[list[StudyFile]]
    name: str
    left_out: int
    pictures: tuple[str | None, ...]
    kind: str
    candidates: tuple[Candidate, ...] = ()

    def read(self, assign: Mapping[int, int | None] | None = None, study: int | None = None) -> Scan:
        refuse_assignment(assign, self.name)
        if study is None and len(self.studies) > 1:
            listed = ", ".join("/".join(files[0].name.parts[-2:]) for files in self.studies[:6])
            how = f"{NAME_SLICES}. {HOW_TO_CHOOSE_STUDY}" if self.kind == SINGLE_PICTURES else HOW_TO_CHOOSE_STUDY
            raise refuse(self.name, f"got {len(self.studies)} {self.kind} ({listed}). {how}")
        scan = read_images(self.studies[study or 0], self.pictures[study or 0] or self.name)
        if not self.left_out:
            return scan
        pictures = "1 picture is" if self.left_out == 1 else f"{self.left_out} pictures are"
        warning = f"{pictures} left out, in folders of masks or below the folder of the slices"
        return replace(scan, warnings=(*scan.warnings, warning))


class ImageReader:
    """Slices named `<case>_<number>`, counted along the head, a multi-page TIFF, or single pictures. Masks are ignored."""

    format = "image"
    preview = True

    def sniff(self, file: StudyFile) -> bool:
        if file.name.suffix.lower() in SUFFIXES:
            return True
        with file.open() as handle:
            return has_image_magic(handle.read(16))

    def open(self, files: list[StudyFile], name: str) -> _OpenImages:
        studies, left_out = split_slices(files)
        separate = [(part, len(parts) > 1) for study in studies for parts in [separate_pictures(study)] for part in parts]
        names = _picture_names(separate) if len(separate) > 1 else (None,)
        kind = OF_SEVERAL_CASES if len(studies) > 1 else SINGLE_PICTURES
        return _OpenImages(studies=[part for part, _ in separate], name=name, left_out=left_out, pictures=names, kind=kind)


def _picture_names(studies: list[tuple[list[StudyFile], bool]]) -> tuple[str | None, ...]:
    """The names of the single pictures among studies, with their folders where two have the same name; None for other studies.

    Args:
        studies: the files of each, and whether they are one of several pictures that are no slices of one head.
    """
    single = [
        apart or (len(files) == 1 and not NUMBERED.fullmatch(files[0].name.stem) and not holds_pages(files[0]))
        for files, apart in studies
    ]
    names = [files[0].name for files, _ in studies]
    unique = len({name.name for name in names}) == len(names)
    return tuple(
        (name.name if unique else "/".join(name.parts[-2:])) if one else None for name, one in zip(names, single, strict=True)
    )
