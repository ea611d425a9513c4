"""Result files: equal for every input format, on the input's own grid, without patient data; and the command line."""

import gzip
import json
import re
import resource
import zipfile
from pathlib import Path

import highdicom
import imagecodecs
import nibabel
import numpy as np
import pandas
import pydicom
import pytest
import tifffile
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless
from scipy.ndimage import zoom

import brainmri
from brainmri.__main__ import main
from brainmri.batch.cohort import process
from brainmri.batch.inputs import find_inputs
from brainmri.io.reading import read_study
from brainmri.report.html import report_html
from brainmri.report.outputs import pack, write_study
from brainmri.report.render import montage_picture
from tests.support.phantom import PLANTED, header, save, zip_of
from train.evaluation.metrics import dice

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
# every other slice of the example study and of its true mask, which halves the time of the tests
SOURCE, TRUTH = (
    nibabel.load(EXAMPLES / name).slicer[..., ::2] for name in ("study-flair.nii.gz", "truth/study-flair.mask.nii.gz")
)
VOXEL_MM3 = 10.0
PLANES = np.asarray(SOURCE.dataobj).transpose(2, 1, 0)  # (slices upwards, rows to the back, columns to the left) uint8
# the planted values, without those that UIDs may contain: their root has 4711, and random numbers may have any six digits
IDENTIFIERS = {*PLANTED, "ID4711", "SN4711", "ACC0815", "235959.4711"} - {"4711", "0815", "235959"}


@pytest.fixture(scope="module")
def pipe():
    return brainmri.Pipeline("effunet-lgg", device="cpu")  # small, so that the tests are fast


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("example") / "study-flair.nii.gz"
    nibabel.save(SOURCE, path)
    return path


@pytest.fixture(scope="module")
def study(pipe, example):
    return pipe.study(example)


def reoriented(path: Path, code: str) -> Path:
    """Save the example with its axes in another order and direction."""
    nibabel.save(SOURCE.as_reoriented(ornt_transform(io_orientation(SOURCE.affine), axcodes2ornt(code))), path)
    return path


def stretched(path: Path, tall: float, wide: float) -> Path:
    """Save the example resampled to other pixel sides, in mm."""
    volume = zoom(np.asarray(SOURCE.dataobj), (1 / wide, 1 / tall, 1), order=1, grid_mode=True, mode="grid-constant")
    nibabel.save(nibabel.Nifti1Image(volume, SOURCE.affine @ np.diag([wide, tall, 1, 1])), path)
    return path


def series(folder: Path, syntax=None) -> Path:
    """Save the example as axial DICOM images whose headers are full of patient data."""
    made = []
    for number, plane in enumerate(PLANES):
        corner = (SOURCE.affine @ [0, 0, number, 1])[:3] * (-1, -1, 1)
        ds = header(InstanceNumber=number + 1, SliceThickness=10.0, BitsAllocated=8, BitsStored=8, HighBit=7)
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [float(v) for v in corner], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, (ds.Rows, ds.Columns) = [1.0, 1.0], plane.shape
        ds.PixelData = np.ascontiguousarray(plane).tobytes()
        if syntax == RLELossless:
            ds.compress(syntax, generate_instance_uid=False)
        elif syntax == JPEG2000Lossless:
            ds.PixelData = encapsulate(
                [imagecodecs.jpeg2k_encode(np.ascontiguousarray(plane), reversible=True, codecformat="j2k")]
            )
            ds["PixelData"].VR = "OB"
            ds.file_meta.TransferSyntaxUID = syntax
        made.append(ds)
    return save(folder, made)


def pictures(folder: Path) -> Path:
    folder.mkdir()
    for number, plane in enumerate(PLANES, 1):
        Image.fromarray(np.ascontiguousarray(plane)).save(folder / f"case_{number}.tif")
    return folder


# --- the same result for every input format -------------------------------------------------------------------------------


