"""What the networks recognise about a slice or a study besides tumour: sequence, plane, orientation, kind of tumour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from brainmri.analysis.forward import Prediction
from brainmri.zoo.attributes import FLAIR, KIND, PLANE, SEQUENCE, SEQUENCES, T1, T1C, THREE_SEQUENCES, TURN, TURNS

# `Scan.single_sequence` to the network's name of the sequence
SEQUENCE_OF_FILE = {"FLAIR": FLAIR, "pre-contrast T1": T1, "post-contrast T1": T1C, "T2": "T2", "PD": "PD"}
SURE = 0.6  # a sequence, plane or kind of lower probability is unknown
COLOUR_TOLERANCE = 0.06  # difference of channels in [0, 1] that a tenth of the pixels of a colour picture exceeds
ENOUGH_SLICES = 64  # of a study, to tell whether its channels differ
SURE_UPRIGHT, SURE_TURN = 0.9, 0.95  # probabilities: below the first one slices are perhaps turned, above the second one surely


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A class of an attribute and its probability in [0, 1]."""

    name: str
    probability: float

    def record(self) -> dict:
        """For JSON."""
        return {"name": self.name, "probability": round(self.probability, 3)}


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """What was recognised; None for an attribute that is unknown.

    Attributes:
        sequence: one of `brainmri.zoo.attributes.SEQUENCES`; of probability 1 where the input or the user says it.
        plane: "axial", "coronal" or "sagittal".
        kind: the kind of a tumour, for post-contrast T1 only, the sequence that it was learned on.
        turned: degrees counter-clockwise that the picture was turned from upright; it was analysed upright.
    """

    sequence: Recognised | None = None
    plane: Recognised | None = None
    kind: Recognised | None = None
    turned: int = 0

    def record(self) -> dict:
        """For JSON."""
        return {
            "sequence": self.sequence and self.sequence.record(),
            "plane": self.plane and self.plane.record(),
            "kind": self.kind and self.kind.record(),
            "turned": self.turned,
        }


def check_sequence(sequence: str | None) -> None:
    """Raise ValueError for an unknown sequence."""
    if sequence is not None and sequence not in SEQUENCES:
        raise ValueError(f"unknown sequence {sequence!r}; choose from {', '.join(SEQUENCES)}")


def recognise(predicted: Prediction, slices: np.ndarray, turned: int = 0, sequence: str | None = None) -> Recognition | None:
    """Sum up the attributes of slices that belong together.

    Args:
        predicted: the prediction for the slices.
        slices: (S, H, W, 3) in [0, 1].
        turned: how the slices were turned before the prediction.
        sequence: what the file or the user says that it is, instead of what the network recognises.

    Returns:
        None if no network recognises attributes.
    """
    attributes = predicted.attributes
    if attributes is None:
        return None
    sequence = known_sequence(slices, sequence)
    recognised = Recognised(name=sequence, probability=1.0) if sequence else most_probable(attributes[SEQUENCE])
    return Recognition(
        sequence=recognised,
        plane=most_probable(attributes[PLANE]),
        kind=most_probable(attributes[KIND]) if recognised and recognised.name == T1C else None,
        turned=turned,
    )


def known_sequence(slices: np.ndarray, named: str | None) -> str | None:
    """The sequence of slices (S, H, W, 3) that needs no recognition: as it is named, or three in channels that differ."""
    some = slices[:: max(1, len(slices) // ENOUGH_SLICES)]
    return named or (THREE_SEQUENCES if differ_in_channels(some) else None)


def sequence_probabilities(predicted: Prediction) -> dict[str, float]:
    """The mean probability of each sequence over slices; empty if no network recognises sequences."""
    return mean_probabilities(predicted.attributes[SEQUENCE]) if predicted.attributes else {}


def sequence_of(recognition: Recognition | None) -> str | None:
    """The name of the recognised sequence, None if it is unknown."""
    return recognition.sequence.name if recognition and recognition.sequence else None


def find_turn(predicted: Prediction, predict_rotated: Callable[[int], Prediction]) -> tuple[int, Prediction]:
    """Find out how slices are turned.

    If it is not sure that the slices are upright, it also sees them rotated by 90, 180 and 270 degrees, and all four answers are
    combined as if they were independent: one orientation of the slices explains all of them.

    Args:
        predicted: the prediction for the slices.
        predict_rotated: the same after `np.rot90` by a number of quarter turns.

    Returns:
        Degrees counter-clockwise that they are turned from upright, 0 unless the network is sure; and the prediction for the
        upright slices.
    """
    if not predicted.attributes:
        return 0, predicted
    turns = len(TURNS)

    def log_means(prediction: Prediction) -> np.ndarray:
        assert prediction.attributes is not None
        return np.log(np.clip([prediction.attributes[TURN][name].mean() for name in TURNS], 1e-6, 1))

    if log_means(predicted)[0] > np.log(SURE_UPRIGHT):
        return 0, predicted
    answers = [predicted, *(predict_rotated(quarters) for quarters in range(1, turns))]
    scores = np.sum([np.roll(log_means(answer), -quarters) for quarters, answer in enumerate(answers)], axis=0)  # (turns,)
    probabilities = np.exp(scores - np.logaddexp.reduce(scores))
    best = int(probabilities.argmax())
    return (int(TURNS[best]), answers[-best % turns]) if probabilities[best] > SURE_TURN else (0, predicted)


def mean_probabilities(probabilities: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean probability of each class over the slices."""
    return {name: float(values.mean()) for name, values in probabilities.items()}


def most_probable(probabilities: dict[str, np.ndarray]) -> Recognised | None:
    """The class with the highest mean probability over the slices; None where that is below `SURE`."""
    means = mean_probabilities(probabilities)
    name = max(means, key=lambda name: means[name])
    return Recognised(name=name, probability=means[name]) if means[name] >= SURE else None


def differ_in_channels(slices: np.ndarray) -> bool:
    """Whether the channels of (S, H, W, 3) slices in [0, 1] hold different sequences, apart from JPEG artefacts in grey ones."""
    differences = np.abs(slices[..., :1] - slices[..., 1:]).max(axis=3)
    return bool(np.quantile(differences, 0.9) > COLOUR_TOLERANCE)
