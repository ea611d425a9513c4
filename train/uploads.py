"""Random changes that turn a slice from a dataset into what people upload, in 8-bit pixels and before preprocessing.

Removed skulls, brightness windows, borders, captions, JPEG, low resolution, squeezed proportions, inverted greys. Each change
maps pixels (H, W, C) uint8 and a mask (H, W) float32 in [0, 1] to the same, of another size where it crops, pads or resizes.
`train.augment` augments on the network's grid afterwards.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage import measure

from brainmri.io.pixels import MIN_SIDE

Slice = tuple[np.ndarray, np.ndarray]
Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], Slice]

CAPTIONS = (
    "R",
    "L",
    "A",
    "FLAIR",
    "T1 +C",
    "AX T2",
    "Se: 5",
    "Im: 12/24",
    "256 x 256",
    "W 512 L 256",
    "TE 90",
    "10 cm",
    "KM",
    "ANON",
)
SMALLEST_HEAD = 0.08  # share of the picture; below it there is too little head to remove a skull from
SMALLEST_BRAIN = 0.02  # share of the picture that must be left


def head_mask(grey: np.ndarray) -> np.ndarray:
    """(H, W) grey values to (H, W) bool: the largest bright region, holes filled; all False for a black picture."""
    bright = np.asarray(ndimage.binary_opening(grey > max(1, 0.12 * np.percentile(grey, 99.5)), iterations=2))
    labels = np.asarray(measure.label(bright, connectivity=1))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(bright & (labels == sizes.argmax())))


def remove_skull(pixels: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> Slice:
    """Blacken a ring inside the head's outline, stretch the brightest percentile to white, and crop to what is left.

    An approximation of skull stripping: the ring is as wide as scalp and skull usually are, and never covers tumour.
    """
    head = head_mask(pixels.max(axis=2))
    if head.mean() < SMALLEST_HEAD:
        return pixels, mask
    depth = np.asarray(ndimage.distance_transform_edt(head))
    tumour = mask > 0.5
    width = random.uniform(0.05, 0.14) * np.sqrt(head.sum())
    brain = (depth > width) | tumour
    if random.random() < 0.5:  # the edge of a brain is not smooth
        rough = ndimage.gaussian_filter(random.standard_normal(head.shape), 4)
        brain &= (depth > width * (1 + 2.5 * rough)) | tumour
    if brain.mean() < SMALLEST_BRAIN:
        return pixels, mask
    white = [max(np.percentile(channel[brain], random.uniform(98.5, 100)), 1) for channel in np.moveaxis(pixels, 2, 0)]
    stripped = np.clip(pixels * brain[..., None] * (255 / np.array(white)), 0, 255).astype(np.uint8)
    rows, columns = (np.flatnonzero(brain.any(axis=axis)) for axis in (1, 0))
    margin = int(random.uniform(0, 0.12) * len(rows))
    box = np.s_[max(rows[0] - margin, 0) : rows[-1] + 1 + margin, max(columns[0] - margin, 0) : columns[-1] + 1 + margin]
    if min(mask[box].shape) < MIN_SIDE:
        return pixels, mask
    return stripped[box], mask[box]


def window(pixels: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> Slice:
    """Another brightness window: dark values clipped to black and bright ones to white."""
    low, high = random.uniform(0, 20), np.percentile(pixels, 99.7) * random.uniform(0.65, 1.15)
    return np.clip((pixels - low) * (255 / max(high - low, 20)), 0, 255).astype(np.uint8), mask


def invert(pixels: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> Slice:
    """Inverted greys."""
    return 255 - pixels, mask


def pad(pixels: np.ndarray, mask: np.ndarray, random: np.random.Generator, value: int = 0) -> Slice:
    """Margins of one grey value, up to 35% of each side."""
    margins = [(int(random.uniform(0, 0.35) * side), int(random.uniform(0, 0.35) * side)) for side in mask.shape]
    return np.pad(pixels, (*margins, (0, 0)), constant_values=value), np.pad(mask, margins)


def whiten_background(pixels: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> Slice:
    """A white page around the picture, or white in place of the black around the head."""
    if random.random() < 0.5:
        return pad(pixels, mask, random, value=255)
    outside = ~head_mask(pixels.max(axis=2))
    return np.where(outside[..., None], np.uint8(random.integers(200, 256)), pixels), mask


def add_frame(pixels: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> Slice:
    """A black, grey or white strip along some of the edges, as in screenshots."""
    value = random.choice([0, 128, 255, 255])
    width = max(1, int(random.uniform(0.004, 0.03) * max(mask.shape)))
    framed = pixels.copy()
    edges = [np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:]]
    for edge in random.permutation(4)[: random.integers(1, 5)]:
        framed[edges[edge]] = value
    return framed, mask


def squeeze(pixels: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> Slice:
    """One side shortened by up to a quarter."""
    height, width = mask.shape
    factor = random.uniform(0.75, 1.0)
    size = (width, round(height * factor)) if random.random() < 0.5 else (round(width * factor), height)
    return resize(pixels, size), np.clip(resize(mask[..., None], size)[..., 0], 0, 1)


def lower_resolution(pixels: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> Slice:
    """Reduced to 80 to 160 pixels on the longer side and enlarged again."""
    height, width = mask.shape
    factor = random.uniform(80, 160) / max(height, width)
    if factor >= 1:
        return pixels, mask
    small = resize(pixels, (max(8, round(width * factor)), max(8, round(height * factor))))
    return resize(small, (width, height)), mask


def compress(pixels: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> Slice:
    """JPEG of quality 15 to 60, of the picture in colour or of each channel by itself."""
    quality = int(random.integers(15, 61))
    in_colour = pixels.shape[2] == 3 and random.random() < 0.5
    decoded = []
    for part in [pixels] if in_colour else np.moveaxis(pixels, 2, 0):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(part)).save(buffer, "JPEG", quality=quality)
        decoded.append(np.asarray(Image.open(buffer)))
    return (decoded[0] if in_colour else np.stack(decoded, axis=2)), mask


def add_captions(pixels: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> Slice:
    """One to four lines of burnt-in text near the left or right edge."""
    height, width = mask.shape
    layer = Image.new("L", (width, height))
    draw = ImageDraw.Draw(layer)
    size = max(8, int(random.uniform(0.035, 0.09) * height))
    for _ in range(random.integers(1, 5)):
        left = random.uniform(0, 0.1) if random.random() < 0.5 else random.uniform(0.7, 0.95)
        at, grey = (left * width, random.uniform(0, 0.95) * height), int(random.integers(140, 256))
        draw.text(at, str(random.choice(CAPTIONS)), fill=grey, font_size=size)
    return np.maximum(pixels, np.asarray(layer)[..., None]), mask


def resize(channels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, C) uint8 or float32 to width and height `size`, bilinear, channel by channel."""
    resized = (
        Image.fromarray(np.ascontiguousarray(c)).resize(size, Image.Resampling.BILINEAR) for c in np.moveaxis(channels, 2, 0)
    )
    return np.stack([np.asarray(channel) for channel in resized], axis=2)


# each change and its probability, in the order in which they are applied
CHANGES: tuple[tuple[Change, float], ...] = (
    (squeeze, 0.10),
    (window, 0.30),
    (lower_resolution, 0.12),
    (pad, 0.12),
    (add_captions, 0.10),
    (invert, 0.02),
    (whiten_background, 0.04),
    (add_frame, 0.05),
    (compress, 0.15),
)


def as_upload(pixels: np.ndarray, mask: np.ndarray, random: np.random.Generator, skull_removal: float = 0.35) -> Slice:
    """Apply each change with its own probability.

    Args:
        pixels: (H, W, 1 or 3) uint8.
        mask: (H, W) float32 in [0, 1].
        skull_removal: probability of `remove_skull`; 0 for slices without a skull.

    Returns:
        Pixels and mask, of the same types; the height and width may differ from the input's.
    """
    if random.random() < skull_removal:
        pixels, mask = remove_skull(pixels, mask, random)
    for change, probability in CHANGES:
        if random.random() < probability:
            pixels, mask = change(pixels, mask, random)
    return pixels, mask
