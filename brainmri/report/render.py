"""Arrays to pictures: overlays, contours, heat maps, the gallery of a slice; layers, montage and projections of a study."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from brainmri.analysis.findings import Finding, Study
from brainmri.io.pixels import FLAIR
from brainmri.io.scan import Geometry

MASK_COLOUR = (255, 92, 60)  # warm on grey, told apart by colour-blind eyes by its brightness
CONTOUR_COLOUR = (255, 220, 80)
TINT = 0.35
AIR = 0.06  # what a scan shows where there is nothing, left out of projections


def to_bytes(unit: np.ndarray) -> np.ndarray:
    """[0, 1] floats to uint8."""
    return np.clip(np.rint(unit * 255), 0, 255).astype(np.uint8)


def slice_picture(pixels: np.ndarray) -> Image.Image:
    """(H, W, 3) in [0, 1], the three sequences as red, green and blue."""
    return Image.fromarray(to_bytes(pixels), "RGB")


def flair_picture(pixels: np.ndarray) -> Image.Image:
    """The FLAIR channel of (H, W, 3) in [0, 1], in grey."""
    return Image.fromarray(to_bytes(pixels[..., FLAIR]), "L")


def mask_picture(mask: np.ndarray) -> Image.Image:
    """(H, W) bool to a single-channel image of 0 and 255."""
    return Image.fromarray(mask.astype(np.uint8) * 255, "L")


def contour(mask: np.ndarray) -> np.ndarray:
    """The outline of an (H, W) bool mask, inside it, at least one pixel wide and thicker on large images."""
    width = max(1, round(max(mask.shape) / 256))
    eroded = mask_picture(np.pad(mask, width)).filter(ImageFilter.MinFilter(2 * width + 1))
    return mask & ~(np.asarray(eroded) > 0)[width:-width, width:-width]


def overlay_layer(mask: np.ndarray) -> Image.Image:
    """An (H, W) bool mask tinted, its contour drawn, the rest transparent: RGBA, to lie over FLAIR in grey."""
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[mask] = [*MASK_COLOUR, round(255 * TINT)]
    layer[contour(mask)] = [*CONTOUR_COLOUR, 255]
    return Image.fromarray(layer, "RGBA")


def overlay_picture(pixels: np.ndarray, mask: np.ndarray) -> Image.Image:
    """FLAIR in grey with the mask tinted and its contour drawn; (H, W, 3) in [0, 1] and (H, W) bool."""
    return Image.alpha_composite(flair_picture(pixels).convert("RGBA"), overlay_layer(mask)).convert("RGB")


def heat_layer(probability_map: np.ndarray) -> Image.Image:
    """The probability of tumour, from transparent through red and yellow to white: RGBA, to lie over FLAIR in grey."""
    p = probability_map[..., None]
    colours = [np.clip(p * 3, 0, 1), np.clip(p * 3 - 1, 0, 1), np.clip(p * 3 - 2, 0, 1), np.clip(p * 1.5, 0, 0.85)]
    return Image.fromarray(to_bytes(np.concatenate(colours, axis=2)), "RGBA")


def heat_picture(pixels: np.ndarray, probability_map: np.ndarray) -> Image.Image:
    """FLAIR in grey under the probability of tumour."""
    return Image.alpha_composite(flair_picture(pixels).convert("RGBA"), heat_layer(probability_map)).convert("RGB")


def gallery(pixels: np.ndarray, finding: Finding) -> list[tuple[Image.Image, str]]:
    """The pictures of a finding with their captions, in the order the page shows them."""
    found = f"{finding.area_px:,} pixels" if finding.area_px else "nothing outlined"
    return [
        (overlay_picture(pixels, finding.mask), f"Overlay with contour: {found}"),
        (slice_picture(pixels), "Slice as read (T1, FLAIR, T1 with contrast as red, green, blue)"),
        (flair_picture(pixels), "FLAIR"),
        (heat_picture(pixels, finding.probability_map), "Probability of tumour, pixel by pixel"),
        (mask_picture(finding.mask), "Mask"),
    ]


def montage_picture(pixels: np.ndarray, study: Study, most: int = 24, columns: int = 6, side: int = 192) -> Image.Image:
    """The overlays of a study's outlined slices, numbered; of slices evenly along the head where none is outlined.

    Args:
        pixels: (S, H, W, 3) in [0, 1].
        most: slices shown; of more, evenly spaced ones.
        side: longer side of each, in pixels, in the proportions of the head.
    """
    numbers = np.flatnonzero(study.mask.any(axis=(1, 2)))
    if not len(numbers):
        numbers = np.arange(len(pixels))
    if len(numbers) > most:
        numbers = numbers[np.linspace(0, len(numbers) - 1, most).round().astype(int)]
    height, width = proportions(pixels.shape[1:3], study.geometry, side)
    columns = min(columns, len(numbers))
    canvas = Image.new("RGB", (columns * width, -(-len(numbers) // columns) * height))
    write = ImageDraw.Draw(canvas)
    for place, number in enumerate(numbers):
        corner = place % columns * width, place // columns * height
        canvas.paste(overlay_picture(pixels[number], study.mask[number]).resize((width, height)), corner)
        write.text(
            (corner[0] + 4, corner[1] + 3), str(number + 1), fill="white", stroke_width=1, stroke_fill="black", font_size=14
        )
    return canvas


def proportions(shape: tuple[int, int], geometry: Geometry | None, side: int) -> tuple[int, int]:
    """Height and width of a picture of an (H, W) slice in the head's true proportions, the longer of them `side`."""
    tall, wide = np.multiply(shape, geometry.spacing[1:] if geometry else (1, 1))
    return max(1, round(side * tall / max(tall, wide))), max(1, round(side * wide / max(tall, wide)))


