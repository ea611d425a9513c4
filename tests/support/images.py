"""Small pictures as arrays, and their bytes in image formats."""

import io

import numpy as np
import tifffile
from PIL import Image

GREY = (np.arange(64 * 48).reshape(64, 48) % 251).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options) -> bytes:
    """The bytes of a TIFF."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()
