"""Whole studies: NIfTI, DICOM, TIFF stacks and zips of them, as real files made from a phantom with a marker."""

import gzip
import io
import itertools
import logging
import traceback
import zipfile
from dataclasses import replace

import imagecodecs
import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from scipy.spatial.transform import Rotation

import brainmri.io.files
from brainmri.io.pixels import FLAIR
from brainmri.io.reading import UnreadableImage, read_slice, read_study
from brainmri.io.scan import AXIAL, Geometry
from brainmri.io.sequences import ONE_SEQUENCE, POST, PRE, sequence_of
from tests.support.phantom import (
    EXPECTED,
    PHANTOM,
    PLANES,
    PLANTED,
    RAS,
    SHAPE,
    SPACING,
    affine_of,
    enhanced,
    header,
    images,
    nifti,
    positions,
    save,
    stored,
    zip_of,
)

MARKER = [[8, 2, 2], [10, 7, 6]]  # the marker's first and last slice, row and column


def read(source):
    """Read a study, making sure that nothing told of it identifies the patient."""
    scan = read_study(source)
    told = repr(replace(scan, pixels=None, sha256=""))
    assert not [word for word in PLANTED if word in told]
    assert scan.pixels.dtype == np.float32
    assert scan.pixels.ndim == 4
    assert 0 <= scan.pixels.min() <= scan.pixels.max() <= 1
    return scan


def refusal(source) -> str:
    """Why a study is refused, making sure that neither the message nor what is logged of it identifies the patient."""
    with pytest.raises(UnreadableImage) as caught:
        read_study(source)
    told = "".join(traceback.format_exception(caught.value, chain=True))
    raised = told[told.rindex("brainmri.io.limits.UnreadableImage") :]
    assert not [word for word in PLANTED if word in raised]
    assert caught.value.__cause__ is None or not [word for word in PLANTED if word in str(caught.value.__cause__)]
    return str(caught.value)


def marker(scan) -> list[list[int]]:
    found = np.argwhere(scan.pixels[..., FLAIR] == 1)
    return [found.min(0).tolist(), found.max(0).tolist()]


# --- geometry -------------------------------------------------------------------------------------------------------------


ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]  # fmt: skip


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_every_orientation_goes_to_axial_and_back_exactly(code):
    array = stored(PHANTOM, code)
    geometry = Geometry(shape=array.shape, affine=affine_of(code))
    axial = geometry.to_axial(array)
    assert np.array_equal(axial, EXPECTED)
    assert axial.shape == geometry.axial_shape
    assert np.array_equal(geometry.to_original(axial), array)
    assert geometry.spacing == (5.0, 2.0, 2.0)
    assert [code[axis] for axis in geometry.axes] == [
        letter if direction == 1 else {"S": "I", "P": "A", "L": "R"}[letter]
        for letter, direction in zip(AXIAL, geometry.directions, strict=True)
    ]