CONTAINERS = {
    "nifti-axial": lambda folder: reoriented(folder / "flair.nii.gz", "RAS"),
    "nifti-sagittal": lambda folder: reoriented(folder / "flair.nii", "ASR"),
    "nifti-coronal": lambda folder: reoriented(folder / "flair.nii.gz", "LIA"),
    "dicom": lambda folder: series(folder / "series"),
    "dicom-rle": lambda folder: series(folder / "series", RLELossless),
    "dicom-jpeg2000": lambda folder: series(folder / "series", JPEG2000Lossless),
    "dicom-zip": lambda folder: zip_of(series(folder / "series")),
    "tiff-folder": lambda folder: pictures(folder / "case"),
    "tiff-zip": lambda folder: zip_of(pictures(folder / "case")),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_same_study_in_any_container_gives_the_same_mask(pipe, study, tmp_path, container):
    found = pipe.study(CONTAINERS[container](tmp_path))
    assert dice(found.mask, study.mask) > 0.98
    assert found.verdict == study.verdict
    if "tiff" in container:
        assert (found.volume_mm3, found.lesions[0].side) == (None, None)  # pictures have no voxel size and no orientation
    else:
        assert found.volume_mm3 == pytest.approx(study.volume_mm3, rel=0.02)
        assert found.lesions[0].centroid_mm == pytest.approx(study.lesions[0].centroid_mm, abs=1)
        assert found.lesions[0].side == "left"


@pytest.mark.parametrize(("tall", "wide"), [(1.0, 0.8), (1.25, 1.0)])
def test_other_pixel_sizes_give_the_same_lesion(pipe, study, tmp_path, tall, wide):
    found = pipe.study(stretched(tmp_path / "flair.nii.gz", tall, wide))
    back = zoom(
        found.mask.astype(np.float32), np.divide(study.mask.shape, found.mask.shape), order=1, grid_mode=True, mode="nearest"
    )
    assert dice(back > 0.5, study.mask) > 0.98
    assert found.volume_mm3 == pytest.approx(study.volume_mm3, rel=0.02)


def test_the_examples_lesion_is_found_and_measured(study):
    assert study.verdict == "tumour"
    truth = np.asarray(TRUTH.dataobj) > 0
    assert dice(study.geometry.to_original(study.mask), truth) > 0.9
    assert study.volume_mm3 == pytest.approx(truth.sum() * VOXEL_MM3, rel=0.1)
    assert [lesion.side for lesion in study.lesions] == ["left"]


# --- files ----------------------------------------------------------------------------------------------------------------


def test_the_files_of_a_nifti_study(study, example, tmp_path):
    scan = read_study(example)
    files = write_study(scan, study, tmp_path / "out")
    names = ["report.html", "mask.nii.gz", "probability.nii.gz", "slices.csv", "montage.png", "study.json"]
    assert [file.name for file in files] == names
    mask = nibabel.load(tmp_path / "out" / "mask.nii.gz")
    assert mask.shape == SOURCE.shape
    assert np.allclose(mask.affine, SOURCE.affine)
    assert np.array_equal(np.asarray(mask.dataobj) > 0, study.geometry.to_original(study.mask))
    table = pandas.read_csv(tmp_path / "out" / "slices.csv")
    assert table["area_px"].tolist() == study.mask.sum(axis=(1, 2)).tolist()
    columns = ["slice", "verdict", "probability", "area_px", "area_mm2", "diameter_mm"]
    assert list(table.columns) == [*columns, "ood_distance", "ood_other", "out_of_distribution"]
    record = json.loads((tmp_path / "out" / "study.json").read_text())
    assert record["lesion_volume_ml"] == pytest.approx(study.volume_mm3 / 1000, abs=1e-3)
    assert record["sequences"] == {"pre-contrast T1": None, "FLAIR": "study-flair.nii.gz", "post-contrast T1": None}
    with zipfile.ZipFile(pack(files, tmp_path / "study.zip")) as archive:
        assert archive.namelist() == [f"study/{name}" for name in names]
        assert archive.testzip() is None


def test_a_dicom_studys_segmentation_references_its_images(pipe, study, tmp_path):
    scan = read_study(series(tmp_path / "series"))
    found = pipe.study(scan)
    files = write_study(scan, found, tmp_path / "out")
    segmentation = highdicom.seg.segread(tmp_path / "out" / "mask.dcm")
    assert files[3].name == "mask.dcm"
    uids = [instance.uid for instance in scan.geometry.instances]
    frames = segmentation.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)[..., 0]
    assert np.array_equal(frames > 0, found.geometry.to_original(found.mask))


