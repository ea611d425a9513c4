"""MetaImage volumes are placed in the patient only where their header gives an orientation."""

import pytest

from brainmri.io.itk_files import NO_ORIENTATION
from tests.support.phantom import PHANTOM
from tests.support.studies import read

META = "NDims = 3\nDimSize = 40 36 12\nElementSpacing = 2 2 5\n{}ElementType = MET_SHORT\nElementDataFile = LOCAL\n"


@pytest.mark.parametrize(
    ("fields", "oriented"),
    [
        ("", False),
        ("AnatomicalOrientation = ???\n", False),
        ("AnatomicalOrientation = LPI\n", False),  # SimpleITK does not read it
        ("TransformMatrix = 1 0 0 0 1 0 0 0 1\nAnatomicalOrientation = ???\n", False),
        ("AnatomicalOrientation = RAI\n", True),
        ("TransformMatrix = 1 0 0 0 1 0 0 0 1\n", True),
        ("TransformMatrix = -1 0 0 0 -1 0 0 0 1\nAnatomicalOrientation = ???\n", True),
    ],
)
def test_meta_image_has_only_the_orientation_of_its_header(tmp_path, fields, oriented):
    (tmp_path / "flair.mha").write_bytes(META.format(fields).encode() + PHANTOM.tobytes("F"))
    scan = read(tmp_path / "flair.mha")
    assert scan.geometry.oriented == oriented
    assert (NO_ORIENTATION in scan.warnings) != oriented
    assert scan.geometry.plausible
