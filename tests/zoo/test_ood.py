"""Out-of-distribution detection: the shipped detector on examples and negatives, and how a detector is fitted."""

import json
import os
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from safetensors.numpy import load_file
from skimage import data

import brainmri
from brainmri.analysis.decision import decide_study
from brainmri.io.reading import read_slice, read_study
from brainmri.io.scan import Scan
from brainmri.zoo import ood
from brainmri.zoo.entry import CARD, CONFIG, INT8, INT8_WEIGHTS, OOD, SPLIT, new_config, read_entry, save_entry
from brainmri.zoo.nets import EffUNet, EffUNetEnsemble
from brainmri.zoo.ood import OodDetector, check_pixels
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.records import FeatureSpec, Training
from brainmri.zoo.registry import AXIAL_OOD
from train.datasets.lgg import LGG
from train.ood import fit as fitting
from train.ood.negatives import PACKAGES, altered
from train.phantoms import write_phantom_dataset

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
SLICES = sorted(EXAMPLES.glob("*.png"))


@pytest.mark.parametrize("path", sorted((EXAMPLES / "truth").glob("*.png")), ids=lambda path: path.stem)
def test_a_mask_is_no_slice(path):
    share = np.asarray(Image.open(path)).astype(bool).mean()
    reason = ood.EMPTY if share == 0 else ood.MASK if share > 0.01 else None  # with less, it is as dark as the end of a head
    assert check_pixels(read_slice(path).pixels) == (True, reason)


@pytest.fixture(scope="module")
def pipe():
    """The pipeline of an entry for axial slices."""
    return brainmri.Pipeline("effunet-pair-lgg", device="cpu")


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


# --- what passes and what does not ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SLICES, ids=lambda p: p.stem)
def test_examples_pass(pipe, path):
    finding = pipe(path)
    assert not finding.out_of_distribution
    assert finding.ood.distance < pipe.ood_model.ood.distance_threshold
    assert ood.WARNING not in finding.warnings


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in PACKAGES if not kind.startswith(("sagittal", "CT"))])
def test_images_of_other_things_are_for_review(pipe, kind):
    for picture in islice(PACKAGES[kind](), 3):
        finding = pipe(picture)
        assert finding.verdict == "review"
        assert finding.reason.startswith(
            ("This does not look like a brain MRI slice", "This does not look like an axial brain MRI slice")
        )
        assert ood.WARNING in finding.warnings
        assert finding.mask.shape == picture.shape[:2]  # it is computed all the same


@pytest.mark.slow
@pytest.mark.parametrize("path", SLICES, ids=lambda p: p.stem)
def test_rotated_and_coloured_examples_are_for_review(pipe, path):
    reasons = {kind: pipe(picture).reason for kind, picture in altered([read(path)])}
    assert reasons.pop("rotated by 90 degrees") == reasons.pop("upside down") == ood.ROTATED
    assert all(reason.startswith((ood.NOT_A_SLICE, ood.FAR, ood.ROTATED)) for reason in reasons.values()), reasons


def test_the_record_has_score_and_thresholds(pipe):
    record = json.loads(json.dumps(pipe(data.astronaut()).record()))
    thresholds = record["provenance"]["ood"]
    assert thresholds == {"name": "effunet-pair-lgg", **pipe.ood_model.entry.ood.config()}
    assert record["ood"]["out_of_distribution"]
    assert record["ood"]["distance"] > thresholds["distance_threshold"]


def test_pixels_alone_decide_empty_images():
    rng = np.random.default_rng(0)
    flat, black = np.full((64, 64, 3), 0.5, np.float32), np.zeros((64, 64, 3), np.float32)
    dark_end = np.abs(rng.normal(0, 0.006, (64, 64, 3)))
    assert check_pixels(flat) == check_pixels(black) == (True, ood.EMPTY)
    assert check_pixels(dark_end) == (True, None)
    assert check_pixels(read(SLICES[0]) / 255) == (False, None)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [(0, 1), (0, 4), (0, 1, 2, 3), (0, 255), (0.0, 0.5, 1.0)], ids=str)
