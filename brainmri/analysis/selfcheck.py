"""Does this machine compute what the makers did? A bundled synthetic slice, answered again, against the stored answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brainmri.analysis.forward import predict_slices
from brainmri.io.reading import read_slice
from brainmri.zoo.entry import rules_of
from brainmri.zoo.registry import LoadedModel, split_roles

SLICE = Path(__file__).parents[1] / "templates" / "selfcheck.png"
TOLERANCE = 0.02  # of a probability: devices and releases of torch round differently, a wrong network is far off
BLOCKS = 8  # the map is kept as the means of so many by so many blocks


def answer(model: LoadedModel) -> dict:
    """What an entry says of the bundled slice: `probability` and `map`, (8, 8) block means of the mask's, whichever it gives."""
    segmenter, classifier = split_roles(model)
    said = predict_slices(segmenter, classifier, read_slice(SLICE).pixels[None])
    found = {}
    if classifier:
        rules = rules_of(segmenter and segmenter.entry, classifier.entry)
        found["probability"] = round(float(rules.probability(said.logits, said.evidence, "slice")[0]), 5)
    if segmenter:
        side = said.maps.shape[1] // BLOCKS
        blocks = said.maps[0, : BLOCKS * side, : BLOCKS * side].reshape(BLOCKS, side, BLOCKS, side).mean(axis=(1, 3))
        found["map"] = np.round(blocks, 4).tolist()
    return found


def drift(model: LoadedModel) -> float | None:
    """The largest difference of any stored number from what comes out here; None where the entry has no stored answer."""
    stored = model.entry.selfcheck
    if not stored:
        return None
    found = answer(model)
    return max(float(np.abs(np.subtract(found[key], stored[key])).max()) for key in stored)


@dataclass(frozen=True, kw_only=True)
class Check:
    """How an entry answered here.

    Attributes:
        name: of the entry.
        device: it answered on.
        runtime: it was run by (`brainmri.zoo.backends`).
        drift: see `drift`.
    """

    name: str
    device: str
    runtime: str
    drift: float | None

    @property
    def well(self) -> bool:
        """Whether the entry answers as it should, as far as is known."""
        return self.drift is None or self.drift <= TOLERANCE

    @property
    def sentence(self) -> str:
        """One sentence for people, without its full stop."""
        name = f"{self.name} on {self.device} by {self.runtime}"
        if self.drift is None:
            return f"{name} has no stored answer to compare with"
        if self.well:
            return f"{name} answers as stored, within {max(self.drift, 1e-5):.1g}"
        return (
            f"{name} drifted by {self.drift:.3f} from its stored answer, more than {TOLERANCE}; do not trust it on this machine"
        )


def check(model: LoadedModel) -> Check:
    """Ask an entry about the bundled slice."""
    return Check(name=model.entry.name, device=model.device.type, runtime=model.backend.kind, drift=drift(model))