def test_slices_get_a_tiff_stack(pipe, study, tmp_path):
    scan = read_study(pictures(tmp_path / "case"))
    write_study(scan, pipe.study(scan), tmp_path / "out")
    assert dice(tifffile.imread(tmp_path / "out" / "mask.tif") > 0, study.mask) > 0.98
    assert not (tmp_path / "out" / "mask.nii.gz").exists()


def test_images_that_a_segmentation_cannot_reference_keep_their_other_files(pipe, tmp_path):
    folder = series(tmp_path / "series")
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        del ds.FrameOfReferenceUID
        ds.save_as(path)
    scan = read_study(folder)
    names = [file.name for file in write_study(scan, pipe.study(scan), tmp_path / "out")]
    assert "mask.nii.gz" in names
    assert "mask.dcm" not in names
    assert "no DICOM segmentation" in (tmp_path / "out" / "study.json").read_text()


@pytest.mark.parametrize("packed", [False, True])
def test_no_file_of_a_dicom_study_identifies_the_patient(tmp_path, packed, capfd, caplog):
    """Names, numbers and dates planted in headers and file names appear in no output and no log."""
    folder = series(tmp_path / "incoming")
    source = zip_of(folder) if packed else folder
    out = tmp_path / "out"
    with caplog.at_level("DEBUG"):
        assert main(["predict", str(source), "--out", str(out), "--device", "cpu"]) == 0
    written = [path for path in out.rglob("*") if path.is_file()]
    assert {"mask.dcm", "report.html", "study.json", "studies.csv", "studies.parquet"} <= {path.name for path in written}
    logged = capfd.readouterr()
    contents = {"log": (logged.out + logged.err + caplog.text).encode()}
    for path in written:
        data = path.read_bytes()
        contents[path.name] = data + (gzip.decompress(data) if path.suffix == ".gz" else b"")
        contents[f"{path.name}'s name"] = path.name.encode()
    for where, data in contents.items():
        found = [w for w in IDENTIFIERS for code in ("ascii", "utf-16-le") if w.lower().encode(code) in data.lower()]
        assert not found, where


# --- the command line -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cohort(tmp_path) -> Path:
    """A folder with two studies and a folder that is not a study."""
    root = tmp_path / "cohort"
    root.mkdir()
    pictures(root / "first")
    (root / "second").mkdir()
    reoriented(root / "second" / "flair.nii.gz", "RAS")
    (root / "third").mkdir()
    (root / "third" / "notes.txt").write_text("nothing to see")
    return root


