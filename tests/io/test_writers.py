"""Result files: viewers read back equal masks at equal positions, and nothing in the files identifies the patient."""

import gzip
import logging
import zipfile

import highdicom
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageSequence
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage, RLELossless

from brainmri.io.reading import UnreadableImage, read_study
from brainmri.io.scan import Geometry
from brainmri.io.writers import segmentation_template, write_nifti, write_segmentation, write_tiff
from tests.support.phantom import (
    EXPECTED,
    PHANTOM,
    PLANES,
    PLANTED,
    RAS,
    SHAPE,
    affine_of,
    enhanced,
    images,
    nifti,
    positions,
    save,
    stored,
    zip_of,
)

MASK = EXPECTED == 1000
# the planted identifiers, except those that UIDs contain: their root has 4711, and random numbers may have the others
IDENTIFIERS = {*PLANTED, "ID4711", "SN4711", "ACC0815", "235959.4711"} - {"4711", "0815", "235959"}


def identifiers(path) -> list[str]:
    """Identifiers in the bytes of a file, compressed or not; its own name counts as one."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data += gzip.decompress(data)
    data = data.lower()
    words = IDENTIFIERS | {path.name}
    return [word for word in words for code in ("ascii", "utf-16-le", "utf-16-be") if word.lower().encode(code) in data]


# --- NIfTI ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["RAS", "LPS", "AIR"])
def test_nifti_mask_is_on_the_grid_of_its_source(tmp_path, code):
    source = nifti(tmp_path / "Planted.nii.gz", stored(PHANTOM, code), affine_of(code))
    scan = read_study(source)
    path = tmp_path / "mask.nii.gz"
    write_nifti(path, MASK, scan.geometry)
    image = nibabel.load(path)
    assert image.shape == nibabel.load(source).shape
    assert np.array_equal(image.affine, nibabel.load(source).affine)
    assert np.allclose(image.get_qform(), image.affine, atol=1e-4)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(image.dataobj), stored(PHANTOM, code) == 1000)
    assert np.array_equal(read_study(path).pixels[..., 0] * 255, MASK)  # our reader returns the same mask
    assert identifiers(path) == []


def test_probability_map_keeps_its_values(tmp_path):
    geometry = Geometry(shape=SHAPE, affine=RAS)
    probability = np.random.default_rng(0).random(geometry.scan_shape, np.float32)
    write_nifti(tmp_path / "map.nii.gz", probability, geometry)
    image = nibabel.load(tmp_path / "map.nii.gz")
    assert image.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(image.dataobj), geometry.to_original(probability))


def test_nifti_header_text_is_not_copied(tmp_path):
    image = nibabel.Nifti1Image(PHANTOM, RAS)
    image.header["descrip"] = b"Planted^Patient"
    image.header["aux_file"] = b"ID4711"
    image.header["intent_name"] = b"Planted"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Planted Hospital"))
    nibabel.save(image, tmp_path / "flair.nii")
    assert len(identifiers(tmp_path / "flair.nii")) > 2
    write_nifti(tmp_path / "mask.nii.gz", MASK, read_study(tmp_path / "flair.nii").geometry)
    assert identifiers(tmp_path / "mask.nii.gz") == []


def test_equal_masks_give_equal_bytes(tmp_path, monkeypatch):
    geometry = Geometry(shape=SHAPE, affine=RAS)
    write_nifti(tmp_path / "one.nii.gz", MASK, geometry)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_nifti(tmp_path / "two.nii.gz", MASK, geometry)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()


@pytest.mark.parametrize("plane", PLANES)
def test_nifti_mask_of_dicom_is_at_the_position_of_the_images(tmp_path, plane):
    series = images(plane)
    write_nifti(tmp_path / "mask.nii.gz", MASK, read_study(save(tmp_path / "one", series)).geometry)
    image = nibabel.load(tmp_path / "mask.nii.gz")
    voxels = np.argwhere(np.asarray(image.dataobj))
    assert len(voxels) == MASK.sum()
    for number, row, column in voxels[:: len(voxels) // 7]:
        ds = series[number]
        along_row, along_column = np.reshape(ds.ImageOrientationPatient, (2, 3)).astype(float)
        place = np.array(ds.ImagePositionPatient, float)  # PS3.3 C.7.6.2.1.1
        place += along_row * ds.PixelSpacing[1] * column + along_column * ds.PixelSpacing[0] * row
        assert np.allclose(nibabel.affines.apply_affine(image.affine, (number, row, column)) * (-1, -1, 1), place)


def test_sheared_stack_has_no_quaternion(tmp_path):
    sheared = RAS + np.outer([0, 1, 0, 0], [0, 0, 2, 0])  # each slice is shifted relative to the one below
    write_nifti(tmp_path / "mask.nii.gz", MASK, Geometry(shape=SHAPE, affine=sheared))
    image = nibabel.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(image.affine, sheared)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)


# --- TIFF -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slices", [1, 3, 4, 12])
def test_tiff_stack_has_a_page_per_slice(tmp_path, slices):
    path = tmp_path / "mask.tif"
    write_tiff(path, MASK[-slices:])
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == slices
        pages = np.stack([page.asarray() for page in tiff.pages])
    assert pages.dtype == np.uint8
    assert np.array_equal(pages, MASK[-slices:] * np.uint8(255))
    with Image.open(path) as image:
        assert np.array_equal(np.stack([np.asarray(page) for page in ImageSequence.Iterator(image)]), pages)
    assert path.stat().st_size < 500 * slices
    assert not [word for word in (b"tifffile", b"shape", b"mask.tif") if word in path.read_bytes()]


# --- DICOM segmentations --------------------------------------------------------------------------------------------------


def write(path, source, mask=MASK):
    """Write a segmentation of a study and check what all of them have in common; also returns the study's geometry."""
    geometry = read_study(source).geometry
    write_segmentation(path, mask, geometry, "0.1.0")
    assert identifiers(path) == []
    segmentation = highdicom.seg.segread(path)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
                    "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"):  # fmt: skip
        assert keyword in segmentation
        assert not segmentation[keyword].value
    assert "InstitutionName" not in segmentation
    assert (segmentation.Modality, segmentation.SegmentationType) == ("SEG", "BINARY")
    assert segmentation.SeriesInstanceUID != segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID
    (segment,) = segmentation.SegmentSequence
    assert segment.SegmentLabel == "Lesion"
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "52988006"
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("brainmri", "0.1.0")
    return segmentation, geometry


