"""Unsuitable or damaged studies are refused, or read with a warning."""

import gzip
import zipfile

import nibabel
import numpy as np
import pytest

from brainmri.io.files import StudyFile
from brainmri.io.pixels import FLAIR
from brainmri.io.reading import list_sequences, read_study
from tests.support.phantom import EXPECTED, PHANTOM, RAS, SHAPE, affine_of, enhanced, header, images, nifti, save, stored
from tests.support.studies import inner_zip, marker, nifti_bytes, png, read, refusal, zip_of_bytes

# --- the wrong modality ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (lambda: images(Modality="CT"), "expected greyscale MR images, got none among 12 DICOM files (CT). Please upload"),
        (lambda: [*images(Modality="PT"), *images(Modality="CT")], "(CT, PT)"),
        (lambda: [header(Modality="SR")], "(SR)"),
        (lambda: images(Modality="US", SamplesPerPixel=3, PhotometricInterpretation="RGB"), "(US)"),
        (
            lambda: images(SamplesPerPixel=3, PhotometricInterpretation="RGB"),
            "got none among 12 DICOM files. Please upload an MR series",
        ),
        (
            lambda: images(Modality="XX"),
            "got none among 12 DICOM files. Please upload an MR series",
        ),  # not a modality of the standard
        (lambda: images(Modality="PLANTED"), "got none among 12 DICOM files. Please upload an MR series"),
        (lambda: images(Modality=["CT", "PLANTED"]), "got none among 12 DICOM files. Please upload an MR series"),
    ],
)
def test_refusal_names_the_modality(tmp_path, series, reason):
    assert reason in refusal(save(tmp_path / "Planted", series()))


def test_ct_series_beside_the_mr_is_ignored(tmp_path):
    folder = save(tmp_path / "study", images())
    save(folder, images(Modality="CT", series=2, description="AX T1"), prefix="ct")
    assert len(list_sequences(folder)) == 1
    assert "12 DICOM files that are not greyscale MR images are ignored" in read(folder).warnings


# --- too few, too many, too much ------------------------------------------------------------------------------------------


def test_volume_of_one_slice_is_read(tmp_path):
    scan = read(nifti(tmp_path / "flair.nii", PHANTOM[..., 9:10]))
    assert scan.pixels.shape == (1, 36, 40, 3)
    assert scan.pixels[0, 4, 4, FLAIR] == 1
    assert np.array_equal(scan.geometry.to_original(EXPECTED[9:10]), PHANTOM[..., 9:10])


@pytest.mark.parametrize("code", ["RAS", "LPS", "SRA"])
def test_a_volume_of_a_few_slices_says_that_it_covers_only_a_part(tmp_path, code):
    scan = read(nifti(tmp_path / "flair.nii", stored(PHANTOM[..., 3:9], code), affine_of(code)))
    assert "only 6 slices (30 mm) were provided. The result covers only this part of the head" in scan.warnings


def test_two_thousand_slices_are_refused_by_their_headers(tmp_path, monkeypatch):
    monkeypatch.setattr("brainmri.io.nifti.load_voxels", lambda *_: pytest.fail("voxels were read"))
    monkeypatch.setattr("brainmri.io.dicom.decode", lambda *_: pytest.fail("pixels were decoded"))
    path = nifti(tmp_path / "flair.nii.gz", np.zeros((32, 32, 2000), np.uint8))
    assert "got 2000 slices" in refusal(path)
    long = enhanced()
    long.NumberOfFrames = 2000
    assert "slices, expected 1 to 512" in refusal(save(tmp_path / "one", [long]))
    slices = zip_of_bytes(tmp_path, {f"case_{number}.png": b"" for number in range(2000)})
    assert "got 2000 slices" in refusal(slices)


def test_slices_missing_from_a_folder_give_a_warning(tmp_path):
    scan = read_study(zip_of_bytes(tmp_path, {f"case_{number}.png": png(number) for number in (3, 4, 7, 8, 10)}))
    assert scan.warnings[-1] == "3 of the slices' numbers from 3 to 10 are missing. Please upload the missing slices"
    scan = read_study(zip_of_bytes(tmp_path, {f"case_{number}.png": png(number) for number in (3, 4, 5)}))
    assert not [warning for warning in scan.warnings if "missing" in warning]


def test_too_long_slice_number_is_refused(tmp_path):
    long = f"case_{'1' * 5000}.png"
    assert "has no slice number" in refusal(zip_of_bytes(tmp_path, {long: png(1), "case_2.png": png(2)}))