def test_a_folder_of_studies_is_processed_and_resumed(cohort, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["predict", str(cohort), "--out", str(out), "--device", "cpu", "--segmenter", "effunet-lgg"]
    command += ["--classifier", "effunet-lgg"]
    assert main(command) == 1
    assert "1 of 3 inputs failed" in capsys.readouterr().err
    first = out / "first" / "study.json"
    stamp = first.stat().st_mtime_ns
    (out / "second" / "study.json").unlink()  # as after an interruption
    assert main(command) == 1
    assert first.stat().st_mtime_ns == stamp
    assert (out / "second" / "study.json").is_file()
    tables = pandas.read_csv(out / "studies.csv"), pandas.read_parquet(out / "studies.parquet")
    for table in tables:
        assert table["input"].tolist() == ["first", "second", "third"]
        assert table["status"].tolist() == ["done before", "done", "failed"]
        assert table["verdict"].tolist()[:2] == ["tumour", "tumour"]
        assert table["lesion_volume_ml"][1] == pytest.approx(47, abs=5)
        assert "MRI file" in table["problem"][2]
    assert main([*command, "--segmenter", "resunet-lgg"]) == 1  # with other networks, everything is analysed again
    assert first.stat().st_mtime_ns != stamp


def test_slices_and_studies_together(tmp_path, capsys):
    out = tmp_path / "out"
    tifffile.imwrite(tmp_path / "stack.tif", PLANES[6:9], photometric="minisblack")
    sources = [EXAMPLES / "large-lesion.png", tmp_path / "stack.tif"]
    assert main(["predict", *map(str, sources), "--out", str(out), "--device", "cpu"]) == 0
    assert (out / "large-lesion.mask.png").is_file()
    assert (out / "stack" / "mask.tif").is_file()
    table = pandas.read_csv(out / "studies.csv")
    assert table["kind"].tolist() == ["slice", "study"]
    record = json.loads((out / "large-lesion.finding.json").read_text())
    assert table["probability"][0] == record["probability"]
    of_slices = json.loads((out / "stack" / "study.json").read_text())["per_slice"]
    assert table["probability"][1] == max(one["probability"] for one in of_slices)
    printed = capsys.readouterr().out
    assert f"large-lesion.png: tumour, {record['area_px']} pixels outlined. {record['reason']}" in printed


def test_an_out_of_distribution_image_gets_no_probability(tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)).save(tmp_path / "noise.png")
    assert main(["predict", str(tmp_path / "noise.png"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "noise.png: review, " in capsys.readouterr().out


def test_which_inputs_a_folder_holds(cohort, example, tmp_path):
    def names(path: Path) -> list[str]:
        return [found.name for found in find_inputs(path)]

    assert names(example) == ["study-flair.nii.gz"]
    assert names(cohort) == ["first", "second", "third"]
    assert names(cohort / "first") == ["first"]
    one = tmp_path / "one"  # one file per sequence: one study
    one.mkdir()
    for word in ("flair", "t1", "t1ce"):
        (one / f"{word}.nii.gz").write_bytes(b"")
    (one / "seg.nii.gz").write_bytes(b"")
    assert names(one) == ["one"]
    (one / "flair-2.nii.gz").write_bytes(b"")  # two FLAIRs: not one study
    assert names(one) == ["flair-2.nii.gz", "flair.nii.gz", "t1.nii.gz", "t1ce.nii.gz"]
    zips = tmp_path / "zips"
    zips.mkdir()
    for name in ("a", "b"):
        with zipfile.ZipFile(zips / f"{name}.zip", "w"):
            pass
    assert names(zips) == ["a.zip", "b.zip"]


def test_the_series_of_one_dicom_study_stay_together(tmp_path):
    root = tmp_path / "study"
    root.mkdir()
    for number, name in enumerate(("0001", "0002")):
        save(root / name, [header(series=number)])
    assert find_inputs(root) == [root]
    save(root / "0003", [header(StudyInstanceUID="1.2.3.4")])
    assert find_inputs(root) == [root / "0001", root / "0002", root / "0003"]
    (root / "0002" / "Planted_Patient_0").write_bytes(bytes(128) + b"DICM" + bytes(7))  # damaged; reading it reports this
    assert find_inputs(root) == [root / "0001", root / "0002", root / "0003"]


def test_pydicoms_mr_image_is_analysed_and_written(pipe, tmp_path):
    scan = read_study(get_testdata_file("MR_small.dcm", download=False))
    files = write_study(scan, pipe.study(scan), tmp_path)
    assert {"mask.dcm", "mask.nii.gz", "report.html"} <= {file.name for file in files}
    assert highdicom.seg.segread(tmp_path / "mask.dcm").Rows == 64


def test_memory_does_not_grow_with_the_number_of_studies(pipe, tmp_path):
    source = EXAMPLES / "study-flair.nii.gz"

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # MiB

    for number in range(2):
        process(pipe, source, tmp_path, f"warm-{number}")
    before = peak()
    for number in range(4):
        process(pipe, source, tmp_path, f"study-{number}")
    assert peak() - before < 40  # one study's pixels alone are 8 MiB, its report and files as much again


def test_reports_of_many_slices_stay_small(study, example):
    scan = read_study(example)
    report = report_html(scan, study, "example", montage_picture(scan.pixels, study))
    assert len(report) < 60_000 * len(study.findings)
    assert not re.search(r"https?://(?!www\.w3\.org)", report)
