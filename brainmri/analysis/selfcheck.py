"""Self-check: compare a model's output on a bundled synthetic slice with the output stored at release, and with float32.

The stored output is coarse: it shows wrong weights and wrong operations. A comparison pixel by pixel with torch in float32 on the
CPU shows a loss of precision, such as that of bfloat16, whose errors at the edge of a lesion vanish in means over blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from brainmri.analysis.forward import Prediction, predict_slices
from brainmri.io.reading import read_slice
from brainmri.zoo.backends import QUANTISED, TORCH
from brainmri.zoo.entry import rules_of
from brainmri.zoo.records import SelfCheckOutputs
from brainmri.zoo.registry import LoadedModel, load_on_cpu, split_roles
from brainmri.zoo.titles import shown_name

SLICE = Path(__file__).parents[1] / "templates" / "selfcheck.png"
TOLERANCE = 0.02  # of a probability; rounding differs between devices and torch versions, wrong weights differ by much more
DRIFT_TOLERANCE = 0.005  # of a pixel's probability; float16 changes it by 0.001 on this slice, bfloat16 by 0.01 and more
BLOCKS = 8  # the map is stored as the means of BLOCKS x BLOCKS blocks


def compute_outputs(model: LoadedModel) -> SelfCheckOutputs:
    """A model's outputs on the bundled slice, as stored in `config.json`.

    Returns:
        `probability` of tumour for a classifier; `map`, the (8, 8) block means of the probability map, for a segmenter.
    """
    return _summarise(model, _predict(model))


def _predict(model: LoadedModel) -> Prediction:
    return predict_slices(*split_roles(model), read_slice(SLICE).pixels[None])


def _probability(model: LoadedModel, predicted: Prediction) -> float | None:
    segmenter, classifier = split_roles(model)
    if classifier is None or predicted.logits is None:
        return None
    rules = rules_of(segmenter and segmenter.entry, classifier.entry)
    return float(rules.probability(predicted.logits, predicted.evidence, "slice")[0])


def _summarise(model: LoadedModel, predicted: Prediction) -> SelfCheckOutputs:
    outputs = SelfCheckOutputs()
    if (probability := _probability(model, predicted)) is not None:
        outputs = replace(outputs, probability=round(probability, 5))
    if predicted.maps is not None:
        side = predicted.maps.shape[1] // BLOCKS
        blocks = predicted.maps[0, : BLOCKS * side, : BLOCKS * side].reshape(BLOCKS, side, BLOCKS, side).mean(axis=(1, 3))
        outputs = replace(outputs, map=tuple(map(tuple, np.round(blocks, 4).tolist())))
    return outputs


def max_difference(model: LoadedModel) -> float | None:
    """The largest absolute difference between stored and computed outputs; None if the entry stores none."""
    return _difference(model, _predict(model))


def _difference(model: LoadedModel, predicted: Prediction) -> float | None:
    if model.entry.selfcheck is None:
        return None
    stored, computed = model.entry.selfcheck.config(), _summarise(model, predicted).config()
    return max(float(np.abs(np.subtract(computed[key], stored[key])).max()) for key in stored)


def _drift(model: LoadedModel, predicted: Prediction) -> float | None:
    """The largest absolute difference to float32 on the CPU, of a pixel's or the verdict's probability; None in 8 bits."""
    if model.backend.kind == QUANTISED:
        return None
    if (model.device.type, model.backend.kind) == ("cpu", TORCH):
        return 0.0
    expected = _predict(load_on_cpu(model.entry))
    differences = [0.0]
    if predicted.maps is not None and expected.maps is not None:
        differences.append(float(np.abs(predicted.maps - expected.maps).max()))
    found, wanted = _probability(model, predicted), _probability(model, expected)
    if found is not None and wanted is not None:
        differences.append(abs(found - wanted))
    return max(differences)


@dataclass(frozen=True, kw_only=True)
class SelfCheckResult:
    """The result of a self-check.

    Attributes:
        name: the entry's name.
        device: the type of the device that computed the outputs, for example "cpu".
        runtime: the inference backend that did (`brainmri.zoo.backends`).
        difference: the result of `max_difference`.
        drift: the largest difference to float32 on the CPU, of a pixel's or the verdict's probability; None for the 8-bit
            network, whose accuracy was measured at release.
    """

    name: str
    device: str
    runtime: str
    difference: float | None
    drift: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the outputs match the stored ones, if any, and those in float32."""
        return (self.difference is None or self.difference <= TOLERANCE) and not self._drifts

    @property
    def _drifts(self) -> bool:
        return self.drift is not None and not self.drift <= DRIFT_TOLERANCE  # also true for NaN

    @property
    def sentence(self) -> str:
        """The result in one sentence, without a full stop."""
        name = f"{shown_name(self.name)} on {self.device} with {self.runtime}"
        if self._drifts:
            return (
                f"{name} differs by up to {self.drift:.3f} from float32 on the CPU, more than {DRIFT_TOLERANCE}; "
                "do not trust it on this machine"
            )
        if self.difference is None:
            return f"{name} has no stored outputs to compare with"
        if self.passed:
            return f"{name} matches its stored outputs within {max(self.difference, 1e-5):.1g}"
        return (
            f"{name} differs by {self.difference:.3f} from its stored outputs, more than {TOLERANCE}; "
            "do not trust it on this machine"
        )


def check(model: LoadedModel) -> SelfCheckResult:
    """Run the self-check of a model."""
    predicted = _predict(model)
    ran_on = predicted.segmenter or predicted.classifier  # the CPU, if an accelerator failed
    assert ran_on is not None
    return SelfCheckResult(
        name=model.entry.name,
        device=ran_on.device,
        runtime=ran_on.runtime,
        difference=_difference(model, predicted),
        drift=_drift(model, predicted),
    )
