"""Studies: verdict, lesions and their measurements, report."""

import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

import brainmri
from brainmri.analysis.coverage import ONLY_AXIAL
from brainmri.analysis.decision import decide_study
from brainmri.analysis.findings import ranges
from brainmri.analysis.lesions import diameters, find_lesions, find_parts, midline, without_islands
from brainmri.io.itk_files import NO_SIZE
from brainmri.io.pixels import FLAIR
from brainmri.io.reading import read_study
from brainmri.io.scan import Geometry, Scan
from brainmri.report.html import report_html
from brainmri.report.render import montage_picture
from tests.support.phantom import images, save
from train.phantoms import phantom_volume

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
T, N, R = "tumour", "no tumour", "review"
SPACING = (5.0, 1.0, 2.0)  # slices, rows, columns


def geometry(shape, spacing=SPACING, oriented=True) -> Geometry:
    """Slices towards superior, rows towards posterior, columns towards left; the first voxel is at (90, 80, -20) mm."""
    affine = np.array([[0, 0, -spacing[2], 90], [0, -spacing[1], 0, 80], [spacing[0], 0, 0, -20], [0, 0, 0, 1.0]])
    return Geometry(shape=shape, affine=affine, oriented=oriented)


@pytest.fixture
def box() -> np.ndarray:
    mask = np.zeros((12, 100, 60), bool)
    mask[4:7, 20:30, 5:25] = True
    return mask


# --- verdict --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "verdict", "carried_by", "reason"),
    [
        ([N, T, T, N], T, (1, 2), "Slices 2 to 3 of 4 show a tumour."),
        ([T, R, N, T, T], T, (0, 3, 4), "Slices 1, 4 to 5 of 5 show a tumour."),
        # isolated slices are not enough
        ([N, T, N, T, N], R, (1, 3), "Only isolated slices show a tumour: slices 2, 4."),
        ([N, T, R, N], R, (1, 2), "Only one isolated slice shows a tumour: slice 2."),
        # isolated undecided slices do not count
        ([N, R, N, R], N, (), "None of the 4 slices shows a tumour. Slices 2, 4 are undecided, but isolated."),
        ([N, R, N], N, (), "None of the 3 slices shows a tumour. Slice 2 is undecided, but isolated."),
        ([N, R, R, N], R, (1, 2), "No slice clearly shows a tumour; slices 2 to 3 are undecided."),
        ([N, N, N], N, (), "None of the 3 slices shows a tumour."),
        ([T], T, (0,), "The only slice shows a tumour."),  # a single slice has no neighbour
        ([R], R, (0,), "The only slice does not clearly show a tumour."),
        ([N], N, (), "The only slice shows no tumour."),
    ],
)
def test_a_study_is_decided_by_neighbouring_slices(verdicts, verdict, carried_by, reason):
    assert decide_study(verdicts) == (verdict, reason, carried_by)


def test_a_study_of_one_strange_slice_says_so():
    _, reason, _ = decide_study([R], out_of_distribution=[0])
    assert reason == "The only slice does not look like those that the model was trained on."


def test_ranges_count_from_one():
    assert ranges([0, 1, 2, 6, 8, 9]) == "1 to 3, 7, 9 to 10"
    assert ranges([]) == ""


# --- measurements ----------------------------------------------------------------------------------------------------------


def lesions_of(mask, grid, middle):
    return find_lesions(mask, find_parts(mask, grid), grid, middle)


def test_a_box_is_measured(box):
    (lesion,) = lesions_of(box, geometry(box.shape), middle=29.5)
    assert lesion.voxels == 3 * 10 * 20
    assert lesion.volume_mm3 == pytest.approx(3 * 10 * 20 * 10)
    assert lesion.diameter == pytest.approx(np.hypot(10 * 1, 20 * 2), abs=1.5)
    assert lesion.slices == (4, 6)
    assert lesion.centroid == (5, 24.5, 14.5)
    assert lesion.centroid_mm == pytest.approx((90 - 2 * 14.5, 80 - 24.5, -20 + 5 * 5))
    assert lesion.side == "right"  # of the patient; on the left of the picture


@pytest.mark.parametrize(("middle", "side"), [(29.5, "right"), (2, "left"), (15, "both")])
def test_the_side_is_the_patients(box, middle, side):
    assert lesions_of(box, geometry(box.shape), middle)[0].side == side


