"""Numbered pictures that do not follow one another in a head are not smoothed across their neighbours."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import brainmri
from brainmri.analysis.compare import compare
from brainmri.analysis.decision import APART, decide_apart
from brainmri.analysis.lesions import find_lesions, find_parts
from brainmri.analysis.neighbours import FEWEST, follow_one_another
from brainmri.analysis.preparation import NO_NEIGHBOURS, PAGE_REMOVED, mode_of
from brainmri.io.images import READ_AS_ONE_HEAD
from brainmri.io.pixels import FLAIR
from brainmri.io.reading import read_study
from brainmri.io.scan import Scan
from train.phantoms import phantom_slice

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
STUDIES = ("study-flair", "study-healthy", "study-small")
T, N, R = "tumour", "no tumour", "review"


def planes(name: str) -> list[np.ndarray]:
    """The slices (H, W, 3) of an example's head, in order."""
    return list(read_study(EXAMPLES / f"{name}.nii.gz").pixels)


def shuffled(slices: list[np.ndarray], seed: int = 0) -> list[np.ndarray]:
    return [slices[number] for number in np.random.default_rng(seed).permutation(len(slices))]


def people(count: int) -> list[np.ndarray]:
    """A slice each of different heads."""
    return [phantom_slice(size=96, seed=seed, lesion=(0.4, 0.4, 0.12))[0].astype(np.float32) / 255 for seed in range(count)]


@pytest.mark.parametrize("name", STUDIES)
def test_slices_of_one_head_follow_one_another(name):
    slices = planes(name)
    for part in (slices, slices[::-1], slices[:FEWEST], [pixels[::2, ::3] for pixels in slices]):
        assert follow_one_another(part)
    assert not any(follow_one_another(shuffled(slices, seed)) for seed in range(5))


def test_slices_of_different_heads_do_not_follow_one_another():
    assert not follow_one_another(people(FEWEST))
    assert follow_one_another(people(FEWEST - 1))  # too few to tell
    assert follow_one_another(people(1) * 20)  # all equal
    assert follow_one_another([np.zeros((64, 64, 3), np.float32)] * 20)


def test_slices_with_a_place_in_the_patient_are_neighbours():
    scan = read_study(EXAMPLES / "study-healthy.nii.gz")
    pixels = np.stack(shuffled(list(scan.pixels)))
    placed, unplaced = (Scan(pixels=pixels, name="a", sha256="", geometry=grid) for grid in (scan.geometry, None))
    assert (mode_of(placed), mode_of(unplaced)) == ("study", "slice")
    assert mode_of(Scan(pixels=scan.pixels, name="a", sha256="")) == "study"
    assert mode_of(Scan(pixels=scan.pixels[:1], name="a", sha256="")) == mode_of(Scan(pixels=scan.pixels[0], name="a", sha256=""))


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([N, T, N, T, R], (T, f"{APART}; slices 2, 4 show a tumour.", (1, 3))),
        ([N, R, N], (R, f"{APART}; none clearly shows a tumour, but slice 2 needs review.", (1,))),
        ([N, N], (N, f"{APART}; none of them shows a tumour.", ())),
    ],
)
def test_verdict_on_slices_that_are_not_neighbours(verdicts, expected):
    assert decide_apart(verdicts, APART) == expected


def test_lesions_of_different_heads_are_not_joined():
    mask = np.zeros((3, 40, 40), bool)
    mask[:2, 10:20, 10:20] = mask[2, 5:8, 5:8] = True
    parts = find_parts(mask, None)
    assert [one.voxels for one in find_lesions(mask, parts, None, 20)] == [200, 9]
    assert [one.voxels for one in find_lesions(mask, parts, None, 20, apart=True)] == [100, 100, 9]


