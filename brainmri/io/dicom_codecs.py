"""JPEG, JPEG-LS and JPEG 2000 frames of DICOM files: their size before they are decoded, and pydicom's way to imagecodecs.

High-Throughput JPEG 2000 has JPEG 2000's headers, and the same decoder, OpenJPEG, takes it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

PLUGIN = "imagecodecs"
_JP2 = b"\x00\x00\x00\x0cjP  "  # the box a JP2 file begins with; DICOM asks for bare codestreams, but files differ
_START_OF_FRAME = {*range(0xFFC0, 0xFFD0), 0xFFF7} - {0xFFC4, 0xFFC8, 0xFFCC}  # FFF7 is JPEG-LS's


def register(syntax: str) -> bool:
    """Make pydicom decode a transfer syntax with `PLUGIN`; False for one outside the JPEG family. Not thread-safe."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

    if syntax not in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes):
        return False
    decoder = get_decoder(syntax)
    if PLUGIN not in decoder.available_plugins:
        decoder.add_plugin(PLUGIN, (__name__, "decode"))
    return True


def is_available(uid: str) -> bool:
    """pydicom calls this of a plugin's module; imagecodecs is always installed."""
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
    if decoded.ndim != 2:  # colours would need conversion
        raise ValueError("only grey frames are decoded")
    wide = np.dtype(f"{decoded.dtype.kind}{runner.bits_allocated // 8}")
    return decoded.astype(wide, casting="safe", copy=False).tobytes()


def frame_size(frame: bytes) -> tuple[int, int, int]:
    """Rows, columns and samples a pixel that a frame says it unpacks to.

    Raises:
        ValueError, struct.error: when its header is damaged.
    """
    if frame[:2] != b"\xff\xd8":
        stream = _codestream(frame)
        if stream[:4] != b"\xff\x4f\xff\x51":
            raise ValueError("no codestream of the JPEG family")
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
        if marker < 0xFFC0 or 0xFFD0 <= marker <= 0xFFD9 or length < 2:  # no marker, or one that has no length to step over
            raise ValueError("a damaged JPEG header")
        if marker in _START_OF_FRAME:
            sizes.add(struct.unpack_from(">HHB", frame, at + 5))
        at += 2 + length
    if len(sizes) != 1:
        raise ValueError("a JPEG header without one size")
    return sizes.pop()


def _codestream(frame: bytes) -> bytes:
    """A JPEG 2000 frame without the boxes of a JP2 file, so that what is decoded is what was checked."""
    if not frame.startswith(_JP2):
        return frame
    at = 12
    while True:
        length, kind = struct.unpack_from(">I4s", frame, at)
        if kind == b"jp2c":
            return frame[at + (16 if length == 1 else 8) :]
        if length < 8:
            raise ValueError("a damaged JP2 box")
        at += length