def test_without_a_known_size_nothing_is_in_millimetres(box):
    (lesion,) = lesions_of(box, None, 29.5)
    assert (lesion.volume_mm3, lesion.centroid_mm, lesion.side) == (None, None, None)
    assert lesion.diameter == pytest.approx(np.hypot(10, 20), abs=1.5)
    metres = geometry(box.shape, spacing=(0.005, 0.001, 0.002))
    assert lesions_of(box, metres, 29.5)[0].volume_mm3 is None
    (sized,) = lesions_of(box, geometry(box.shape, oriented=False), 29.5)
    assert sized.volume_mm3 == pytest.approx(6000)
    assert (sized.centroid_mm, sized.side) == (None, None)


def test_lesions_connect_by_corners_and_are_sorted_by_size():
    mask = np.zeros((6, 40, 40), bool)
    mask[0, 0:5, 0:5] = True
    mask[1, 5:8, 5:8] = True  # one corner away
    mask[4, 20:40, 20:30] = True
    assert [lesion.voxels for lesion in lesions_of(mask, None, 20)] == [200, 34]


def test_islands_are_dropped_beside_a_larger_lesion():
    mask = np.zeros((5, 40, 40), bool)
    mask[1:3, 5:15, 5:15] = True  # 200 voxels
    mask[4, 30:35, 30:35] = True  # 25: an island
    assert without_islands(mask).sum() == 200
    mask[4, 30:36, 30:36] = True  # 36: more than 15% of the largest
    assert without_islands(mask).sum() == 236
    assert not without_islands(np.zeros((2, 8, 8), bool)).any()


def test_diameters_are_those_of_the_widest_part_in_each_slice():
    mask = np.zeros((3, 50, 50), bool)
    mask[1, 10, 5:35] = True
    mask[1, 40, 40:44] = True
    found = diameters(find_parts(mask, geometry(mask.shape, spacing=(3.0, 1.0, 2.0))), len(mask))
    assert found[0] == found[2] == 0
    assert found[1] == pytest.approx(60, abs=2)


def test_the_diameter_of_a_lesion_is_that_of_its_widest_part():
    mask = np.zeros((4, 50, 50), bool)
    mask[0, 10:20, 10:20] = True
    mask[1, 10:20, 10:30] = mask[1, 40:44, 40:44] = True
    mask[2, 10:20, 10:30] = True  # as wide as the slice before
    large, small = lesions_of(mask, None, 25)
    assert (large.widest, small.widest) == (1, 1)
    assert large.diameter == pytest.approx(np.hypot(10, 20), abs=1.5)
    assert small.diameter == pytest.approx(np.hypot(4, 4), abs=1.5)


def test_the_midline_is_the_middle_of_the_head():
    pixels = np.zeros((4, 100, 100, 3), np.float32)
    pixels[:, 20:80, 30:90] = 0.5
    assert midline(pixels) == pytest.approx(59.5, abs=0.5)


# --- from pixels to a report ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipe():
    return brainmri.Pipeline(device="cpu")


@pytest.fixture(scope="module")
def phantom() -> tuple[Scan, np.ndarray]:
    images, masks = phantom_volume(slices=10, size=128, seed=3)
    pixels = images.astype(np.float32) / 255
    pixels[0] = 0.002  # above the head
    grid = geometry(pixels.shape[:3], spacing=(6.0, 1.4, 1.4))
    return Scan(pixels=pixels, name="phantom.nii.gz", sha256="0" * 64, warnings=("a <b>warning</b>",), geometry=grid), masks


@pytest.fixture(scope="module")
def study(pipe, phantom):
    return pipe.study(phantom[0])


@pytest.mark.slow
def test_the_fields_of_a_study_are_consistent(study, phantom):
    scan, truth = phantom
    assert study.verdict == "tumour"
    assert study.mask.shape == study.probability_map.shape == scan.pixels.shape[:3]
    assert [f.area_px for f in study.findings] == study.mask.sum(axis=(1, 2)).tolist()
    assert all(np.array_equal(f.mask, plane) for f, plane in zip(study.findings, study.mask, strict=True))
    assert study.volume_mm3 == pytest.approx(study.mask.sum() * 6 * 1.4 * 1.4)
    assert study.volume_mm3 == pytest.approx(truth.sum() * 6 * 1.4 * 1.4, rel=0.35)
    assert study.findings[5].area_mm2 == pytest.approx(study.findings[5].area_px * 1.4 * 1.4)
    assert len(study.lesions) == 1
    assert set(study.carried_by) <= set(range(10))
    record = json.loads(json.dumps(study.record()))
    assert record["lesion_volume_ml"] == pytest.approx(study.volume_mm3 / 1000, abs=1e-3)
    assert len(record["per_slice"]) == record["slices"] == 10


