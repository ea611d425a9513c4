"""A new input format is one class and one entry in `READERS`."""

import numpy as np
import pytest

from brainmri.io import reading
from brainmri.io.limits import UnreadableImage
from brainmri.io.pixels import FLAIR
from brainmri.io.reading import list_sequences, read_study
from brainmri.io.sequences import Candidate
from brainmri.io.stack import compose


class OpenNumpy:
    """Volumes (S, H, W) as NumPy files."""

    pictures = (None,)

    def __init__(self, files, name):
        self.files, self.name = files, name
        self.candidates = tuple(Candidate(label=file.name.name, channel=FLAIR) for file in files)

    def read(self, assign=None, study=None):
        with self.files[0].open() as handle:
            volume = np.load(handle, allow_pickle=False)
        return compose({FLAIR: volume}, None, name=self.name, sha256=self.files[0].digest(), warnings=[])


class NumpyReader:
    format = "NumPy"
    preview = False

    def sniff(self, file):
        return file.name.suffix == ".npy"

    def open(self, files, name):
        return OpenNumpy(files, name)


@pytest.fixture
def volume(tmp_path, monkeypatch):
    """A registered NumPy reader, and a file for it."""
    monkeypatch.setattr(reading, "READERS", [*reading.READERS, NumpyReader()])
    pixels = np.random.default_rng(0).integers(0, 255, (5, 40, 48), dtype=np.uint8)
    np.save(tmp_path / "head.npy", pixels)
    return tmp_path / "head.npy", pixels


def test_a_registered_format_is_listed_and_read(volume):
    path, pixels = volume
    (candidate,) = list_sequences(path)
    assert (candidate.label, candidate.channel) == ("head.npy", FLAIR)
    scan = read_study(path)
    np.testing.assert_allclose(scan.pixels[..., FLAIR] * 255, pixels, atol=1e-4)


def test_two_formats_together_are_refused(volume):
    path, _ = volume
    (path.parent / "head.nii").write_bytes(b"")
    with pytest.raises(UnreadableImage, match="got NIfTI and NumPy files together"):
        read_study(path.parent)


def test_an_unregistered_format_is_refused(tmp_path):
    np.save(tmp_path / "head.npy", np.zeros((5, 40, 48), np.uint8))
    with pytest.raises(UnreadableImage, match=r"the file is a NumPy array\. Please pass it to read_study"):
        read_study(tmp_path / "head.npy")
    (tmp_path / "notes.txt").write_text("Dear doctor,")
    with pytest.raises(UnreadableImage, match="the file is not an MRI file"):
        read_study(tmp_path / "notes.txt")
