"""Is this an axial brain MR slice at all? Asked before a verdict is believed; the answer is None or the doubt in one sentence.

Two questions go to the features of the entry's own encoder, fitted on training patients by `train.ood.fit` and kept as
`ood.safetensors`: how far a slice is from theirs, a Mahalanobis distance (Lee et al. 2018), and whether it is the right way up,
a logistic regression that tells their slices from the same ones turned by 90, 180 and 270 degrees (turned heads have nearly the
features of upright ones, so no distance sees them; Hendrycks et al. 2019 ask the same of other pictures). Two go to the pixels:
is there anything, and are its colours those of a colour map?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from brainmri.zoo.entry import OOD, ModelEntry, file_sha256

if TYPE_CHECKING:
    from torch import Tensor

REASON = "This does not look like an axial brain MR slice"
FAR = f"{REASON}, all that the networks know."
TURNED = f"{REASON} with the nose up: it seems to be turned, or cut another way."
COLOURED = f"{REASON}: its colours are those of a colour map, where the three sequences, or grey, are expected."
EMPTY = f"{REASON}: there is nothing in it."
WARNING = "on such a picture neither the probability nor the mask means anything"

DARK = 0.06  # a picture of which less than a hundredth is brighter, in whatever sequence, shows no head
CURVE = 0.004  # of the colours' variance, what one number leaves unexplained: next to 0 in a colour map, over 0.005 in slices
SAMPLE = 20_000  # pixels that brightness and colours are judged by, about
CELLS = 3  # by so many parts a side of the slice its turn is judged


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Which of its encoder's maps (see `EffUNet.encode`) a gate looks at, by their numbers: 1 at half the size to 5 at 1/32.

    Attributes:
        means, deviations: of whose channels the mean and the standard deviation over the slice make the distance.
        parts: whose channels' means over `CELLS` by `CELLS` parts of the slice tell up from down.
    """

    means: tuple[int, ...] = ()
    deviations: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()

    def near(self, channels: Sequence[int]) -> int:
        """How many features (D) make the distance, of an encoder whose maps have so many channels."""
        return sum(channels[number] for number in (*self.means, *self.deviations))


