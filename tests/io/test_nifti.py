"""NIfTI volumes, as real files of a phantom with a marker."""

import gzip

import nibabel
import numpy as np
import pytest

import brainmri.io.files
from brainmri.analysis.lesions import find_lesions, find_parts, midline
from brainmri.io.itk_files import NO_ORIENTATION, NO_SIZE
from brainmri.io.pixels import FLAIR
from brainmri.io.sequences import ONE_SEQUENCE, POST, PRE
from brainmri.io.volume_files import PLACEHOLDER
from brainmri.io.writers import write_nifti
from tests.support.phantom import EXPECTED, PHANTOM, RAS, SHAPE, affine_of, nifti, stored, zip_of
from tests.support.studies import MARKER, marker, nifti_bytes, read, refusal


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("code", ["RAS", "LAS", "LPS", "AIR", "PSR", "RSA", "LIP"])
def test_nifti_orientation_is_respected(tmp_path, code, suffix, kind):
    path = nifti(tmp_path / f"flair{suffix}", stored(PHANTOM, code), affine_of(code), kind)
    scan = read(path)
    assert marker(scan) == MARKER
    assert scan.warnings == ("only FLAIR was provided; it is used for all three channels",)
    assert scan.geometry.shape == stored(PHANTOM, code).shape
    assert np.allclose(scan.geometry.affine, affine_of(code))
    assert scan.geometry.spacing == (5.0, 2.0, 2.0)
    assert np.array_equal(scan.geometry.to_original(EXPECTED), stored(PHANTOM, code))
    assert scan.name == path.name
    assert scan.sha256 == brainmri.io.files.StudyFile(path=path).digest()


def test_intensities_are_clipped_at_percentiles_of_the_volume(tmp_path):
    spiked = PHANTOM.astype(np.float32)
    spiked[20, 20, 5] = 1e6
    scan = read(nifti(tmp_path / "flair.nii", spiked))
    assert (scan.pixels[..., FLAIR] == 1).sum() == (PHANTOM == 1000).sum() + 1
    low, high = np.percentile(spiked, (0.5, 99.5))
    expected = np.clip((spiked.transpose(2, 1, 0)[:, ::-1, ::-1] - low) / (high - low), 0, 1)
    assert np.allclose(scan.pixels[..., FLAIR], expected, atol=1e-5)


@pytest.mark.parametrize("fill", [-32768, -5000.5])
def test_a_value_for_no_voxel_does_not_whiten_the_head(tmp_path, fill):
    whole = PHANTOM.astype(np.float32)
    filled = whole.copy()
    filled[:4] = fill  # outside of what was scanned
    pixels = read(nifti(tmp_path / "flair.nii", filled)).pixels[..., FLAIR]
    expected = read(nifti(tmp_path / "whole_flair.nii", np.where(filled == fill, whole[4:].min(), whole))).pixels[..., FLAIR]
    assert np.allclose(pixels, expected, atol=1e-3)


def test_standardised_values_are_no_fill(tmp_path):
    standard = (PHANTOM - PHANTOM.mean()) / PHANTOM.std()
    scan = read(nifti(tmp_path / "flair.nii", standard.astype(np.float32)))
    assert np.allclose(scan.pixels, read(nifti(tmp_path / "b_flair.nii", PHANTOM.astype(np.float32))).pixels, atol=1e-5)


