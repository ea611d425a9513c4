"""DICOM series and enhanced images, as real files of a phantom with a marker."""

import io
import logging
import zipfile

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian

import brainmri.io.files
from brainmri.io.pixels import FLAIR
from brainmri.io.reading import UnreadableImage, list_sequences, read_study
from brainmri.io.sequences import ONE_SEQUENCE, POST, PRE
from tests.support.phantom import (
    EXPECTED,
    PHANTOM,
    PLANES,
    PLANTED,
    affine_of,
    enhanced,
    header,
    images,
    positions,
    save,
    stored,
    zip_of,
)
from tests.support.studies import MARKER, marker, read, refusal


@pytest.mark.parametrize("plane", PLANES)
def test_dicom_orientation_is_respected(tmp_path, plane):
    folder = save(tmp_path / "Planted_Hospital", images(plane))
    scan = read(folder)
    assert marker(scan) == MARKER
    assert scan.name == "study"
    assert scan.warnings == ("only FLAIR was provided; it is used for all three channels",)
    code = PLANES[plane][1]
    assert np.allclose(scan.geometry.affine, affine_of(code))
    assert scan.geometry.shape == stored(PHANTOM, code).shape
    assert np.array_equal(scan.geometry.to_original(EXPECTED), stored(PHANTOM, code))
    assert np.allclose(scan.geometry.spacing, (5, 2, 2))
    axis, direction = {"axial": (0, 1), "sagittal": (1, -1), "coronal": (1, -1)}[plane]  # rows point down in the other planes
    assert (scan.geometry.axes[0], scan.geometry.directions[0]) == (axis, direction)


@pytest.mark.slow
def test_series_is_equal_from_a_folder_from_a_zip_and_in_any_order(tmp_path):
    series = images("sagittal")
    folder = save(tmp_path / "one", series)
    reversed_ = save(tmp_path / "two", series[::-1], prefix="IM")
    expected = read(folder)
    for source in (reversed_, zip_of(folder)):
        assert np.array_equal(read(source).pixels, expected.pixels)
    assert read(reversed_).sha256 == expected.sha256
    assert read(zip_of(folder)).sha256 == brainmri.io.files.StudyFile(path=zip_of(folder)).digest()


def test_geometry_lists_the_instance_of_every_slice(tmp_path):
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
def test_enhanced_image_is_read_as_a_study(tmp_path, plane):
    order = np.random.default_rng(1).permutation(len(positions(plane)[0])).tolist()
    ds = enhanced(plane, order)
    save(tmp_path / "one", [ds])
    scan = read(tmp_path / "one" / "Planted_Patient_0")
    assert marker(scan) == MARKER
    assert scan.name == "study"
    assert [i.frame - 1 for i in scan.geometry.instances] == np.argsort(order).tolist()
    assert {i.uid for i in scan.geometry.instances} == {ds.SOPInstanceUID}


def test_single_image_is_a_study_of_one_slice(tmp_path):
    save(tmp_path / "one", images()[9:10])
    scan = read(tmp_path / "one" / "Planted_Patient_0")
    assert scan.pixels.shape == (1, 36, 40, 3)
    assert scan.pixels[0, 4, 4, FLAIR] == 1


@pytest.mark.parametrize(("thickness", "sized"), [(None, False), (0, False), (5, True)])
def test_single_image_has_a_volume_only_if_it_has_a_thickness(tmp_path, thickness, sized):
    scan = read(save(tmp_path / "one", images(SliceThickness=thickness, SpacingBetweenSlices=None)[9:10]))
    assert scan.geometry.plausible == sized
    assert ("the file has no slice thickness; volumes are in voxels and distances in pixels" in scan.warnings) == (not sized)


def test_slope_and_intercept_are_applied_per_slice(tmp_path):
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


def test_signed_and_12_bit_pixels_are_read(tmp_path):
    signed = images(PixelRepresentation=1)
    twelve = images()
    for number, (one, two) in enumerate(zip(signed, twelve, strict=True)):
        one.PixelData = (EXPECTED[number] - 500).astype(np.int16).tobytes()
        two.BitsStored, two.HighBit = 12, 11
    assert np.allclose(read(save(tmp_path / "one", signed)).pixels, read(save(tmp_path / "two", twelve)).pixels, atol=1e-6)


