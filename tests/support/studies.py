"""Small input files for reader tests, and checks that apply to every study that is read or refused."""

import io
import re
import traceback
import zipfile
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from PIL import Image

from brainmri.io.pixels import FLAIR
from brainmri.io.reading import UnreadableImage, read_study
from tests.support.phantom import PHANTOM, PLANTED, RAS

MARKER = [[8, 2, 2], [10, 7, 6]]  # first and last slice, row and column of the phantom's marker


def read(source):
    """Read a study and check that no field of the scan identifies the patient."""
    scan = read_study(source)
    shown = repr(replace(scan, pixels=None, sha256=""))
    assert not [word for word in PLANTED if word in shown]
    assert scan.pixels.dtype == np.float32
    assert scan.pixels.ndim == 4
    assert 0 <= scan.pixels.min() <= scan.pixels.max() <= 1
    return scan


def refusal(source) -> str:
    """The message with which a study is refused, which says what to do; neither it nor its traceback may identify the patient."""
    with pytest.raises(UnreadableImage) as caught:
        read_study(source)
    text = "".join(traceback.format_exception(caught.value, chain=True))
    raised = text[text.rindex("brainmri.io.limits.UnreadableImage") :]
    assert not [word for word in PLANTED if word in raised]
    assert caught.value.__cause__ is None or not [word for word in PLANTED if word in str(caught.value.__cause__)]
    assert re.search(r"\. Please .*\.$", str(caught.value)), caught.value
    return str(caught.value)


def marker(scan) -> list[list[int]]:
    """First and last slice, row and column of the marker in a scan."""
    found = np.argwhere(scan.pixels[..., FLAIR] == 1)
    return [found.min(0).tolist(), found.max(0).tolist()]


def nifti_bytes(**changes) -> bytes:
    image = nibabel.Nifti1Image(PHANTOM, RAS)
    data = bytearray(image.to_bytes())
    for start, value in changes.get("patch", {}).items():
        data[start : start + len(value)] = value
    return bytes(data)


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (40, 36), value).save(buffer, "PNG")
    return buffer.getvalue()


def zip_of_bytes(folder, members: dict[str, bytes], **options):
    path = folder / "upload.zip"
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def inner_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("case_1.png", png(1))
    return buffer.getvalue()
