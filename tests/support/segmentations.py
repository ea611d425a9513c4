"""DICOM segmentations as their positions place them."""

from pathlib import Path

import numpy as np
import pydicom


def segmented_points(path: Path) -> np.ndarray:
    """(N, 3) positions of the voxels of a DICOM segmentation, in mm towards right, anterior and superior."""
    ds = pydicom.dcmread(path)
    shared = ds.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    rows, columns = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    points = []
    frames = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
    for frame, group in zip(frames, ds.PerFrameFunctionalGroupsSequence, strict=True):
        at = np.argwhere(frame > 0)
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        points.append(origin + at[:, 1:] * columns * cosines[0] + at[:, :1] * rows * cosines[1])
    return np.concatenate(points) * (-1, -1, 1)