def test_series_are_recognised_by_their_descriptions(tmp_path):
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
    others = ("1 DICOM files that are not greyscale MR images are ignored", "2 other series are not used")
    assert scan.warnings == (
        *others,
        "1 picture beside the volume was left out; to analyse slices, upload them without the volume",
    )


TIMES = {"ScanningSequence": ["SE", "IR"], "InversionTime": 2500, "EchoTime": 120, "RepetitionTime": 9000}


def test_double_inversion_recovery_is_not_read_as_flair(tmp_path):
    folder = save(tmp_path / "study", images(description="SAG DIR", pixels=EXPECTED[:, :, ::-1], **TIMES))
    scan = read(folder)
    assert scan.single_sequence == "double inversion recovery"
    assert scan.warnings[0] == "the series is double inversion recovery, not FLAIR"
    save(folder, images(description="AX", series=2, **TIMES), prefix="b")
    assert [candidate.channel for candidate in list_sequences(folder)] == [None, FLAIR]
    assert marker(read(folder)) == MARKER


def test_two_inversion_times_are_not_those_of_a_flair(tmp_path):
    ds = enhanced()
    ds.SeriesDescription = "AX"
    modifier, timing, echo = Dataset(), Dataset(), Dataset()
    modifier.InversionRecovery, modifier.InversionTimes = "YES", [2900.0, 450.0]
    timing.RepetitionTime, echo.EffectiveEchoTime = 7500.0, 300.0
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.MRModifierSequence, shared.MRTimingAndRelatedParametersSequence, shared.MREchoSequence = [modifier], [timing], [echo]
    assert read(save(tmp_path / "one", [ds])).single_sequence == "double inversion recovery"
    modifier.InversionTimes = [2300.0]
    assert read(save(tmp_path / "two", [ds])).single_sequence == "FLAIR"


def test_duplicate_series_are_left_out(tmp_path):
    folder = save(tmp_path / "study", images())
    for series in (3, 4):
        save(folder, images(description="AX T1", series=series), prefix=f"b{series}_")
    scan = read(folder)
    assert "the pre-contrast T1 was found in 2 series and was left out" in scan.warnings
    assert np.array_equal(scan.pixels[..., PRE], scan.pixels[..., FLAIR])


def test_axial_flair_series_is_preferred(tmp_path):
    folder = save(tmp_path / "study", images("sagittal", description="SAG FLAIR", series=1), prefix="a")
    save(folder, images("axial", description="AX FLAIR", series=2), prefix="b")
    scan = read(folder)
    assert "got 2 FLAIR series; the one number 2 “AX FLAIR” with 12 slices is used" in scan.warnings
    assert scan.geometry.axes == (0, 1, 2)


def test_series_without_flair_are_refused_with_a_list(tmp_path):
    folder = save(tmp_path / "study", images(description="AX T2 FSE", series=1), prefix="a")
    save(folder, images(description="Planted 19991231 T1", series=2), prefix="b")
    save(folder, images(description="AX T1 POST", series=19991231), prefix="c")
    message = refusal(folder)
    assert "number 1 “AX T2 FSE” with 12 slices (T2); number 2 with 12 slices (pre-contrast T1); without" in message
    assert "without a short number “AX T1 POST” with 12 slices (post-contrast T1)" in message


def test_single_series_is_assumed_to_be_flair(tmp_path):
    assert read(save(tmp_path / "a", images(description="Planted"))).warnings == (ONE_SEQUENCE,)
    scan = read(save(tmp_path / "b", images(description="AX T1 POST")))
    assert "the series is post-contrast T1" in scan.warnings[0]


