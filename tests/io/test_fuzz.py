"""A short fuzzing run of the readers; `python -m tests.support.fuzz` is the long one."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from brainmri.io.images import read_bytes
from brainmri.io.limits import UnreadableImage
from brainmri.io.reading import read_slice, read_study
from brainmri.io.scan import Scan
from tests.support import mutants, seeds
from tests.support.fuzz import fuzz

pytestmark = pytest.mark.slow

SHAPES = arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=40)
KINDS = arrays.scalar_dtypes() | st.just(np.dtype(object)) | st.just(np.dtype("U3"))
BEGINNINGS = (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F")


def read_or_refused(read, *given_) -> Scan | None:
    """A valid scan, or None for a refusal with a message."""
    try:
        scan = read(*given_)
    except UnreadableImage as refusal:
        if len(str(refusal)) < 20:
            raise
        return None
    assert scan.pixels.dtype == np.float32
    assert scan.pixels.shape[-1] == 3
    assert scan.pixels.min() >= 0
    assert scan.pixels.max() <= 1  # false for NaN as well
    return scan


def test_damaged_files_are_read_or_refused(capsys):
    assert fuzz(range(10 * len(seeds.KINDS)), seed=0) == [], capsys.readouterr().out


@pytest.mark.parametrize("kind", seeds.KINDS)
def test_mutants_are_reproducible(kind):
    first, again, other = (mutants.mutant(np.random.default_rng([0, number]), kind) for number in (5, 5, 6))
    assert first == again != other


@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=200), begin=st.sampled_from(BEGINNINGS))
def test_any_bytes_are_read_or_refused(begin, data):
    read_or_refused(read_bytes, begin + data, "bytes")


@settings(deadline=None, max_examples=80)
@given(array=KINDS.flatmap(lambda kind: arrays.arrays(kind, SHAPES)))
def test_any_array_is_read_or_refused(array):
    for read, dimensions in ((read_slice, 3), (read_study, 4)):
        scan = read_or_refused(read, array)
        assert scan is None or scan.pixels.ndim == dimensions


@settings(deadline=None, max_examples=60)
@given(
    mode=st.sampled_from(MODES), width=st.integers(1, 80), height=st.integers(1, 80), level=st.integers(0, 255),
    kind=st.sampled_from(["png", "tiff"]),
)  # fmt: skip
def test_any_image_keeps_its_size(mode, width, height, level, kind):
    image = Image.new("L", (width, height), level).convert("RGB").convert(mode.removesuffix(";16"))
    written = io.BytesIO()
    try:
        image.save(written, kind)
    except OSError:  # no PNG of that mode
        return
    if (mode, kind) == ("LA", "tiff"):  # refused: two samples per pixel
        return
    scan = read_or_refused(read_bytes, written.getvalue(), "picture")
    assert (scan is None) == (min(width, height) < 32)
    assert scan is None or scan.pixels.shape == (height, width, 3)
