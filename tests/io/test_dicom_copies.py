"""Only equal images are dropped as copies, whatever their UIDs say."""

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless

from brainmri.io import dicom_copies as copies
from brainmri.io.pixels import FLAIR
from brainmri.io.reading import count_studies, list_sequences
from brainmri.io.sequences import PRE
from tests.support.phantom import EXPECTED, ROOT, enhanced, images, save
from tests.support.studies import MARKER, marker, read, refusal


def without_uid(ds):
    del ds.SOPInstanceUID


def with_one_uid(ds):
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = ROOT + ".5"


def changed(change, **elements):
    series = images(**elements)
    for ds in series:
        change(ds)
    return series


UIDS = pytest.mark.parametrize("change", [without_uid, with_one_uid])


@UIDS
def test_series_without_uids_of_their_own_are_all_read(tmp_path, change):
    t1 = changed(change, description="AX T1", series=1, pixels=EXPECTED[:, :, ::-1])
    scan = read(save(tmp_path / "one", [*t1, *changed(change, series=2)]))
    assert marker(scan) == MARKER
    assert np.array_equal(scan.pixels[..., PRE], scan.pixels[:, :, ::-1, FLAIR])
    assert scan.warnings == ("FLAIR is used in place of the post-contrast T1",)


@UIDS
def test_equal_images_of_two_series_are_no_copies(tmp_path, change):
    folder = save(tmp_path / "one", [*changed(change), *changed(change, description="AX T1", series=2)])
    assert [candidate.channel for candidate in list_sequences(folder)] == [FLAIR, PRE]


@UIDS
@pytest.mark.parametrize("other", [{"PatientID": "Q"}, {"StudyInstanceUID": "1.2.3"}], ids=["patient", "study"])
def test_other_patients_and_studies_are_no_copies(tmp_path, change, other):
    folder = save(tmp_path / "one", [*changed(change), *changed(change, **other)])
    assert count_studies(folder) == 2
    assert "got 2 studies, of different examinations or patients" in refusal(folder)


@UIDS
def test_other_pixels_at_the_same_position_are_no_copies(tmp_path, change):
    twice = [*changed(change), *changed(change, pixels=EXPECTED // 2)]
    assert "several slices at the same position" in refusal(save(tmp_path / "one", twice))


@UIDS
def test_echoes_are_no_copies(tmp_path, change):
    echoes = [*changed(change, EchoTime=20), *changed(change, EchoTime=90, pixels=EXPECTED // 2)]
    assert len(list_sequences(save(tmp_path / "one", echoes))) == 2


def packed(series):
    for ds in series:
        pixels = np.frombuffer(ds.PixelData, np.uint16).reshape(ds.Rows, ds.Columns)
        ds.PixelData = encapsulate([imagecodecs.jpegls_encode(np.ascontiguousarray(pixels))])
        ds["PixelData"].VR = "OB"
        ds.file_meta.TransferSyntaxUID = JPEGLSLossless
    return series


@UIDS
@pytest.mark.parametrize(
    "again", [lambda series: series, packed, lambda series: [ds for ds in series if not setattr(ds, "StationName", "Planted")]],
    ids=["same bytes", "packed", "another header"],
)  # fmt: skip
def test_copies_are_dropped(tmp_path, change, again):
    scan = read(save(save(tmp_path / "one", changed(change)), again(changed(change)), prefix="again"))
    assert "12 DICOM files that are copies of others are ignored" in scan.warnings
    assert marker(scan) == MARKER
    assert len(scan.pixels) == 12


def test_a_copy_of_an_enhanced_image_is_dropped_and_decoded_once(tmp_path, monkeypatch):
    one, two = enhanced(), enhanced()
    for ds in (one, two):
        with_one_uid(ds)
    two.StationName = "Planted"
    folder = save(tmp_path / "one", [one, two])
    decoded, read_frames = [], copies.read_frames
    monkeypatch.setattr(copies, "read_frames", lambda *args: decoded.append(1) or read_frames(*args))
    assert marker(read(folder)) == MARKER
    assert len(decoded) == 2
