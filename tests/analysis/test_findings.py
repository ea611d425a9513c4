"""How a probability and a mask become a verdict."""

import re

import numpy as np
import pytest

from brainmri.analysis.decision import MIN_AREA, decide_slice
from brainmri.analysis.findings import Finding, percent, percent_number

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


@pytest.mark.parametrize(
    ("probability", "alone", "beside"),
    [
        (0.0962, "10%", "9.6%"),
        (0.0998, "10%", "under 10%"),
        (0.1, "10%", "10%"),
        (0.1004, "10%", "10%"),
        (0.8996, "90%", "90%"),
        (0.9, "90%", "90%"),
        (0.9004, "90%", "over 90%"),
        (0.904, "90%", "90.4%"),
        (0.003, "under 1%", "under 1%"),
        (0.995, "over 99%", "over 99%"),
        (0.42, "42%", "42%"),
    ],
)
def test_a_percentage_beside_a_review_band_is_rounded_to_its_own_side(probability, alone, beside):
    assert (percent(probability), percent(probability, (0.1, 0.9))) == (alone, beside)


RANDOM = np.random.default_rng(0)
BANDS = [(0.1, 0.9), (0.05, 0.95), (0.125, 0.896), (0.29, 0.57), (0.0437251, 0.9961), (0.002, 0.9985), (0.0, 1.0), (0.9, 0.999)]


@pytest.mark.parametrize("band", [*BANDS, *map(tuple, np.sort(RANDOM.random((40, 2)), axis=1).tolist())])
def test_the_shown_percentage_never_contradicts_the_verdict(band):
    """The percentage is on the same side of both ends of the band, as they are shown, as the probability itself."""
    low, high = (float(percent_number(end)) for end in band)
    near = [end + sign * 10.0**-digits for end in band for digits in range(1, 13) for sign in (-1, 0, 1)]
    for probability in [0.0, 1.0, *near, *RANDOM.random(500).tolist()]:
        if not 0 <= probability <= 1:
            continue
        verdict, reason = decide_slice(probability, 500 if probability > band[1] else 0, band)
        words, number = re.search(r"probability(?: of tumour)? (over |under |)([\d.]+)%", reason).groups()
        least, most = {"over ": (float(number), 100), "under ": (0, float(number))}.get(words, 2 * (float(number),))
        if words:  # the ends are excluded
            least, most = least + 1e-9, most - 1e-9
        fits = {"no tumour": most < low, "review": low <= least <= most <= high, "tumour": least > high}
        assert fits[verdict], (probability, reason)
        assert least - 0.5 <= 100 * probability <= most + 0.5, (probability, reason)
        assert words or 0 < least < 100, (probability, reason)


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