def by_instance(segmentation, geometry) -> np.ndarray:
    """The mask on the stored grid, gathered as viewers do, by the images that frames reference."""
    found = segmentation.get_pixels_by_source_instance(
        [instance.uid for instance in geometry.instances], segment_numbers=[1], assert_missing_frames_are_empty=True
    )
    return found[..., 0] == 1


def by_frame(segmentation, geometry) -> np.ndarray:
    """The mask on the stored grid, gathered by the frames of a multi-frame image."""
    found = segmentation.get_pixels_by_source_frame(
        geometry.instances[0].uid,
        [instance.frame for instance in geometry.instances],
        segment_numbers=[1],
        assert_missing_frames_are_empty=True,
    )
    return found[..., 0] == 1


def check_positions(segmentation, geometry) -> None:
    """Check that every frame has the position of its source."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    along_row, along_column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    tall, wide = shared.PixelMeasuresSequence[0].PixelSpacing
    numbers = {(instance.uid, instance.frame): number for number, instance in enumerate(geometry.instances)}
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        number = numbers[source.ReferencedSOPInstanceUID, int(source.get("ReferencedFrameNumber", 1))]
        affine = np.stack([along_column * tall, along_row * wide, frame.PlanePositionSequence[0].ImagePositionPatient], axis=1)
        expected = geometry.affine[:3, 1:] + np.outer(geometry.affine[:3, 0] * number, [0, 0, 1])
        assert np.allclose(affine.astype(float) * [[-1], [-1], [1]], expected)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("plane", PLANES)
def test_segmentation_references_the_images_of_a_series(tmp_path, plane, packed):
    series = images(plane)
    folder = save(tmp_path / "Planted_Hospital", series)
    segmentation, geometry = write(tmp_path / "lesion.dcm", zip_of(folder) if packed else folder)
    mask = stored(PHANTOM, PLANES[plane][1]) == 1000
    assert np.array_equal(by_instance(segmentation, geometry), mask)
    assert segmentation.NumberOfFrames == mask.any(axis=(1, 2)).sum()
    check_positions(segmentation, geometry)
    assert segmentation.StudyInstanceUID == series[0].StudyInstanceUID
    assert segmentation.FrameOfReferenceUID == series[0].FrameOfReferenceUID
    (referenced,) = segmentation.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == series[0].SeriesInstanceUID
    assert {(r.ReferencedSOPClassUID, r.ReferencedSOPInstanceUID) for r in referenced.ReferencedInstanceSequence} == {
        (MRImageStorage, ds.SOPInstanceUID) for ds in series
    }


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("plane", PLANES)
def test_segmentation_references_the_frames_of_an_enhanced_image(tmp_path, plane, packed):
    ds = enhanced(plane, np.random.default_rng(1).permutation(len(positions(plane)[0])).tolist())
    content = Dataset()
    content.FrameComments, content.FrameAcquisitionDateTime = "Planted comment", "19991231235959"
    for group in ds.PerFrameFunctionalGroupsSequence:
        group.FrameContentSequence = [content]
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].ImageComments = "Planted"
    folder = save(tmp_path / "one", [ds])
    segmentation, geometry = write(tmp_path / "lesion.dcm", zip_of(folder) if packed else folder)
    assert np.array_equal(by_frame(segmentation, geometry), stored(PHANTOM, PLANES[plane][1]) == 1000)
    check_positions(segmentation, geometry)
    assert (segmentation.StudyInstanceUID, segmentation.FrameOfReferenceUID) == (ds.StudyInstanceUID, ds.FrameOfReferenceUID)
    (source,) = segmentation.SourceImageSequence
    assert (source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID) == (ds.SOPClassUID, ds.SOPInstanceUID)


def test_compressed_images_can_be_referenced(tmp_path):
    series = images()
    for ds in series:
        ds.compress(RLELossless, generate_instance_uid=False)
    segmentation, geometry = write(tmp_path / "lesion.dcm", save(tmp_path / "one", series))
    assert np.array_equal(by_instance(segmentation, geometry), MASK)
    assert segmentation.LossyImageCompression == "00"


def test_lossy_compression_of_the_source_is_recorded(tmp_path):
    folder = save(tmp_path / "one", images(LossyImageCompression="01", LossyImageCompressionMethod="PLANTED"))
    assert write(tmp_path / "lesion.dcm", folder)[0].LossyImageCompression == "01"


def test_frames_keep_their_positions_when_slices_are_missing(tmp_path):
    series = images()
    del series[5]
    segmentation, geometry = write(tmp_path / "lesion.dcm", save(tmp_path / "one", series), np.delete(MASK, 5, axis=0))
    assert np.array_equal(by_instance(segmentation, geometry), np.delete(MASK, 5, axis=0))
    heights = [float(f.PlanePositionSequence[0].ImagePositionPatient[2]) for f in segmentation.PerFrameFunctionalGroupsSequence]
    assert sorted(heights) == [40, 45, 50]


def test_empty_mask_has_every_frame(tmp_path):
    segmentation, geometry = write(tmp_path / "lesion.dcm", save(tmp_path / "one", images()), np.zeros_like(MASK))
    assert segmentation.NumberOfFrames == len(MASK)
    assert not by_instance(segmentation, geometry).any()


def test_template_with_pixels_is_a_corrected_segmentation(tmp_path):
    series = images()
    del series[5]
    geometry, mask = read_study(save(tmp_path / "one", series)).geometry, np.delete(MASK, 5, axis=0)
    template = segmentation_template(geometry, "0.1.0")
    whole = np.insert(mask, 5, False, axis=0)  # slices of the stored array, with the missing one
    pixels = np.packbits(whole[list(template.frames)], bitorder="little")
    (tmp_path / "lesion.dcm").write_bytes(template.header + pixels.tobytes())
    segmentation = highdicom.seg.segread(tmp_path / "lesion.dcm")
    assert np.array_equal(by_instance(segmentation, geometry), mask)
    assert segmentation.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert template.uids == (segmentation.SOPInstanceUID, segmentation.SeriesInstanceUID)
    assert identifiers(tmp_path / "lesion.dcm") == []


def test_single_image_of_pydicom_can_be_referenced(tmp_path):
    source = get_testdata_file("MR_small.dcm", download=False)
    mask = np.random.default_rng(0).random((1, 64, 64)) > 0.5
    segmentation, geometry = write(tmp_path / "lesion.dcm", source, mask)
    assert np.array_equal(by_instance(segmentation, geometry), geometry.to_original(mask))
    assert segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 0.8
    data = (tmp_path / "lesion.dcm").read_bytes()
    assert not [word for word in (b"CompressedSamples", b"4MR1", b"TOSHIBA") if word in data]
    write_nifti(tmp_path / "mask.nii.gz", mask, geometry)
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "mask.nii.gz").dataobj), geometry.to_original(mask))


def test_writing_neither_logs_nor_warns(tmp_path, caplog, recwarn, capfd):
    geometry = read_study(save(tmp_path / "one", images(LossyImageCompression="Planted"))).geometry
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    recwarn.clear()
    capfd.readouterr()
    for mask in (MASK, np.zeros_like(MASK)):
        write_segmentation(tmp_path / "lesion.dcm", mask, geometry, "0.1.0")
    assert (caplog.text, list(recwarn), *capfd.readouterr()) == ("", [], "", "")


def refusal(path, source, change=lambda geometry: None) -> str:
    """The message with which a segmentation is refused, after a change to the study's geometry or files."""
    geometry = read_study(source).geometry
    change(geometry)
    with pytest.raises(UnreadableImage) as caught:
        write_segmentation(path, np.ones(geometry.scan_shape, bool), geometry, "0.1.0")
    assert not path.exists()
    assert not [word for word in PLANTED if word in str(caught.value)]
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "can be written for" in str(caught.value)
    return str(caught.value)


