"""Situations from bug reports of comparable tools, one row for each kind: what is read, where it lies, and the warnings.

The marker of the phantom has one place in the patient, whatever way the study is stored.
"""

import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pytest

from brainmri.io.itk_files import NO_SIZE
from brainmri.io.pixels import FLAIR
from brainmri.io.reading import UnreadableImage, count_studies, list_sequences, read_study
from brainmri.io.sequences import POST, PRE
from brainmri.io.writers import write_nifti, write_segmentation
from tests.support.cases import (
    bare,
    changed,
    commented,
    compressed,
    dicom,
    directory,
    fine_t1,
    in_folders,
    in_space,
    in_unit,
    itk,
    jitter,
    mgh,
    moved,
    nrrd,
    other_patient,
    own_frame_of_reference,
    own_series,
    packed_pair,
    padded,
    pair,
    repeated,
    set_bits,
    shift_bits,
    signed,
    tse,
    two_stacks,
    volume,
    windows_zip,
    with_overlay,
    without_modality,
)
from tests.support.phantom import PHANTOM, RAS, images, nifti, save
from tests.support.segmentations import segmented_points
from tests.support.studies import nifti_bytes, read

CENTRE = (70.0, 61.0, 45.0)  # mm, of the marker
VOLUME = 5 * 6 * 3 * 20.0  # mm3, of the marker


@dataclass(frozen=True, kw_only=True)
class Case:
    """A study whose marker is read at `CENTRE` with its volume.

    Attributes:
        make: writes it to a folder and returns what to read.
        says: parts of its warnings.
        sequences: by channel, part of the label, or None.
    """

    make: Callable[[Path], Path]
    says: tuple[str, ...] = ()
    sequences: tuple[str | None, str | None, str | None] | None = None
    slices: int = 12
    volume: float = VOLUME


