"""JPEG, JPEG-LS and JPEG 2000 frames of DICOM files: their size, checked before decoding, and a pydicom plugin for imagecodecs.

High-Throughput JPEG 2000 has the headers of JPEG 2000 and is decoded by the same library, OpenJPEG.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from brainmri.io.limits import refuse

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.pixels.decoders.base import DecodeRunner

PLUGIN = "imagecodecs"
_JP2 = b"\x00\x00\x00\x0cjP  "  # the first box of a JP2 file; DICOM requires bare codestreams, but some files contain JP2
_START_OF_FRAME = {*range(0xFFC0, 0xFFD0), 0xFFF7} - {0xFFC4, 0xFFC8, 0xFFCC}  # FFF7: JPEG-LS


def is_jpeg_family(syntax: str) -> bool:
    """Whether a transfer syntax is JPEG, JPEG-LS or JPEG 2000."""
    from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

    return syntax in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes)


def register(syntax: str) -> bool:
    """Make pydicom decode a transfer syntax with `PLUGIN`; False for one outside the JPEG family. Not thread-safe."""
    from pydicom.pixels.decoders.base import get_decoder

    if not is_jpeg_family(syntax):
        return False
    decoder = get_decoder(syntax)
    if PLUGIN not in decoder.available_plugins:
        decoder.add_plugin(PLUGIN, (__name__, "decode"))
    return True


def check_frame_sizes(dataset: Dataset, name: str) -> None:
    """Refuse compressed frames whose own headers give another size than the DICOM header, before memory is allocated for them.

    Raises:
        UnreadableImage: for another size.
        ValueError, struct.error: when a frame's header is damaged.
    """
    from pydicom.encaps import generate_frames

    if not register(dataset.file_meta.TransferSyntaxUID):
        return
    dataset.pixel_array_options(decoding_plugin=PLUGIN)
    for frame in generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)):
        if frame_size(frame) != (dataset.Rows, dataset.Columns, 1):
            raise refuse(name, "a DICOM file has compressed pixels of another size than its header says. Please export it again")


def is_available(uid: str) -> bool:
    """Called by pydicom on a plugin's module; imagecodecs is always installed."""
    return True


def decode(frame: bytes, runner: DecodeRunner) -> bytes:
    """The samples of one grey frame, with the header's Bits Allocated."""
    import imagecodecs
    from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes

    if runner.transfer_syntax in JPEG2000TransferSyntaxes:
        decoded = imagecodecs.jpeg2k_decode(_codestream(frame))
    elif runner.transfer_syntax in JPEGLSTransferSyntaxes:
        decoded = imagecodecs.jpegls_decode(frame)
    else:
        decoded = imagecodecs.jpeg8_decode(frame)  # up to 16 bits, lossless too, despite its name
    if decoded.ndim != 2:  # colours would have to be converted
        raise ValueError(f"expected a grey frame of shape (H, W), got {decoded.shape}")
    wide = np.dtype(f"{decoded.dtype.kind}{runner.bits_allocated // 8}")
    return decoded.astype(wide, casting="safe", copy=False).tobytes()


def frame_size(frame: bytes) -> tuple[int, int, int]:
    """Rows, columns and samples per pixel, from the header of a compressed frame.

    Raises:
        ValueError, struct.error: when its header is damaged.
    """
    if frame[:2] != b"\xff\xd8":
        stream = _codestream(frame)
        if stream[:4] != b"\xff\x4f\xff\x51":
            raise ValueError("expected a JPEG, JPEG-LS or JPEG 2000 codestream, got other bytes")
        right, lower, left, upper = struct.unpack_from(">4I", stream, 8)
        (samples,) = struct.unpack_from(">H", stream, 40)
        return lower - upper, right - left, samples
    sizes, at = set(), 2
    while True:
        marker, length = struct.unpack_from(">HH", frame, at)
        if marker == 0xFFFF:  # a fill byte
            at += 1
            continue
        if marker == 0xFFDA:  # the scan
            break
        if marker < 0xFFC0 or 0xFFD0 <= marker <= 0xFFD9 or length < 2:  # no marker, or one without a length
            raise ValueError("damaged JPEG header: expected a marker with a length")
        if marker in _START_OF_FRAME:
            sizes.add(struct.unpack_from(">HHB", frame, at + 5))
        at += 2 + length
    if len(sizes) != 1:
        raise ValueError(f"expected one size in the JPEG header, got {len(sizes)}")
    return sizes.pop()


def _codestream(frame: bytes) -> bytes:
    """A JPEG 2000 frame without the boxes of a JP2 file, so that the bytes that are checked are the bytes that are decoded."""
    if not frame.startswith(_JP2):
        return frame
    at = 12
    while True:
        length, kind = struct.unpack_from(">I4s", frame, at)
        if kind == b"jp2c":
            return frame[at + (16 if length == 1 else 8) :]
        if length < 8:
            raise ValueError(f"expected a JP2 box of at least 8 bytes, got {length}")
        at += length
