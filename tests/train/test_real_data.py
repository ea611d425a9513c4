"""What only real patients can show. Runs where BRAINMRI_DATA points to the dataset in its Kaggle layout."""

import json
import os

import nibabel
import numpy as np
import pytest

import brainmri
from brainmri.analysis.neighbours import follow_one_another
from brainmri.io.pixels import to_unit
from brainmri.zoo.metrics import AUC, THREE_SEQUENCES, VOLUMETRIC_DICE, label
from brainmri.zoo.ood import DARK, MASK, MASK_SHARE, check_pixels, equal_share
from brainmri.zoo.registry import DEFAULT
from train.datasets.lgg import HELD_OUT, LGG, find_slices
from train.evaluation.evaluate import evaluate, main
from train.evaluation.metrics import dice
from train.folds import make_manifest, split_cases, split_patients, tumour_areas
from train.paper.slicewise import split_for_segmenter
from train.release.card import by_slice, split_of

DATA = os.environ.get("BRAINMRI_DATA")
CASE = "TCGA_HT_7694_19950404"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA, reason="BRAINMRI_DATA is not set"),
    pytest.mark.usefixtures("few_resamples"),
]


@pytest.fixture(scope="module")
def cases():
    return find_slices(DATA)


def test_masks_are_distinguished_from_slices(cases):
    """Slices stay well below the share of equal values from which on an image is taken for a mask."""
    slices = [one for patient in cases.values() for one in patient][::8]
    images = [to_unit(one.read_image()) for one in slices]
    shares = [equal_share(image) for image in images if (image > DARK).mean() > 0.03]
    assert len(shares) > 300
    assert max(shares) < 0.92 < MASK_SHARE
    for mask in (one.read_mask() for one in slices):
        if mask.mean() > 0.01:
            assert check_pixels(np.repeat(mask[..., None], 3, axis=2).astype(np.float32)) == (True, MASK)


def test_slices_of_different_patients_do_not_pass_for_a_study(cases):
    """The parameters were chosen on these patients, so the shares measure no others."""
    volumes = []
    for patient in cases.values():
        images = [to_unit(one.read_image()) for one in patient]
        volumes.append([image for image in images if (image > DARK).mean() > 0.03])
    assert all(follow_one_another(volume) for volume in volumes)
    random, taken_apart = np.random.default_rng(0), 0
    for _ in range(100):
        chosen = random.choice(len(volumes), 12, replace=False)
        mixed = [volumes[number][random.integers(len(volumes[number]))] for number in chosen]
        taken_apart += not follow_one_another(mixed)
    assert taken_apart >= 95


@pytest.fixture(scope="module")
def pipe():
    return brainmri.Pipeline(device="cpu")


@pytest.fixture(scope="module")
def outlined(cases, pipe):
    """The study of a patient whom released weights may have seen: it checks the path and measures nothing."""
    return pipe.study(cases[CASE][0].image.parent)


def test_the_dataset_is_complete(cases):
    eligible = {case: slices for case, slices in cases.items() if case not in HELD_OUT}
    assert len(eligible) == 90
    assert sum(map(len, eligible.values())) == 3246


def test_the_shipped_split_is_the_one_the_code_makes(cases):
    areas = {c: a for c, a in tumour_areas(cases).items() if c not in HELD_OUT}
    split = split_patients(LGG, areas)
    everybody = sorted({*split.train, *split.validation})
    for entry in brainmri.list_models():
        recorded = split_of(entry)
        if by_slice(entry):
            tumour = [s for case in areas for s in cases[case] if s.read_mask().any()]
            made = vars(split_for_segmenter(tumour, seed=0))
            assert recorded["slices"] == {role: sorted(s.image.stem for s in made[role]) for role in recorded["slices"]}
            continue
        assert recorded["validated_on"] in (list(split.validation), everybody)  # one fold's patients, or all of them