def one_uid_twice() -> list[Dataset]:
    series = images()
    series[4].SOPInstanceUID = series[3].SOPInstanceUID
    return series


def two_multi_frame_images() -> list[Dataset]:
    lower, upper = enhanced(), enhanced()
    for group in upper.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient[2] += 60
    return [lower, upper]


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (lambda: images(FrameOfReferenceUID=None), "without a valid FrameOfReferenceUID"),
        (lambda: images(StudyInstanceUID="Planted.19700102"), "without a valid StudyInstanceUID"),
        (lambda: images(SOPClassUID="1.2.826.0.1.3680043.8.498.99"), "cannot reference"),
        (one_uid_twice, "cannot reference"),
        (two_multi_frame_images, "cannot reference"),
    ],
)
def test_images_that_cannot_be_referenced_are_refused(tmp_path, series, reason):
    assert reason in refusal(tmp_path / "lesion.dcm", save(tmp_path / "Planted", series()))


def test_missing_or_changed_source_files_are_refused(tmp_path):
    folder = save(tmp_path / "Planted", images())

    def swap(geometry):
        first, second = geometry.instances[0].path, geometry.instances[1].path
        first.write_bytes(second.read_bytes())

    assert "the DICOM files have changed since the study was read" in refusal(tmp_path / "lesion.dcm", folder, swap)
    folder = save(tmp_path / "Planted", images())
    assert "FileNotFoundError" in refusal(tmp_path / "lesion.dcm", folder, lambda g: g.instances[3].path.unlink())
    packed = zip_of(save(tmp_path / "Planted", images()))
    assert "FileNotFoundError" in refusal(tmp_path / "lesion.dcm", packed, lambda g: packed.unlink())


