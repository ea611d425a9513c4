"""The layout of the LGG dataset, and another dataset in one file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from brainmri.zoo.entry import CARD, read_entry, read_split
from brainmri.zoo.metrics import FAILURES, THREE_SEQUENCES
from brainmri.zoo.records import Training
from brainmri.zoo.registry import embedded
from tests.support.array_dataset import ARRAYS, write_arrays
from train import segmenter
from train.datasets import DATASETS, dataset_of
from train.datasets.lgg import HELD_OUT, LGG, find_slices, institution_of
from train.evaluation import evaluate
from train.phantoms import phantom_volume, write_phantom_dataset
from train.release.release import release

pytestmark = pytest.mark.usefixtures("few_resamples")


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


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """A network trained on another dataset, which is one module and one registration line: its data and its run folder."""
    root = tmp_path_factory.mktemp("arrays")
    data, run = root / "data", root / "run"
    write_arrays(data, patients=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, ARRAYS.key, ARRAYS)  # the registration line
        smoke = ["--smoke", "--precision", "float32", "--net", "effunet"]
        segmenter.main([*smoke, "--dataset", "arrays", "--data", str(data), "--out", str(run)])
    return data, run


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(DATASETS, ARRAYS.key, ARRAYS)


@pytest.mark.slow
def test_another_dataset_trains_a_network(arrays):
    _, run = arrays
    split = read_split(run)
    assert split["held_out"] == ["patient-3"]
    assert sorted(split["train"] + split["validation"]) == ["patient-1", "patient-2"]
    assert read_entry(run).training.dataset == "Phantoms in NumPy files (this test), CC0 1.0"


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_another_dataset_is_released_under_its_own_name(arrays, tmp_path):
    data, run = arrays
    assert dataset_of(read_entry(run)) is ARRAYS
    entry = release(run, [run], data, tmp_path, half=False)
    assert "institution here" in entry.metrics.variants[THREE_SEQUENCES][FAILURES]["groups"]
    card = ModelCard.load(entry.folder / CARD)
    assert (card.data.license, card.data.datasets) == ("cc0-1.0", ["nobody/arrays"])
    assert {result.dataset_name for result in card.data.eval_results} == {"Phantoms in NumPy files"}
    assert "The 1 held-out patients" in card.text
    assert "CC0 1.0, as the dataset" in card.text
    assert "LGG" not in card.content.replace(entry.name, "")


@pytest.mark.usefixtures("registered")
def test_another_dataset_is_evaluated(arrays, tmp_path):
    data, run = arrays
    command = ["--data", str(data), "--segmenter", str(run), "--classifier", str(run), "--device", "cpu"]
    evaluate.main([*command, "--out", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["patients"] == ["patient-1", "patient-2", "patient-3"]
    with pytest.raises(FileNotFoundError, match="Kaggle layout"):
        evaluate.main([*command, "--dataset", "lgg", "--out", str(tmp_path / "report.json")])


def test_an_unregistered_dataset_is_refused(arrays, capsys):
    data, run = arrays
    with pytest.raises(ValueError, match=r"one of the datasets LGG MRI Segmentation, got Phantoms in NumPy files \(this test\)"):
        dataset_of(read_entry(run))
    with pytest.raises(SystemExit):
        segmenter.main(["--smoke", "--dataset", "arrays", "--data", str(data), "--out", str(run)])
    assert "invalid choice: 'arrays'" in capsys.readouterr().err


def test_an_entry_that_names_no_dataset_is_refused():
    entry = replace(embedded()["resunet-lgg"], training=Training())
    with pytest.raises(ValueError, match="got no dataset"):
        dataset_of(entry)


@pytest.mark.parametrize("name", embedded())
def test_the_embedded_entries_name_their_dataset(name):
    assert dataset_of(embedded()[name]) is LGG