CASES = {
    # what belongs together
    "a series UID for each slice": Case(
        make=dicom(changed(own_series)), says=("12 series are parts of one stack and were joined",)
    ),
    "a frame of reference for each slice": Case(
        make=dicom(changed(own_frame_of_reference)), says=("each of 12 files has a frame of reference of its own",)
    ),
    "another patient's T1": Case(
        make=dicom(images(), other_patient("AX T1", 2), other_patient("AX T1 POST", 3)),
        says=("the files hold 2 studies; only study 1 can be read without a choice of sequences", "only FLAIR"),
        sequences=(None, "AX FLAIR", None),
    ),
    "another patient's T1 in the same study": Case(
        make=dicom(
            images(), images(description="AX T1", series=2, PatientID="Q"), images(description="T1 POST", series=3, PatientID="Q")
        ),
        says=("the files hold 2 studies; only study 1 can be read without a choice of sequences",),
        sequences=(None, "AX FLAIR", None),
    ),
    "a T1 in another frame of reference": Case(
        make=dicom(images(), images(description="AX T1", series=2, FrameOfReferenceUID="1.2.3")),
        says=("pre-contrast T1 lies in another frame of reference",),
        sequences=(None, "AX FLAIR", None),
    ),
    "every file twice": Case(make=dicom(SERIES := images(), SERIES), says=("12 DICOM files that are copies of others",)),
    "a scout in the series": Case(
        make=dicom([*images(), *images("sagittal")[:3]]), says=("3 of 15 images of the series are left out",)
    ),
    "magnitude and phase in one series": Case(
        make=dicom([*images(ImageType=["ORIGINAL", "PRIMARY", "M"]), *images(ImageType=["ORIGINAL", "PRIMARY", "P"])]),
        says=("1 other series is not used",),
    ),
    "magnitude and phase in one enhanced image": Case(
        make=dicom(lambda: [repeated("MRImageFrameTypeSequence", "ComplexImageComponent", "MAGNITUDE", "PHASE")]),
        says=("1 other series is not used",),
    ),
    "two moments in one enhanced image": Case(
        make=dicom(lambda: [repeated("FrameContentSequence", "TemporalPositionIndex", 1, 2)]), says=("got 2 FLAIR series",)
    ),
    # geometry
    "a stray slice": Case(make=dicom([*images(), *moved(1, (0, 0, -120))]), says=("1 of 13 images of the series are left out",)),
    "two stacks": Case(make=dicom(two_stacks), says=("got 2 FLAIR series; the one number 1 “AX FLAIR” with 12 slices is used",)),
    "a slice shifted in its plane": Case(
        make=dicom(lambda: [*moved(1, (15, 0, 0)), *images()[1:]]),
        says=("1 of 12 slices are left out: they are shifted",),
        slices=11,
    ),
    "a missing slice": Case(make=dicom(lambda: images()[:4] + images()[5:]), says=("1 of 12 slices are missing",), slices=11),
    "three missing slices": Case(make=dicom(lambda: images()[:2] + images()[5:]), says=("3 of 12 slices are missing",), slices=9),
    "jitter of the orientation": Case(make=dicom(changed(jitter))),
    "directions that are not of length 1": Case(make=dicom(images(ImageOrientationPatient=[2, 0, 0, 0, 2, 0]))),
    "metres": Case(make=volume("flair.nii", in_unit("meter", 1000))),
    "micrometres": Case(make=volume("flair.nii", in_unit("micron", 0.001))),
    "metres in the header, mm in truth": Case(
        make=volume("flair.nii", in_unit("meter", 1)), says=("sizes in meter, which is impossible",)
    ),
    "a damaged sform beside a qform": Case(make=volume("flair.nii", in_space({280: struct.pack("<12f", *[0] * 12)}))),
    "an sform too small for any unit": Case(
        make=volume("flair.nii", in_space({280: struct.pack("<12f", 1e-38, 0, 0, 0, 0, 1e-38, 0, 0, 0, 0, 1e-38, 0)}))
    ),
    "a qform without its sign": Case(make=volume("flair.nii", in_space({76: struct.pack("<f", 0), 254: struct.pack("<h", 0)}))),
    "sizes that are no numbers": Case(make=volume("flair.nii", in_space({80: struct.pack("<3f", *[np.nan] * 3)}))),
    "two voxel sizes": Case(
        make=volume("flair.nii", in_space({80: struct.pack("<3f", 1, 1, 1)})),
        says=("two voxel sizes, 2 x 2 x 5 by its sform and 1 x 1 x 1 by its pixdim; the first are used",),
    ),
    "no voxel offset": Case(make=volume("flair.nii", nifti_bytes(patch={108: struct.pack("<f", 0)}))),
    "a T1 on another grid": Case(
        make=fine_t1,
        says=("pre-contrast T1 lies on another grid than the FLAIR and was resampled: its voxels measure 2.0 x 2.0 x 2.5 mm",),
        sequences=("t1.nii.gz", "flair.nii.gz", None),
    ),
    "a sagittal T1": Case(
        make=dicom(images(), images("sagittal", description="SAG T1", series=2)),
        says=("was resampled",),
        sequences=("SAG T1", "AX FLAIR", None),
    ),
    # sequences
    "a T1 FLAIR before the FLAIR": Case(
        make=dicom(images(description="T1 AX FLAIR", series=1), images(description="AX T2 FLAIR", series=2)),
        sequences=("T1 AX FLAIR", "AX T2 FLAIR", None),
    ),
    "a T1 without contrast": Case(
        make=dicom(images(), images(description="AX T1 WO CONTRAST", series=2)), sequences=("AX T1 WO", "AX FLAIR", None)
    ),
    "folders named as sequences": Case(
        make=lambda folder: in_folders(folder, "flair/head.nii.gz", "t1/head.nii.gz"),
        sequences=("t1/head.nii.gz", "flair/head.nii.gz", None),
    ),
    "a T1 in another folder": Case(
        make=lambda folder: in_folders(folder, "Smith/flair.nii.gz", "Jones/t1.nii.gz"),
        says=("the pre-contrast T1 is in another folder than the FLAIR; check that both show one patient",),
        sequences=("t1.nii.gz", "flair.nii.gz", None),
    ),
    "times instead of names": Case(
        make=dicom(images(description="", series=1, **tse(120, 2500)), images(description="", series=2, **tse(100))),
        sequences=(None, "number 1", None),
    ),
    "an agent instead of a name": Case(
        make=dicom(images(), images(description="AX T1", series=2, ContrastBolusAgent="Gadovist")),
        sequences=(None, "AX FLAIR", "AX T1"),
    ),
    # pixels
    "bits of an overlay, compressed": Case(make=dicom(lambda: compressed(lambda: changed(set_bits), with_overlay))),
    "signed 12 bits": Case(make=dicom(signed)),
    "signed 12 bits, compressed": Case(make=dicom(lambda: compressed(signed, lambda stored: stored & 0x0FFF))),
    "12 bits at the upper end": Case(make=dicom(changed(shift_bits))),
    "padding": Case(make=dicom(padded)),
    "an intercept that is no number": Case(make=volume("flair.nii", in_space({112: struct.pack("<2f", 2, np.nan)}))),
    "an empty slope": Case(make=dicom(images(RescaleSlope=None, RescaleIntercept=None))),
    # formats
    "a time point and one component": Case(
        make=lambda folder: nifti(folder / "flair.nii", PHANTOM[..., None, None], kind=nibabel.Nifti2Image)
    ),
    "a fourth axis of length 0": Case(make=volume("flair.nii", in_space({40: struct.pack("<5h", 4, *PHANTOM.shape, 0)}))),
    "three volumes named as one sequence": Case(
        make=lambda folder: nifti(folder / "flair.nii", np.stack([PHANTOM] * 3, axis=3)),
        says=("the file is named as FLAIR, but its three volumes are read as pre-contrast T1, FLAIR and post-contrast T1",),
    ),
    "MGH": Case(make=volume("flair.mgz", lambda: gzip.compress(mgh()))),
    "a pair": Case(make=pair),
    "a pair by its voxels": Case(make=lambda folder: pair(folder).with_suffix(".img")),
    "a packed pair": Case(make=packed_pair),
    "a comment before the type": Case(make=commented),
    "NRRD": Case(make=itk("flair.nrrd")),
    "MetaImage": Case(make=itk("flair.mha")),
    "zstd": Case(make=volume("flair.nii.zst", lambda: imagecodecs.zstd_encode(nifti_bytes()))),
    "packed but named plain": Case(make=volume("flair.nii", lambda: gzip.compress(nifti_bytes()))),
    "plain but named packed": Case(make=volume("flair.nii.gz", nifti_bytes())),
    "a second download": Case(make=volume("flair.nii (1).gz", lambda: gzip.compress(nifti_bytes()))),
    "no preamble": Case(make=bare),
    "no modality": Case(make=dicom(changed(without_modality))),
    "backslashes": Case(make=windows_zip),
}


