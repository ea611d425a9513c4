"""The specialist of a model: decides, in its place, the slices that are like the specialist's own training data.

A model for any head is less accurate on one hospital's images than a model trained on these alone. Its entry can therefore name a
specialist (`brainmri.zoo.records.SpecialistConfig`), with a detector of the slices that the specialist was measured on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from brainmri.analysis.decision import SliceDecisions, decide_slices
from brainmri.analysis.findings import NO_TUMOUR, REVIEW, TUMOUR, percent
from brainmri.analysis.forward import Prediction, Progress, RanOn, predict_slices
from brainmri.analysis.preparation import Prepared
from brainmri.zoo.calibration import Rules
from brainmri.zoo.registry import LoadedModel
from brainmri.zoo.titles import shown_name

LEAST_SHARE = 0.4  # of a study's slices that are like the training data: over 0.5 in LGG studies, up to 0.1 in others
LEAST_KNOWN = 0.5  # of the slices that the specialist's own out-of-distribution check lets pass


class Decided(NamedTuple):
    """The decisions on slices, and the specialist's prediction if it made them."""

    decisions: SliceDecisions
    specialist: Prediction | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Specialist:
    """A specialist and its rules.

    Attributes:
        model: segmenter and classifier; its out-of-distribution detector checks the slices too.
        rules: its thresholds and calibration.
        generalist: the name of the model in whose place it decides.
    """

    model: LoadedModel
    rules: Rules
    generalist: str

    def decide(self, prepared: Prepared, decisions: SliceDecisions, progress: Progress | None = None) -> Decided:
        """Decide slices, or leave the generalist's decisions where the slices are not like the specialist's training data.

        Args:
            prepared: the slices and the generalist's prediction.
            decisions: the generalist's.
            progress: as for `predict_slices`.
        """
        unchanged = Decided(decisions, None)
        in_scope, sequence = prepared.predicted.in_scope, prepared.sequence
        if in_scope is None or in_scope.mean() < LEAST_SHARE:
            return unchanged
        if sequence is not None and sequence not in self.model.entry.evaluated_on:
            return unchanged
        models, slices = (self.model, self.model), prepared.slices
        other = predict_slices(*models, slices, prepared.spacing, progress=progress, ood_model=self.model)
        if np.mean([check.reason is None for check in other.ood or []] or [True]) < LEAST_KNOWN:
            return unchanged
        review = self.rules.for_sequence(sequence).band(prepared.mode)
        return Decided(self._join(decide_slices(other, self.rules, prepared.mode, sequence), decisions, review), other)

    def record(self, predicted: Prediction | None, mode: str) -> dict:
        """For a finding's provenance; `predicted` is the specialist's prediction, None if it did not decide."""
        ran_on = (predicted and predicted.segmenter) or RanOn.of(self.model)
        calibration = self.rules.config(mode)
        return {**ran_on.record(self.model), "decided": predicted is not None, "calibration": calibration}

    def _join(self, own: SliceDecisions, general: SliceDecisions, review: tuple[float, float]) -> SliceDecisions:
        """The specialist's decisions, with its review band; a slice is for review where the two models contradict each other."""
        verdicts, checks = [], []
        for number, (one, other) in enumerate(zip(own.verdicts, general.verdicts, strict=True)):
            check = general.ood[number]
            strange = check is not None and check.reason is not None
            checks.append(check if strange else own.ood[number])
            verdicts.append(
                other
                if strange
                else (REVIEW, self._disagreement(own.probabilities[number], general.probabilities[number], review))
                if {one[0], other[0]} == {TUMOUR, NO_TUMOUR}
                else one
            )
        return replace(own, verdicts=verdicts, ood=checks)

    def _disagreement(self, own: float, general: float, review: tuple[float, float]) -> str:
        return (
            f"Two models disagree: {shown_name(self.model.entry.name)} gives a probability of tumour of {percent(own, review)}, "
            f"{shown_name(self.generalist)} of {percent(general, review)}."
        )