def test_a_slice_without_a_head_is_not_analysed(study):
    assert (study.findings[0].verdict, study.findings[0].probability) == ("no tumour", 0)
    assert "No head" in study.findings[0].reason
    assert "No head" not in study.findings[1].reason


@pytest.mark.slow
def test_empty_slices_do_not_hide_that_a_study_shows_no_brain(pipe):
    pixels = np.zeros((7, 64, 64, 3), np.float32)
    pixels[2:5] = np.random.default_rng(0).random((3, 64, 64, 3), np.float32)
    found = pipe.study(Scan(pixels=pixels, name="noise", sha256=""))
    assert [number for number, finding in enumerate(found.findings) if finding.out_of_distribution] == [2, 3, 4]
    assert found.verdict == "review"
    assert found.out_of_distribution


@pytest.mark.slow
@pytest.mark.parametrize(("kept", "verdict"), [(range(12), N), ([0, 1, 2, 3, 8, 9, 10, 11], R)], ids=["whole", "with a hole"])
def test_a_head_without_some_of_its_slices_is_not_free_of_tumour(pipe, tmp_path, kept, verdict):
    volume = read_study(EXAMPLES / "study-healthy.nii.gz").pixels[2:14, ..., FLAIR]
    series = images(pixels=np.rint(volume * 1000))
    for ds in series:
        ds.PixelSpacing = [1, 1]
    found = pipe.study(save(tmp_path / "head", [series[number] for number in kept]))
    assert found.verdict == verdict
    assert "of the" in found.reason
    assert found.reason.startswith("Only part of the head was analysed: 4 of 12 slices are missing. ") == (verdict == R)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "part", "verdict", "sides", "reason"),
    [
        ("healthy", slice(110), R, set(), "The slices show only a part of the head"),
        ("healthy", slice(80, None), R, set(), "The slices show only a part of the head"),
        ("healthy", slice(94), R, set(), "Most slices (9 of 11) do not look like those that the model was trained on"),
        ("flair", slice(94, None), T, {None}, "Slices "),
    ],
)
def test_a_part_of_a_head_is_not_free_of_tumour_and_has_no_sides(pipe, tmp_path, study, part, verdict, sides, reason):
    image = nibabel.load(EXAMPLES / f"study-{study}.nii.gz")  # the lesion is left
    nibabel.save(image.slicer[part, :, 5:], tmp_path / "flair.nii")
    found = pipe.study(tmp_path / "flair.nii")
    assert (found.verdict, {lesion.side for lesion in found.lesions}) == (verdict, sides)
    assert found.reason.startswith(reason)
    assert "the head is cut off at one side, so the sides of lesions are not given" in found.warnings


@pytest.mark.slow
def test_pictures_of_several_heads_are_for_review(pipe):
    healthy = read_study(EXAMPLES / "study-healthy.nii.gz").pixels[5:9]
    rows = np.concatenate([healthy] * 3, axis=2)
    reason = f"The picture is {rows.shape[2] / rows.shape[1]:.1f} times as wide as high, so it probably shows several slices"
    found = pipe.study(rows)
    assert (found.verdict, found.reason) == (R, f"{reason}; please upload them one at a time.")
    assert {finding.verdict for finding in found.findings} == {R}
    assert pipe.study(healthy).verdict == N
    slab = Scan(pixels=rows, name="slab", sha256="", geometry=geometry(rows.shape[:3]))
    assert "several slices" not in pipe.study(slab).reason


@pytest.mark.slow
def test_progress_is_reported_to_the_end_of_every_network(pipe, phantom):
    seen = []
    study = pipe.study(phantom[0], progress=lambda done, total: seen.append((done, total)))
    networks = 1 + study.provenance["specialist"]["decided"]
    assert seen == [(4, 9), (8, 9), (9, 9)] * networks  # the first of ten slices shows no head


