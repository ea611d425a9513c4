"""Self-check: compare a model's output on a bundled synthetic slice with the output stored at release."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from brainmri.analysis.forward import predict_slices
from brainmri.io.reading import read_slice
from brainmri.zoo.entry import rules_of
from brainmri.zoo.records import SelfCheckOutputs
from brainmri.zoo.registry import LoadedModel, split_roles

SLICE = Path(__file__).parents[1] / "templates" / "selfcheck.png"
TOLERANCE = 0.02  # of a probability; rounding differs between devices and torch versions, wrong weights differ by much more
BLOCKS = 8  # the map is stored as the means of BLOCKS x BLOCKS blocks


def compute_outputs(model: LoadedModel) -> SelfCheckOutputs:
    """A model's outputs on the bundled slice, as stored in `config.json`.

    Returns:
        `probability` of tumour for a classifier; `map`, the (8, 8) block means of the probability map, for a segmenter.
    """
    segmenter, classifier = split_roles(model)
    predicted = predict_slices(segmenter, classifier, read_slice(SLICE).pixels[None])
    outputs = SelfCheckOutputs()
    if classifier and predicted.logits is not None:
        rules = rules_of(segmenter and segmenter.entry, classifier.entry)
        probability = float(rules.probability(predicted.logits, predicted.evidence, "slice")[0])
        outputs = replace(outputs, probability=round(probability, 5))
    if predicted.maps is not None:
        side = predicted.maps.shape[1] // BLOCKS
        blocks = predicted.maps[0, : BLOCKS * side, : BLOCKS * side].reshape(BLOCKS, side, BLOCKS, side).mean(axis=(1, 3))
        outputs = replace(outputs, map=tuple(map(tuple, np.round(blocks, 4).tolist())))
    return outputs


def max_difference(model: LoadedModel) -> float | None:
    """The largest absolute difference between stored and computed outputs; None if the entry stores none."""
    if model.entry.selfcheck is None:
        return None
    stored, computed = model.entry.selfcheck.config(), compute_outputs(model).config()
    return max(float(np.abs(np.subtract(computed[key], stored[key])).max()) for key in stored)


@dataclass(frozen=True, kw_only=True)
class SelfCheckResult:
    """The result of a self-check.

    Attributes:
        name: the entry's name.
        device: the type of the network's device, for example "cpu".
        runtime: the inference backend (`brainmri.zoo.backends`).
        difference: the result of `max_difference`.
    """

    name: str
    device: str
    runtime: str
    difference: float | None

    @property
    def passed(self) -> bool:
        """Whether the outputs match the stored ones within `TOLERANCE`; True if none are stored."""
        return self.difference is None or self.difference <= TOLERANCE

    @property
    def sentence(self) -> str:
        """The result in one sentence, without a full stop."""
        name = f"{self.name} on {self.device} by {self.runtime}"
        if self.difference is None:
            return f"{name} has no stored outputs to compare with"
        if self.passed:
            return f"{name} gives the stored outputs, within {max(self.difference, 1e-5):.1g}"
        return (
            f"{name} differs by {self.difference:.3f} from its stored outputs, more than {TOLERANCE}; "
            "do not trust it on this machine"
        )


def check(model: LoadedModel) -> SelfCheckResult:
    """Run the self-check of a model."""
    return SelfCheckResult(
        name=model.entry.name, device=model.device.type, runtime=model.backend.kind, difference=max_difference(model)
    )