def projection_pictures(pixels: np.ndarray, study: Study, views: int = 24, side: int = 192) -> list[Image.Image]:
    """The lesions in a translucent head, seen from all around: projections of FLAIR with the mask's thickness over them.

    Args:
        pixels: (S, H, W, 3) in [0, 1].
        views: pictures of a full turn about the long axis, the first from the front; an even number.
        side: of each picture, in pixels.

    Returns:
        RGB pictures, upright.
    """
    from scipy.ndimage import zoom

    extent = np.array(pixels.shape[:3], float)
    if study.geometry:
        extent *= study.geometry.spacing
    else:  # a head is about as high as it is wide, whatever the slices' thickness
        extent[0] = max(extent[1:])
    grid = side / 2 * extent / (1.1 * extent.max())  # half as fine as the picture; the corners of the field of view are air
    head = np.clip(pixels[..., FLAIR] - AIR, 0, None)
    shapes = (np.asarray(zoom(volume, grid / volume.shape, order=1)) for volume in (head, study.mask.astype(np.float32)))
    heads, thicknesses = (_projections(volume, views // 2, round(side / 2)) for volume in shapes)
    brightest, thickest = heads.max() or 1, thicknesses.max() or 1
    pictures = []
    for projection, thickness in zip(heads, thicknesses, strict=True):
        strength = np.clip(2 * thickness / thickest, 0, 0.9)[..., None]
        colours = (1 - strength) * 255 * (projection / brightest)[..., None] + strength * np.array(MASK_COLOUR)
        pictures.append(Image.fromarray(colours.astype(np.uint8), "RGB").resize((side, side), Image.Resampling.BICUBIC))
    # a projection from behind is the mirror image of the one from the front
    return pictures + [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]


def _projections(volume: np.ndarray, views: int, side: int) -> np.ndarray:
    """Sums through an (S, H, W) float32 volume, none of its axes longer than `side`, over half a turn from the front; upright.

    Returns:
        (views, side, side) float32.
    """
    import torch
    from torch.nn import functional as F

    slices, height, width = volume.shape
    left, top, above = (side - width) // 2, (side - height) // 2, (side - slices) // 2
    square = F.pad(torch.from_numpy(volume), (left, side - width - left, top, side - height - top))
    angles = torch.arange(views) * (np.pi / views)
    zero = torch.zeros_like(angles)
    turns = torch.stack([angles.cos(), -angles.sin(), zero, angles.sin(), angles.cos(), zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(turns, [views, 1, side, side], align_corners=False)
    turned = F.grid_sample(square.expand(views, -1, -1, -1), grid, align_corners=False)  # slices as channels, all at once
    return F.pad(turned.sum(dim=2).flip(1), (0, 0, above, side - slices - above)).numpy()