def test_reading_more_than_the_file_holds_returns_what_is_there(tmp_path):
    (tmp_path / "x").write_bytes(b"DICM" * 9)
    with StudyFile(path=tmp_path / "x").open() as handle:
        assert handle.read(4) == b"DICM"
        assert len(handle.read(2**45)) == 32
        assert handle.read(2**45) == b""


def test_extreme_compression_ratio_is_refused_before_decompression(tmp_path, monkeypatch):
    monkeypatch.setattr("brainmri.io.nifti.load_voxels", lambda *_: pytest.fail("unpacked"))
    monkeypatch.setattr("brainmri.io.files._read_members", lambda *_: pytest.fail("unpacked"))
    volume = np.zeros((300, 300, 400), np.int16)
    volume[100, 100] = 1
    path = tmp_path / "flair.nii.gz"
    path.write_bytes(gzip.compress(nibabel.Nifti1Image(volume, RAS).to_bytes()))
    assert "that unpack to 69 MiB, unlike images" in refusal(path)
    members = {f"case_{number}.png": bytes(2**22) for number in range(20)}
    assert "that unpack to 80 MiB, unlike images" in refusal(zip_of_bytes(tmp_path, members, compression=zipfile.ZIP_DEFLATED))


# --- voxels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_voxel_that_is_not_finite_is_refused_in_every_sequence(tmp_path, value):
    damaged = PHANTOM.astype(np.float32)
    damaged[3, 4, 5] = value
    nifti(tmp_path / "flair.nii", damaged)
    assert "NaN or infinite" in refusal(tmp_path / "flair.nii")
    nifti(tmp_path / "flair.nii")
    nifti(tmp_path / "t1.nii", damaged)
    assert "NaN or infinite" in refusal(tmp_path)


def test_rescaling_to_infinity_is_refused(tmp_path):
    assert "NaN or infinite" in refusal(save(tmp_path / "one", images(RescaleSlope="1e39", RescaleIntercept="0")))


def test_constant_series_is_refused(tmp_path):
    assert "have the same value" in refusal(save(tmp_path / "one", images(pixels=np.full((12, 36, 40), 700))))


# --- time series ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [2, 4, 65])
def test_nifti_time_series_is_refused(tmp_path, times):
    path = nifti(tmp_path / "flair.nii.gz", np.zeros((*SHAPE, times), np.int16))
    assert f"three along the fourth axis, got shape (40, 36, 12, {times})" in refusal(path)


def test_dicom_time_series_is_refused(tmp_path):
    again = images(series=1)
    for number, ds in enumerate(again, 13):
        ds.InstanceNumber = number
    assert "several slices at the same position" in refusal(save(tmp_path / "one", [*images(series=1), *again]))
    many = enhanced("axial", [*range(12), *range(12)])
    many.NumberOfFrames = 24
    assert "several slices at the same position" in refusal(save(tmp_path / "two", [many]))


# --- files cut short, zips ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [5, 30, 300, -10])
def test_truncated_gzip_file_is_refused(tmp_path, kept):
    noise = np.random.default_rng(0).integers(0, 999, SHAPE).astype(np.int16)
    path = tmp_path / "flair.nii.gz"
    path.write_bytes(gzip.compress(nibabel.Nifti1Image(noise, RAS).to_bytes())[:kept])
    message = refusal(path)
    assert "damaged volume file" in message or "ends too early" in message


def test_gzip_file_with_damaged_voxels_is_refused(tmp_path):
    path = tmp_path / "flair.nii.gz"
    packed = gzip.compress(nifti_bytes(), 0)  # stored uncompressed, so that the damage changes one voxel only
    at = packed.index(PHANTOM.tobytes(order="F")) + 999
    path.write_bytes(packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :])
    assert "damaged volume file" in refusal(path)


def test_zip_checks_apply_to_every_entry_point(tmp_path):
    path = zip_of_bytes(tmp_path, {"../flair.nii": nifti_bytes(), "case_1.png": png(1)})
    for source in (path, [path]):
        assert "lead out of it" in refusal(source)
    assert "a zip within a zip" in refusal([zip_of_bytes(tmp_path, {"inner.ZIP": inner_zip()})])
    path = zip_of_bytes(tmp_path, {"flair.nii": nifti_bytes()})
    assert marker(read([path])) == marker(read(path))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    for function in (read_study, list_sequences):
        with pytest.raises(ValueError, match="encrypted"):
            function(path)