def test_slices_without_positions_are_ordered_by_number(tmp_path):
    series = images()
    for ds in series:
        del ds.ImagePositionPatient
    scan = read(save(tmp_path / "one", series))
    assert marker(scan) == MARKER
    assert "numbered from the neck upwards" in scan.warnings[0]
    assert scan.geometry is None
    for ds in series:
        ds.InstanceNumber = 1
    assert "neither positions nor numbers" in refusal(save(tmp_path / "one", series))


def test_slices_without_positions_are_ordered_by_location(tmp_path):
    series = images()
    for number, ds in enumerate(series):
        del ds.ImagePositionPatient
        ds.SliceLocation, ds.InstanceNumber = 5.0 * number - 20, number // 2 + 1 + 6 * (number % 2)  # even slices first
    scan = read(save(tmp_path / "one", series))
    assert np.array_equal(scan.pixels, read(save(tmp_path / "placed", images())).pixels)
    assert "in the order of their slice locations" in scan.warnings[0]


def test_unequal_gaps_give_a_warning(tmp_path):
    series = images()
    del series[5]
    scan = read(save(tmp_path / "one", series))
    assert "unequal gaps, 5.00 to 10.00 mm: 1 of 12 slices are missing" in scan.warnings[0]
    assert scan.pixels.shape[0] == 11


def damaged(change):
    """A series with a change in its third image."""
    series = images()
    change(series[2])
    return series


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (lambda: [*images(), *images()[3:5]], "several slices at the same position"),
        (lambda: damaged(lambda d: setattr(d, "PixelData", d.PixelData[:-8])), "damaged"),
        (lambda: damaged(lambda d: delattr(d, "PixelData")), "got a file without them"),
        (lambda: images(Modality="CT"), "expected greyscale MR images"),
        (lambda: images(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "expected greyscale MR images"),
        (lambda: damaged(lambda d: setattr(d, "ImageOrientationPatient", [0] * 6))[2:3], "damaged"),
        (lambda: images(PhotometricInterpretation="PALETTE COLOR"), "expected greyscale MR images"),
        (lambda: [header(Modality="SR")], "got none among 1 DICOM files"),
        (lambda: damaged(lambda d: setattr(d, "NumberOfFrames", 10**9))[2:3], "got a time series or a damaged file"),
    ],
)
def test_bad_series_are_refused(tmp_path, series, reason):
    message = refusal(save(tmp_path / "Planted", series()))
    assert reason in message


def test_oversized_images_are_refused_before_decoding(tmp_path):
    series = images()
    for ds in series:
        ds.Rows = ds.Columns = 60000
    assert "60000 x 60000" in refusal(save(tmp_path / "one", series))


@pytest.mark.parametrize("name", ["CT_small.dcm", "rtplan.dcm", "test-SR.dcm", "MR_truncated.dcm", "SC_rgb_rle.dcm"])
def test_pydicom_sample_files_of_other_kinds_are_refused(name):
    assert "Please" in refusal(get_testdata_file(name, download=False))


def test_deflated_file_is_refused_before_decompression(tmp_path, monkeypatch):
    ds = images()[0]
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    folder = save(tmp_path / "one", [ds])
    monkeypatch.setattr("pydicom.filereader.zlib.decompress", lambda *_: pytest.fail("decompressed"))
    assert "deflated" in refusal(folder)


def test_truncated_dicom_file_is_refused(tmp_path):
    path = save(tmp_path / "one", images()[:1]) / "Planted_Patient_0"
    whole = path.read_bytes()
    for end in (132, 140, 200, 400, 900):
        path.write_bytes(whole[:end])
        assert "Please" in refusal(path)


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
def test_identifiers_in_unexpected_elements_are_never_shown(tmp_path, caplog, recwarn, capfd, keyword):
    folder = save(tmp_path / "Planted", images()[:3])
    tag = pydicom.datadict.tag_for_keyword(keyword)
    value = ODD[keyword].encode().ljust(len(ODD[keyword]) + len(ODD[keyword]) % 2)
    for path in folder.iterdir():
        # set as a raw element, since pydicom refuses to write the value
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
    output = [*capfd.readouterr(), caplog.text, *(str(w.message) for w in recwarn)]
    assert not [word for word in PLANTED for text in output if word in text]
