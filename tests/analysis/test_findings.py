"""How a probability and a mask become a verdict."""

import numpy as np
import pytest

from brainmri.analysis.decision import MIN_AREA, decide_slice
from brainmri.analysis.findings import Finding

BAND = (0.3, 0.7)


@pytest.mark.parametrize(
    ("probability", "area", "verdict"),
    [
        (0.95, 500, "tumour"),
        (0.05, 0, "no tumour"),
        (0.05, MIN_AREA - 1, "no tumour"),  # a smaller mask counts as empty
        (0.05, MIN_AREA, "review"),  # only the mask shows a tumour
        (0.95, 0, "review"),  # only the classifier sees one
        (0.3, 0, "review"),  # both edges belong to the band
        (0.5, 500, "review"),
        (0.7, 500, "review"),
        (0.71, 500, "tumour"),
    ],
)
def test_verdicts(probability, area, verdict):
    decided, reason = decide_slice(probability, area, BAND)
    assert decided == verdict
    assert reason.endswith(".")


def test_without_a_review_band_the_threshold_is_one_half():
    assert decide_slice(0.51, 500, (0.5, 0.5))[0] == "tumour"
    assert decide_slice(0.5, 0, (0.5, 0.5))[0] == "no tumour"


def test_a_finding_is_frozen_and_complete():
    with pytest.raises(TypeError):
        Finding(verdict="tumour")
    finding = Finding(
        verdict="no tumour",
        reason="Nothing.",
        probability=0.1234567,
        mask=np.zeros((4, 6), bool),
        probability_map=np.zeros((4, 6), np.float32),
        area_px=0,
        area_mm2=None,
        ood=None,
        recognition=None,
        warnings=(),
        provenance={},
    )
    with pytest.raises(AttributeError):
        finding.verdict = "tumour"
    record = finding.record()
    assert (record["height"], record["width"], record["probability"]) == (4, 6, 0.123457)