def tilted(degrees: float, axis: int) -> np.ndarray:
    """The phantom's affine, turned about an anatomical axis."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(np.eye(3)[axis] * degrees, degrees=True).as_matrix() @ np.diag(SPACING)
    return affine


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_oblique_volume_goes_to_the_nearest_axes(axis):
    geometry = Geometry(shape=SHAPE, affine=tilted(40, axis))
    assert np.array_equal(geometry.to_axial(PHANTOM), EXPECTED)
    assert geometry.tilt == pytest.approx(40)
    assert Geometry(shape=SHAPE, affine=RAS).tilt == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_far_from_axial_are_warned_about(tmp_path, axis):
    assert not [w for w in read(nifti(tmp_path / "routine.nii", affine=tilted(-18, axis))).warnings if "tilted" in w]
    assert "tilted by 25 degrees" in read(nifti(tmp_path / "flair.nii", affine=tilted(25, axis))).warnings[-1]
    series = images()
    turned = tilted(25, axis)[:3, :3] / SPACING * [[-1], [-1], [1]]  # DICOM counts towards left and posterior
    for number, ds in enumerate(series):
        ds.ImageOrientationPatient = [round(float(v), 6) for v in (*-turned[:, 0], *-turned[:, 1])]
        ds.ImagePositionPatient = [round(float(v), 6) for v in turned[:, 2] * 5 * number]
    assert "tilted by 25 degrees" in read(save(tmp_path / "dicom", series)).warnings[-1]


def test_a_geometry_refuses_what_lies_on_another_grid():
    with pytest.raises(ValueError, match="expected"):
        Geometry(shape=SHAPE, affine=RAS).to_original(np.zeros(SHAPE))
    with pytest.raises(ValueError, match="damaged"):
        Geometry(shape=SHAPE, affine=np.zeros((4, 4)))


# --- NIfTI ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("code", ["RAS", "LAS", "LPS", "AIR", "PSR", "RSA", "LIP"])
def test_nifti_shows_the_marker_where_it_lies(tmp_path, code, suffix, kind):
    path = nifti(tmp_path / f"flair{suffix}", stored(PHANTOM, code), affine_of(code), kind)
    scan = read(path)
    assert marker(scan) == MARKER
    assert scan.warnings == ("one sequence came, FLAIR; it stands in all three channels",)
    assert scan.geometry.shape == stored(PHANTOM, code).shape
    assert np.allclose(scan.geometry.affine, affine_of(code))
    assert scan.geometry.spacing == (5.0, 2.0, 2.0)
    assert np.array_equal(scan.geometry.to_original(EXPECTED), stored(PHANTOM, code))
    assert scan.name == path.name
    assert scan.sha256 == brainmri.io.files.StudyFile(path=path).digest()


def test_intensities_are_cut_at_percentiles_of_the_volume(tmp_path):
    spiked = PHANTOM.astype(np.float32)
    spiked[20, 20, 5] = 1e6
    scan = read(nifti(tmp_path / "flair.nii", spiked))
    assert (scan.pixels[..., FLAIR] == 1).sum() == (PHANTOM == 1000).sum() + 1
    low, high = np.percentile(spiked, (0.5, 99.5))
    expected = np.clip((spiked.transpose(2, 1, 0)[:, ::-1, ::-1] - low) / (high - low), 0, 1)
    assert np.allclose(scan.pixels[..., FLAIR], expected, atol=1e-5)


def test_8_bit_nifti_keeps_its_scale(tmp_path):
    small = (PHANTOM // 8).astype(np.uint8)
    scan = read(nifti(tmp_path / "flair.nii", small))
    assert np.array_equal(np.rint(scan.geometry.to_original(scan.pixels[..., FLAIR]) * 255), small)


def test_a_slope_is_applied(tmp_path):
    path = nifti(tmp_path / "flair.nii", (PHANTOM // 8).astype(np.uint8), slope=(-2.0, 500.0))
    scan = read(path)
    assert scan.pixels[9, 4, 4, FLAIR] == 0  # a negative slope turns the marker dark


def test_a_sparse_volume_is_read_and_a_constant_one_refused(tmp_path):
    sparse = np.zeros(SHAPE, np.float32)
    sparse[20, 18, 6] = 3
    assert read(nifti(tmp_path / "flair.nii", sparse)).pixels.max() == 1
    assert "all have one value" in refusal(nifti(tmp_path / "flair.nii", np.full(SHAPE, 7.0)))


def test_a_file_without_orientation_is_taken_for_axial(tmp_path):
    scan = read(nifti(tmp_path / "scan.nii", affine=RAS, code=0))
    assert marker(scan) == MARKER
    assert "no orientation" in scan.warnings[1]
    assert ONE_SEQUENCE in scan.warnings


def test_stretched_pixels_keep_their_sides(tmp_path):
    scan = read(nifti(tmp_path / "flair.nii", affine=np.diag([2.0, 5.0, 2.0, 1.0])))
    assert scan.geometry.spacing == (2.0, 5.0, 2.0)
    assert len(scan.warnings) == 1


def test_three_sequences_in_a_fourth_axis(tmp_path):
    scan = read(nifti(tmp_path / "study.nii.gz", np.stack([PHANTOM[::-1], PHANTOM, PHANTOM[:, ::-1]], axis=3)))
    assert scan.warnings == ()
    assert marker(scan) == MARKER
    assert np.array_equal(scan.pixels[..., PRE], scan.pixels[:, :, ::-1, FLAIR])
    assert np.array_equal(scan.pixels[..., POST], scan.pixels[:, ::-1, :, FLAIR])
    assert scan.geometry.shape == SHAPE


def test_a_lone_fourth_axis_is_one_volume(tmp_path):
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
def test_sequences_are_told_by_name(tmp_path, names, zipped):
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
    assert scan.warnings == ("1 NIfTI files whose names tell none of the three sequences were left aside",)


def test_a_sequence_that_is_missing_or_lies_elsewhere_is_flair(tmp_path):
    nifti(tmp_path / "flair.nii")
    nifti(tmp_path / "t1ce.nii", PHANTOM[::-1], RAS + np.eye(4, k=3) * 3)
    scan = read(tmp_path)
    assert "post-contrast T1 lies on another grid" in scan.warnings[0]
    assert np.array_equal(scan.pixels[..., POST], scan.pixels[..., FLAIR])
    nifti(tmp_path / "t1ce.nii", PHANTOM[::-1])
    scan = read(tmp_path)
    assert scan.warnings == ("FLAIR stands in for the pre-contrast T1",)
    assert not np.array_equal(scan.pixels[..., POST], scan.pixels[..., FLAIR])
    assert np.array_equal(scan.pixels[..., PRE], scan.pixels[..., FLAIR])


def test_the_digest_is_over_the_files_in_order_of_channels(tmp_path):
    for name in ("t1ce", "flair"):
        nifti(tmp_path / f"{name}.nii")
    nifti(tmp_path / "t2.nii")
    before = read(tmp_path).sha256
    (tmp_path / "t2.nii").unlink()
    assert read(tmp_path).sha256 == before
    nifti(tmp_path / "t1ce.nii", PHANTOM[::-1])
    assert read(tmp_path).sha256 != before


def test_a_lone_t1_is_read_under_protest(tmp_path):
    scan = read(nifti(tmp_path / "t1ce.nii"))
    assert "named for a post-contrast T1" in scan.warnings[0]
    assert ONE_SEQUENCE in scan.warnings


def nifti_bytes(**changes) -> bytes:
    image = nibabel.Nifti1Image(PHANTOM, RAS)
    data = bytearray(image.to_bytes())
    for start, value in changes.get("patch", {}).items():
        data[start : start + len(value)] = value
    return bytes(data)


def dims(*sides: int) -> bytes:
    return np.array([len(sides), *sides], "<i2").tobytes()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is none"),
        (b"Dear doctor," * 99, "is none"),
        (nifti_bytes()[:300], "is none"),
        (nifti_bytes()[:-2], "ends too early"),
        (nifti_bytes(patch={344: b"ni1\0"}), "header of a pair"),
        (nifti_bytes(patch={40: dims(600, 40, 40)}), "ends too early"),
        (nifti_bytes(patch={40: dims(32000, 32000, 500)}), "32000 x 32000"),
        (nifti_bytes(patch={40: dims(4000, 4000, 500)}), "too many together"),
        (nifti_bytes(patch={40: dims(40, 36, 600)}), "600 axial slices"),
        (nifti_bytes(patch={40: dims(40, 20, 12)}), "40 x 20"),
        (nifti_bytes(patch={40: dims(40, 36, -5)}), "axial slices"),
        (nifti_bytes(patch={40: dims(40, 36)}), "shape"),
        (nifti_bytes(patch={40: dims(40, 36, 2, 6)}), "three along the fourth"),
        (nifti_bytes(patch={40: dims(40, 36, 2, 1, 6)}), "three along the fourth"),
        (nifti_bytes(patch={70: np.array([32], "<i2").tobytes()}), "complex"),
        (nifti_bytes(patch={70: np.array([128], "<i2").tobytes()}), "voxels of type"),
        (nifti_bytes(patch={70: np.array([9999], "<i2").tobytes()}), "damaged"),
        (nifti_bytes(patch={108: np.array([3e9], "<f4").tobytes()}), "MiB"),
        (nifti_bytes(patch={108: np.array([np.nan], "<f4").tobytes()}), "damaged"),
        (nifti_bytes(patch={280: np.zeros(12, "<f4").tobytes()}), "damaged"),
        (nifti_bytes(patch={280: np.full(12, np.nan, "<f4").tobytes()}), "damaged"),
        (nibabel.Nifti1Image(np.full(SHAPE, np.nan, np.float32), RAS).to_bytes(), "NaN"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_bad_nifti_is_refused(tmp_path, data, says, packed):
    path = tmp_path / ("flair.nii.gz" if packed else "flair.nii")
    path.write_bytes(gzip.compress(data) if packed else data)
    message = refusal(path)
    assert says in message
    assert "Accepted: " in message


def test_a_packed_file_is_not_unpacked_beyond_what_its_header_announces(tmp_path, monkeypatch):
    path = tmp_path / "flair.nii.gz"
    path.write_bytes(gzip.compress(nifti_bytes() + bytes(200 * 2**20), 1))
    asked = []
    real = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: asked.append(size) or real(self, size))
    assert marker(read(path)) == MARKER
    assert 0 < min(asked) <= max(asked) < 2**20
    path.write_bytes(b"\x1f\x8b junk")
    assert "damaged" in refusal(path)


def test_nifti_files_that_cannot_be_told_apart_are_refused(tmp_path):
    nifti(tmp_path / "one.nii")
    nifti(tmp_path / "two.nii")
    assert "none named for the FLAIR" in refusal(tmp_path)
    nifti(tmp_path / "a_flair.nii")
    nifti(tmp_path / "b_flair.nii")
    assert "both named for the FLAIR" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("words", "channel"),
    [
        ("AX FLAIR", FLAIR), ("t2_tirm_tra_dark-fluid", FLAIR), ("T2W_FLAIR +C", FLAIR), ("flair_in_T1_space", FLAIR),
        ("AX T1 FLAIR", PRE), ("T1FLAIR post", POST), ("AX T1 SE", PRE), ("sub-01_T1w", PRE), ("T1 pre contrast", PRE),
        ("T1 without contrast", PRE), ("Sag 3D MPRAGE", PRE), ("T1 MPRAGE +C", POST), ("AX T1 POST GD", POST),
        ("sT1W_3D_TFE_KM", POST), ("t1_c+", POST), ("ce-gadolinium_T1w", POST), ("t1gd", POST), ("T1 postop", PRE),
        ("AX T2", None), ("AX T2 POST", None), ("DWI", None), ("localizer", None), ("patient1", None), ("", None),
        ("presurgery", None), ("T10", None),
    ],
)  # fmt: skip
def test_what_descriptions_speak_of(words, channel):
    assert sequence_of(words) == channel


# --- DICOM ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", PLANES)
def test_a_dicom_series_shows_the_marker_where_it_lies(tmp_path, plane):
    folder = save(tmp_path / "Planted_Hospital", images(plane))
    scan = read(folder)
    assert marker(scan) == MARKER
    assert scan.name == "study"
    assert scan.warnings == ("one sequence came, FLAIR; it stands in all three channels",)
    code = PLANES[plane][1]
    assert np.allclose(scan.geometry.affine, affine_of(code))
    assert scan.geometry.shape == stored(PHANTOM, code).shape
    assert np.array_equal(scan.geometry.to_original(EXPECTED), stored(PHANTOM, code))
    assert np.allclose(scan.geometry.spacing, (5, 2, 2))
    axis, direction = {"axial": (0, 1), "sagittal": (1, -1), "coronal": (1, -1)}[plane]  # rows downwards in the other planes
    assert (scan.geometry.axes[0], scan.geometry.directions[0]) == (axis, direction)


def test_a_series_is_the_same_from_a_folder_a_zip_and_in_any_order(tmp_path):
    series = images("sagittal")
    folder = save(tmp_path / "one", series)
    reversed_ = save(tmp_path / "two", series[::-1], prefix="IM")
    expected = read(folder)
    for source in (reversed_, zip_of(folder)):
        assert np.array_equal(read(source).pixels, expected.pixels)
    assert read(reversed_).sha256 == expected.sha256
    assert read(zip_of(folder)).sha256 == brainmri.io.files.StudyFile(path=zip_of(folder)).digest()


def test_a_segmentation_can_reference_every_slice(tmp_path):
    series = images("coronal")
    folder = save(tmp_path / "one", series)
    geometry = read(folder).geometry
    assert [i.uid for i in geometry.instances] == [ds.SOPInstanceUID for ds in series]
    assert [str(pydicom.dcmread(i.path).SOPInstanceUID) for i in geometry.instances] == [i.uid for i in geometry.instances]
    assert {i.frame for i in geometry.instances} == {1}
    zipped = read(zip_of(folder)).geometry.instances
    with zipfile.ZipFile(zipped[0].path) as archive:
        assert pydicom.dcmread(io.BytesIO(archive.read(zipped[0].member))).SOPInstanceUID == zipped[0].uid


@pytest.mark.parametrize("plane", PLANES)
def test_an_enhanced_image_is_a_study(tmp_path, plane):
    order = np.random.default_rng(1).permutation(len(positions(plane)[0])).tolist()
    ds = enhanced(plane, order)
    save(tmp_path / "one", [ds])
    scan = read(tmp_path / "one" / "Planted_Patient_0")
    assert marker(scan) == MARKER
    assert scan.name == "study"
    assert [i.frame - 1 for i in scan.geometry.instances] == np.argsort(order).tolist()
    assert {i.uid for i in scan.geometry.instances} == {ds.SOPInstanceUID}


def test_the_lone_image_is_a_study_of_one(tmp_path):
    save(tmp_path / "one", images()[9:10])
    scan = read(tmp_path / "one" / "Planted_Patient_0")
    assert scan.pixels.shape == (1, 36, 40, 3)
    assert scan.pixels[0, 4, 4, FLAIR] == 1


def test_slope_and_intercept_are_applied_slice_by_slice(tmp_path):
    series = images()
    for number, ds in enumerate(series):
        slope, intercept = 0.5 + number, -20 * number
        ds.PixelData = np.rint((EXPECTED[number] - intercept) / slope).astype(np.uint16).tobytes()
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
    scan = read(save(tmp_path / "one", series))
    plain = read(save(tmp_path / "two", images()))
    assert np.abs(scan.pixels - plain.pixels).max() < 0.015  # half a step of the coarsest slope


@pytest.mark.parametrize("bits", [8, 16])
def test_monochrome1_is_inverted(tmp_path, bits):
    top, volume = 2**bits - 1, EXPECTED.astype(int) // 4
    inverted = images(pixels=top - volume, bits=bits, PhotometricInterpretation="MONOCHROME1")
    scan = read(save(tmp_path / "one", inverted))
    plain = read(save(tmp_path / "two", images(pixels=volume, bits=bits)))
    assert np.allclose(scan.pixels, plain.pixels, atol=1e-4)
    if bits == 8:
        assert np.array_equal(np.rint(plain.pixels[..., FLAIR] * 255), volume)


def test_signed_and_12_bit_pixels(tmp_path):
    signed = images(PixelRepresentation=1)
    twelve = images()
    for number, (one, two) in enumerate(zip(signed, twelve, strict=True)):
        one.PixelData = (EXPECTED[number] - 500).astype(np.int16).tobytes()
        two.BitsStored, two.HighBit = 12, 11
    assert np.allclose(read(save(tmp_path / "one", signed)).pixels, read(save(tmp_path / "two", twelve)).pixels, atol=1e-6)


def jpeg_baseline(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=100)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("syntax", "bits", "off", "encode"),
    [
        (RLELossless, 16, 0, None),  # by pydicom itself
        (JPEG2000Lossless, 16, 0, lambda p: imagecodecs.jpeg2k_encode(p, level=0, codecformat="j2k", reversible=True)),
        (HTJ2KLossless, 16, 0, lambda p: imagecodecs.htj2k_encode(p, reversible=True)),
        (HTJ2KLosslessRPCL, 16, 0, lambda p: imagecodecs.htj2k_encode(p, reversible=True)),
        (HTJ2K, 16, 0.02, lambda p: imagecodecs.htj2k_encode(p, reversible=False)),
        (JPEGLSLossless, 16, 0, imagecodecs.jpegls_encode),
        (JPEGLSNearLossless, 16, 0.02, lambda p: imagecodecs.jpegls_encode(p, level=2)),
        (JPEGLosslessSV1, 16, 0, lambda p: imagecodecs.ljpeg_encode(p, bitspersample=16)),
        (JPEGLossless, 16, 0, lambda p: imagecodecs.jpeg8_encode(p, lossless=True, predictor=7, bitspersample=16)),
        (JPEGExtended12Bit, 16, 0.02, lambda p: imagecodecs.jpeg8_encode(p, level=100, bitspersample=12)),
        (JPEGBaseline8Bit, 8, 0.02, jpeg_baseline),
    ],
    ids=[
        *("RLE", "JPEG 2000", "HTJ2K lossless", "HTJ2K RPCL", "HTJ2K", "JPEG-LS", "JPEG-LS near", "JPEG lossless SV1"),
        *("JPEG lossless", "JPEG extended", "JPEG"),
    ],
)
def test_compressed_pixels_are_read(tmp_path, syntax, bits, off, encode):
    volume = EXPECTED // 4 if bits == 8 else EXPECTED
    packed = images(pixels=volume, bits=bits)
    for ds in packed:
        if encode is None:
            ds.compress(syntax, generate_instance_uid=False)
        else:
            ds.PixelData = encapsulate([encode(ds.pixel_array)])
            ds["PixelData"].VR = "OB"
            ds.file_meta.TransferSyntaxUID = syntax
    scan = read(save(tmp_path / "one", packed))
    plain = read(save(tmp_path / "two", images(pixels=volume, bits=bits)))
    assert np.abs(scan.pixels - plain.pixels).max() <= off


@pytest.mark.parametrize("kind", ["RLE", "bigendian", "implicit", "expb", "padded", "jp2klossless", "jpeg_ls_lossless"])
def test_pydicoms_own_files_are_read(kind):
    plain = read(get_testdata_file("MR_small.dcm", download=False))
    scan = read(get_testdata_file(f"MR_small_{kind}.dcm", download=False))
    assert plain.pixels.shape == (1, 64, 64, 3)
    assert np.array_equal(scan.pixels, plain.pixels)


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEG2000Lossless, lambda p: imagecodecs.jpeg2k_encode(p, codecformat="j2k")),
        (JPEG2000Lossless, lambda p: imagecodecs.jpeg2k_encode(p, codecformat="jp2")),
        (HTJ2KLossless, imagecodecs.htj2k_encode),
        (JPEGLSLossless, imagecodecs.jpegls_encode),
        (JPEGLosslessSV1, lambda p: imagecodecs.ljpeg_encode(p, bitspersample=16)),
        (JPEGBaseline8Bit, lambda p: jpeg_baseline(p.astype(np.uint8))),
    ],
    ids=["JPEG 2000", "JP2", "HTJ2K", "JPEG-LS", "JPEG lossless", "JPEG"],
)
def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(tmp_path, syntax, encode, monkeypatch):
    ds = images()[0]
    ds.PixelData = encapsulate([encode(np.zeros((512, 512), np.uint16))])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = syntax
    monkeypatch.setattr(Dataset, "pixel_array", property(lambda self: pytest.fail("it was decoded")))
    assert "another size" in refusal(save(tmp_path / "one", [ds]))


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEG2000Lossless, b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(32)),  # a box without a length, which pydicom steps over forever
        (JPEG2000Lossless, b"\xff\x4f\xff\x51"),
        (JPEGBaseline8Bit, b"\xff\xd8" + b"\xff" * 64),
        (JPEGBaseline8Bit, b"\xff\xd8\xff\xe0\0\0"),
        (JPEGBaseline8Bit, b"\xff\xd8\xff\xda\0\x02"),
        # two sizes, the second the header's
        (JPEGLosslessSV1, b"\xff\xd8\xff\xc3\0\x08\x10\x02\0\x02\0\x01\xff\xc3\0\x08\x10\0\x28\0\x24\x01\xff\xda\0\x02"),
    ],
)
def test_a_codestream_with_a_damaged_header_is_refused_before_it_is_decoded(tmp_path, syntax, frame, monkeypatch):
    ds = images()[0]
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = syntax
    monkeypatch.setattr(Dataset, "pixel_array", property(lambda self: pytest.fail("it was decoded")))
    assert "damaged" in refusal(save(tmp_path / "one", [ds]))


def test_several_series_are_told_by_their_descriptions(tmp_path):
    folder = tmp_path / "study"
    parts = {"AX T1": (PHANTOM[::-1], 1), "AX FLAIR": (PHANTOM, 2), "AX T1 POST": (PHANTOM[:, ::-1], 3), "AX T2": (PHANTOM, 4)}
    for description, (volume, series) in parts.items():
        axial = stored(volume, "SPL")
        save(folder, images(pixels=axial, description=description, series=series), prefix=f"S{series}_")
    save(folder, images("sagittal", description="SAG T1 POST", series=5), prefix="S5_")
    save(folder, [header(Modality="SR")], prefix="report")
    (folder / "readme.txt").write_text("hello")
    Image.new("L", (64, 64)).save(folder / "logo_1.png")
    scan = read(folder)
    assert marker(scan) == MARKER
    assert np.array_equal(scan.pixels[..., PRE], scan.pixels[:, :, ::-1, FLAIR])
    assert np.array_equal(scan.pixels[..., POST], scan.pixels[:, ::-1, :, FLAIR])
    assert scan.warnings == ("1 DICOM files that are not greyscale MR images were left aside",)


def test_a_series_on_another_grid_or_doubled_is_left_out(tmp_path):
    folder = save(tmp_path / "study", images())
    save(folder, images("sagittal", description="SAG T1 POST", series=2), prefix="a")
    for series in (3, 4):
        save(folder, images(description="AX T1", series=series), prefix=f"b{series}_")
    scan = read(folder)
    assert "the pre-contrast T1 came several times and was left out" in scan.warnings
    assert "the post-contrast T1 lies on another grid than the FLAIR and was left out" in scan.warnings
    assert np.array_equal(scan.pixels[..., PRE], scan.pixels[..., FLAIR])


def test_of_several_flair_series_the_axial_one_is_read(tmp_path):
    folder = save(tmp_path / "study", images("sagittal", description="SAG FLAIR", series=1), prefix="a")
    save(folder, images("axial", description="AX FLAIR", series=2), prefix="b")
    scan = read(folder)
    assert "2 FLAIR series came; the one number 2 “AX FLAIR” with 12 slices was read" in scan.warnings
    assert scan.geometry.axes == (0, 1, 2)


def test_series_without_flair_are_refused_with_a_list(tmp_path):
    folder = save(tmp_path / "study", images(description="AX T2 FSE", series=1), prefix="a")
    save(folder, images(description="Planted 19991231 T1", series=2), prefix="b")
    save(folder, images(description="AX T1 POST", series=19991231), prefix="c")
    message = refusal(folder)
    assert "number 1 “AX T2 FSE” with 12 slices; number 2 with 12 slices; without a short number “AX T1 POST”" in message


def test_one_series_of_no_telling_description_is_taken_for_flair(tmp_path):
    assert read(save(tmp_path / "a", images(description="Planted"))).warnings == (ONE_SEQUENCE,)
    scan = read(save(tmp_path / "b", images(description="AX T1 POST")))
    assert "described as a post-contrast T1" in scan.warnings[0]


def test_slices_without_positions_go_by_their_numbers(tmp_path):
    series = images()
    for ds in series:
        del ds.ImagePositionPatient
    scan = read(save(tmp_path / "one", series))
    assert marker(scan) == MARKER
    assert "as they are numbered" in scan.warnings[0]
    assert scan.geometry is None
    for ds in series:
        ds.InstanceNumber = 1
    assert "neither positions nor numbers" in refusal(save(tmp_path / "one", series))


def test_unequal_gaps_are_warned_about(tmp_path):
    series = images()
    del series[5]
    scan = read(save(tmp_path / "one", series))
    assert "unequal, 5.00 to 10.00 mm" in scan.warnings[0]
    assert scan.pixels.shape[0] == 11


def damaged(change):
    """A series whose third image was changed."""
    series = images()
    change(series[2])
    return series


@pytest.mark.parametrize(
    ("series", "says"),
    [
        (lambda: [*images(), *images()[3:5]], "several slices at the same place"),
        (lambda: [*images("sagittal"), *images("axial")], "differ in size"),
        (lambda: damaged(lambda d: setattr(d, "ImageOrientationPatient", [0, 1, 0, 0, 0, -1])), "different directions"),
        (lambda: damaged(lambda d: setattr(d, "PixelSpacing", [3, 3])), "differ in pixel size"),
        (lambda: damaged(lambda d: setattr(d, "PhotometricInterpretation", "MONOCHROME1")), "differ in size or kind"),
        (lambda: damaged(lambda d: setattr(d, "PixelData", d.PixelData[:-8])), "damaged"),
        (lambda: damaged(lambda d: delattr(d, "PixelData")), "damaged"),
        (lambda: images(Modality="CT"), "no greyscale MR images"),
        (lambda: images(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "no greyscale MR images"),
        (lambda: damaged(lambda d: setattr(d, "ImageOrientationPatient", [0] * 6))[2:3], "damaged"),
        (lambda: images(PhotometricInterpretation="PALETTE COLOR"), "no greyscale MR images"),
        (lambda: [header(Modality="SR")], "1 DICOM files came, but no"),
        (lambda: damaged(lambda d: setattr(d, "NumberOfFrames", 10**9)), "slices"),
    ],
)
def test_bad_series_are_refused(tmp_path, series, says):
    message = refusal(save(tmp_path / "Planted", series()))
    assert says in message
    assert message.startswith("study: ")


def test_claimed_sizes_are_refused_before_anything_is_decoded(tmp_path):
    series = images()
    for ds in series:
        ds.Rows = ds.Columns = 60000
    assert "60000 x 60000" in refusal(save(tmp_path / "one", series))


@pytest.mark.parametrize("name", ["CT_small.dcm", "rtplan.dcm", "test-SR.dcm", "MR_truncated.dcm", "SC_rgb_rle.dcm"])
def test_pydicoms_own_files_of_other_kinds_are_refused(name):
    assert "study: " in refusal(get_testdata_file(name, download=False))


def test_a_deflated_file_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    ds = images()[0]
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    folder = save(tmp_path / "one", [ds])
    monkeypatch.setattr("pydicom.filereader.zlib.decompress", lambda *_: pytest.fail("it was unpacked"))
    assert "deflated" in refusal(folder)


def test_a_broken_dicom_file_is_refused(tmp_path):
    path = save(tmp_path / "one", images()[:1]) / "Planted_Patient_0"
    whole = path.read_bytes()
    for end in (132, 140, 200, 400, 900):
        path.write_bytes(whole[:end])
        assert "study: " in refusal(path)


ODD = {
    "SeriesInstanceUID": "Planted.19700102",
    "SOPInstanceUID": "Planted^4711",
    "SeriesDescription": "Planted " * 20 + "4711",
    "Modality": "Planted",
    "PhotometricInterpretation": "Planted",
    "PatientBirthDate": "Planted",
    "StudyTime": "Planted",
    "SpecificCharacterSet": "Planted",
    "InstanceNumber": "Planted",
    "NumberOfFrames": "Planted",
    "SeriesNumber": "Planted",
    "PixelSpacing": "Planted",
    "RescaleSlope": "Planted",
    "BitsStored": "Planted",
}


@pytest.mark.parametrize("keyword", ODD)
def test_identifiers_in_odd_places_are_never_told(tmp_path, caplog, recwarn, capfd, keyword):
    folder = save(tmp_path / "Planted", images()[:3])
    tag = pydicom.datadict.tag_for_keyword(keyword)
    value = ODD[keyword].encode().ljust(len(ODD[keyword]) + len(ODD[keyword]) % 2)
    for path in folder.iterdir():
        # put where it belongs by hand, since pydicom would not write it
        ds = pydicom.dcmread(path)
        ds[tag] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(tag), pydicom.datadict.dictionary_VR(tag), len(value), value, 0, False, True
        )
        ds.save_as(path)
        assert value in path.read_bytes()
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    recwarn.clear()
    capfd.readouterr()
    try:
        read_study(folder)
    except UnreadableImage:
        refusal(folder)
    else:
        read(folder)
    told = [*capfd.readouterr(), caplog.text, *(str(w.message) for w in recwarn)]
    assert not [word for word in PLANTED for text in told if word in text]


# --- TIFF stacks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"compression": "deflate"}, {"photometric": "miniswhite"}, {"imagej": True}, {"bigtiff": True}]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_stack_is_a_study(tmp_path, dtype, options):
    volume = (EXPECTED // (4 if dtype == np.uint8 else 1)).astype(dtype)
    white = options.get("photometric") == "miniswhite"
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.iinfo(dtype).max - volume if white else volume, **{"photometric": "minisblack", **options})
    scan = read(path)
    if dtype == np.uint8:
        assert np.array_equal(np.rint(scan.pixels[..., FLAIR] * 255), volume)
    else:
        assert marker(scan) == MARKER
    assert "no orientation" in scan.warnings[0]
    assert scan.warnings[1] == ONE_SEQUENCE
    assert scan.geometry is None
    with pytest.raises(UnreadableImage, match="12 pages came where one slice is expected"):
        read_slice(path)


def test_a_colour_stack_is_three_sequences(tmp_path):
    volume = np.stack([EXPECTED[:, ::-1], EXPECTED, EXPECTED[..., ::-1]], axis=3).astype(np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", volume, photometric="rgb")
    scan = read(zip_of_bytes(tmp_path, {"stack.tif": (tmp_path / "stack.tif").read_bytes()}))
    assert marker(scan) == MARKER
    assert np.array_equal(scan.pixels[..., PRE], scan.pixels[:, ::-1, :, FLAIR])
    assert np.array_equal(scan.pixels[..., POST], scan.pixels[:, :, ::-1, FLAIR])
    assert len(scan.warnings) == 1


def test_bad_stacks_are_refused(tmp_path):
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((40, 40), np.uint8))
        writer.write(np.zeros((40, 44), np.uint8))
    assert "pages differ" in refusal(path)
    tifffile.imwrite(path, np.zeros((600, 32, 32), np.uint8), photometric="minisblack")
    assert "600 axial slices" in refusal(path)
    tifffile.imwrite(path, np.zeros((4, 20, 32), np.uint8), photometric="minisblack")
    assert "32 x 20" in refusal(path)
    tifffile.imwrite(path, np.zeros((4, 40, 32), np.uint8), photometric="minisblack")
    path.write_bytes(path.read_bytes()[:300])
    assert "damaged" in refusal(path)


# --- folders and zips -------------------------------------------------------------------------------------------------------


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (40, 36), value).save(buffer, "PNG")
    return buffer.getvalue()


def zip_of_bytes(folder, members: dict[str, bytes], **options):
    path = folder / "upload.zip"
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_zip_of_slices_is_read_like_its_folder(tmp_path):
    members = {f"case/case_{n}.png": png(n) for n in (1, 2, 10, 9)}
    members |= {
        "case/case_1_mask.png": png(255),
        "__MACOSX/case/._case_1.png": b"junk",
        "case/.DS_Store": b"junk",
        "notes.txt": b"",
    }
    scan = read_study(zip_of_bytes(tmp_path, members))
    assert np.rint(scan.pixels[:, 0, 0, 0] * 255).tolist() == [1, 2, 9, 10]
    folder = tmp_path / "case"
    folder.mkdir()
    for name, data in members.items():
        if name.startswith("case/"):
            (tmp_path / name).write_bytes(data)
    assert np.array_equal(read_study(folder).pixels, scan.pixels)
    assert np.array_equal(read_study(tmp_path / "case" / "case_9.png").pixels, scan.pixels[2:3])


def test_previews_beside_a_volume_and_in_subfolders_are_left_alone(tmp_path):
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / "case_1.png").write_bytes(png(1))
    for number in (1, 2):
        (tmp_path / f"case_{number}.png").write_bytes(png(number))
    assert len(read(tmp_path).pixels) == 2
    nifti(tmp_path / "flair.nii")
    assert len(read(tmp_path).pixels) == 12


def test_two_kinds_or_two_folders_are_refused(tmp_path):
    one = save(tmp_path / "one", images())
    nifti(one / "flair.nii")
    assert "DICOM and NIfTI files came together" in refusal(one)
    assert "several folders" in refusal(zip_of_bytes(tmp_path, {"a/case_1.png": png(1), "b/case_2.png": png(2)}))
    (tmp_path / "letter.txt").write_text("Dear doctor,")
    assert "no slices and no volume" in refusal(tmp_path / "letter.txt")


def inner_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("case_1.png", png(1))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({}, "no slices and no volume"),
        ({"../case_1.png": png(1)}, "lead out of it"),
        ({"a/../../case_1.png": png(1)}, "lead out of it"),
        ({"/etc/case_1.png": png(1)}, "lead out of it"),
        ({"C:/case_1.png": png(1)}, "lead out of it"),
        ({"..\\case_1.png": png(1)}, "lead out of it"),
        ({"Planted.zip": inner_zip(), "case_1.png": png(1)}, "a zip within a zip"),
        ({"Planted.dat": inner_zip()}, "no slices and no volume"),
        ({f"{n}": b"" for n in range(8193)}, "more than 8192 files"),
    ],
)
def test_hostile_zips_are_refused(tmp_path, members, says):
    message = refusal(zip_of_bytes(tmp_path, members))
    assert says in message


def test_a_zip_that_unpacks_to_too_much_is_refused_by_its_directory(tmp_path, monkeypatch):
    path = zip_of_bytes(tmp_path, {"case_1.png": bytes(5 * 2**20)}, compression=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(brainmri.io.files, "MAX_STUDY_BYTES", 2**20)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was unpacked"))
    assert "5 MiB unpacked" in refusal(path)


def test_a_zip_whose_directory_lies_is_not_unpacked_further(tmp_path, monkeypatch):
    path = zip_of_bytes(tmp_path, {"case_1.png": bytes(5 * 2**20)}, compression=zipfile.ZIP_DEFLATED)
    size = (5 * 2**20).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (1000).to_bytes(4, "little")))
    asked = []
    real = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: asked.append(n) or real(self, n))
    assert "damaged zip" in refusal(path)
    assert asked == [2**30 + 1]


def test_overlapping_members_count_each_time(tmp_path, monkeypatch):
    path = zip_of_bytes(tmp_path, {f"case_{n}.png": bytes(2**19) for n in range(4)})
    monkeypatch.setattr(brainmri.io.files, "MAX_STUDY_BYTES", 2**20)
    monkeypatch.setattr(brainmri.io.files, "_check_members", lambda *_: None)
    assert "more than 1 MiB unpacked" in refusal(path)


def test_encrypted_linked_oddly_packed_and_broken_zips_are_refused(tmp_path):
    path = zip_of_bytes(tmp_path, {"case_1.png": png(1)})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(data)
    assert "encrypted" in refusal(tmp_path / "locked.zip")
    link = zipfile.ZipInfo("case_1.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "links" in refusal(path)
    path = zip_of_bytes(tmp_path, {"case_1.png": png(1)}, compression=zipfile.ZIP_LZMA)
    assert "unusual compression" in refusal(path)
    path.write_bytes(b"PK\3\4" + bytes(100))
    assert "damaged zip" in refusal(path)
    whole = zip_of_bytes(tmp_path, {"case_1.png": png(1)}).read_bytes()
    path.write_bytes(whole.replace(b"IDAT", b"JDAT"))
    assert "damaged zip" in refusal(path)


def test_a_folder_of_too_many_files_and_a_file_of_too_many_bytes(tmp_path, monkeypatch):
    huge = tmp_path / "flair.nii"
    with huge.open("wb") as handle:
        handle.truncate(2**30 + 1)  # sparse: nothing is written
    assert "1024 MiB came" in refusal(huge)
    monkeypatch.setattr(brainmri.io.files, "MAX_FILES", 2)
    for number in range(3):
        (tmp_path / f"case_{number}.png").write_bytes(png(1))
    assert "more than 2 files" in refusal(tmp_path)