def test_the_manifest_is_the_one_the_code_makes(cases):
    eligible = {case: slices for case, slices in cases.items() if case not in HELD_OUT}
    areas = tumour_areas(eligible)
    assert json.loads(LGG.manifest.read_text()) == make_manifest(LGG, areas)
    assert [split_cases(LGG, eligible, 5, fold) for fold in range(5)] == [
        split_patients(LGG, areas, fold=fold) for fold in range(5)
    ]


def test_a_real_study_is_outlined(cases, outlined):
    truth = np.stack([s.read_mask() for s in cases[CASE]])
    assert outlined.mask.shape == truth.shape
    assert dice(outlined.mask, truth) > 0.8
    right = [
        (f.verdict == "tumour") == t for f, t in zip(outlined.findings, truth.any((1, 2)), strict=True) if f.verdict != "review"
    ]
    assert np.mean(right) > 0.9


def test_a_real_study_as_nifti_is_outlined_alike(cases, pipe, outlined, tmp_path):
    """The dataset's slices, stored as a volume of three sequences on a sagittal grid, and the mask taken back from there."""
    slices = cases[CASE]
    pixels = np.stack([s.read_image() for s in slices])  # (S, H, W, 3), to superior, posterior and left
    stored = np.ascontiguousarray(pixels.transpose(1, 0, 2, 3)[::-1])  # to anterior, superior and left
    affine = np.array([[0, 0, -1.0, 128], [1.0, 0, 0, -128], [0, 5.0, 0, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(stored, affine), tmp_path / "study.nii.gz")
    plain, volume = outlined, pipe.study(tmp_path / "study.nii.gz")
    truth = np.stack([s.read_mask() for s in slices])
    assert dice(volume.mask, truth) == pytest.approx(dice(plain.mask, truth), abs=1e-3)
    back = volume.geometry.to_original(volume.mask)
    assert dice(back, truth.transpose(1, 0, 2)[::-1]) == pytest.approx(dice(plain.mask, truth), abs=1e-3)
    assert volume.volume_mm3 == pytest.approx(plain.mask.sum() * 5.0, rel=0.01)


def test_one_slice_and_the_volume_agree(cases, pipe):
    slices = cases[CASE][10:13]
    study = pipe.study(np.stack([s.read_image() for s in slices]))
    for number, item in enumerate(slices):  # apart from small islands and smoothing across neighbouring slices
        assert dice(pipe(item.image).mask, study.mask[number]) > 0.9


def test_evaluate_writes_its_report(cases, tmp_path, capsys):
    patients = tmp_path / "patients.txt"
    patients.write_text("TCGA_CS_4941_19960909\nTCGA_HT_7694_19950404\n")
    main(["--data", DATA, "--patients", str(patients), "--out", str(tmp_path / "report.json"), "--device", "cpu"])
    assert label(VOLUMETRIC_DICE) in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    for role in ("segmenter", "classifier"):
        assert {"name": DEFAULT, "device": "cpu", "runtime": "torch"}.items() <= report[role].items()
    figures = report["figures"][THREE_SEQUENCES]
    assert figures["patients"] == 2
    seen = json.loads((brainmri.zoo.registry.find_entry(DEFAULT).folder / "split.json").read_text())["train"]
    trained_on = {"TCGA_CS_4941_19960909", "TCGA_HT_7694_19950404"} & set(seen)
    assert report["patients_trained_on"] == {DEFAULT: len(trained_on)}
    low, high = figures[VOLUMETRIC_DICE]["interval_95"]
    assert low <= figures[VOLUMETRIC_DICE]["value"] <= high


def test_a_segmenter_alone_is_measured(cases):
    model = brainmri.load("resunet-lgg", device="cpu")
    report = evaluate(LGG, {"TCGA_CS_4941_19960909": cases["TCGA_CS_4941_19960909"]}, model, None)
    assert AUC not in report[THREE_SEQUENCES]
    assert 0 <= report[THREE_SEQUENCES][VOLUMETRIC_DICE]["value"] <= 1
