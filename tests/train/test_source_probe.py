"""The probe of how much a slice's source explains of its label."""

import numpy as np
import pytest

from brainmri.zoo.attributes import SEQUENCES
from train.evaluation.source_probe import FEWEST, probe, probe_features
from train.examples import Example

T1C = SEQUENCES.index("T1c")


def example(number: int, tumour: bool, collection: str, grey: float) -> Example:
    """A noisy head whose grey value tells the scanner, with or without a bright lesion."""
    pixels = np.zeros((48, 48, 1), np.uint8)
    pixels[8:40, 8:40] = np.random.default_rng(number).normal(grey, 20, (32, 32, 1)).clip(30, 200)
    pixels[0, 0] = 255  # the same window for all
    mask = np.zeros((48, 48), bool)
    if tumour:
        mask[12:20, 12:20] = True
        pixels[mask] = 230
    return Example(
        pixels=pixels, mask=mask, source=collection, collection=collection, group=f"{collection}-{number // 4}",
        tumour=int(tumour), sequence=T1C,
    )  # fmt: skip


def two_hospitals(share: dict[str, float]) -> list[Example]:
    return [
        example(1000 * hospital + number, (7 * number) % 10 < 10 * share[name], name, grey)
        for hospital, (name, grey) in enumerate((("bright", 150.0), ("dark", 60.0)))
        for number in range(200)
    ]


@pytest.mark.parametrize(("share", "explained"), [({"bright": 0.9, "dark": 0.1}, 0.9), ({"bright": 0.5, "dark": 0.5}, 0.5)])
def test_the_source_explains_the_label_only_where_the_hospitals_differ(share, explained):
    found = probe(two_hospitals(share))["T1c"]
    assert found["collection_found"] > 0.95
    assert found["auc"] == pytest.approx(explained, abs=0.1)


def test_the_probe_does_not_see_the_tumour():
    assert probe_features(example(1, True, "bright", 100.0)).max() < 230 / 255


def test_what_has_one_source_or_one_label_is_left_out():
    assert not probe(two_hospitals({"bright": 1, "dark": 1}))
    assert not probe([one for one in two_hospitals({"bright": 0.5, "dark": 0.5}) if one.collection == "dark"])
    assert not probe(two_hospitals({"bright": 0.5, "dark": 0.5})[: 200 + FEWEST - 1])
