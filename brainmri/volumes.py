"""Volumes to scans: NIfTI files, and what volumes of every kind share: which sequence is which, one scale, axial slices.

nibabel and pydicom read the files: MONAI's readers order DICOM by instance number alone, skip MONOCHROME1 and check no limit.
"""

from __future__ import annotations

import gzip
import re
from typing import BinaryIO

import numpy as np

from brainmri.files import StudyFile, digest
from brainmri.preprocess import FLAIR
from brainmri.scan import MAX_STUDY_BYTES, Geometry, Scan, UnreadableImage, check_extent, refuse_study

PRE, POST = 0, 2
SEQUENCES = {PRE: "pre-contrast T1", FLAIR: "FLAIR", POST: "post-contrast T1"}
ONE_SEQUENCE = "one sequence came; it is taken for FLAIR and stands in all three channels"
NIFTI_SUFFIXES = (".nii", ".nii.gz")
PERCENTILES = (0.5, 99.5)
# degrees; less is routine: axial slices are planned along the skull base or the commissures, and training turns them by as much
MAX_TILT = 20

# what file names and series descriptions call the sequences; `t2f`, `t1n`, `t1c` are BraTS's names
_T1_FLAIR = re.compile(r"(?<![a-z0-9])t1w?[^a-z0-9]*flair")  # weighted like T1, whatever it is called
_FLAIR = re.compile(r"flair|dark.?fluid|(?<![a-z0-9])t2f(?![a-z])")
_T1 = re.compile(r"(?<![a-z0-9])s?t1(?!\d)|mp2?rage|spgr|bravo")
_OTHER = re.compile(r"(?<![a-z0-9])(s?t2|pd|dwi|dti|adc|diff|trace|swi|swan|perf|asl|cb[fv]|loc|scout|survey|subtr)")
_PRE = re.compile(
    r"(?<![a-z])pre(contrast|gad|gd)?(?![a-z])(?!.?op)|without|w/o|nati[fv]|(?<![a-z])no[nt]?.?contrast|(?<=t1)n(?![a-z])"
)
_POST = re.compile(
    r"(?<![a-z])post(contrast|gad|gd)?(?![a-z])(?!.?op)|(?<![a-z])(gd|gado?|gadolinium|ce|km|[ck]ontrast)(?![a-z])"
    r"|(?<=t1)c(?![a-z])|\+ ?c(?![a-z])|(?<![a-z])c ?\+"
)
_MASK = re.compile(r"(?<![a-z])(seg|segmentation|mask|labels?|roi)(?![a-z])")


def sequence_of(words: str) -> int | None:
    """The channel a file name or a series description speaks of, or None where it tells none."""
    words = words.lower()
    if _FLAIR.search(words) and not _T1_FLAIR.search(words):
        return FLAIR
    contrast = PRE if _PRE.search(words) else POST if _POST.search(words) else None
    if _T1.search(words):
        return PRE if contrast is None else contrast
    return None if _OTHER.search(words) else contrast


def _scaled(volume: np.ndarray) -> np.ndarray:
    """One sequence to float32 in [0, 1]: 8-bit by the range its format declares, the rest by percentiles of the volume."""
    if volume.dtype == np.uint8:
        return volume.astype(np.float32) / 255
    # not the extremes: one hot voxel, a vessel or a ring of ghosts would push the brain into the dark and out of the head's box
    low, high = np.percentile(volume, PERCENTILES)
    if low == high:  # fewer voxels than that hold anything
        low, high = volume.min(), volume.max()
    span = float(high) - float(low)
    return np.clip((volume - np.float32(low)) / np.float32(span), 0, 1) if span > 0 else np.zeros(volume.shape, np.float32)


def compose(sequences: dict[int, np.ndarray], geometry: Geometry | None, *, name: str, sha256: str, warnings: list[str]) -> Scan:
    """The sequences of one study to a scan, missing ones filled with FLAIR, as the networks learned it.

    Args:
        sequences: by channel, FLAIR among them; volumes on one grid, uint8 or float32, on `geometry`'s stored grid, or
            (S, H, W) axial already where it is None.

    Raises:
        UnreadableImage: for NaN or infinite voxels.
    """
    warnings = list(warnings)
    if set(sequences) == {FLAIR}:
        if ONE_SEQUENCE not in warnings:
            warnings.append("one sequence came, FLAIR; it stands in all three channels")
    elif missing := [words for channel, words in SEQUENCES.items() if channel not in sequences]:
        warnings.append(f"FLAIR stands in for the {missing[0]}")
    if geometry and geometry.tilt > MAX_TILT:
        warnings.append(
            f"the slices are tilted by {geometry.tilt:.0f} degrees against the anatomical axes; the networks know axial ones, "
            "and they are analysed as they were acquired"
        )
    shape = geometry.axial_shape if geometry else sequences[FLAIR].shape
    pixels = np.empty((*shape, 3), np.float32)
    for channel in (FLAIR, PRE, POST):
        volume = sequences.get(channel)
        if volume is None:
            pixels[..., channel] = pixels[..., FLAIR]
            continue
        if not np.isfinite(volume).all():
            raise refuse_study(name, "voxels that are NaN or infinite came; replace them, or export the volume again")
        pixels[..., channel] = _scaled(geometry.to_axial(volume) if geometry else volume)
    if geometry:
        _, tall, wide = geometry.spacing
        if max(tall, wide) > 1.2 * min(tall, wide):
            warnings.append(
                f"pixels are {tall:.2g} mm high and {wide:.2g} mm wide in axial slices; the networks know square ones, "
                "and heads are squashed for them"
            )
    return Scan(pixels=pixels, name=name, sha256=sha256, warnings=tuple(warnings), geometry=geometry)


