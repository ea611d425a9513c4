"""Slices of people's own data: pictures and volumes with their masks, read as the page reads uploads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import nibabel
import numpy as np
from PIL import Image

from brainmri.io.files import StudyFile
from brainmri.io.images import image_orientation
from brainmri.io.limits import UnreadableImage
from brainmri.io.orientation import turn_upright
from brainmri.io.pixels import FLAIR, MIN_SIDE
from brainmri.io.reading import read_slice
from brainmri.io.resample import describe_difference, explain_misfit, resample, same_grid
from brainmri.io.scan import Geometry
from brainmri.io.sequences import POST, PRE, sequence_of
from brainmri.io.stack import compose
from brainmri.io.volume_files import load_voxels, read_head
from train.datasets.base import Slice
from train.datasets.own.base import PICTURES, Sample, Source, suffix_of

CHANNEL_ORDER = (PRE, FLAIR, POST)  # of `--channels`
LOSSY = (".jpg", ".jpeg")  # their masks have values between those that were drawn
NO_SEQUENCE = "-"

Channels = tuple[tuple[int, Source], ...]  # by channel of the networks, in order


def choose_channels(sample: Sample, wanted: Sequence[str]) -> Channels:
    """Which source fills which channel.

    Args:
        sample: its sources are chosen from.
        wanted: names of sequences as the dataset has them: one, for all channels, or those of pre-contrast T1, FLAIR and
            post-contrast T1, "-" for a missing one; empty to choose by name.

    Raises:
        ValueError: for an unknown name, or when no source can be chosen as FLAIR.
    """
    names = [source.sequence for source in sample.sources]
    listed = ", ".join(name or "(unnamed)" for name in names)
    if len(wanted) > 1 and wanted[1] == NO_SEQUENCE:
        raise ValueError(f"expected a FLAIR as the second of --channels, got {' '.join(wanted)}; choose from {listed}")
    if wanted:
        chosen = {FLAIR: wanted[0]} if len(wanted) == 1 else dict(zip(CHANNEL_ORDER, wanted, strict=True))
        by_name = {source.sequence.lower(): source for source in sample.sources}
        if unknown := [name for name in chosen.values() if name != NO_SEQUENCE and name.lower() not in by_name]:
            raise ValueError(f"expected a sequence {unknown[0]} in {sample.label}, got {listed}; correct --channels")
        return tuple((channel, by_name[name.lower()]) for channel, name in chosen.items() if name != NO_SEQUENCE)
    if len(sample.sources) == 1:
        return ((FLAIR, sample.sources[0]),)
    named = [(sequence_of(name), source) for name, source in zip(names, sample.sources, strict=True)]
    found = {channel: source for channel, source in named if channel is not None}
    if FLAIR not in found or len(found) < sum(channel is not None for channel, _ in named):
        raise ValueError(
            f"expected a FLAIR, and at most one T1 before and one after contrast, got {listed} in {sample.label}; choose with "
            "--channels, for example --channels t1 flair t1ce, or --channels t2 for a single sequence"
        )
    return tuple(sorted(found.items()))


def tumour_pixels(values: np.ndarray, path: Path, labels: Sequence[int]) -> np.ndarray:
    """The values of a mask to bool.

    Args:
        values: of the mask.
        path: of the file, for messages.
        labels: the values that are tumour; empty for masks that have a single value besides 0.

    Raises:
        ValueError: for several values where none were chosen.
    """
    if labels:
        return np.isin(values, labels)
    if suffix_of(path) in LOSSY:
        return values > 127
    found = np.unique(values[values != 0])
    if len(found) > 1:
        shown = ", ".join(f"{value:g}" for value in found[:6]) + (" …" if len(found) > 6 else "")
        raise ValueError(
            f"expected one value besides 0 in the mask {path.name}, got {shown}; choose the tumour, for example --tumour-labels "
            f"{found[-1]:g}, or a range: --tumour-labels 128-255"
        )
    return values != 0


@dataclass(frozen=True, kw_only=True)
class OwnSlice(Slice):
    """A slice on a canvas.

    Attributes:
        canvas: height and width; a smaller slice is padded with black, so that a patient's slices have one size.
    """

    canvas: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Picture(OwnSlice):
    """A slice in a file of its own, or in one for each sequence.

    Attributes:
        channels: which file fills which channel; a single one may have three channels as colours.
        labels: see `tumour_pixels`.
    """

    channels: Channels
    labels: tuple[int, ...]

    def read_image(self) -> np.ndarray:
        pictures = {channel: read_slice(source.path).pixels for channel, source in self.channels}
        pixels = pictures[FLAIR]
        if len(pictures) > 1:
            pixels = np.stack([pictures.get(channel, pictures[FLAIR])[..., FLAIR] for channel in CHANNEL_ORDER], axis=-1)
        return pad((pixels * 255).round().astype(np.uint8), self.canvas)

    def read_mask(self) -> np.ndarray:
        if self.mask is None:
            return np.zeros(self.canvas, bool)
        return pad(tumour_pixels(read_picture_labels(self.mask), self.mask, self.labels), self.canvas)


def pad(pixels: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """Centre pixels (H, W[, 3]) on a black canvas that is as large or larger."""
    margins = [(side - own) // 2 for side, own in zip(canvas, pixels.shape, strict=False)]
    widths = [(before, side - own - before) for before, side, own in zip(margins, canvas, pixels.shape, strict=False)]
    return np.pad(pixels, [*widths, *[(0, 0)] * (pixels.ndim - 2)])


def read_picture_labels(path: Path) -> np.ndarray:
    """(H, W) values of a mask; a palette's indices.

    Raises:
        ValueError: for a mask in colours.
    """
    with Image.open(path) as image:
        values, orientation = np.asarray(image), image_orientation(image)
    values = turn_upright(values, orientation)
    if values.ndim == 3:
        colours = values[..., :3]
        if (colours != colours[..., :1]).any():
            raise ValueError(f"expected a mask of grey values, got the colours of {path.name}; save one value for each label")
        values = colours[..., 0]
    return values.astype(np.int64) if values.dtype.kind in "bui" else values


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume: its sequences and its mask, which lie on one grid after reading."""

    name: str
    channels: Channels
    mask: Path | None
    labels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class VolumeSlice(OwnSlice):
    """A slice of a volume.

    Attributes:
        volume: it belongs to.
        index: along the head, from 0.
    """

    volume: Volume
    index: int

    def read_image(self) -> np.ndarray:
        return pad(volume_pixels(self.volume)[self.index], self.canvas)

    def read_mask(self) -> np.ndarray:
        return pad(volume_mask(self.volume)[self.index], self.canvas)