@dataclass(frozen=True, kw_only=True)
class OodResult:
    """What a gate says of one slice.

    Attributes:
        distance: from the training slices, in that of the median one; questioned above `OodDetector.distance_threshold`.
        turned: log-odds of any other way up against upright; questioned above `OodDetector.orientation_threshold`.
        doubt: why it is not taken for an axial brain MR slice, one sentence; None where it is.
    """

    distance: float
    turned: float
    doubt: str | None

    def record(self) -> dict:
        """Ready for JSON."""
        return {
            "distance": round(self.distance, 3),
            "turned": round(self.turned, 2),
            "out_of_distribution": self.doubt is not None,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class OodDetector:
    """What an entry's `ood.safetensors` and `config.json` know of training patients' slices.

    Attributes:
        mean: (D,) float32, of the features that the distance sees.
        whiten: (D, D) float32, makes them independent, and the median training slice's distance 1.
        ways: (4, E) float32, and `bias` (4,): log-odds of the four ways up from the other features, upright first.
        far, way: distance and log-odds above which a slice is questioned.
        sight: what the features are of.
    """

    mean: np.ndarray
    whiten: np.ndarray
    ways: np.ndarray
    bias: np.ndarray
    distance_threshold: float
    orientation_threshold: float
    feature_spec: FeatureSpec

    def distance(self, features: np.ndarray) -> np.ndarray:
        """(S, D + E) float32 features to (S,): the Mahalanobis distance, in that of the median training slice."""
        return np.linalg.norm((features[:, : len(self.mean)] - self.mean) @ self.whiten, axis=1)

    def turned(self, features: np.ndarray) -> np.ndarray:
        """(S, D + E) float32 features to (S,): log-odds of the three other ways up, together, against upright."""
        odds = features[:, len(self.mean) :] @ self.ways.T + self.bias
        return np.logaddexp.reduce(odds[:, 1:], axis=1) - odds[:, 0]

    def ask(self, features: np.ndarray, slices: np.ndarray) -> list[OodResult]:
        """About each slice.

        Args:
            features: (S, D + E) float32, `pooled` of the slices.
            slices: (S, H, W, 3) in [0, 1].
        """
        answers = []
        for distance, turned, pixels in zip(self.distance(features), self.turned(features), slices, strict=True):
            decided, doubt = look(pixels)
            if not decided:
                doubt = FAR if distance > self.distance_threshold else TURNED if turned > self.orientation_threshold else None
            answers.append(OodResult(distance=float(distance), turned=float(turned), doubt=doubt))
        return answers


def look(pixels: np.ndarray) -> tuple[bool, str | None]:
    """Whether the pixels of a picture (H, W, 3) in [0, 1] alone decide, and their doubt, None where they raise none.

    A slice that is all but black, as the ends of a head are, shows nothing that could be taken for a tumour, and passes; a flat
    one does not.
    """
    if np.ptp(pixels) == 0:
        return True, EMPTY
    points = pixels.reshape(-1, 3)
    points = points[:: max(1, len(points) // SAMPLE)].T.astype(np.float64)
    if (np.maximum.reduce(points) > DARK).mean() < 0.01:
        return True, None
    return (True, COLOURED) if is_colour_mapped(points) else (False, None)


def is_colour_mapped(points: np.ndarray) -> bool:
    """Whether pixels (3, n) in [0, 1] are coloured, and one number tells their colours, as in a colour map or a tint: their
    brightness, what one of the channels has, or their hue."""
    bright = points.mean(axis=0)
    colours = points - bright
    if np.abs(colours).max() < 0.02:  # grey, but for what a JPEG makes of it
        return False
    scatter = np.square(colours - colours.mean(axis=1, keepdims=True)).sum()
    hue = Image.fromarray(np.uint8(255 * points.T[None])).convert("HSV").getchannel("H")
    for level in (*np.uint8(255 * np.stack([bright, *points])), np.asarray(hue)[0]):
        count = np.maximum(np.bincount(level, minlength=256), 1)
        told = np.stack([(np.bincount(level, channel, 256) / count)[level] for channel in colours])
        if np.square(colours - told).sum() < CURVE * scatter:
            return True
    return False


def pooled(maps: list[Tensor], feature_spec: FeatureSpec) -> Tensor:
    """What a gate sees of an encoder's maps: (B, D + E) float32, D for the distance and E for the turn."""
    import torch
    from torch.nn import functional as F

    means = [maps[number].mean(dim=(2, 3)) for number in feature_spec.means]
    deviations = [maps[number].float().std(dim=(2, 3), correction=0) for number in feature_spec.deviations]
    parts = [F.adaptive_avg_pool2d(maps[number], CELLS).flatten(1) for number in feature_spec.parts]
    return torch.cat(means + deviations + parts, dim=1).float()


def read_ood_detector(entry: ModelEntry) -> OodDetector | None:
    """An entry's gate, or None where it has none.

    Raises:
        FileNotFoundError: when the file that `config.json` tells of is missing.
        ValueError: when it is another one than `config.json` tells of.
    """
    if not entry.ood:
        return None
    from safetensors.numpy import load_file

    path = entry.folder / OOD
    if not path.is_file():
        raise FileNotFoundError(f"{entry.folder} is not whole: {OOD} is missing")
    if (found := file_sha256(path)) != entry.ood["sha256"]:
        raise ValueError(
            f"{path} has SHA-256 {found}, but its config.json says {entry.ood['sha256']}; the file is damaged or was exchanged"
        )
    feature_spec = FeatureSpec(**{name: tuple(numbers) for name, numbers in entry.ood["feature_spec"].items()})
    return OodDetector(
        **load_file(path),
        distance_threshold=float(entry.ood["distance_threshold"]),
        orientation_threshold=float(entry.ood["orientation_threshold"]),
        feature_spec=feature_spec,
    )