@pytest.mark.slow
def test_pixels_that_are_not_square_give_the_same_mask(pipe, phantom, study):
    """A scan without every second column, at twice the spacing, gets the same mask on the remaining columns."""
    scan, _ = phantom
    grid = geometry((10, 128, 64), spacing=(6.0, 1.4, 2.8))
    thin = Scan(pixels=scan.pixels[:, :, ::2], name="thin", sha256="0" * 64, geometry=grid)
    narrow = pipe.study(thin)
    overlap = 2 * (narrow.mask & study.mask[:, :, ::2]).sum() / (narrow.mask.sum() + study.mask[:, :, ::2].sum())
    assert overlap > 0.93
    assert narrow.volume_mm3 == pytest.approx(study.volume_mm3, rel=0.05)


@pytest.mark.slow
def test_an_impossible_voxel_size_is_reported_and_not_used(pipe, phantom):
    scan, _ = phantom
    tiny = pipe.study(Scan(pixels=scan.pixels, name="m", sha256="", geometry=geometry((10, 128, 128), (0.006, 0.0014, 0.0014))))
    assert tiny.volume_mm3 is None
    assert any("cannot be that of a head" in warning for warning in tiny.warnings)
    assert tiny.record()["lesion_volume_ml"] is None


def test_missing_voxel_size_is_reported_once():
    grid = replace(geometry((2, 64, 64), spacing=(1, 1, 1)), sized=False)
    pixels = np.zeros((2, 64, 64, 3), np.float32)
    found = brainmri.Pipeline("effunet-lgg").study(
        Scan(pixels=pixels, name="blank", sha256="", warnings=(NO_SIZE,), geometry=grid)
    )
    assert found.volume_mm3 is None
    assert [warning for warning in found.warnings if "voxel size" in warning] == [NO_SIZE]


@pytest.mark.parametrize(("entry", "warned"), [("effunet-lgg", True), ("effunet-any", False)])
def test_models_of_axial_slices_warn_of_other_planes(entry, warned):
    coronal = np.array([[0, 0, -2.0, 90], [5.0, 0, 0, 80], [0, -2.0, 0, 60], [0, 0, 0, 1]])
    grid = Geometry(shape=(2, 64, 64), affine=coronal)
    found = brainmri.Pipeline(entry).study(Scan(pixels=np.zeros((2, 64, 64, 3), np.float32), name="a", sha256="", geometry=grid))
    assert grid.plane == "coronal"
    assert (ONLY_AXIAL in found.warnings) == warned


def test_the_report_is_complete_and_self_contained(study, phantom):
    report = report_html(phantom[0], study, "a <i>title</i>", montage_picture(phantom[0].pixels, study))
    assert "a &lt;i&gt;title&lt;/i&gt;" in report
    assert "A &lt;b&gt;warning&lt;/b&gt;" in report
    assert not re.search(r"""(src|href)=["'](?!data:)""", report)
    assert "default-src 'none'" in report
    assert report.count('class="hit"') == 10
    assert f"{study.volume_mm3 / 1000:.2f} mL" in report
    data = json.loads(re.search(r'class="viewer-data">(.*?)</template>', report, re.DOTALL)[1])
    assert data["shape"] == [10, 128, 128]
    assert len(data["projection"]["frames"]) == 12
    assert all(image.startswith("data:image/webp;base64,") for frames in data["images"]["frames"] for image in frames)


@pytest.mark.slow
def test_a_report_without_lesions(pipe):
    empty = Scan(pixels=np.full((3, 64, 64, 3), 0.2, np.float32), name="empty", sha256="")
    study = pipe.study(empty)
    assert (study.lesions, study.volume_mm3) == ((), None)
    report = report_html(empty, study, "empty", montage_picture(empty.pixels, study))
    assert "Nothing is outlined." in report
    assert re.search(r"<p>Model: [A-Z].* \(\S+-\S+\).*</p>", report)


def test_a_study_with_an_outline_is_not_called_free_of_tumour():
    verdict, reason, slices = decide_study(["no tumour", "review", "no tumour"], outlined=[1])
    assert (verdict, slices) == ("review", (1,))
    assert reason == "No slice clearly shows a tumour, but the segmenter outlined a region in slice 2."
    only = (R, "The only slice does not clearly show a tumour, but the segmenter outlined a region.", (0,))
    assert decide_study(["no tumour"], outlined=[0]) == decide_study(["review"], outlined=[0]) == only
