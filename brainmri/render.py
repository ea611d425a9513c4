"""Arrays to pictures: overlays, contours, heat maps, the gallery."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from brainmri.findings import Finding
from brainmri.preprocess import FLAIR

MASK_COLOUR = np.array([255, 92, 60], np.float32)  # warm on grey, told apart by colour-blind eyes by its brightness
CONTOUR_COLOUR = np.array([255, 220, 80], np.float32)


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


def overlay_picture(pixels: np.ndarray, mask: np.ndarray, alpha: float = 0.35) -> Image.Image:
    """FLAIR in grey with the mask tinted and its contour drawn; (H, W, 3) in [0, 1] and (H, W) bool."""
    canvas = np.repeat(to_bytes(pixels[..., FLAIR : FLAIR + 1]), 3, axis=2).astype(np.float32)
    canvas[mask] = (1 - alpha) * canvas[mask] + alpha * MASK_COLOUR
    canvas[contour(mask)] = CONTOUR_COLOUR
    return Image.fromarray(canvas.astype(np.uint8), "RGB")


def heat_picture(pixels: np.ndarray, probability_map: np.ndarray) -> Image.Image:
    """FLAIR in grey under the probability of tumour, black through red and yellow to white."""
    p = probability_map[..., None]
    heat = np.concatenate([np.clip(p * 3, 0, 1), np.clip(p * 3 - 1, 0, 1), np.clip(p * 3 - 2, 0, 1)], axis=2)
    strength = np.clip(p * 1.5, 0, 0.85)
    grey = pixels[..., FLAIR : FLAIR + 1]
    return Image.fromarray(to_bytes((1 - strength) * 0.8 * grey + strength * heat), "RGB")


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
