"""Situations from bug reports that are refused: the message names what was found and the way out."""

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.support.cases import changed, dicom, directory, nrrd, other_patient, tiled, volume
from tests.support.phantom import PHANTOM, RAS, images, nifti
from tests.support.studies import nifti_bytes, refusal


def mosaic(number, ds):
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]


def colours() -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(np.zeros(PHANTOM.shape, [(name, "u1") for name in "RGB"]), RAS)


def float_pixels(number, ds):
    ds.FloatPixelData = np.frombuffer(ds.PixelData, np.uint16).astype(np.float32).tobytes()
    ds.BitsAllocated = 32
    del ds.PixelData


def two_subjects(folder: Path) -> Path:
    nifti(folder / "sub-01_FLAIR.nii")
    nifti(folder / "sub-02_FLAIR.nii")
    return folder


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (dicom(images(), other_patient("AX FLAIR", 2)), "got 2 studies, of different examinations or patients"),
        (dicom(changed(mosaic)), "got a mosaic, in which the scanner tiled the slices of a volume. Please convert it"),
        (dicom(tiled("SIEMENS MR HEADER", 0x19, 0x0A, "US", 36)), "got a mosaic, in which the scanner tiled"),
        (dicom(tiled("Image Private Header", 0x65, 0x50, "DS", "24")), "got a mosaic, in which the scanner tiled"),
        (
            dicom(lambda: [*images(), *images()[3:5]]),
            "several slices at the same position (echoes, phases or copies). Please export one",
        ),
        (dicom(directory()), "got a DICOMDIR, which is only an index. Please upload the folder"),
        (two_subjects, "got 2 studies, of different patients or visits ("),
        (volume("sub-01_dwi.nii", lambda: nibabel.Nifti1Image(np.stack([PHANTOM] * 3, 3), RAS).to_bytes()), "named as diffusion"),
        (volume("flair.hdr", lambda: nibabel.Nifti1Pair(PHANTOM, RAS).header.binaryblock), "upload the .hdr and the .img file"),
        (
            volume("flair.nhdr", b"NRRD0004\ntype: short\ndata file: /etc/passwd\n\n"),
            "NRRD header whose voxels are in another file",
        ),
        (volume("flair.mhd", b"NDims = 3\nElementDataFile = flair.raw\n"), "MetaImage header whose voxels are in another file"),
        (volume("flair.nrrd", nrrd("encoding: bzip2")), "got an NRRD file packed by bzip2. Please save it with gzip"),
        (volume("flair.nrrd.gz", lambda: gzip.compress(nrrd("spacings: 2 2 5"))), "got a compressed NRRD file. Please unpack it"),
        (volume("flair.nii", nifti_bytes(patch={280: struct.pack("<12f", *[0] * 12)})), "whose sform and qform are damaged"),
        (volume("flair.nii.gz", lambda: gzip.compress(nifti_bytes()) + bytes(2**17)), "ends in more than 64 KiB of zeros"),
        (volume("flair.nii.gz", b""), "flair.nii.gz: expected a volume, as the file's name says, got an empty file. Please copy"),
        (volume("flair.nii.gz", b"<!DOCTYPE html><html>"), "got a web page. Please download"),
        (
            volume("flair.nii", b"version https://git-lfs.github.com/spec/v1\n"),
            "got a Git LFS pointer. Please fetch the file itself",
        ),
        (
            volume("flair.nii", lambda: colours().to_bytes()),
            "expected integer or float voxels, got colours. Please save grey values",
        ),
        (volume("study.zip", b"PK\5\6" + bytes(18)), "expected MRI files, got no files. Please upload a PNG"),
        (dicom(changed(float_pixels)), "expected images of integer pixels, got a file without them"),
        (volume("head.7z", b"7z\xbc\xaf\x27\x1c" + bytes(99)), "a 7z archive. Please unpack it"),
        (volume("head.mnc", b"\x89HDF" + bytes(99)), "convert MINC to NIfTI with mnc2nii"),
        (volume("photo.heic", b"\0\0\0\x18ftypheic" + bytes(99)), "a HEIC photo. Please save it as JPEG or PNG"),
    ],
)
def test_case_is_refused_with_the_way_out(tmp_path, make, reason):
    assert reason in refusal(make(tmp_path))


def test_files_named_but_not_dicom_are_not_sniffed(tmp_path):
    (tmp_path / "notes").write_bytes(b"\x08\x00\xff\xffnot DICOM at all, of course")
    assert "expected MRI files, got 1 of another kind. Please upload a PNG" in refusal(tmp_path)