@pytest.mark.parametrize("name", CASES)
def test_case_is_read_in_its_place(tmp_path, name):
    case = CASES[name]
    scan = read(case.make(tmp_path))
    found = scan.pixels[..., FLAIR] == 1
    assert scan.geometry.to_mm(tuple(np.argwhere(found).mean(axis=0))) == pytest.approx(CENTRE, abs=0.1)
    assert found.sum() * scan.geometry.voxel_volume == pytest.approx(case.volume, rel=1e-3)
    assert len(scan.pixels) == case.slices
    assert all(any(part in warning for warning in scan.warnings) for part in case.says), scan.warnings
    if case.sequences:
        assert all(
            (part is None) == (label is None) and (part or "") in (label or "")
            for part, label in zip(case.sequences, scan.sequences, strict=True)
        ), scan.sequences
    check_results_in_place(scan, found, tmp_path)


def check_results_in_place(scan, mask: np.ndarray, folder: Path) -> None:
    """NIfTI mask, probability map and DICOM segmentation of a mask lie at the same place as the marker."""
    write_nifti(folder / "mask.nii.gz", mask, scan.geometry)
    write_nifti(folder / "probability.nii.gz", mask.astype(np.float32), scan.geometry)
    for name in ("mask", "probability"):
        written = nibabel.load(folder / f"{name}.nii.gz")
        points = np.argwhere(np.asarray(written.dataobj) > 0.5)
        to_mm = {"meter": 1000, "micron": 0.001}.get(written.header.get_xyzt_units()[0], 1)
        if any("read as mm" in warning for warning in scan.warnings):
            to_mm = 1
        assert nibabel.affines.apply_affine(written.affine, points).mean(axis=0) * to_mm == pytest.approx(CENTRE, abs=0.1)
    if scan.geometry.instances and not any("were joined" in one or "of its own" in one for one in scan.warnings):
        write_segmentation(folder / "mask.dcm", mask, scan.geometry, "1")
        assert segmented_points(folder / "mask.dcm").mean(axis=0) == pytest.approx(CENTRE, abs=0.1)


def test_frames_of_a_file_with_one_position_are_read_in_their_order(tmp_path):
    series = images()
    file = series[0]
    file.NumberOfFrames, file.PixelData = 12, b"".join(ds.PixelData for ds in series)
    scan = read(save(tmp_path / "one", [file]))
    assert np.flatnonzero((scan.pixels[..., FLAIR] == 1).any(axis=(1, 2))).tolist() == [8, 9, 10]
    assert scan.warnings[0].startswith("the files have no slice positions; the slices are read as axial")


