"""Series of real scanners, from the test data of other packages, lie where nibabel places them: read, written and read again.

Masks are also read by SimpleITK, and DICOM segmentations by their own positions.
"""

import gzip
import io
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from nibabel.nicom.dicomwrappers import wrapper_from_file
from nibabel.parrec import PARRECHeader
from nibabel.testing import data_path
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from brainmri.io.pixels import FLAIR
from brainmri.io.reading import read_study
from brainmri.io.writers import write_nifti, write_segmentation
from tests.support.segmentations import segmented_points

NIBABEL = Path(data_path)
NICOM = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"  # headers of real scans, whose pixels were emptied
UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
LPS_TO_RAS = np.diag([-1, -1, 1, 1])
# name to file, each of another series; other formats than DICOM and NIfTI are converted by nibabel, one volume of several is read
SERIES = {
    "Toshiba, axial": "MR_small.dcm",
    "Siemens, reformatted": "examples_overlay.dcm",
    "Siemens, oblique projection": NICOM / "slicethickness_empty_string.dcm",
    "Philips, oblique sagittal": "MR2_UNCI.dcm",  # of the package pydicom-data
    "Philips, enhanced": NICOM / "philips_mprage.dcm.gz",
    "Siemens, oblique, real part": NICOM / "decimal_rescale.dcm",
    "Philips PAR/REC": NIBABEL / "phantom_EPI_asc_CLEAR_2_1.PAR",
    "NIfTI": NIBABEL / "anatomical.nii",
    "NIfTI, oblique": (NIBABEL / "example4d.nii.gz", 0),
    "Philips PAR, oblique axial": NIBABEL / "Phantom_EPI_3mm_tra_-30AP_10RL_20FH_SENSE_14_1.PAR",
    "Philips PAR, oblique sagittal": NIBABEL / "Phantom_EPI_3mm_sag_15AP_SENSE_13_1.PAR",
    "AFNI": (NIBABEL / "example4d+orig.HEAD", 0),
    "AFNI, standard space": (NIBABEL / "scaled+tlrc.HEAD", 0),
}


def with_pixels(source: Path, path: Path) -> Path:
    """A DICOM file with its own header, but for a smaller grid, and pixels of noise."""
    data = source.read_bytes()
    dataset = pydicom.dcmread(io.BytesIO(gzip.decompress(data) if source.suffix == ".gz" else data))
    for keyword in UIDS:  # emptied in some
        setattr(dataset, keyword, dataset.get(keyword) or (MRImageStorage if keyword == "SOPClassUID" else generate_uid()))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Rows, dataset.Columns = 48, 40
    shape = (int(dataset.get("NumberOfFrames", 1)), 48, 40)
    dataset.PixelData = np.random.default_rng(0).integers(0, 1000, shape).astype(np.uint16).tobytes()
    dataset.save_as(path)
    return path


def noise_on_grid(path: Path) -> nibabel.Nifti1Image:
    """Noise in place of the voxels of a PAR file, which were not published."""
    with path.open() as file:
        header = PARRECHeader.from_fileobj(file)
    return nibabel.Nifti1Image(np.random.default_rng(0).random(header.get_data_shape()[:3], np.float32), header.get_affine())


def by_nibabel(path: Path) -> nibabel.Nifti1Image:
    """A DICOM file as nibabel reads it."""
    wrapper = wrapper_from_file(path)
    data = np.asarray(wrapper.get_data())
    return nibabel.Nifti1Image(data.reshape(*data.shape, 1) if data.ndim == 2 else data, LPS_TO_RAS @ wrapper.affine)


def open_series(file: str | tuple[Path, int] | Path, folder: Path) -> tuple[Path, nibabel.Nifti1Image]:
    """The input, and the same series as nibabel reads it."""
    if isinstance(file, str):
        path = get_testdata_file(file, download=False)
        if path is None:
            pytest.skip("needs the package pydicom-data")
        return Path(path), by_nibabel(Path(path))
    if isinstance(file, Path) and file.parent == NICOM:
        path = with_pixels(file, folder / "series.dcm")
        return path, by_nibabel(path)
    path, volume = file if isinstance(file, tuple) else (file, 0)
    image = nibabel.load(path) if path.suffix != ".PAR" or path.with_suffix(".REC").is_file() else noise_on_grid(path)
    data = np.asarray(image.dataobj)
    image = nibabel.Nifti1Image((data[..., volume] if data.ndim == 4 else data).astype(np.float32), image.affine)
    nibabel.save(image, folder / "series.nii")
    return folder / "series.nii", image


def on_grid(volume: np.ndarray, affine: np.ndarray, target: nibabel.Nifti1Image) -> np.ndarray:
    """The values of a volume at the positions of another image's voxels, which coincide with its own."""
    positions = target.affine @ np.vstack([np.indices(target.shape).reshape(3, -1), np.ones(np.prod(target.shape))])
    indices = (np.linalg.inv(affine) @ positions)[:3]
    assert np.abs(indices - indices.round()).max() < 0.02
    return volume[tuple(indices.round().astype(int))].reshape(target.shape)


@pytest.mark.parametrize("name", SERIES)
def test_series_of_a_scanner_keeps_its_place(name, tmp_path):
    path, expected = open_series(SERIES[name], tmp_path)
    scan = read_study(path)
    values, pixels = np.asarray(expected.dataobj, np.float64), scan.pixels[..., FLAIR]
    found = on_grid(scan.geometry.to_original(pixels), scan.geometry.affine, expected)
    below, above = np.quantile(values, (0.05, 0.95))
    inside = (values > below) & (values < above)
    assert np.corrcoef(found[inside], values[inside])[0, 1] > 0.999
    mask = pixels > np.quantile(pixels, 0.9)
    write_nifti(tmp_path / "mask.nii.gz", mask, scan.geometry)
    written = nibabel.load(tmp_path / "mask.nii.gz")
    back = on_grid(np.asarray(written.dataobj) > 0, written.affine, expected)
    assert back.sum() == mask.sum() > 0
    assert values[back].min() >= values[~back].max()
    centre = nibabel.affines.apply_affine(written.affine, np.argwhere(np.asarray(written.dataobj) > 0)).mean(axis=0)
    assert centre_by_itk(tmp_path / "mask.nii.gz") == pytest.approx(centre, abs=0.05)
    if scan.geometry.instances:
        write_segmentation(tmp_path / "mask.dcm", mask, scan.geometry, "1")
        assert segmented_points(tmp_path / "mask.dcm").mean(axis=0) == pytest.approx(centre, abs=0.05)


def centre_by_itk(path: Path) -> np.ndarray:
    """(3,) centre of a mask in mm towards right, anterior and superior."""
    image = SimpleITK.ReadImage(path)
    index = np.argwhere(SimpleITK.GetArrayFromImage(image) > 0).mean(axis=0)[::-1]
    return np.multiply(image.TransformContinuousIndexToPhysicalPoint(index.tolist()), (-1, -1, 1))