def read_geometry(source: Source) -> Geometry:
    """Where a volume lies, from its header.

    Raises:
        UnreadableImage: for a damaged file, or one outside the limits.
    """
    if source.part is None:
        return read_head(StudyFile(path=source.path), source.path.name).geometry
    image = four_dimensions(source)
    columns, rows, slices, _ = image.shape
    return Geometry(shape=(columns, rows, slices), affine=np.asarray(image.affine, np.float64))


def four_dimensions(source: Source) -> nibabel.Nifti1Image:
    """A file with the sequences along its fourth axis, as nibabel opens it; voxels are not read."""
    image = cast("nibabel.Nifti1Image", nibabel.load(source.path))
    shape = getattr(image, "shape", ())
    if len(shape) != 4 or source.part is None or shape[3] <= source.part:
        raise UnreadableImage(
            f"expected a file with the sequence {source.sequence} along its fourth axis, got {source.path.name} of shape "
            f"{shape}; correct the channels in dataset.json"
        )
    return image


def read_voxels(source: Source) -> np.ndarray:
    """A volume's voxels on its own grid: uint8 or float32."""
    if source.part is None:
        return load_voxels(read_head(StudyFile(path=source.path), source.path.name), source.path.name)
    return np.asarray(four_dimensions(source).dataobj[..., source.part], np.float32)


@lru_cache(maxsize=2)
def volume_pixels(volume: Volume) -> np.ndarray:
    """(S, H, W, 3) uint8: the sequences on the FLAIR's grid, as the page reads a study."""
    sources = dict(volume.channels)
    geometry = read_geometry(sources[FLAIR])
    sequences = {}
    for channel, source in volume.channels:
        own = read_geometry(source)
        if not same_grid(own, geometry) and (problem := explain_misfit(own, geometry)):
            raise UnreadableImage(f"{source.path.name} {problem}, the FLAIR; correct the file, or leave it out with --channels")
        voxels = read_voxels(source)
        sequences[channel] = voxels if same_grid(own, geometry) else resample(voxels, own, geometry)
    scan = compose(sequences, geometry, name=volume.name, sha256="", warnings=[])
    return (scan.pixels * 255).round().astype(np.uint8)


@lru_cache(maxsize=2)
def volume_mask(volume: Volume) -> np.ndarray:
    """(S, H, W) bool on the scan's grid."""
    geometry = read_geometry(dict(volume.channels)[FLAIR])
    if volume.mask is None:
        return np.zeros(geometry.scan_shape, bool)
    values = np.asarray(read_voxels(Source(sequence="", path=volume.mask))).round().astype(np.int64)
    return geometry.to_scan(tumour_pixels(values, volume.mask, volume.labels))


def explain_sample(sample: Sample, channels: Channels) -> str | None:
    """Why a sample cannot be used, from its headers; None if it can."""
    first = dict(channels)[FLAIR]
    try:
        if suffix_of(first.path) in PICTURES:
            return _explain_picture(sample, channels)
        geometry = read_geometry(first)
        if sample.mask is None:
            return None
        if suffix_of(sample.mask) in PICTURES:
            return f"the mask {sample.mask.name} is a picture, the image {first.path.name} a volume; give both as volumes"
        mask = read_geometry(Source(sequence="", path=sample.mask))
        if not same_grid(mask, geometry):
            difference = describe_difference(mask, geometry).replace("those of the FLAIR", "those of the image")
            return (
                f"the mask {sample.mask.name} of shape {mask.shape} lies on another grid than {first.path.name} of shape "
                f"{geometry.shape}: {difference}; resample it"
            )
    except (OSError, ValueError, nibabel.filebasedimages.ImageFileError) as error:  # pyright: ignore[reportAttributeAccessIssue]
        return str(error)
    return None


def _explain_picture(sample: Sample, channels: Channels) -> str | None:
    sizes = {source.path: picture_size(source.path) for _, source in channels}
    if sample.mask is not None:
        if suffix_of(sample.mask) not in PICTURES:
            return f"the image {sample.label} is a picture, the mask {sample.mask.name} a volume; give both as pictures"
        sizes[sample.mask] = picture_size(sample.mask)
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{path.name} {width} x {height}" for path, (height, width) in sizes.items())
        return f"image and mask differ in size: {shown}; export them again at one size"
    height, width = next(iter(sizes.values()))
    if min(height, width) < MIN_SIDE:
        return f"{sample.label} has {width} x {height} pixels; expected at least {MIN_SIDE} a side"
    return None


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width, upright, from the header; ValueError for a damaged file."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (width, height) if image_orientation(image) >= 5 else (height, width)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be opened as a picture; export it again") from error