def test_folders_of_files_that_are_listed_have_no_meaning(tmp_path):
    in_folders(tmp_path, "7dce9/flair.nii.gz", "b0/t1.nii.gz")
    scan = read_study([tmp_path / "7dce9" / "flair.nii.gz", tmp_path / "b0" / "t1.nii.gz"])
    assert scan.sequences == ("t1.nii.gz", "flair.nii.gz", None)
    assert scan.warnings == ("FLAIR is used in place of the post-contrast T1",)


def test_a_slice_in_a_volume_file_of_two_axes_is_read(tmp_path):
    scan = read(nifti(tmp_path / "flair.nii.gz", PHANTOM[:, :, 9]))
    assert scan.pixels.shape == (1, 36, 40, 3)
    assert (scan.pixels[0, ..., FLAIR] == 1).sum() == 5 * 6


@pytest.mark.parametrize("spacing", [None, [0, 0], [0, 2]])
def test_slices_without_pixel_size_are_in_the_order_of_their_positions(tmp_path, spacing):
    def reverse(number, ds):
        ds.PixelSpacing = spacing
        ds.InstanceNumber = 12 - number

    scan = read(dicom(changed(reverse))(tmp_path))
    assert scan.geometry is None
    assert np.flatnonzero((scan.pixels[..., FLAIR] == 1).any(axis=(1, 2))).tolist() == [8, 9, 10]
    assert scan.warnings[0] == "the files have no pixel size; the slices are read as axial, in the order of their positions"


@pytest.mark.parametrize("orientation", [[0] * 6, [1, 0, 0, 0, 0, 0], [1, 0, 0, -1, 0, 0]])
def test_an_orientation_that_spans_no_plane_is_named_as_the_problem(tmp_path, orientation):
    """Some converters write an orientation of zeros."""
    folder = dicom(changed(lambda _, ds: setattr(ds, "ImageOrientationPatient", orientation)))(tmp_path)
    with pytest.raises(UnreadableImage, match="the orientation of the images is damaged: it spans no plane"):
        read(folder)


def test_index_stands_for_its_folder(tmp_path):
    save(tmp_path / "DICOM", images())
    directory()[0].save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    for path in (tmp_path, tmp_path / "DICOMDIR"):
        scan = read(path)
        assert len(scan.pixels) == 12
        assert scan.warnings == ("only FLAIR was provided; it is used for all three channels",)


def test_studies_of_several_patients_are_read_one_by_one(tmp_path):
    folder = dicom(images(), other_patient("AX FLAIR", 2), other_patient("AX T1", 3))(tmp_path / "one")
    assert count_studies(folder) == 2
    candidates = list_sequences(folder)
    assert [(candidate.study, candidate.channel) for candidate in candidates] == [(0, None), (1, None), (1, None)]
    assert candidates[1].label == "study 2, series number 2 “AX FLAIR” with 12 slices"
    assert read_study(folder, study=0).sequences == (None, "study 1, series number 1 “AX FLAIR” with 12 slices", None)
    assert read_study(folder, study=1).sequences[PRE] == "study 2, series number 3 “AX T1” with 12 slices"
    assert read_study(folder, {FLAIR: 1, PRE: 2}).sequences[FLAIR] == candidates[1].label
    with pytest.raises(UnreadableImage, match="belong to different studies or patients"):
        read_study(folder, {FLAIR: 0, PRE: 2})


@pytest.mark.parametrize("description", ["AX T2 FSE", "AX SWI", "AX T1 POST"])
def test_a_lone_sequence_other_than_flair_is_named(tmp_path, description):
    scan = read(save(tmp_path / "one", images(description=description)))
    assert scan.single_sequence in ("T2", "susceptibility", "post-contrast T1")
    assert scan.warnings[0].startswith(f"the series is {scan.single_sequence}, not FLAIR")


def test_t1_of_another_visit_is_left_out(tmp_path):
    nifti(tmp_path / "sub-01_ses-1_FLAIR.nii")
    nifti(tmp_path / "sub-01_ses-2_T1w.nii")
    assert "pre-contrast T1 is named as another patient or visit than the FLAIR and was left out" in read(tmp_path).warnings[0]


def test_rotation_beyond_registration_is_refused(tmp_path):
    nifti(tmp_path / "flair.nii")
    angle = np.radians(40)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    nifti(tmp_path / "t1ce.nii", affine=turn @ RAS)
    assert (
        "post-contrast T1 lies on another grid than the FLAIR and is rotated by 40 degrees against it"
        in read(tmp_path).warnings[0]
    )
    with pytest.raises(UnreadableImage, match="is rotated by 40 degrees"):
        read_study(tmp_path, {FLAIR: 0, POST: 1})


