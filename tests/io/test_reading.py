"""Image files and arrays are read, or refused with a message for the page."""

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from brainmri.io.images import read_bytes
from brainmri.io.pixels import FLAIR
from brainmri.io.reading import UnreadableImage, read_slice, read_study
from brainmri.io.sequences import ONE_SEQUENCE
from tests.support.images import GREY, RGB, saved, tiff
from tests.support.phantom import images, nifti, save


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_lossless_colour_is_read_exactly(kind):
    scan = read_bytes(saved(Image.fromarray(RGB), kind), "slice")
    assert np.array_equal(np.rint(scan.pixels * 255).astype(np.uint8), RGB)
    assert scan.warnings == ()


def test_jpeg_is_read():
    scan = read_bytes(saved(Image.fromarray(RGB), "JPEG", quality=95), "slice.jpg")
    assert scan.pixels.shape == (64, 48, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_greyscale_is_used_for_all_three_channels(kind):
    scan = read_bytes(saved(Image.fromarray(GREY), kind), "slice")
    assert all(np.array_equal(scan.pixels[..., c], scan.pixels[..., FLAIR]) for c in range(3))
    assert scan.warnings == (ONE_SEQUENCE,)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits", "zstd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_depths_and_compressions(dtype, channels, compression):
    pixels = (RGB if channels == 3 else GREY).astype(dtype)
    pixels = pixels * (1 if dtype == np.uint8 else 16)
    scan = read_bytes(tiff(pixels, compression=compression, photometric="rgb" if channels == 3 else "minisblack"), "slice.tif")
    top = 255 if dtype == np.uint8 else 250 * 16
    expected = pixels.reshape(64, 48, -1) / top
    assert np.allclose(scan.pixels, expected, atol=1e-5)


def test_16_bit_png_keeps_its_depth():
    deep = np.linspace(0, 4095, 64 * 48).reshape(64, 48).astype(np.uint16)
    scan = read_bytes(saved(Image.fromarray(deep), "PNG"), "slice.png")
    assert len(np.unique(scan.pixels)) == len(np.unique(deep))
    assert scan.pixels.max() == 1.0


def test_miniswhite_tiff_is_inverted():
    scan = read_bytes(tiff(255 - GREY, photometric="miniswhite"), "slice.tif")
    assert np.array_equal(np.rint(scan.pixels[..., 0] * 255).astype(np.uint8), GREY)


def test_planar_tiff_is_read():
    planar = np.ascontiguousarray(np.moveaxis(RGB, 2, 0))
    scan = read_bytes(tiff(planar, photometric="rgb", planarconfig="separate"), "slice.tif")
    assert np.array_equal(np.rint(scan.pixels * 255).astype(np.uint8), RGB)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"])
def test_pil_modes_are_read(mode):
    image = Image.fromarray(GREY.astype(np.uint16)) if mode == "I;16" else Image.fromarray(RGB).convert(mode)
    scan = read_slice(image)
    assert scan.pixels.shape == (64, 48, 3)
    assert 0 <= scan.pixels.min() <= scan.pixels.max() <= 1


def test_equal_pixels_have_equal_digests():
    assert read_slice(GREY).sha256 == read_slice(Image.fromarray(GREY)).sha256 != read_slice(GREY.T).sha256


def png_header(width: int, height: int) -> bytes:
    """A PNG with a size but without pixels."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82"


def with_chunk(kind: bytes, body: bytes) -> bytes:
    """A valid PNG with an additional chunk before its end."""
    whole = saved(Image.fromarray(RGB), "PNG")
    return whole[:-12] + struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) + whole[-12:]


def with_tag(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with a changed tag value in its first page."""
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    places = (start + 2 + 12 * number for number in range(entries))
    at = next(at for at in places if struct.unpack_from("<H", data, at) == (tag,))
    return data[:at] + struct.pack("<HHII", tag, 4, 1, value) + data[at + 12 :]


TILED = tiff(GREY, tile=(16, 16))
ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH = 278, 322, 323


def test_tiff_with_unlimited_rows_per_strip_is_read():
    whole = with_tag(tiff(GREY), ROWS_PER_STRIP, 2**32 - 1)  # the format's value for a single strip
    assert np.array_equal(read_bytes(whole, "x").pixels, read_bytes(tiff(GREY), "x").pixels)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (with_chunk(b"tRNS", b""), "damaged image"),
        (with_chunk(b"iCCP", b"x"), "damaged image"),
        (with_tag(TILED, TILE_LENGTH, 2**31 - 1), "tiles of 16 x 2147483647"),
        (with_tag(TILED, TILE_WIDTH, 2**31 - 1), "tiles of 2147483647 x 16"),
        (tiff(np.zeros((16, 32, 32), np.uint8), volumetric=True, tile=(16, 32, 32)), "pages of 16 planes"),
        (b"", "an empty file"),
        (b"Dear doctor,", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing"),
        (saved(Image.fromarray(RGB), "GIF"), "is a GIF image. Please save it as PNG"),
        (saved(Image.fromarray(RGB), "PNG")[:300], "damaged image"),
        (saved(Image.fromarray(RGB), "JPEG")[:900], "damaged image"),
        (tiff(RGB)[:200], "TIFF"),
        (b"II*\0" + b"\xff" * 64, "TIFF"),
        (png_header(60_000, 60_000), "too many pixels"),
        (png_header(5000, 40), "5000 x 40"),
        (png_header(8, 8), "8 x 8"),
        (saved(Image.fromarray(GREY[:20]), "PNG"), "48 x 20"),
        (tiff(np.zeros((3, 64, 64), np.uint8), photometric="minisblack"), "3 pages"),
        (tiff(np.full((64, 64), np.nan, np.float32)), "NaN"),
        (saved(Image.fromarray(GREY), "PNG", save_all=True, append_images=[Image.fromarray(GREY.T.copy())]), "animation of 2"),
    ],
)
def test_refusals_name_the_file_the_reason_and_the_way_out(data, reason):
    with pytest.raises(UnreadableImage, match=reason) as caught:
        read_bytes(data, "upload.png")
    assert "upload.png" in str(caught.value)
    assert re.search(r"\. Please .*\.$", str(caught.value))


