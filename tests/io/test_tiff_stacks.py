"""Multi-page TIFF files, read as studies."""

import struct

import numpy as np
import pytest
import tifffile

from brainmri.io.pixels import FLAIR
from brainmri.io.reading import UnreadableImage, read_slice
from brainmri.io.sequences import ONE_SEQUENCE, POST, PRE
from tests.support.phantom import EXPECTED
from tests.support.studies import MARKER, marker, read, refusal, zip_of_bytes


@pytest.mark.parametrize(
    "options", [{}, {"compression": "deflate"}, {"photometric": "miniswhite"}, {"imagej": True}, {"bigtiff": True}]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_stack_is_read_as_a_study(tmp_path, dtype, options):
    volume = (EXPECTED // (4 if dtype == np.uint8 else 1)).astype(dtype)
    white = options.get("photometric") == "miniswhite"
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.iinfo(dtype).max - volume if white else volume, **{"photometric": "minisblack", **options})
    scan = read(path)
    if dtype == np.uint8:
        assert np.array_equal(np.rint(scan.pixels[..., FLAIR] * 255), volume)
    else:
        assert marker(scan) == MARKER
    assert "no orientation" in scan.warnings[0]
    assert scan.warnings[1] == ONE_SEQUENCE
    assert scan.geometry is None
    with pytest.raises(UnreadableImage, match="expected one slice, got a TIFF of 12 pages"):
        read_slice(path)


def test_colour_stack_is_read_as_three_sequences(tmp_path):
    volume = np.stack([EXPECTED[:, ::-1], EXPECTED, EXPECTED[..., ::-1]], axis=3).astype(np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", volume, photometric="rgb")
    scan = read(zip_of_bytes(tmp_path, {"stack.tif": (tmp_path / "stack.tif").read_bytes()}))
    assert marker(scan) == MARKER
    assert np.array_equal(scan.pixels[..., PRE], scan.pixels[:, ::-1, :, FLAIR])
    assert np.array_equal(scan.pixels[..., POST], scan.pixels[:, :, ::-1, FLAIR])
    assert len(scan.warnings) == 1


def test_bad_stacks_are_refused(tmp_path):
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((40, 40), np.uint8))
        writer.write(np.zeros((40, 44), np.uint8))
    assert "pages differ" in refusal(path)
    tifffile.imwrite(path, np.zeros((600, 32, 32), np.uint8), photometric="minisblack")
    assert "600 slices" in refusal(path)
    tifffile.imwrite(path, np.zeros((4, 20, 32), np.uint8), photometric="minisblack")
    assert "32 x 20" in refusal(path)
    tifffile.imwrite(path, np.zeros((4, 40, 32), np.uint8), photometric="minisblack")
    path.write_bytes(path.read_bytes()[:300])
    assert "damaged" in refusal(path)


def test_a_chain_of_pages_that_never_ends_is_refused(tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((2, 64, 64), np.uint8) + 9, photometric="minisblack", metadata=None)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        first, second = (page.offset for page in tiff.pages)
    (tags,) = struct.unpack_from("<H", data, second)
    struct.pack_into("<I", data, second + 2 + 12 * tags, first)  # the offset of the next page
    path.write_bytes(data)
    with pytest.raises(UnreadableImage, match="damaged or unsupported TIFF"):
        read(path)
