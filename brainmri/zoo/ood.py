"""Out-of-distribution detection: is this a brain MRI slice at all, of the kind that the entry was trained on?

Two checks use features of the entry's own encoder and are stored in `ood.safetensors`. The first is the Mahalanobis distance to
the nearest class of training slices (Lee et al. 2018). The second is a logistic regression that tells training slices from other
images. What the other images are depends on the entry. For entries of axial slices (`train.ood.fit`) they are slices rotated by
90, 180 and 270 degrees, because rotated heads have nearly the same features as upright ones (Hendrycks et al. 2019 use rotations
in the same way). For entries of every plane (`train.ood.fit_inputs`) they are CT, other parts of the body, photographs and so on.
Six more checks use the pixels alone: an empty image, a mask, a label image, a nearly black input, noise, and the colours of a
colour map.

A detector in `scope.safetensors` finds, by the same features, the slices that are like the training data of the entry's
specialist (`train.ood.fit_scope`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from brainmri.zoo.entry import OOD, SCOPE, ModelEntry, file_sha256
from brainmri.zoo.records import FeatureSpec, OodConfig

if TYPE_CHECKING:
    from torch import Tensor

NOT_A_SLICE = "This does not look like a brain MRI slice"
NOT_MR = f"{NOT_A_SLICE}. The models were trained on nothing else."
FAR = "This does not look like an axial brain MRI slice. The models were trained on nothing else."
ROTATED = "This does not look like an axial brain MRI slice with the nose up. It seems to be rotated or in another plane."
COLOURED = f"{NOT_A_SLICE}. The image is coloured like a heat map; expected grey, or three sequences as red, green and blue."
EMPTY = f"{NOT_A_SLICE}. All pixels are equal."
NOISE = f"{NOT_A_SLICE}. The image looks like noise."
MASK = f"{NOT_A_SLICE}. The image looks like a mask: all pixels that are not black are equal."
LABELS = f"{NOT_A_SLICE}. The image looks like a mask or a label image: it has only a few grey values."
BLACK = f"{NOT_A_SLICE}. The image is nearly black. Please export it with its full range of grey values."
WARNING = "neither the probability nor the mask of such an image is meaningful"

DARK = 0.06  # an image shows no head if less than 1% of its pixels are brighter than this in any sequence
# share of the colours' variance that one number leaves unexplained: near 0 in a colour map, over 0.005 in slices
COLOUR_MAP_RESIDUAL = 0.004
CHROMA, CHROMA_SHARE = 0.05, 0.5  # difference between the channels of a coloured pixel; least share of the bright pixels
NEIGHBOUR_CORRELATION = 0.3  # of neighbouring pixels in a row; about 0 in noise, over 0.86 in slices of the training data
MASK_SHARE, MASK_TOLERANCE = 0.97, 0.02  # share of equal bright values: 1 in a mask, up to 0.91 in training slices
LABEL_VALUES = 8  # most grey values of a label image; slices with a head have dozens
PIXEL_SAMPLE = 20_000  # approximate number of pixels that the checks of brightness and colour use
GRID = 3  # the features of the second check are means over GRID x GRID parts of the slice

# tensor name in ood.safetensors to field of `OodDetector`
_TENSORS = {"mean": "mean", "whiten": "whitening", "ways": "other_weights", "bias": "other_bias"}


@dataclass(frozen=True, kw_only=True)
class OodResult:
    """The result for one slice.

    Attributes:
        distance: Mahalanobis distance to the training slices, relative to that of the median training slice.
        other_log_odds: log-odds of the other images against slices that the entry was trained on.
        reason: why the slice is out of distribution, in one sentence; None if it is not.
    """

    distance: float
    other_log_odds: float
    reason: str | None

    def record(self) -> dict:
        """The result for JSON."""
        return {
            "distance": round(self.distance, 3),
            "other": round(self.other_log_odds, 2),
            "out_of_distribution": self.reason is not None,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class OodDetector:
    """A detector of an entry, from a file of tensors and `config.json`.

    Attributes:
        mean: (K, D) float32, of the distance features, for K classes of training slices.
        whitening: (D, D) float32; whitens the distance features and scales the median training slice's distance to 1.
        other_weights: (C, E) float32, of the features of the second check, for training slices and C - 1 classes of other images.
        other_bias: (C,) float32.
        distance_threshold, other_threshold: a slice above either one is out of distribution.
        feature_spec: what the features are computed from.
        any_plane: whether the entry was trained on every plane; the other images are then no brain MR slices, else rotated ones.
    """

    mean: np.ndarray
    whitening: np.ndarray
    other_weights: np.ndarray
    other_bias: np.ndarray
    distance_threshold: float
    other_threshold: float
    feature_spec: FeatureSpec
    any_plane: bool = False

    @classmethod
    def from_tensors(
        cls,
        tensors: dict[str, np.ndarray],
        *,
        distance_threshold: float,
        other_threshold: float,
        feature_spec: FeatureSpec,
        any_plane: bool = False,
    ) -> OodDetector:
        """A detector from tensors by their names in `ood.safetensors`: mean (D,) or (K, D), whiten, ways, bias."""
        fields = {field: tensors[name] for name, field in _TENSORS.items()}
        return cls(
            **fields | {"mean": np.atleast_2d(fields["mean"])},
            any_plane=any_plane,
            distance_threshold=distance_threshold,
            other_threshold=other_threshold,
            feature_spec=feature_spec,
        )

    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors by their names in the file; `from_tensors` reads them."""
        return {name: getattr(self, field) for name, field in _TENSORS.items()}

    def distance(self, features: np.ndarray) -> np.ndarray:
        """(S, D + E) float32 features to (S,) Mahalanobis distances, relative to that of the median training slice."""
        differences = features[:, None, : self.mean.shape[1]] - self.mean  # (S, K, D)
        return np.linalg.norm(differences @ self.whitening, axis=2).min(axis=1)

    def other_log_odds(self, features: np.ndarray) -> np.ndarray:
        """(S, D + E) float32 features to (S,) log-odds of all other images together against training slices."""
        log_odds = features[:, self.mean.shape[1] :] @ self.other_weights.T + self.other_bias
        return np.logaddexp.reduce(log_odds[:, 1:], axis=1) - log_odds[:, 0]

    def is_inside(self, features: np.ndarray) -> np.ndarray:
        """(S, D + E) float32 features to (S,) bool: below both thresholds. The pixels are not checked."""
        near = self.distance(features) <= self.distance_threshold
        return near & (self.other_log_odds(features) <= self.other_threshold)

    def score(self, features: np.ndarray, slices: np.ndarray) -> list[OodResult]:
        """Score every slice.

        A nearly black slice passes only beside brighter ones: the networks standardise each slice, so that they would take the
        noise of a black input, or the labels 0 and 1 of a mask, for a head.

        Args:
            features: (S, D + E) float32, `pool_features` of the slices.
            slices: (S, H, W, 3) in [0, 1], all of one input.
        """
        results = []
        of_all = LABELS if has_few_values(slices) else BLACK if all(map(is_nearly_black, slices)) else None
        far, other = (NOT_MR, NOT_MR) if self.any_plane else (FAR, ROTATED)
        scores = zip(self.distance(features), self.other_log_odds(features), slices, strict=True)
        for distance, log_odds, pixels in scores:
            decided, reason = check_pixels(pixels)
            if reason is None and of_all:
                reason = of_all
            elif not decided:
                reason = far if distance > self.distance_threshold else other if log_odds > self.other_threshold else None
            results.append(OodResult(distance=float(distance), other_log_odds=float(log_odds), reason=reason))
        return results