def test_zip_is_opened_once(tmp_path, monkeypatch):
    geometry = read_study(zip_of(save(tmp_path / "one", images()))).geometry
    opened = []
    real = zipfile.ZipFile.__init__
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda self, *a, **k: opened.append(a) or real(self, *a, **k))
    write_segmentation(tmp_path / "lesion.dcm", MASK, geometry, "0.1.0")
    assert len(opened) == 1


# --- refusals -------------------------------------------------------------------------------------------------------------


def test_wrong_types_and_grids_are_refused(tmp_path):
    geometry = Geometry(shape=SHAPE, affine=RAS)
    for function in (write_nifti, lambda path, mask, geometry: write_segmentation(path, mask, geometry, "1")):
        with pytest.raises(ValueError, match="got int64"):
            function(tmp_path / "file", MASK.astype(int), geometry)
    with pytest.raises(ValueError, match="expected a volume of bool, got float64"):
        write_tiff(tmp_path / "file", MASK.astype(float))
    with pytest.raises(ValueError, match="expected"):
        write_nifti(tmp_path / "file", MASK[1:], geometry)
    with pytest.raises(ValueError, match="read from DICOM images"):
        write_segmentation(tmp_path / "file", MASK, geometry, "1")
    geometry = read_study(save(tmp_path / "one", images())).geometry
    with pytest.raises(ValueError, match="1 to 64 ASCII"):
        write_segmentation(tmp_path / "file", MASK, geometry, "1" * 65)
    assert not (tmp_path / "file").exists()