def test_8_bit_nifti_keeps_its_scale(tmp_path):
    small = (PHANTOM // 8).astype(np.uint8)
    scan = read(nifti(tmp_path / "flair.nii", small))
    assert np.array_equal(np.rint(scan.geometry.to_original(scan.pixels[..., FLAIR]) * 255), small)


def test_slope_is_applied(tmp_path):
    path = nifti(tmp_path / "flair.nii", (PHANTOM // 8).astype(np.uint8), slope=(-2.0, 500.0))
    scan = read(path)
    assert scan.pixels[9, 4, 4, FLAIR] == 0  # a negative slope makes the marker dark


def test_sparse_volume_is_read_and_constant_volume_refused(tmp_path):
    sparse = np.zeros(SHAPE, np.float32)
    sparse[20, 18, 6] = 3
    assert read(nifti(tmp_path / "flair.nii", sparse)).pixels.max() == 1
    assert "have the same value" in refusal(nifti(tmp_path / "flair.nii", np.full(SHAPE, 7.0)))


def test_file_without_orientation_is_assumed_axial(tmp_path):
    scan = read(nifti(tmp_path / "scan.nii", affine=RAS, code=0))
    assert marker(scan) == MARKER
    assert "no orientation" in scan.warnings[1]
    assert ONE_SEQUENCE in scan.warnings


def test_analyze_pair_of_voxel_size_0_has_no_millimetres(tmp_path):
    path = tmp_path / "flair.hdr"
    nibabel.save(nibabel.AnalyzeImage(PHANTOM, RAS), path)
    path.write_bytes(path.read_bytes()[:80] + bytes(12) + path.read_bytes()[92:])
    scan = read(path)
    assert NO_SIZE in scan.warnings
    assert not scan.geometry.plausible


def sides(scan) -> list[str | None]:
    """The side of the marker, which lies in the right half of the phantom, and its place in the patient."""
    mask = scan.pixels[..., FLAIR] == 1
    lesions = find_lesions(mask, find_parts(mask, scan.geometry), scan.geometry, midline(scan.pixels))
    assert all((lesion.side is None) == (lesion.centroid_mm is None) for lesion in lesions)
    return [lesion.side for lesion in lesions]


def saved(path, affine, sform: int, qform: int, other=None):
    """The phantom with these codes, and another qform."""
    image = nibabel.Nifti1Image(PHANTOM, affine)
    image.set_sform(affine, sform)
    image.set_qform(affine if other is None else other, qform)
    nibabel.save(image, path)
    return path


def moved(affine, *origin: float):
    return affine + np.array([[0.0] * 3 + [value] for value in (*origin, 0)])


MIRRORED = np.diag([-1.0, 1, 1, 1]) @ RAS
HALF_TURN = np.diag([-1.0, -1, 1, 1]) @ RAS  # no mirroring, but left and right are exchanged
QUARTER_TURN = np.array([[0, 2.0, 0, 0], [-2.0, 0, 0, 0], [0, 0, 5.0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("qform", "code"),
    [(MIRRORED, "LAS"), (HALF_TURN, "LPS"), (QUARTER_TURN, "PRS")],
    ids=["mirrored", "half turn", "quarter turn"],
)
def test_transforms_that_disagree_about_left_and_right_give_no_side(tmp_path, qform, code):
    scan = read(saved(tmp_path / "flair.nii", moved(RAS, -40, -30, -20), 1, 1, qform))
    assert marker(scan) == MARKER  # read by its sform
    assert scan.warnings[0] == (
        f"the header's sform and qform (RAS and {code}) disagree about left and right; the sform is used, so the sides of "
        "lesions are not given"
    )
    assert sides(scan) == [None]
    assert scan.geometry.plausible


def test_transforms_that_agree_about_left_and_right_give_a_side(tmp_path):
    turned = moved(np.eye(4), 7, -60, 30)
    angle = np.radians(25)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    for number, qform in enumerate((RAS, turned @ RAS, np.diag([1.0, -1, -1, 1]) @ RAS)):
        scan = read(saved(tmp_path / f"flair{number}.nii", moved(RAS, -40, -30, -20), 4, 1, qform))
        assert sides(scan) == ["right"]
        assert len(scan.warnings) == 1
    for sform, qform in ((1, 0), (0, 1)):  # the other one does not count
        scan = read(saved(tmp_path / "flair.nii", RAS if sform else MIRRORED, sform, qform, MIRRORED if sform else RAS))
        assert sides(scan) == ["right"]


def placeholders() -> dict[str, nibabel.Nifti1Image]:
    """Volumes as lazy programs save them."""
    default = nibabel.Nifti1Image(PHANTOM, None)
    default.header.set_zooms((2, 2, 5))
    return {
        "identity": nibabel.Nifti1Image(PHANTOM, np.eye(4)),
        "identity of the scanner": nibabel.Nifti1Image(PHANTOM, np.eye(4)),
        "voxel sizes alone": nibabel.Nifti1Image(PHANTOM, RAS),
        "nibabel's default": nibabel.Nifti1Image(PHANTOM, default.header.get_base_affine()),
        "ITK's default": nibabel.Nifti1Image(PHANTOM, HALF_TURN),
        "code 0": nibabel.Nifti1Image(PHANTOM, None),
    }


@pytest.mark.parametrize("kind", placeholders())
def test_placeholder_of_a_converter_gives_no_side(tmp_path, kind):
    image = placeholders()[kind]
    if kind == "identity of the scanner":
        image.set_sform(np.eye(4), 1)
        image.set_qform(np.eye(4), 1)
    nibabel.save(image, tmp_path / "flair.nii")
    scan = read(tmp_path / "flair.nii")
    assert scan.warnings[0] == (NO_ORIENTATION if kind == "code 0" else PLACEHOLDER)
    assert sides(scan) == [None]
    assert not scan.geometry.oriented


def test_placeholder_of_simple_itk_gives_no_side(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(EXPECTED)
    sitk.WriteImage(image, str(tmp_path / "flair.nii"))
    assert sides(read(tmp_path / "flair.nii")) == [None]
    image.SetOrigin((-40, -30, -20))
    sitk.WriteImage(image, str(tmp_path / "flair.nii"))
    assert None not in sides(read(tmp_path / "flair.nii"))


def test_a_result_keeps_the_transforms_that_disagree(tmp_path):
    scan = read(saved(tmp_path / "flair.nii", moved(RAS, -40, -30, -20), 1, 1, MIRRORED))
    write_nifti(tmp_path / "mask.nii.gz", scan.pixels[..., FLAIR] == 1, scan.geometry)
    header = nibabel.load(tmp_path / "mask.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert np.allclose(header.get_qform(), MIRRORED)
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "mask.nii.gz").dataobj), PHANTOM == 1000)


def test_anisotropic_pixels_keep_their_spacing(tmp_path):
    scan = read(nifti(tmp_path / "flair.nii", affine=np.diag([2.0, 5.0, 5.0, 1.0])))
    assert scan.geometry.spacing == (5.0, 5.0, 2.0)
    assert len(scan.warnings) == 1


def test_three_sequences_along_a_fourth_axis(tmp_path):
    scan = read(nifti(tmp_path / "study.nii.gz", np.stack([PHANTOM[::-1], PHANTOM, PHANTOM[:, ::-1]], axis=3)))
    assert scan.warnings == ("the file's three volumes are read as pre-contrast T1, FLAIR and post-contrast T1",)
    assert marker(scan) == MARKER
    assert np.array_equal(scan.pixels[..., PRE], scan.pixels[:, :, ::-1, FLAIR])
    assert np.array_equal(scan.pixels[..., POST], scan.pixels[:, ::-1, :, FLAIR])
    assert scan.geometry.shape == SHAPE


def test_fourth_axis_of_length_one_is_one_volume(tmp_path):
    assert marker(read(nifti(tmp_path / "flair.nii", PHANTOM[..., None]))) == MARKER


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("pre", "flair", "post"),
        ("BraTS_001_t1", "BraTS_001_flair", "BraTS_001_t1ce"),
        ("t1n", "t2f", "t1c"),
        ("T1w", "FLAIR", "T1gd"),
    ],
)
def test_sequences_are_recognised_by_file_name(tmp_path, names, zipped):
    folder = tmp_path / "case"
    folder.mkdir()
    for name, volume in zip(names, (PHANTOM[::-1], PHANTOM, PHANTOM[:, ::-1]), strict=True):
        nifti(folder / f"{name}.nii.gz", volume)
    nifti(folder / "BraTS_001_seg.nii.gz", (PHANTOM == 1000).astype(np.uint8))
    nifti(folder / "BraTS_001_t2.nii.gz")
    (folder / "readme.txt").write_text("hello")
    scan = read(zip_of(folder) if zipped else folder)
    assert marker(scan) == MARKER
    assert np.array_equal(scan.pixels[..., PRE], scan.pixels[:, :, ::-1, FLAIR])
    assert np.array_equal(scan.pixels[..., POST], scan.pixels[:, ::-1, :, FLAIR])
    assert scan.warnings == ("1 NIfTI files are ignored: their names match none of the three sequences",)


def test_missing_or_misaligned_sequence_is_replaced_by_flair(tmp_path):
    nifti(tmp_path / "flair.nii")
    nifti(tmp_path / "t1ce.nii", PHANTOM[::-1], RAS + np.eye(4, k=3) * 60)
    scan = read(tmp_path)
    assert "post-contrast T1 lies on another grid than the FLAIR and covers only 25% of it" in scan.warnings[0]
    assert np.array_equal(scan.pixels[..., POST], scan.pixels[..., FLAIR])
    nifti(tmp_path / "t1ce.nii", PHANTOM[::-1])
    scan = read(tmp_path)
    assert scan.warnings == ("FLAIR is used in place of the pre-contrast T1",)
    assert not np.array_equal(scan.pixels[..., POST], scan.pixels[..., FLAIR])
    assert np.array_equal(scan.pixels[..., PRE], scan.pixels[..., FLAIR])


def test_digest_covers_the_files_that_were_read(tmp_path):
    for name in ("t1ce", "flair"):
        nifti(tmp_path / f"{name}.nii")
    nifti(tmp_path / "t2.nii")
    before = read(tmp_path).sha256
    (tmp_path / "t2.nii").unlink()
    assert read(tmp_path).sha256 == before
    nifti(tmp_path / "t1ce.nii", PHANTOM[::-1])
    assert read(tmp_path).sha256 != before


def test_single_t1_is_read_with_a_warning(tmp_path):
    scan = read(nifti(tmp_path / "t1ce.nii"))
    assert "the file is post-contrast T1" in scan.warnings[0]
    assert ONE_SEQUENCE in scan.warnings


def dims(*sides: int) -> bytes:
    return np.array([len(sides), *sides], "<i2").tobytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file"),
        (b"Dear doctor," * 99, "got another file"),
        (nifti_bytes()[:300], "got another file"),
        (nifti_bytes()[:-2], "ends too early"),
        (nifti_bytes(patch={344: b"ni1\0"}), "header of a pair"),
        (nifti_bytes(patch={40: dims(600, 40, 40)}), "ends too early"),
        (nifti_bytes(patch={40: dims(32000, 32000, 500)}), "32000 x 32000"),
        (nifti_bytes(patch={40: dims(4000, 4000, 500)}), "too many together"),
        (nifti_bytes(patch={40: dims(40, 36, 600)}), "600 slices"),
        (nifti_bytes(patch={40: dims(40, 20, 12)}), "40 x 20"),
        (nifti_bytes(patch={40: dims(40, 36, -5)}), "-5 slices"),
        (nifti_bytes(patch={40: dims(40)}), "got slices of"),
        (nifti_bytes(patch={40: dims(40, 36, 2, 6)}), "three along the fourth"),
        (nifti_bytes(patch={40: dims(40, 36, 2, 1, 6)}), "three along the fourth"),
        (nifti_bytes(patch={70: np.array([32], "<i2").tobytes()}), "complex"),
        (nifti_bytes(patch={70: np.array([128], "<i2").tobytes()}), "got colours"),
        (nifti_bytes(patch={70: np.array([9999], "<i2").tobytes()}), "damaged"),
        (nifti_bytes(patch={108: np.array([3e9], "<f4").tobytes()}), "MiB"),
        (nifti_bytes(patch={108: np.array([np.nan], "<f4").tobytes()}), "damaged"),
        (nifti_bytes(patch={280: np.zeros(12, "<f4").tobytes()}), "damaged"),
        (nifti_bytes(patch={280: np.full(12, np.nan, "<f4").tobytes()}), "damaged"),
        (nibabel.Nifti1Image(np.full(SHAPE, np.nan, np.float32), RAS).to_bytes(), "NaN"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_bad_nifti_is_refused(tmp_path, data, reason, packed):
    path = tmp_path / ("flair.nii.gz" if packed else "flair.nii")
    path.write_bytes(gzip.compress(data) if packed else data)
    message = refusal(path)
    assert reason in message
    assert message.startswith(path.name)


def test_gzip_is_not_decompressed_beyond_the_size_in_the_header(tmp_path, monkeypatch):
    path = tmp_path / "flair.nii.gz"
    path.write_bytes(gzip.compress(nifti_bytes() + bytes(200 * 2**20), 1))
    sizes = []
    real = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: sizes.append(size) or real(self, size))
    assert marker(read(path)) == MARKER
    assert 0 < min(sizes) <= max(sizes) < 2**20
    path.write_bytes(b"\x1f\x8b junk")
    assert "damaged" in refusal(path)


def test_ambiguous_nifti_files_are_refused(tmp_path):
    nifti(tmp_path / "one.nii")
    nifti(tmp_path / "two.nii")
    assert "is named as FLAIR" in refusal(tmp_path)
    nifti(tmp_path / "a_flair.nii")
    nifti(tmp_path / "b_flair.nii")
    assert "two NIfTI files are named as FLAIR" in refusal(tmp_path)