def test_too_large_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as handle:
        handle.truncate(65 * 2**20)  # sparse: nothing is written
    with pytest.raises(UnreadableImage, match="65 MiB"):
        read_slice(path)


def test_missing_file_folder_and_other_types_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_slice(tmp_path / "nothing.png")
    with pytest.raises(UnreadableImage, match="got a folder"):
        read_slice(tmp_path)
    with pytest.raises(UnreadableImage, match="got a dict"):
        read_slice({})
    (dicom, *_) = save(tmp_path / "series", images()).iterdir()
    for path, found in ((nifti(tmp_path / "head.nii.gz"), "a volume"), (dicom, "a DICOM file")):
        with pytest.raises(UnreadableImage, match=f"expected one slice as a picture, got {found}. Please read it as a study"):
            read_slice(path)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ([GREY, GREY], "several objects, of type ndarray"),
        (Image.fromarray(GREY), "an object of type Image"),
        (b"head.nii", "an object of type bytes"),
        (None, "an object of type NoneType"),
    ],
    ids=["arrays", "a PIL image", "bytes", "nothing"],
)
def test_other_types_are_no_study(source, found):
    with pytest.raises(UnreadableImage, match=f"expected a path, a list of paths, or an array .*, got {found}"):
        read_study(source)


def test_study_folder_is_read_in_slice_order(tmp_path):
    for number in (1, 2, 10, 9):
        Image.fromarray(np.full((40, 40), number, np.uint8)).save(tmp_path / f"case_{number}.tif")
        Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / f"case_{number}_mask.tif")
    scan = read_study(tmp_path)
    assert scan.pixels.shape == (4, 40, 40, 3)
    assert np.rint(scan.pixels[:, 0, 0, 0] * 255).tolist() == [1, 2, 9, 10]


def test_study_array_has_one_intensity_scale():
    study = np.stack([np.full((32, 32), v, np.uint16) for v in (0, 100, 200)])
    assert read_study(study).pixels[:, 0, 0, 0].tolist() == [0.0, 0.5, 1.0]


def test_bad_studies_are_refused(tmp_path):
    with pytest.raises(UnreadableImage, match="expected MRI files"):
        read_study(tmp_path)
    Image.fromarray(GREY).save(tmp_path / "case_1.png")
    Image.fromarray(RGB[:40]).save(tmp_path / "case_2.png")
    with pytest.raises(UnreadableImage, match="different sizes"):
        read_study(tmp_path)
    Image.fromarray(GREY).save(tmp_path / "case_01.png")
    with pytest.raises(UnreadableImage, match="same number"):
        read_study(tmp_path)
    Image.fromarray(GREY).save(tmp_path / "cover.png")
    with pytest.raises(UnreadableImage, match=r"cover\.png has no slice number"):
        read_study(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_study(tmp_path / "nothing")
    with pytest.raises(UnreadableImage, match="expected an array of shape"):
        read_study(np.zeros((32, 32), np.uint8))