@pytest.mark.parametrize(("axis", "plane"), [(0, "sagittal"), (1, "coronal")])
def test_2d_series_is_read_in_its_own_plane(tmp_path, axis, plane):
    spacing = np.where(np.arange(3) == axis, 5.0, 1.0)
    pixels = np.random.default_rng(0).integers(0, 900, np.where(np.arange(3) == axis, 12, [180, 200, 160])).astype(np.int16)
    scan = read(nifti(tmp_path / "flair.nii", pixels, np.diag([*spacing, 1])))
    assert scan.geometry.plane == plane
    assert len(scan.pixels) == 12
    assert f"the slices are {plane}; they are analysed as acquired" in scan.warnings[-1]
    mask = scan.pixels[..., FLAIR] > 0.5
    write_nifti(tmp_path / "mask.nii.gz", mask, scan.geometry)
    low, high = np.percentile(pixels, (0.5, 99.5))
    written = np.asarray(nibabel.load(tmp_path / "mask.nii.gz").dataobj)
    assert (written == (np.clip((pixels - low) / (high - low), 0, 1) > 0.5)).mean() > 0.999


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("flair.nii", nifti_bytes(patch={80: bytes(12), 252: bytes(4)})),
        ("flair.nrrd", nrrd("space: LPS")),
        (
            "flair.mha",
            b"NDims = 3\nDimSize = 40 36 12\nElementType = MET_SHORT\nElementDataFile = LOCAL\n" + PHANTOM.tobytes("F"),
        ),
        ("flair.mgh", b"".join((mgh()[:28], bytes(2), mgh()[30:]))),
        ("flair.mgh", b"".join((mgh()[:30], bytes(12), mgh()[42:]))),  # voxel size 0
        ("flair.nii", nifti_bytes(patch={80: bytes(12), 254: bytes(2)})),  # only a qform, of size 0
    ],
)
def test_unknown_voxel_size_gives_a_warning_and_no_millimetres(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    scan = read(tmp_path / name)
    assert NO_SIZE in scan.warnings
    assert not scan.geometry.plausible


def test_space_that_is_not_anatomical_is_no_orientation(tmp_path):
    (tmp_path / "flair.nrrd").write_bytes(nrrd("space: scanner-xyz", "space directions: (2,0,0) (0,2,0) (0,0,5)"))
    scan = read(tmp_path / "flair.nrrd")
    assert scan.warnings[0] == "the file has no orientation; its slices are read as axial, from the neck upwards"
    assert not scan.geometry.oriented
    assert scan.geometry.plausible


def test_transforms_of_a_nifti_header_go_back_out(tmp_path):
    qform = RAS.copy()
    qform[:3, 3] = 10, -5, 3
    image = nibabel.Nifti1Image(PHANTOM, RAS)
    image.set_sform(RAS, 2)
    image.set_qform(qform, 1)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "flair.nii")
    scan = read(tmp_path / "flair.nii")
    write_nifti(tmp_path / "mask.nii.gz", scan.pixels[..., FLAIR] == 1, scan.geometry)
    header = nibabel.load(tmp_path / "mask.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (2, 1)
    assert np.allclose(header.get_sform(), RAS)
    assert np.allclose(header.get_qform(), qform)


def test_damaged_qform_is_dropped_if_there_is_an_sform(tmp_path):
    path = tmp_path / "flair.nii"
    path.write_bytes(nifti_bytes(patch={76: struct.pack("<4f", 1, np.inf, 2, 5), 252: struct.pack("<2h", 1, 1)}))
    scan = read(path)
    write_nifti(tmp_path / "mask.nii", scan.pixels[..., FLAIR] == 1, scan.geometry)
    assert scan.geometry.nifti.codes == (1, 0)
    path.write_bytes(nifti_bytes(patch={252: struct.pack("<2h", 0, 99)}))
    assert read(path).geometry.nifti.codes == (2, 0)
    path.write_bytes(nifti_bytes(patch={252: struct.pack("<2h", -1, 1)}))
    assert read(path).geometry.nifti.codes == (1, 0)


def test_unused_series_of_another_patient_are_not_counted(tmp_path):
    two = dicom(images(), images(description="AX T2", series=4), other_patient("AX FLAIR", 2), other_patient("AX T2", 3))
    path = two(tmp_path)
    for number in (0, 1):
        unused = [warning for warning in read_study(path, study=number).warnings if "not used" in warning or "hold" in warning]
        assert unused == ["1 other series is not used"], number
