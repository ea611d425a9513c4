"""The evidence map: a class activation map of the verdict, and whether its maximum lies in the mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from brainmri.analysis.fallback import run_or_fall_back
from brainmri.analysis.findings import NO_TUMOUR, TUMOUR
from brainmri.analysis.head import head_mask
from brainmri.zoo.preprocess import SQUARE
from brainmri.zoo.registry import LoadedModel

CLEAR = 'No evidence map is shown for a clear "no tumour" result.'
UNLIKELY = "No evidence map is shown, since the probability of tumour is low."
LIKELIEST = "Slice {} of {} has the highest probability. "
LOW = 0.1  # probability; below it, even noise would look like evidence, as the map is relative to its maximum


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """Where in a slice the classifier finds evidence for a tumour.

    Attributes:
        saliency: (H, W) float32 in [0, 1] on the slice's own grid, relative to its maximum and times the probability of tumour;
            0 outside the head, all 0 without evidence, for a clear "no tumour" and for a probability below `LOW`.
        agrees: whether the maximum lies in the mask, or at most one cell of the map away from it; None without evidence or mask.
        sentence: the explanation in one sentence.
    """

    saliency: np.ndarray
    agrees: bool | None
    sentence: str


def explain(
    classifier: LoadedModel, pixels: np.ndarray, mask: np.ndarray, probability: float = 1.0, verdict: str = TUMOUR,
    place: tuple[int, int] | None = None, spacing: tuple[float, float] = SQUARE,
) -> Explanation:  # fmt: skip
    """Explain the verdict on one slice.

    Args:
        pixels: (H, W, 3) in [0, 1].
        mask: (H, W) bool, from the segmenter.
        probability: of tumour, in [0, 1].
        verdict: "tumour", "no tumour" or "review".
        place: of the likeliest slice of a sheet, its place in it, counted from 1, and the number of slices; None otherwise.
        spacing: between rows and between columns, in a common unit.
    """
    saliency, agrees, sentence = _evidence(classifier, pixels, mask, probability, verdict, spacing)
    where = LIKELIEST.format(*place) if place else ""
    return Explanation(saliency=saliency, agrees=agrees, sentence=where + sentence)


def _evidence(
    classifier: LoadedModel,
    pixels: np.ndarray,
    mask: np.ndarray,
    probability: float,
    verdict: str,
    spacing: tuple[float, float],
) -> tuple[np.ndarray, bool | None, str]:
    """Map, agreement and sentence of an `Explanation`."""
    if verdict == NO_TUMOUR or probability < LOW:
        nothing = np.zeros(mask.shape, np.float32)
        return nothing, None, CLEAR if verdict == NO_TUMOUR else UNLIKELY
    saliency, cell = class_activation(classifier, pixels, spacing)
    saliency = np.where(head_mask(pixels), np.float32(probability) * saliency, np.float32(0))
    if not saliency.any():
        return saliency, None, "The classifier finds no evidence for a tumour."
    if not mask.any():
        return saliency, None, "There is evidence for a tumour, but no tumour is outlined."
    from scipy.ndimage import distance_transform_edt

    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    agrees = bool(np.asarray(distance_transform_edt(~mask))[row, column] <= cell)
    where = "inside the outline" if agrees else "outside the outline; check both places"
    return saliency, agrees, f"The strongest evidence for a tumour lies {where}."


def class_activation(
    classifier: LoadedModel, pixels: np.ndarray, spacing: tuple[float, float] = SQUARE
) -> tuple[np.ndarray, float]:
    """LayerCAM (Jiang et al. 2021) of the tumour output: each feature weighted by its positive gradient.

    Runs on the CPU if an accelerator fails.

    Args:
        pixels: (H, W, 3) in [0, 1].
        spacing: between rows and between columns, in a common unit.

    Returns:
        The map, (H, W) float32 in [0, 1] relative to its maximum, and the side of one of its cells in pixels of the slice.
    """
    return run_or_fall_back(lambda model: _class_activation(model, pixels, spacing), classifier)


def _class_activation(classifier: LoadedModel, pixels: np.ndarray, spacing: tuple[float, float]) -> tuple[np.ndarray, float]:
    entry = classifier.entry
    placed, placement = entry.preprocess(pixels, spacing)
    image = entry.preprocess.normalise(placed[None]).to(classifier.device)
    views = torch.cat([image, image.flip(-1)]) if entry.flips else image
    with torch.enable_grad():
        logits, features = classifier.net.cam_features(views.requires_grad_(True))  # (V, 2), of each network (V, C, h, w)
        gradients = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), features)
    with torch.no_grad():
        weighted = [(gradient.relu() * map_).sum(dim=1, keepdim=True) for gradient, map_ in zip(gradients, features, strict=True)]
        maps = torch.stack(weighted).sum(dim=0).relu()  # (V, 1, h, w)
        if entry.flips:
            maps = (maps[:1] + maps[1:].flip(-1)) / 2
        size = entry.preprocess.size
        fine = F.interpolate(maps, size=(size, size), mode="bilinear")[0].cpu()
        restored = entry.preprocess.restore(fine / fine.max().clamp(min=1e-9), placement).numpy()
    return restored, max(placement.crop[2:]) / max(maps.shape[2:])