def check_pixels(pixels: np.ndarray) -> tuple[bool, str | None]:
    """Check the pixels of an image (H, W, 3) in [0, 1] without a network.

    A nearly black slice, as at the ends of a head, passes: it shows nothing that could be mistaken for a tumour. An image whose
    pixels are all equal does not pass.

    Returns:
        Whether the pixels alone decide, and the reason if they rule the image out.
    """
    if np.ptp(pixels) == 0:
        return True, EMPTY
    if is_nearly_black(pixels):
        return True, None
    points = _sample(pixels).T.astype(np.float64)
    if equal_share(points) > MASK_SHARE:
        return True, MASK
    if is_noise(pixels):
        return True, NOISE
    return (True, COLOURED) if is_colour_mapped(points) else (False, None)


def is_nearly_black(pixels: np.ndarray) -> bool:
    """Whether an image (H, W, 3) in [0, 1] shows no head: hardly any of its pixels are brighter than `DARK`."""
    return float((_sample(pixels).max(axis=1) > DARK).mean()) < 0.01


def has_few_values(slices: np.ndarray) -> bool:
    """Whether slices (S, H, W, 3) have so few grey values together that they are labels, whatever the scale of the labels.

    A slice alone does not tell: at the ends of a study, real slices have few values too.
    """
    for channel in range(3):
        values: set[float] = set()
        for pixels in slices:
            values.update(np.unique(_sample(pixels)[:, channel]).tolist())
            if len(values) > LABEL_VALUES:
                return False
    return True


