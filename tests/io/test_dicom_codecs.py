"""Compressed DICOM pixels: every supported codec, and damaged codestreams."""

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.support.phantom import EXPECTED, images, save
from tests.support.studies import read, refusal


def jpeg_baseline(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=100)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("syntax", "bits", "off", "encode"),
    [
        (RLELossless, 16, 0, None),  # encoded by pydicom
        (JPEG2000Lossless, 16, 0, lambda p: imagecodecs.jpeg2k_encode(p, level=0, codecformat="j2k", reversible=True)),
        (HTJ2KLossless, 16, 0, lambda p: imagecodecs.htj2k_encode(p, reversible=True)),
        (HTJ2KLosslessRPCL, 16, 0, lambda p: imagecodecs.htj2k_encode(p, reversible=True)),
        (HTJ2K, 16, 0.02, lambda p: imagecodecs.htj2k_encode(p, reversible=False)),
        (JPEGLSLossless, 16, 0, imagecodecs.jpegls_encode),
        (JPEGLSNearLossless, 16, 0.02, lambda p: imagecodecs.jpegls_encode(p, level=2)),
        (JPEGLosslessSV1, 16, 0, lambda p: imagecodecs.ljpeg_encode(p, bitspersample=16)),
        (JPEGLossless, 16, 0, lambda p: imagecodecs.jpeg8_encode(p, lossless=True, predictor=7, bitspersample=16)),
        (JPEGExtended12Bit, 16, 0.02, lambda p: imagecodecs.jpeg8_encode(p, level=100, bitspersample=12)),
        (JPEGBaseline8Bit, 8, 0.02, jpeg_baseline),
    ],
    ids=[
        *("RLE", "JPEG 2000", "HTJ2K lossless", "HTJ2K RPCL", "HTJ2K", "JPEG-LS", "JPEG-LS near", "JPEG lossless SV1"),
        *("JPEG lossless", "JPEG extended", "JPEG"),
    ],
)
def test_compressed_pixels_are_read(tmp_path, syntax, bits, off, encode):
    volume = EXPECTED // 4 if bits == 8 else EXPECTED
    packed = images(pixels=volume, bits=bits)
    for ds in packed:
        if encode is None:
            ds.compress(syntax, generate_instance_uid=False)
        else:
            ds.PixelData = encapsulate([encode(ds.pixel_array)])
            ds["PixelData"].VR = "OB"
            ds.file_meta.TransferSyntaxUID = syntax
    scan = read(save(tmp_path / "one", packed))
    plain = read(save(tmp_path / "two", images(pixels=volume, bits=bits)))
    assert np.abs(scan.pixels - plain.pixels).max() <= off


@pytest.mark.parametrize("kind", ["RLE", "bigendian", "implicit", "expb", "padded", "jp2klossless", "jpeg_ls_lossless"])
def test_pydicom_sample_files_are_read(kind):
    plain = read(get_testdata_file("MR_small.dcm", download=False))
    scan = read(get_testdata_file(f"MR_small_{kind}.dcm", download=False))
    assert plain.pixels.shape == (1, 64, 64, 3)
    assert np.array_equal(scan.pixels, plain.pixels)


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEG2000Lossless, lambda p: imagecodecs.jpeg2k_encode(p, codecformat="j2k")),
        (JPEG2000Lossless, lambda p: imagecodecs.jpeg2k_encode(p, codecformat="jp2")),
        (HTJ2KLossless, imagecodecs.htj2k_encode),
        (JPEGLSLossless, imagecodecs.jpegls_encode),
        (JPEGLosslessSV1, lambda p: imagecodecs.ljpeg_encode(p, bitspersample=16)),
        (JPEGBaseline8Bit, lambda p: jpeg_baseline(p.astype(np.uint8))),
    ],
    ids=["JPEG 2000", "JP2", "HTJ2K", "JPEG-LS", "JPEG lossless", "JPEG"],
)
def test_codestream_of_another_size_is_refused_before_decoding(tmp_path, syntax, encode, monkeypatch):
    ds = images()[0]
    ds.PixelData = encapsulate([encode(np.zeros((512, 512), np.uint16))])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = syntax
    monkeypatch.setattr(Dataset, "pixel_array", property(lambda self: pytest.fail("decoded")))
    assert "another size" in refusal(save(tmp_path / "one", [ds]))


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        # a box without a length, which sends pydicom into an endless loop
        (JPEG2000Lossless, b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(32)),
        (JPEG2000Lossless, b"\xff\x4f\xff\x51"),
        (JPEGBaseline8Bit, b"\xff\xd8" + b"\xff" * 64),
        (JPEGBaseline8Bit, b"\xff\xd8\xff\xe0\0\0"),
        (JPEGBaseline8Bit, b"\xff\xd8\xff\xda\0\x02"),
        # two sizes; the second agrees with the DICOM header
        (JPEGLosslessSV1, b"\xff\xd8\xff\xc3\0\x08\x10\x02\0\x02\0\x01\xff\xc3\0\x08\x10\0\x28\0\x24\x01\xff\xda\0\x02"),
    ],
)
def test_codestream_with_a_damaged_header_is_refused_before_decoding(tmp_path, syntax, frame, monkeypatch):
    ds = images()[0]
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = syntax
    monkeypatch.setattr(Dataset, "pixel_array", property(lambda self: pytest.fail("decoded")))
    assert "damaged" in refusal(save(tmp_path / "one", [ds]))
