"""From arrays to pictures: overlays, contours and heat maps of slices; montage and projections of studies."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from brainmri.analysis.findings import Finding, Study
from brainmri.io.pixels import FLAIR
from brainmri.io.scan import Geometry

MASK_COLOUR = (255, 92, 60)  # a warm colour that also differs from grey in brightness, for colour-blind people
CONTOUR_COLOUR = (255, 220, 80)
TINT = 0.35  # opacity of the mask
AIR = 0.06  # intensity of air, subtracted in projections
PROJECTION_MARGIN = 1.1  # suffices for volumes that are turned, because their corners are air


def to_bytes(unit: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] to uint8."""
    return np.clip(np.rint(unit * 255), 0, 255).astype(np.uint8)


def slice_picture(pixels: np.ndarray) -> Image.Image:
    """Pixels (H, W, 3) in [0, 1] with the three sequences as red, green and blue."""
    return Image.fromarray(to_bytes(pixels), "RGB")


def flair_picture(pixels: np.ndarray) -> Image.Image:
    """The FLAIR channel of pixels (H, W, 3) in [0, 1], in grey."""
    return Image.fromarray(to_bytes(pixels[..., FLAIR]), "L")


def mask_picture(mask: np.ndarray) -> Image.Image:
    """A mask (H, W) bool as a greyscale image of 0 and 255."""
    return Image.fromarray(mask.astype(np.uint8) * 255, "L")


def contour(mask: np.ndarray) -> np.ndarray:
    """The inner contour of a mask, (H, W) bool, one pixel wide and wider in large images."""
    width = max(1, round(max(mask.shape) / 256))
    eroded = mask_picture(np.pad(mask, width)).filter(ImageFilter.MinFilter(2 * width + 1))
    return mask & ~(np.asarray(eroded) > 0)[width:-width, width:-width]


def overlay_layer(mask: np.ndarray) -> Image.Image:
    """A mask (H, W) bool as an RGBA layer over FLAIR: tinted, with its contour, transparent elsewhere."""
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[mask] = [*MASK_COLOUR, round(255 * TINT)]
    layer[contour(mask)] = [*CONTOUR_COLOUR, 255]
    return Image.fromarray(layer, "RGBA")


def overlay_picture(pixels: np.ndarray, mask: np.ndarray) -> Image.Image:
    """FLAIR in grey with the tinted mask and its contour, from pixels (H, W, 3) in [0, 1] and a mask (H, W) bool."""
    return Image.alpha_composite(flair_picture(pixels).convert("RGBA"), overlay_layer(mask)).convert("RGB")


def heat_layer(probability_map: np.ndarray) -> Image.Image:
    """A map (H, W) in [0, 1] as an RGBA layer over FLAIR, from transparent through red and yellow to white."""
    p = probability_map[..., None]
    colours = [np.clip(p * 3, 0, 1), np.clip(p * 3 - 1, 0, 1), np.clip(p * 3 - 2, 0, 1), np.clip(p * 1.5, 0, 0.85)]
    return Image.fromarray(to_bytes(np.concatenate(colours, axis=2)), "RGBA")


def heat_picture(pixels: np.ndarray, probability_map: np.ndarray) -> Image.Image:
    """FLAIR in grey with a map (H, W) in [0, 1] over it, for example the probability of tumour."""
    return Image.alpha_composite(flair_picture(pixels).convert("RGBA"), heat_layer(probability_map)).convert("RGB")


def gallery(pixels: np.ndarray, finding: Finding) -> list[tuple[Image.Image, str]]:
    """The pictures of a finding with their captions, in the order of the page."""
    found = f"{finding.area_px:,} pixels" if finding.area_px else "nothing outlined"
    return [
        (overlay_picture(pixels, finding.mask), f"Overlay with contour: {found}"),
        (slice_picture(pixels), "Slice as read (pre-contrast T1, FLAIR, post-contrast T1 as red, green, blue)"),
        (flair_picture(pixels), "FLAIR"),
        (heat_picture(pixels, finding.probability_map), "Probability of tumour, pixel by pixel"),
        (mask_picture(finding.mask), "Mask"),
    ]