def _sample(pixels: np.ndarray) -> np.ndarray:
    """(n, 3) pixels of an image (H, W, 3), about `PIXEL_SAMPLE` of them."""
    points = pixels.reshape(-1, 3)
    return points[:: max(1, len(points) // PIXEL_SAMPLE)]


def equal_share(points: np.ndarray) -> float:
    """The share in [0, 1] of bright values (of any shape, in [0, 1]) that are equal to their median within `MASK_TOLERANCE`."""
    bright = points[points > DARK]
    return float((np.abs(bright - np.median(bright)) < MASK_TOLERANCE).mean())


def is_noise(pixels: np.ndarray) -> bool:
    """Whether neighbouring pixels of an image (H, W, 3) in [0, 1] are unrelated."""
    rows = pixels[:: max(1, pixels.shape[0] * pixels.shape[1] // PIXEL_SAMPLE)].mean(axis=2)
    left, right = (part - part.mean() for part in (rows[:, :-1], rows[:, 1:]))
    return float((left * right).sum()) < NEIGHBOUR_CORRELATION * float(np.linalg.norm(left) * np.linalg.norm(right))


def is_colour_mapped(points: np.ndarray) -> bool:
    """Whether pixels (3, n) in [0, 1] are coloured by a colour map or a tint; not a grey image with coloured marks.

    That is the case if one number predicts the colour: the brightness, one of the channels, or the hue.
    """
    bright = points[:, points.max(axis=0) > DARK]
    if not bright.size or (np.ptp(bright, axis=0) > CHROMA).mean() < CHROMA_SHARE:
        return False
    brightness = points.mean(axis=0)
    colours = points - brightness
    variance = np.square(colours - colours.mean(axis=1, keepdims=True)).sum()
    rgb = (255 * points.T[None]).astype(np.uint8)
    hue = Image.fromarray(rgb).convert("HSV").getchannel("H")
    for level in (*(255 * np.stack([brightness, *points])).astype(np.uint8), np.asarray(hue)[0]):
        count = np.maximum(np.bincount(level, minlength=256), 1)
        predicted = np.stack([(np.bincount(level, channel, 256) / count)[level] for channel in colours])
        if np.square(colours - predicted).sum() < COLOUR_MAP_RESIDUAL * variance:
            return True
    return False


def pool_features(maps: list[Tensor], feature_spec: FeatureSpec) -> Tensor:
    """The result of `forward_features` to (B, D + E) float32: D distance features, then E features of the second check."""
    import torch

    means = [maps[index].mean(dim=(2, 3)) for index in feature_spec.means]
    deviations = [maps[index].float().std(dim=(2, 3), correction=0) for index in feature_spec.deviations]
    parts = [pool_windows(maps[index], GRID).flatten(1) for index in feature_spec.parts]
    return torch.cat(means + deviations + parts, dim=1).float()


def pool_windows(maps: Tensor, grid: int) -> Tensor:
    """(B, C, H, W) to (B, C, grid, grid): the means over the windows of `adaptive_avg_pool2d`.

    Neighbouring windows overlap if the size is not a multiple of the grid. MPS implements adaptive pooling for multiples only.
    """
    import torch

    rows, columns = ([slice(i * n // grid, -(-(i + 1) * n // grid)) for i in range(grid)] for n in maps.shape[2:])
    means = [maps[:, :, row, column].mean(dim=(2, 3)) for row in rows for column in columns]
    return torch.stack(means, dim=2).unflatten(2, (grid, grid))


def read_ood_detector(entry: ModelEntry) -> OodDetector | None:
    """The detector of an entry, or None if it has none.

    Raises:
        FileNotFoundError: if its file is missing although `config.json` lists it.
        ValueError: if the file's SHA-256 is not the one in `config.json`.
    """
    return _read(entry, OOD, entry.ood) if entry.ood else None


def read_scope(entry: ModelEntry) -> OodDetector | None:
    """The detector of the slices that the entry's specialist decides, or None if it has none; errors as `read_ood_detector`."""
    return _read(entry, SCOPE, entry.specialist.scope) if entry.specialist else None


def _read(entry: ModelEntry, name: str, config: OodConfig) -> OodDetector:
    from safetensors.numpy import load_file

    path = entry.folder / name
    if not path.is_file():
        raise FileNotFoundError(f"expected {name} in {entry.folder}, got none; download the entry again")
    if (found := file_sha256(path)) != config.sha256:
        raise ValueError(
            f"expected {path} with the SHA-256 in its config.json, {config.sha256}, got {found}: "
            "the file is damaged or was exchanged; download the entry again"
        )
    return OodDetector.from_tensors(
        load_file(path),
        distance_threshold=config.distance_threshold,
        other_threshold=config.other_threshold,
        feature_spec=config.feature_spec,
        any_plane=config.any_plane,
    )
