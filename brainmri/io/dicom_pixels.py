"""Pixels of a DICOM stack: stored bits, padding, and the values they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from brainmri.io import dicom_codecs
from brainmri.io.dicom_headers import ELEMENTS, functional_group, number_of, read_elements
from brainmri.io.dicom_stacks import Frame, Stack
from brainmri.io.files import StudyFile
from brainmri.io.limits import NAME, refuse

if TYPE_CHECKING:
    from pydicom import Dataset


def decode(stack: Stack) -> np.ndarray:
    """The pixels of a stack, (slices, rows, columns), rescaled by the header: float32, or uint8 if there is nothing to rescale.

    Padding becomes the darkest value of the other pixels. A missing slice is a copy of the one before it.

    Raises:
        UnreadableImage, and exceptions of many types for damaged files.
    """
    slots = np.setdiff1d(np.arange(stack.shape[0]), stack.geometry.missing if stack.geometry else ())
    volume = np.empty((len(slots), *stack.shape[1:]), np.float32)
    padding = np.zeros(volume.shape, bool)
    is_8_bit = True
    for file in dict.fromkeys(frame.file for frame in stack.frames):  # decoded once; only one file at a time is in memory
        dataset, stored = read_frames(file, stack.shape[1:])
        for number, frame in enumerate(stack.frames):
            if frame.file is file:
                values = stored[frame.index]
                slope, intercept = read_rescaling(frame)
                is_8_bit &= values.dtype == np.uint8 and (slope, intercept) == (1, 0)
                volume[number] = values * np.float32(slope) + np.float32(intercept)
                padding[number] = _is_padding(values, dataset)
    if stack.frames[0].grid[2] == "MONOCHROME1":  # low values are bright
        volume = 255 - volume if is_8_bit else -volume
    if padding.any() and not padding.all():
        volume[padding] = volume[~padding].min()
    if is_8_bit:
        volume = volume.astype(np.uint8)
    return volume[np.searchsorted(slots, np.arange(stack.shape[0]), side="right") - 1] if stack.shape[0] > len(slots) else volume


def read_frames(file: StudyFile, shape: tuple[int, int]) -> tuple[Dataset, np.ndarray]:
    """A file's elements and its decoded pixels, (frames, rows, columns), before they are rescaled.

    Raises:
        UnreadableImage, and exceptions of many types for damaged files.
    """
    with file.open() as handle:
        dataset = read_elements(handle, ELEMENTS)
    dicom_codecs.check_frame_sizes(dataset, NAME)
    return dataset, _stored_values(dataset).reshape(-1, *shape)


def read_rescaling(frame: Frame) -> tuple[float, float]:
    """Slope and intercept of a frame; 1 and 0 where they are missing or empty."""
    found = functional_group(frame.header, frame.index, "PixelValueTransformationSequence")
    return number_of(found, "RescaleSlope") or 1.0, number_of(found, "RescaleIntercept") or 0.0


def _stored_values(dataset: Dataset) -> np.ndarray:
    """The decoded pixels, without the bits beyond Bits Stored, which may hold overlays or noise, and with their sign."""
    if "PixelData" not in dataset:
        raise refuse(NAME, "expected images of integer pixels, got a file without them. Please upload another series")
    jpeg_family = dicom_codecs.is_jpeg_family(dataset.file_meta.TransferSyntaxUID)
    if not jpeg_family:
        dataset.pixel_array_options(correct_unused_bits=False)  # pydicom ignores High Bit
    pixels = dataset.pixel_array
    bits, allocated = int(dataset.BitsStored), pixels.dtype.itemsize * 8
    high = int(number_of(dataset, "HighBit") or bits - 1)
    if pixels.dtype.kind not in "iu" or not 1 <= bits < allocated or not bits <= high + 1 <= allocated:
        return pixels
    if high + 1 > bits and jpeg_family:
        return pixels  # files differ in whether the codestream is shifted too
    kind = "i" if dataset.get("PixelRepresentation") == 1 else "u"
    raw = pixels.view(f"{kind}{pixels.dtype.itemsize}")
    return np.right_shift(np.left_shift(raw, allocated - 1 - high), allocated - bits)  # an arithmetic shift extends the sign


def _is_padding(values: np.ndarray, dataset: Dataset) -> np.ndarray | bool:
    """Where pixels are padding by the header; False where there is none, or it is 0, the usual background."""
    first = number_of(dataset, "PixelPaddingValue")
    if not first:
        return False
    last = number_of(dataset, "PixelPaddingRangeLimit")
    low, high = sorted((int(first), int(first if last is None else last)))
    if values.dtype.kind == "i" and low > np.iinfo(values.dtype).max:  # an unsigned number for a signed pixel
        low, high = low - 2 * (np.iinfo(values.dtype).max + 1), high - 2 * (np.iinfo(values.dtype).max + 1)
    return (values >= low) & (values <= high)
