"""Images are read as viewers show them: orientation tags, colours, alpha, axes; masks come back in the order of the file."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from brainmri.io.images import read_bytes
from brainmri.io.orientation import TAG, turn_as_stored, turn_upright
from brainmri.io.pixels import FLAIR
from brainmri.io.reading import UnreadableImage, holds_one_slice, read_slice, read_study
from brainmri.io.writers import write_png, write_tiff
from tests.support.images import GREY, RGB, saved, tiff


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[TAG] = orientation
    return exif


# --- orientation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tag_is_applied_as_by_pillow(tmp_path, orientation):
    stored = Image.fromarray(RGB)
    data = {
        "x.png": saved(stored, "PNG", exif=tagged(orientation)),
        "x.webp": saved(stored, "WEBP", lossless=True, exif=tagged(orientation)),
        "x.tif": tiff(RGB, photometric="rgb", extratags=[(TAG, "H", 1, orientation, True)]),
    }
    for name, content in data.items():
        shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
        scan = read_bytes(content, name)
        assert np.array_equal(np.rint(scan.pixels * 255), shown), name
        assert scan.orientation == orientation
        assert bool([w for w in scan.warnings if f"orientation tag ({orientation})" in w]) == (orientation > 1)
    mask = scan.pixels[..., FLAIR] > 0.5
    write_png(tmp_path / "mask.png", mask, orientation)
    written = Image.open(tmp_path / "mask.png")
    assert np.array_equal(np.asarray(written) > 0, RGB[..., FLAIR] > 127)  # the order of the input
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(written)) > 0, mask)
    assert np.array_equal(turn_as_stored(turn_upright(RGB, orientation), orientation), RGB)


def test_stack_with_orientation_tag_gives_a_mask_in_its_order(tmp_path):
    stack = np.stack([GREY, GREY[::-1], GREY[:, ::-1]])
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack", extratags=[(TAG, "H", 1, 6, False)])
    scan = read_study(tmp_path / "stack.tif")
    assert scan.pixels.shape == (3, 48, 64, 3)
    write_tiff(tmp_path / "mask.tif", scan.pixels[..., FLAIR] > 0.5, scan.orientation)
    assert np.array_equal(tifffile.imread(tmp_path / "mask.tif") > 0, stack > 127)


def test_damaged_exif_is_ignored():
    assert read_bytes(saved(Image.fromarray(RGB), "JPEG", exif=b"Exif\0\0II*\0junk"), "x").orientation == 1
    assert read_bytes(saved(Image.fromarray(RGB), "PNG", exif=tagged(77)), "x").orientation == 1


# --- formats and colours --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), [("BMP", {}), ("WEBP", {"lossless": True})])
def test_other_lossless_formats_are_read(tmp_path, kind, options):
    scan = read_bytes(saved(Image.fromarray(RGB), kind, **options), "slice")
    assert np.array_equal(np.rint(scan.pixels * 255), RGB)
    (tmp_path / "case_1").write_bytes(saved(Image.fromarray(RGB), kind, **options))  # recognised by its bytes
    assert read_study(tmp_path).pixels.shape == (1, 64, 48, 3)


def test_first_picture_of_an_mpo_is_read():
    image = Image.fromarray(RGB)
    data = saved(image, "MPO", save_all=True, append_images=[image.resize((40, 40))])
    assert read_bytes(data, "phone.jpg").pixels.shape == (64, 48, 3)
    with pytest.raises(UnreadableImage, match="animation of 2 frames"):
        read_bytes(saved(image, "WEBP", save_all=True, append_images=[Image.fromarray(RGB[::-1])]), "x.webp")


def test_colours_of_print_and_lab_are_converted():
    cmyk = saved(Image.fromarray(GREY).convert("RGB").convert("CMYK"), "TIFF")
    assert np.abs(read_bytes(cmyk, "x").pixels[..., 0] * 255 - GREY).max() < 1.5
    lightness = np.zeros((64, 48, 3), np.uint8)
    lightness[..., 0] = GREY
    lab = read_bytes(tiff(lightness, photometric="cielab"), "x").pixels
    assert np.corrcoef(lab[..., 0].ravel(), GREY.ravel())[0, 1] > 0.99
    assert np.abs(lab[..., 0] - lab[..., 2]).max() < 0.01
    with pytest.raises(UnreadableImage, match="save it as grey or RGB"):
        read_bytes(tiff(np.zeros((64, 48, 4), np.uint16), photometric="separated"), "x")
    with pytest.raises(UnreadableImage, match=r"4 channels of uint8 \(MINISBLACK\)"):
        read_bytes(tiff(np.zeros((64, 48, 4), np.uint8), photometric="minisblack", planarconfig="contig"), "x")


@pytest.mark.parametrize(
    ("samples", "expected", "says"),
    [
        ("unspecified", RGB, "the fourth channel is neither colour nor transparency"),
        ("assocalpha", RGB, ""),  # already multiplied
        ("unassalpha", RGB * 0.5, ""),
    ],
)
def test_last_sample_is_transparency_only_if_the_file_says_so(tmp_path, samples, expected, says):
    half = np.full_like(GREY, 128)
    scan = read_bytes(tiff(np.dstack([RGB, half]), photometric="rgb", extrasamples=[samples]), "x.tif")
    assert np.abs(scan.pixels * 255 - expected).max() < 1
    assert says in "".join(scan.warnings)
    assert bool(scan.warnings) == bool(says)
    grey = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": [samples]}
    scan = read_bytes(tiff(np.dstack([GREY, half]), **grey), "x.tif")
    assert np.abs(scan.pixels[..., 0] * 255 - (GREY * 0.5 if samples == "unassalpha" else GREY)).max() < 1
    assert says.replace("fourth", "second") in "".join(scan.warnings)
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([np.dstack([GREY, half])] * 3), **grey)
    assert read_study(tmp_path / "stack.tif").pixels.shape == (3, *GREY.shape, 3)


def test_thumbnail_and_transparency_mask_beside_a_slice_are_left_out(tmp_path):
    path = tmp_path / "slice.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(GREY, photometric="minisblack")
        writer.write(GREY[::2, ::2], photometric="minisblack", subfiletype=1)
        writer.write(GREY > 9, photometric="minisblack", subfiletype=4)
    assert holds_one_slice(path)
    assert np.array_equal(np.rint(read_slice(path).pixels[..., 0] * 255), GREY)


DEEP = RGB.astype(np.uint16) * 16  # 12 bits
OPAQUE = np.full_like(DEEP[..., 0], 65535)
GREYS = np.repeat((np.arange(256) // 17)[:, None], 3, axis=1).T.astype(np.uint16)  # a colour map of 8 bits


def scaled(pixels: np.ndarray) -> np.ndarray:
    return (pixels - pixels.min()) / np.ptp(pixels)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (imagecodecs.png_encode(DEEP), scaled(DEEP)),
        (imagecodecs.png_encode(np.dstack([DEEP, OPAQUE])), scaled(DEEP)),
        (imagecodecs.png_encode(np.dstack([DEEP[..., 0], OPAQUE])), scaled(DEEP[..., :1])),
        (tiff(GREY, photometric="palette", colormap=GREYS), (GREY // 17)[..., None] / 255),
        (tiff(GREY // 16, photometric="minisblack", bitspersample=4), (GREY // 16)[..., None] / 15),
        (tiff(15 - GREY // 16, photometric="miniswhite", bitspersample=4), (GREY // 16)[..., None] / 15),
    ],
    ids=["RGB PNG", "RGBA PNG", "grey PNG with alpha", "colour map of 8 bits", "4 bits", "4 bits, white is 0"],
)
def test_samples_of_other_depths_than_8_bits_keep_their_range(data, expected):
    assert np.abs(read_bytes(data, "slice").pixels - expected).max() < 2e-3


def test_16_bit_slices_of_a_study_share_one_scale(tmp_path):
    for number, factor in enumerate((1, 8), 1):
        (tmp_path / f"case_{number}.png").write_bytes(saved(Image.fromarray(GREY.astype(np.uint16) * factor), "PNG"))
    pixels = read_study(tmp_path).pixels
    assert pixels[1].max() == 1
    assert np.abs(pixels[0] * 8 - pixels[1]).max() < 0.02


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            imagecodecs.jpegls_encode(GREY),
            "a damaged JPEG, or one that is lossless or has more than 8 bits. Please save it as PNG",
        ),
        (imagecodecs.ljpeg_encode(GREY.astype(np.uint16)), "lossless or has more than 8 bits. Please save it as PNG"),
        (imagecodecs.jpegxl_encode(GREY), "a JPEG XL image. Please save it as PNG"),
        (saved(Image.fromarray(GREY), "PPM"), "a PNM image. Please save it as PNG"),
        (saved(Image.fromarray(GREY), "GIF"), "a GIF image. Please save it as PNG"),
        (bytes(128) + b"DICM" + bytes(99), "a DICOM file. Please upload it as a study"),
        (b"\xef\xbb\xbf\n<HTML><body>", "a web page. Please download"),
        (b"<?xml version='1.0'?>\n<svg></svg>", "an SVG drawing"),
    ],
)
def test_picture_of_another_format_is_named_with_the_way_out(data, reason):
    with pytest.raises(UnreadableImage, match=f"slice is {reason}" if reason.startswith("a") else reason):
        read_bytes(data, "slice")


# --- axes -----------------------------------------------------------------------------------------------------------------


def hyperstack(path, axes: str, shape: tuple[int, ...]):
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 64, 48), dtype=np.uint8)
    tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": f"{axes}YX"})
    return pixels


def test_channels_of_a_hyperstack_are_sequences(tmp_path):
    pixels = hyperstack(tmp_path / "x.tif", "ZC", (5, 3))
    scan = read_study(tmp_path / "x.tif")
    assert np.array_equal(np.rint(scan.pixels * 255), np.moveaxis(pixels, 1, -1))
    assert len(scan.warnings) == 1


@pytest.mark.parametrize(("axes", "shape"), [("TZ", (4, 5)), ("ZC", (5, 2)), ("TZC", (2, 5, 3))])
def test_axes_without_meaning_are_refused(tmp_path, axes, shape):
    hyperstack(tmp_path / "x.tif", axes, shape)
    with pytest.raises(UnreadableImage, match="several axes"):
        read_study(tmp_path / "x.tif")


def test_single_axis_is_slices_unless_it_is_declared_as_three_channels(tmp_path):
    hyperstack(tmp_path / "x.tif", "T", (5,))
    assert read_study(tmp_path / "x.tif").pixels.shape == (5, 64, 48, 3)
    tifffile.imwrite(tmp_path / "x.ome.tif", np.moveaxis(RGB, -1, 0), ome=True, metadata={"axes": "CYX"})
    assert np.array_equal(np.rint(read_slice(tmp_path / "x.ome.tif").pixels * 255), RGB)


def test_pil_image_is_turned_upright():
    image = Image.open(io.BytesIO(saved(Image.fromarray(RGB), "PNG", exif=tagged(6))))
    assert read_slice(image).pixels.shape == (48, 64, 3)