@pytest.mark.slow
def test_pictures_of_different_heads_are_analysed_as_if_each_were_uploaded_alone(tmp_path):
    greys = [np.rint(pixels[..., FLAIR] * 255).astype(np.uint8) for pixels in shuffled(planes("study-flair")[4 : 4 + FEWEST])]
    height, width = greys[0].shape
    greys[2] = np.rot90(greys[2], 2)
    greys[5] = np.pad(greys[5][12:-12, 12:-12], 12, constant_values=255)  # a white page
    greys[7] = np.tile(np.linspace(0, 255, width, dtype=np.uint8), (height, 1))  # no head
    for number, grey in enumerate(greys):
        Image.fromarray(grey).save(tmp_path / f"case_{number}.png")
    pipe, counts = brainmri.Pipeline(device="cpu"), []
    found = pipe.study(tmp_path, lambda done, total: counts.append((done, total)))
    alone = [pipe(tmp_path / f"case_{number}.png") for number in range(FEWEST)]
    for one, other in zip(found.findings, alone, strict=True):
        assert (one.verdict, one.reason, one.recognition) == (other.verdict, other.reason, other.recognition)
        assert one.probability == pytest.approx(other.probability, abs=1e-6)
        assert (one.mask == other.mask).all()
        assert set(other.warnings) <= set(one.warnings)
    assert counts == [(number + 1, FEWEST) for number in range(FEWEST)]
    assert found.recognition is None
    assert not any(READ_AS_ONE_HEAD in warning for warning in found.warnings)
    assert "slice 3: the slice is turned by 180°; it was analysed upright" in found.warnings
    assert f"slice 6: {PAGE_REMOVED}" in found.warnings
    assert found.provenance == found.findings[found.most_probable].provenance
    comparison = compare({"effunet-any": pipe.segmenter}, read_study(tmp_path), pipe)
    assert comparison.warnings == found.warnings
    (compared,) = comparison.results
    own = [number for number, one in enumerate(found.findings) if not one.provenance["specialist"]["decided"]]
    assert len(own) > FEWEST / 2
    assert all((compared.mask[number] == found.findings[number].mask).all() for number in own)


@pytest.mark.slow
def test_a_study_of_one_picture_is_analysed_as_the_picture(tmp_path):
    grey = np.rint(people(1)[0][..., FLAIR] * 255).astype(np.uint8)
    Image.fromarray(np.pad(grey[12:-12, 12:-12], 12, constant_values=255)).save(tmp_path / "a.png")
    pipe = brainmri.Pipeline(device="cpu")
    study, alone = pipe.study(tmp_path / "a.png"), pipe(tmp_path / "a.png")
    assert PAGE_REMOVED in study.warnings
    assert (study.verdict, study.reason, study.recognition) == (alone.verdict, alone.reason, alone.recognition)
    assert (study.mask[0] == alone.mask).all()


@pytest.mark.slow
def test_numbered_pictures_of_different_heads_are_analysed_one_by_one(tmp_path):
    pipe = brainmri.Pipeline("effunet-lgg", device="cpu")
    healthy, ill = ([pixels[..., FLAIR] for pixels in planes(name)] for name in ("study-healthy", "study-flair"))
    pictures = [healthy[8], ill[8], *shuffled(healthy[3:13])]
    for folder, series in (("others", pictures), ("head", ill)):
        (tmp_path / folder).mkdir()
        for number, grey in enumerate(series, 1):
            Image.fromarray(np.rint(grey * 255).astype(np.uint8)).save(tmp_path / folder / f"case_{number}.png")
    found, head = (pipe.study(tmp_path / folder) for folder in ("others", "head"))
    assert NO_NEIGHBOURS in found.warnings
    assert found.verdict == T
    assert found.reason.startswith(f"{APART}; slice")
    assert found.findings[1].verdict == T
    assert found.findings[0].verdict == N  # beside it
    assert "mask_neighbours" not in found.provenance["calibration"]
    alone = [pipe(tmp_path / "others" / f"case_{number}.png") for number in range(1, 13)]
    assert [one.verdict for one in found.findings] == [one.verdict for one in alone]
    assert np.allclose([one.probability for one in found.findings], [one.probability for one in alone], atol=1e-3)
    assert all((one.mask == other.mask).all() for one, other in zip(found.findings, alone, strict=True))
    assert pipe.provenance(read_study(tmp_path / "others"))["calibration"] == found.provenance["calibration"]
    assert NO_NEIGHBOURS not in head.warnings
    assert head.reason.startswith("Slices")
    assert "mask_neighbours" in head.provenance["calibration"]
