"""Geometry: conversion from any stored orientation to axial slices and back."""

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from brainmri.io.reading import read_study
from brainmri.io.scan import PLANES, Geometry
from tests.support.phantom import EXPECTED, PHANTOM, RAS, SHAPE, SPACING, affine_of, images, nifti, save, stored
from tests.support.studies import read

ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]  # fmt: skip


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_every_orientation_is_converted_to_axial_and_back_exactly(code):
    array = stored(PHANTOM, code)
    geometry = Geometry(shape=array.shape, affine=affine_of(code))
    axial = geometry.to_scan(array)
    assert np.array_equal(axial, EXPECTED)
    assert axial.shape == geometry.scan_shape
    assert np.array_equal(geometry.to_original(axial), array)
    assert geometry.spacing == (5.0, 2.0, 2.0)
    assert [code[axis] for axis in geometry.axes] == [
        letter if direction == 1 else {"S": "I", "P": "A", "L": "R"}[letter]
        for letter, direction in zip(PLANES["axial"], geometry.directions, strict=True)
    ]


def tilted(degrees: float, axis: int) -> np.ndarray:
    """The affine of the phantom, rotated about an anatomical axis."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(np.eye(3)[axis] * degrees, degrees=True).as_matrix() @ np.diag(SPACING)
    return affine


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_oblique_volume_is_aligned_with_the_nearest_axes(axis):
    geometry = Geometry(shape=SHAPE, affine=tilted(40, axis))
    assert np.array_equal(geometry.to_scan(PHANTOM), EXPECTED)
    assert geometry.tilt == pytest.approx(40)
    assert Geometry(shape=SHAPE, affine=RAS).tilt == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_far_from_axial_give_a_warning(tmp_path, axis):
    assert not [w for w in read(nifti(tmp_path / "routine.nii", affine=tilted(-18, axis))).warnings if "tilted" in w]
    assert "tilted by 25 degrees" in read(nifti(tmp_path / "flair.nii", affine=tilted(25, axis))).warnings[-1]
    series = images()
    rotated = tilted(25, axis)[:3, :3] / SPACING * [[-1], [-1], [1]]  # DICOM axes point left and posterior
    for number, ds in enumerate(series):
        ds.ImageOrientationPatient = [round(float(v), 6) for v in (*-rotated[:, 0], *-rotated[:, 1])]
        ds.ImagePositionPatient = [round(float(v), 6) for v in rotated[:, 2] * 5 * number]
    assert "tilted by 25 degrees" in read(save(tmp_path / "dicom", series)).warnings[-1]


def test_geometry_rejects_arrays_on_another_grid():
    with pytest.raises(ValueError, match="expected"):
        Geometry(shape=SHAPE, affine=RAS).to_original(np.zeros(SHAPE))
    with pytest.raises(ValueError, match="damaged"):
        Geometry(shape=SHAPE, affine=np.zeros((4, 4)))


@pytest.mark.parametrize(("shape", "plane"), [((20, 40, 36), "sagittal"), ((40, 1, 36), "coronal"), ((40, 36, 20), "axial")])
def test_a_slab_of_cubic_voxels_keeps_its_own_plane(shape, plane, tmp_path):
    """A scout of one sagittal slice has no axial slices of use."""
    volume = np.add.outer(np.add.outer(np.arange(shape[0]), np.arange(shape[1])), np.arange(shape[2])).astype(np.float32)
    scan = read_study(nifti(tmp_path / "flair.nii", volume, np.diag([1.5, 1.5, 1.5, 1])))
    assert scan.geometry.plane == plane
    assert len(scan.pixels) == min(shape)