def same_grid(one: Geometry, other: Geometry) -> bool:
    """Whether two stored arrays have the same shape and their corners lie within a tenth of a voxel of each other."""
    if one.shape != other.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, side - 1) for side in one.shape], [1])).reshape(4, -1)
    return bool(np.abs((one.affine - other.affine) @ corners).max() < 0.1 * min(one.spacing))


def read_nifti(files: list[StudyFile], name: str) -> Scan:
    """NIfTI files of one study to a scan.

    Args:
        files: one FLAIR volume; one file with three, pre-contrast T1, FLAIR and post-contrast T1 along its fourth axis; or
            a file a sequence, told by name, masks and other sequences left aside.

    Raises:
        UnreadableImage: when the FLAIR cannot be told, or a file is damaged or outside the limits.
    """
    images = [file for file in files if not _MASK.search(file.name.name.lower())] or files
    warnings: list[str] = []
    if len(images) == 1:
        told = {FLAIR: images[0]}
    else:
        told = _told_by_name(images, name)
        if others := len(images) - len(told):
            warnings.append(f"{others} NIfTI files whose names tell none of the three sequences were left aside")
    volume, geometry, assumed = _load(told[FLAIR], name)
    warnings += assumed
    if volume.ndim == 4:
        told = {FLAIR: told[FLAIR]}
        sequences = {channel: volume[..., channel] for channel in SEQUENCES}
    else:
        sequences = {FLAIR: volume}
        if len(images) == 1:
            described = sequence_of(images[0].name.name)
            if described in (PRE, POST):
                warnings.append(f"the file is named for a {SEQUENCES[described]}, which the networks cannot judge by")
            if described != FLAIR:
                warnings.append(ONE_SEQUENCE)
        for channel in sorted(set(told) - {FLAIR}):
            other, grid, _ = _load(told[channel], name)
            if other.ndim == 3 and same_grid(geometry, grid):
                sequences[channel] = other
            else:
                warnings.append(f"the {SEQUENCES[channel]} lies on another grid than the FLAIR and was left out")
                del told[channel]
    sha256 = digest([told[channel] for channel in sorted(told)])
    return compose(sequences, geometry, name=name, sha256=sha256, warnings=warnings)


def _told_by_name(images: list[StudyFile], name: str) -> dict[int, StudyFile]:
    told: dict[int, StudyFile] = {}
    for image in images:
        channel = sequence_of(image.name.name)
        if channel in told:
            raise refuse_study(name, f"two NIfTI files came that are both named for the {SEQUENCES[channel]}")
        if channel is not None:
            told[channel] = image
    if FLAIR not in told:
        raise refuse_study(name, f"{len(images)} NIfTI files came, none named for the FLAIR (flair, t1 or pre, t1ce or post)")
    return told


def _load(file: StudyFile, name: str) -> tuple[np.ndarray, Geometry, list[str]]:
    """A file's voxels, (i, j, k) or (i, j, k, 3), uint8 or float32; where they lie; and what had to be assumed."""
    try:
        with file.open() as raw:
            return _decode(gzip.GzipFile(fileobj=raw) if file.name.suffix.lower() == ".gz" else raw, name)
    except UnreadableImage:
        raise
    except Exception as error:  # a broken file fails in many ways, all of them the file's fault
        raise refuse_study(name, f"a damaged NIfTI file came ({type(error).__name__})") from error


def _decode(stream: BinaryIO, name: str) -> tuple[np.ndarray, Geometry, list[str]]:
    import nibabel

    head = stream.read(540)
    if head[344:348] == b"n+1\0":
        image_class, length = nibabel.Nifti1Image, 348
    elif head[4:8] == b"n+2\0":
        image_class, length = nibabel.Nifti2Image, 540
    else:
        raise refuse_study(name, "a file came that is named like NIfTI and is none (or the header of a pair, .hdr and .img)")
    header = image_class.header_class(head[:length], check=False)
    dtype, shape = header.get_data_dtype(), tuple(int(side) for side in header.get_data_shape())
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise refuse_study(name, f"NIfTI voxels of type {dtype} came; whole numbers and floats are accepted")
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
        raise refuse_study(name, f"a NIfTI file of shape {shape} came; one volume, or three along the fourth axis, is accepted")
    affine, warnings = header.get_best_affine(), []
    if not (header["sform_code"] or header["qform_code"]):
        # NIfTI's method 1: indices count towards the right, anterior and superior
        affine = np.diag([*(abs(float(side)) or 1.0 for side in header["pixdim"][1:4]), 1.0])
        warnings.append("the file tells no orientation; its slices are taken for axial, from the neck upwards")
    geometry = Geometry(shape=shape[:3], affine=np.asarray(affine, np.float64))
    check_extent(name, *geometry.axial_shape)
    end = header.get_data_offset() + int(np.prod(shape)) * dtype.itemsize
    if end > MAX_STUDY_BYTES:
        raise refuse_study(name, f"a NIfTI file of {end / 2**20:.0f} MiB came")
    data = head + stream.read(end - len(head))  # no more than the header announces, however much is packed
    if len(data) < end:
        raise refuse_study(name, "a NIfTI file came that ends too early")
    image = image_class.from_bytes(data)
    plain = dtype == np.uint8 and (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    voxels = image.dataobj.get_unscaled() if plain else image.get_fdata(dtype=np.float32)
    return voxels.reshape(shape, order="F"), geometry, warnings
