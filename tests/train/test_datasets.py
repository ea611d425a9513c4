"""The layout of the LGG dataset, and another dataset in one file."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brainmri.zoo.registry import load
from train import segmenter
from train.datasets import DATASETS, Dataset, Slice
from train.datasets.lgg import HELD_OUT, LGG, find_slices, institution_of
from train.phantoms import phantom_volume, write_phantom_dataset


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(root, patients=3, slices=6)
    return root


def write_empty(path: Path) -> None:
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(path)


def test_slices_are_ordered_along_the_head(phantoms):
    cases = find_slices(phantoms)
    assert len(cases) == 3
    assert all([s.number for s in slices] == list(range(1, 7)) for slices in cases.values())
    assert find_slices(phantoms / "kaggle_3m").keys() == cases.keys()


def test_slice_ten_comes_after_nine(tmp_path):
    case = "TCGA_CS_0001_20000101"
    (tmp_path / case).mkdir()
    for number in (1, 10, 2, 9):
        for suffix in ("", "_mask"):
            write_empty(tmp_path / case / f"{case}_{number}{suffix}.tif")
    assert [s.number for s in find_slices(tmp_path)[case]] == [1, 2, 9, 10]


def test_a_folder_in_another_layout_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="Kaggle layout"):
        find_slices(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a folder"):
        find_slices(tmp_path / "nothing")
    case = "TCGA_CS_0001_20000101"
    (tmp_path / case).mkdir()
    write_empty(tmp_path / case / f"{case}_1.tif")
    with pytest.raises(FileNotFoundError, match="expected a mask"):
        find_slices(tmp_path)


def test_a_slice_reads_its_image_and_mask(phantoms):
    images, masks = phantom_volume(6, 64, seed=0)
    for item, image, mask in zip(next(iter(find_slices(phantoms).values())), images, masks, strict=True):
        assert np.array_equal(item.read_image(), image)
        assert np.array_equal(item.read_mask(), mask)


def test_lgg_describes_itself():
    assert len(HELD_OUT) == 20
    assert LGG.reference == "LGG MRI Segmentation (Buda, Saha, Mazurowski 2019; TCGA-LGG), CC BY-NC-SA 4.0"
    assert institution_of("TCGA_HT_7694_19950404") == "HT"
    with pytest.raises(ValueError, match="got 'patient-1'"):
        institution_of("patient-1")


class ArraySlice(Slice):
    """A slice in NumPy files, which Pillow does not open."""

    def read_image(self) -> np.ndarray:
        return np.load(self.image)

    def read_mask(self) -> np.ndarray:
        return np.load(self.mask)


def find_arrays(root: str | Path) -> dict[str, list[Slice]]:
    """Slices at `<root>/<patient>/image-<n>.npy` and `mask-<n>.npy`."""
    cases: dict[str, list[Slice]] = {}
    for image in sorted(Path(root).glob("*/image-*.npy")):
        number = int(image.stem.removeprefix("image-"))
        mask = image.with_name(f"mask-{number}.npy")
        cases.setdefault(image.parent.name, []).append(
            ArraySlice(case=image.parent.name, number=number, image=image, mask=mask)
        )  # fmt: skip
    return cases


ARRAYS = Dataset(
    key="arrays",
    name="Phantoms in NumPy files",
    source="this test",
    licence="CC0 1.0",
    licence_id="cc0-1.0",
    hub_id="nobody/arrays",
    citation="None.",
    intended_use="Tests.",
    held_out=frozenset({"patient-3"}),
    find_slices=find_arrays,
    institution_of=lambda case: "here",
)


def test_another_dataset_is_one_file_and_one_line(tmp_path, monkeypatch):
    data, out = tmp_path / "data", tmp_path / "run"
    for patient in (1, 2, 3):
        folder = data / f"patient-{patient}"
        folder.mkdir(parents=True)
        for number, (image, mask) in enumerate(zip(*phantom_volume(8, 64, seed=patient), strict=True), 1):
            np.save(folder / f"image-{number}.npy", image)
            np.save(folder / f"mask-{number}.npy", mask)
    monkeypatch.setitem(DATASETS, ARRAYS.key, ARRAYS)
    segmenter.main(
        ["--smoke", "--precision", "float32", "--dataset", "arrays", "--data", str(data), "--out", str(out)]
    )  # fmt: skip
    split = json.loads((out / "split.json").read_text())
    assert split["held_out"] == ["patient-3"]
    assert sorted(split["train"] + split["validation"]) == ["patient-1", "patient-2"]
    assert load(out, device="cpu").entry.training.dataset == "Phantoms in NumPy files (this test), CC0 1.0"
