"""How a probability and a mask become a verdict."""

import numpy as np
import pytest

from brainmri.analysis.decision import MIN_AREA, decide_slice
from brainmri.analysis.findings import Finding

BAND = (0.3, 0.7)
FOUND = "The classifier found a tumour (probability 95%) and the segmenter outlined it."
UNSEEN = "the classifier found no tumour (probability of tumour 5%)"
CLEAR = f"T{UNSEEN[1:]} and the segmenter outlined nothing."


@pytest.mark.parametrize(
    ("probability", "area", "verdict", "reason"),
    [
        (0.95, 500, "tumour", FOUND),
        (0.05, 0, "no tumour", CLEAR),
        (0.05, MIN_AREA - 1, "no tumour", CLEAR),  # a smaller mask counts as empty
        # only the mask shows a tumour
        (0.05, MIN_AREA, "review", f"The segmenter outlined a region, but {UNSEEN}."),
        # only the classifier found one
        (0.95, 0, "review", "The classifier found a tumour (probability 95%), but the segmenter outlined nothing."),
        (0.3, 0, "review", "The classifier is undecided (probability of tumour 30%)."),  # both edges belong to the band
        (0.5, 500, "review", "The classifier is undecided (probability of tumour 50%)."),
        (0.7, 500, "review", "The classifier is undecided (probability of tumour 70%)."),
        (0.999, 500, "tumour", FOUND.replace("95%", "over 99%")),
    ],
)
def test_verdicts(probability, area, verdict, reason):
    assert decide_slice(probability, area, BAND) == (verdict, reason)


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