def montage_picture(pixels: np.ndarray, study: Study, max_slices: int = 24, columns: int = 6, side: int = 192) -> Image.Image:
    """The numbered overlays of a study's outlined slices; if nothing is outlined, of all slices.

    Args:
        pixels: (S, H, W, 3) in [0, 1].
        study: its result.
        max_slices: the largest number of overlays; of more slices, evenly spaced ones are shown.
        columns: overlays per row.
        side: longer side of an overlay in pixels; pixels that are not square are stretched to true proportions.
    """
    numbers = np.flatnonzero(study.mask.any(axis=(1, 2)))
    if not len(numbers):
        numbers = np.arange(len(pixels))
    if len(numbers) > max_slices:
        numbers = numbers[np.linspace(0, len(numbers) - 1, max_slices).round().astype(int)]
    height, width = proportions(pixels.shape[1:3], study.geometry, side)
    columns = min(columns, len(numbers))
    canvas = Image.new("RGB", (columns * width, -(-len(numbers) // columns) * height))
    draw = ImageDraw.Draw(canvas)
    for place, number in enumerate(numbers):
        corner = place % columns * width, place // columns * height
        canvas.paste(overlay_picture(pixels[number], study.mask[number]).resize((width, height)), corner)
        draw.text(
            (corner[0] + 4, corner[1] + 3), str(number + 1), fill="white", stroke_width=1, stroke_fill="black", font_size=14
        )
    return canvas


def proportions(shape: tuple[int, int], geometry: Geometry | None, side: int) -> tuple[int, int]:
    """Height and width in pixels of a picture of an (H, W) slice in true proportions, the longer one equal to `side`."""
    tall, wide = np.multiply(shape, geometry.spacing[1:] if geometry else (1, 1))
    return max(1, round(side * tall / max(tall, wide))), max(1, round(side * wide / max(tall, wide)))


def head_projections(head: np.ndarray, lengths: tuple[float, ...], views: int = 12, side: int = 192) -> list[Image.Image]:
    """Projections of a head over half a turn about its long axis. Mirrored, they are those of the other half.

    Args:
        head: FLAIR (S, H, W) in [0, 1], from the neck upwards, the rows from front to back.
        lengths: of a voxel along the three axes, in any unit.
        views: number of pictures, starting at the front.
        side: of a picture in pixels; the head's longest axis takes `1 / PROJECTION_MARGIN` of it.

    Returns:
        Grey pictures, the top of the head up.
    """
    from scipy.ndimage import zoom

    extent = np.multiply(head.shape, lengths)
    grid = side / 2 * extent / (PROJECTION_MARGIN * extent.max())  # half the picture's resolution
    volume = np.asarray(zoom(np.clip(head - AIR, 0, None), grid / head.shape, order=1))
    found = _projections(volume, views, round(side / 2))
    pictures = (Image.fromarray(to_bytes(one / (found.max() or 1)), "L") for one in found)
    return [picture.resize((side, side), Image.Resampling.BICUBIC) for picture in pictures]


def _projections(volume: np.ndarray, views: int, side: int) -> np.ndarray:
    """Projections of a volume over half a turn about the long axis, starting at the front.

    Args:
        volume: (S, H, W) float32, no axis longer than `side`.

    Returns:
        (views, side, side) float32, sums along the line of sight, the top of the head up.
    """
    import torch
    from torch.nn import functional as F

    slices, height, width = volume.shape
    left, top, above = (side - width) // 2, (side - height) // 2, (side - slices) // 2
    square = F.pad(torch.from_numpy(volume), (left, side - width - left, top, side - height - top))
    angles = torch.arange(views) * (np.pi / views)
    zero = torch.zeros_like(angles)
    rotations = torch.stack([angles.cos(), -angles.sin(), zero, angles.sin(), angles.cos(), zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(rotations, [views, 1, side, side], align_corners=False)
    rotated = F.grid_sample(square.expand(views, -1, -1, -1), grid, align_corners=False)  # the slices are the channels
    return F.pad(rotated.sum(dim=2).flip(1), (0, 0, above, side - slices - above)).numpy()