def test_label_images_are_for_review_whatever_their_scale(pipe, tmp_path, labels):
    rows, columns = np.mgrid[-64:64, -64:64]
    distance = np.hypot(rows - 10, columns + 15)
    picture = np.select([distance < 30 / n for n in range(len(labels), 0, -1)], labels[::-1], labels[0])
    picture = picture.astype(np.float32 if isinstance(labels[-1], float) else np.uint8)
    volume = np.stack([picture * np.uint8(4 < number < 12) for number in range(16)])
    nib.save(nib.Nifti1Image(volume.transpose(2, 1, 0), np.diag([-2, -2, 5, 1.0])), tmp_path / "case.nii.gz")
    single, study = pipe(picture), pipe.study(tmp_path / "case.nii.gz")
    assert single.verdict == "review"
    assert single.reason == (ood.MASK if labels == (0, 255) else ood.LABELS)
    assert study.verdict == "review"
    assert study.reason in (ood.MASK, ood.LABELS)
    assert study.out_of_distribution


def test_nearly_black_slices_pass_only_beside_brighter_ones(pipe):
    head = read(SLICES[0])
    end = np.random.default_rng(0).integers(0, 12, head.shape[:2], np.uint8)
    assert (pipe(end).verdict, pipe(end).reason) == ("review", ood.BLACK)
    dark = pipe((head // 20).astype(np.uint8))  # the whole range of a head in a few of 256 grey values
    assert (dark.verdict, dark.reason) == ("review", ood.BLACK)
    detector, features = pipe.ood_model.ood, np.zeros((2, pipe.ood_model.ood.mean.shape[1] + 1), np.float32)
    grey = np.repeat(end[..., None], 3, axis=2)
    ends = replace(detector, other_weights=np.zeros((2, 1), np.float32), other_bias=np.zeros(2, np.float32))
    assert ends.score(features, np.stack([head, grey]).astype(np.float32) / 255)[1].reason is None


def test_colours_of_three_sequences_are_not_those_of_a_colour_map():
    whole = read_slice(EXAMPLES / "large-lesion.png").pixels
    grey = whole[..., 1]
    assert check_pixels(whole) == check_pixels(np.repeat(grey[..., None], 3, axis=2)) == (False, None)
    assert "coloured like a heat map" in ood.COLOURED
    sepia = np.stack([grey, 0.7 * grey, 0.4 * grey], axis=2)
    assert check_pixels(sepia) == (True, ood.COLOURED)
    for name in ("viridis", "inferno", "hot", "cool", "hsv"):  # brightness predicts little of cool and hsv
        assert check_pixels(colormaps[name](grey)[..., :3]) == (True, ood.COLOURED), name


# --- studies --------------------------------------------------------------------------------------------------------------

T, N, R = "tumour", "no tumour", "review"


@pytest.mark.parametrize(
    ("verdicts", "out_of_distribution", "analysed", "verdict", "carried_by"),
    [
        ([N, T, T, R], [3], None, T, (1, 2)),
        ([N, T, R, N], [2], None, R, (1,)),  # only an isolated tumour slice is left
        ([R, R, N, N], [0, 1], None, N, ()),  # the two undecided neighbours are out of distribution
        ([R, R, R, T, T], [0, 1, 2], None, R, (0, 1, 2)),  # most slices are out of distribution
        ([R, R, N, N, N], [0, 1], 3, R, (0, 1)),  # two of the five slices show no head
    ],
)
def test_out_of_distribution_slices_are_not_counted(verdicts, out_of_distribution, analysed, verdict, carried_by):
    decided, reason, slices = decide_study(verdicts, out_of_distribution, analysed)
    assert (decided, slices) == (verdict, carried_by)
    assert ("trained on" in reason) == (2 * len(out_of_distribution) > (analysed or len(verdicts)))


@pytest.mark.slow
def test_a_study_lists_out_of_distribution_slices(pipe):
    pixels = read_study(EXAMPLES / "study-flair.nii.gz").pixels[4:12]
    height, width = pixels.shape[1:3]
    photograph = np.asarray(Image.fromarray(data.camera()).resize((width, height)), np.float32)[..., None] / 255
    few, many = pixels.copy(), pixels.copy()
    few[[0, 1]] = photograph
    many[:6] = photograph
    clean, mixed, foreign = (pipe.study(Scan(pixels=p, name="study", sha256="")) for p in (pixels, few, many))
    assert not any(finding.out_of_distribution for finding in clean.findings)
    assert clean.verdict == mixed.verdict == "tumour"
    assert [finding.out_of_distribution for finding in mixed.findings] == [True] * 2 + [False] * 6
    assert any("slices 1 to 2 left out: unlike those that the model was trained on;" in warning for warning in mixed.warnings)
    assert foreign.verdict == "review"
    assert foreign.reason == "Most slices (6 of 8) do not look like those that the model was trained on: slices 1 to 6."
    assert [row["out_of_distribution"] for row in foreign.table()] == [True] * 6 + [False] * 2


# --- which detector -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_entries_without_a_detector_use_the_one_for_axial_slices():
    other = brainmri.Pipeline("resunet-lgg", "resnet50-lgg", device="cpu")
    assert other.ood_model.entry.name == AXIAL_OOD
    own, served = brainmri.Pipeline(AXIAL_OOD, device="cpu")(SLICES[0]).ood, other(SLICES[0]).ood
    assert served.distance == pytest.approx(own.distance, rel=1e-3)
    assert served.other_log_odds == pytest.approx(own.other_log_odds, abs=0.01)
    assert other(data.astronaut()).verdict == "review"


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(read_entry(brainmri.zoo.registry.EMBEDDED / "effunet-pair-lgg").folder, tmp_path / "copy")


def test_a_detector_of_another_entry_is_refused(copy):
    content = (copy / OOD).read_bytes()
    assert len(content) < 500_000  # beside weights of 10 MB
    (copy / OOD).write_bytes(content[:-4] + b"\x11\x22\x33\x44")
    with pytest.raises(ValueError, match="damaged or was exchanged"):
        brainmri.load("mine", weights=copy)
    (copy / OOD).unlink()
    with pytest.raises(FileNotFoundError, match=r"expected ood\.safetensors"):
        brainmri.load("mine", weights=copy)


def test_new_weights_remove_the_old_detector(copy):
    config = json.loads((copy / CONFIG).read_text(encoding="utf-8"))
    entry = save_entry(copy, EffUNetEnsemble(**config["arguments"]), config, {"train": [], "validation": []})
    assert entry.ood is None
    assert not (copy / OOD).exists()
    assert brainmri.load("mine", weights=copy, device="cpu").ood is None


@pytest.mark.slow
def test_new_features_remove_the_quantised_network_from_folder_and_card(copy):
    tensors = load_file(copy / OOD)
    fitting.write_ood_detector(copy, tensors, {"distance_threshold": 2.0, "other_threshold": 0.0})
    assert (copy / INT8).exists()
    assert INT8 in (copy / CARD).read_text(encoding="utf-8")
    config = json.loads((copy / CONFIG).read_text(encoding="utf-8"))
    config["ood"]["feature_spec"]["parts"] = [5]
    (copy / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    fitting.write_ood_detector(copy, tensors, {"distance_threshold": 2.0, "other_threshold": 0.0})
    assert not (copy / INT8).exists()
    assert INT8 not in (copy / CARD).read_text(encoding="utf-8")
    assert brainmri.load("mine", weights=copy, device="cpu").ood.distance_threshold == 2


# --- how it is made -------------------------------------------------------------------------------------------------------


def test_distance_and_orientation_by_hand():
    detector = OodDetector(
        mean=np.array([[1, 2]], np.float32), whitening=np.diag([0.5, 2]).astype(np.float32),
        other_weights=np.array([[1], [0], [0], [0]], np.float32), other_bias=np.zeros(4, np.float32),
        distance_threshold=2.0, other_threshold=0.0, feature_spec=FeatureSpec(),
    )  # fmt: skip
    features = np.array([[1, 2, 0], [7, 4, 10], [1, 2, -10]], np.float32)
    assert detector.distance(features) == pytest.approx([0, 5, 0])  # 6 * 0.5 and 2 * 2
    assert detector.other_log_odds(features) == pytest.approx(np.log(3) - np.array([0, 10, -10]), abs=1e-6)
    pixels = np.random.default_rng(0).random((3, 32, 32, 3)).cumsum(axis=2) / 32  # neighbours are alike, as in slices
    assert [result.reason for result in detector.score(features, pixels)] == [ood.ROTATED, ood.FAR, ood.ROTATED]
    two_classes = replace(detector, mean=np.array([[1, 2], [7, 4]], np.float32), any_plane=True)
    assert two_classes.distance(features) == pytest.approx([0, 0, 0])  # to the nearest class
    assert [result.reason for result in two_classes.score(features, pixels)] == [ood.NOT_MR, None, ood.NOT_MR]


def test_pooled_features_by_hand():
    image, fine = torch.zeros(1, 3, 6, 6), torch.arange(36.0).reshape(1, 1, 6, 6)
    coarse = torch.tensor([[[[1.0, 3.0]] * 2, [[5.0, 5.0]] * 2]])  # (1, 2, 2, 2)
    feature_spec = FeatureSpec(means=(1, 2), deviations=(2,), parts=(1,))
    features = ood.pool_features([image, fine, coarse], feature_spec)[0]
    assert features.shape == (14,)
    assert feature_spec.distance_size([3, 1, 2]) == 5
    assert features[:5].tolist() == [17.5, 2, 5, 1, 0]
    assert features[5:].tolist() == [3.5, 5.5, 7.5, 15.5, 17.5, 19.5, 27.5, 29.5, 31.5]  # 2 x 2 pixels each, row by row


@pytest.mark.slow
def test_a_detector_is_fitted_by_folds_and_measured(tmp_path, monkeypatch, capsys):
    """On phantoms, by untrained networks: two folds of two patients, and an entry trained on both."""
    patients = write_phantom_dataset(tmp_path, patients=2, slices=8)
    config = new_config(
        name="mine", net="EffUNet", tasks=EffUNet.tasks, arguments={}, preprocess=Preprocess(size=64),
        training=Training(dataset=LGG.reference).config(),
    )  # fmt: skip
    net = EffUNet()
    for name, train, validation in (("mine", patients, []), ("0", patients[:1], patients[1:]), ("1", patients[1:], patients[:1])):
        save_entry(tmp_path / "runs" / name, net, config, {"train": train, "validation": validation})
    for name in (INT8, INT8_WEIGHTS):  # a quantised network with other features
        (tmp_path / "runs" / "mine" / name).touch()
    monkeypatch.setattr(fitting, "PACKAGES", {"noise": PACKAGES["noise"], "blank": PACKAGES["blank"]})
    monkeypatch.setattr(fitting, "sources", lambda heads: ())
    runs = tmp_path / "runs"
    command = ["mine", "--data", str(tmp_path), "--validated", str(runs / "0"), str(runs / "1"), "--into", str(runs)]
    report = fitting.main([*command, "--out", str(tmp_path / "ood.json")])
    assert json.loads((tmp_path / "ood.json").read_text(encoding="utf-8")) == report
    assert "| three sequences, slice by slice | 16 |" in capsys.readouterr().out
    assert {found["images"] for found in report["real"].values()} == {16}
    assert report["negatives"]["blank"]["images"] == 9
    assert report["negatives"]["rotated by 90 degrees"]["images"] == 8
    model = brainmri.load("mine", weights=runs / "mine", device="cpu")
    assert (model.ood.distance_threshold, model.ood.other_threshold) == tuple(report["thresholds"].values())
    assert model.ood.feature_spec == fitting.FEATURES
    assert not (runs / "mine" / INT8).exists()
    assert model.ood.distance_threshold > 1  # patients that were not fitted lie farther than the median of those that were

    unlike = json.loads((runs / "0" / SPLIT).read_text(encoding="utf-8")) | {"train": ["TCGA_CS_9999_20000101"]}
    (runs / "0" / SPLIT).write_text(json.dumps(unlike), encoding="utf-8")
    with pytest.raises(SystemExit, match="1 of the patients are missing"):
        fitting.main(command)


@pytest.mark.slow
@pytest.mark.skipif("BRAINMRI_DATA" not in os.environ, reason="BRAINMRI_DATA is not set")
def test_real_slices_pass_and_rotated_ones_do_not(pipe):
    # one patient, whom the released weights may have seen: this checks the code path; train.ood.fit measures
    slices = np.stack([item.read_image() for item in LGG.find_slices(os.environ["BRAINMRI_DATA"])["TCGA_HT_7694_19950404"]])
    for stack in (slices, slices[..., 1]):
        assert np.mean([finding.out_of_distribution for finding in pipe.study(stack).findings]) <= 0.05
    assert np.mean([pipe(np.rot90(one)).out_of_distribution for one in slices[5:-5:4]]) >= 0.8
