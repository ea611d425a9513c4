"""People's own data: every layout gives the same slices, and a dataset that does not fit is refused with the reason."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from brainmri.io.pixels import FLAIR
from tests.train.layouts import AFFINE, LAYOUTS, SIZE, SLICES, patients, save_picture, save_volume
from train.datasets import OwnData, recognise_dataset
from train.datasets.own import find_layout, own_dataset
from train.datasets.own.dataset import find_own_sequences, find_own_slices
from train.folds import split_cases


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_slices_and_masks(name, tmp_path):
    expected, write, single = LAYOUTS[name]
    write(tmp_path, 2)
    assert find_layout(tmp_path).name == expected
    cases = find_own_slices(tmp_path, OwnData())
    assert len(cases) == 2
    for slices, (_, images, masks) in zip(cases.values(), patients(2), strict=True):
        assert [one.number for one in slices] == list(range(1, SLICES + 1))
        for one, image, mask in zip(slices, images, masks, strict=True):
            assert np.array_equal(one.read_mask(), mask)
            pixels, wanted = one.read_image(), np.repeat(image[..., [FLAIR]], 3, axis=2) if single else image
            assert (pixels.shape, pixels.dtype) == (image.shape, np.uint8)
            for channel in range(3):  # float volumes are scaled by percentiles, as on the page
                assert np.corrcoef(pixels[..., channel].ravel(), wanted[..., channel].ravel())[0, 1] > 0.97


def test_a_patient_with_sizes_of_its_own_is_padded(tmp_path):
    for n, size in enumerate((40, 64), 1):
        save_picture(tmp_path / "images" / "a" / f"{n}.png", np.full((size, 50), 90, np.uint8))
        save_picture(tmp_path / "masks" / "a" / f"{n}.png", np.full((size, 50), 255, np.uint8))
    (slices,) = find_own_slices(tmp_path, OwnData()).values()
    assert {one.read_image().shape for one in slices} == {(64, 50, 3)}
    assert slices[0].read_mask().sum() == 40 * 50


def test_channels_and_labels_are_chosen(tmp_path):
    LAYOUTS["brats"][1](tmp_path, 1)
    (three,), (one,) = (
        find_own_slices(tmp_path, OwnData(channels=channels)).values() for channels in (("t2w", "t1c", "-"), ("t1c",))
    )
    images, masks = patients(1)[0][1:]
    assert np.array_equal(three[2].read_image()[..., 0], images[2, ..., 0])
    assert np.array_equal(three[2].read_image()[..., 2], images[2, ..., 2])  # the missing one is replaced by the second
    assert np.array_equal(one[2].read_image()[..., 0], images[2, ..., 2])
    (upper,) = find_own_slices(tmp_path, OwnData(tumour_labels=("2",))).values()
    assert np.array_equal(upper[2].read_mask()[: SIZE // 2], masks[2, : SIZE // 2])
    assert not upper[2].read_mask()[SIZE // 2 :].any()
    assert [one.index for one in find_own_slices(tmp_path, OwnData(every=4))["BraTS-GLI-00001"]] == [0, 4]


@pytest.mark.parametrize(
    ("layout", "data", "expected"),
    [
        ("brats", OwnData(), ("three sequences",)),
        ("brats", OwnData(channels=("t1c",)), ("T1c",)),
        ("brats", OwnData(channels=("t2w",), sequence="PD"), ("T2",)),  # a name outweighs the option
        ("bids", OwnData(channels=("T1w",)), ("T1",)),
        ("decathlon", OwnData(channels=("FLAIR",)), ("FLAIR",)),
        ("volumes", OwnData(), ()),
        ("volumes", OwnData(sequence="T1c"), ("T1c",)),
        ("csv", OwnData(), ("three sequences",)),
    ],
)
def test_the_sequences_of_a_dataset_are_recorded(layout, data, expected, tmp_path):
    LAYOUTS[layout][1](tmp_path, 1)
    assert find_own_sequences(tmp_path, data) == expected
    assert own_dataset(OwnData.from_record(own_dataset(data).record)).find_sequences(tmp_path) == expected


def refusal(root, **data) -> str:
    """The message of the error when the slices of a dataset are found and read."""
    try:
        for slices in find_own_slices(root, OwnData(**data)).values():
            for one in slices:
                one.read_image(), one.read_mask()
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    pytest.fail("the dataset was read")


def test_an_unknown_folder_is_described_with_an_example_of_each_layout(tmp_path):
    assert "correct --data" in refusal(tmp_path / "nothing")
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").write_text("")
    message = refusal(tmp_path)
    assert "got 1 folders (photos) and 1 files (1 .txt)" in message
    assert all(layout[0] in message for layout in LAYOUTS.values())


def test_images_without_masks_and_masks_without_images_are_named(tmp_path):
    save_picture(tmp_path / "images" / "p1_1.png", np.zeros((40, 40), np.uint8))
    (tmp_path / "masks").mkdir()
    assert "expected a mask in masks for every image, got none for 1 of 1: p1_1" in refusal(tmp_path)
    save_picture(tmp_path / "masks" / "p1_1.png", np.zeros((40, 40), np.uint8))
    save_picture(tmp_path / "masks" / "p1_2.png", np.zeros((40, 40), np.uint8))
    assert "expected an image in images for every mask, got none for 1 of 2: p1_2" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (np.zeros((40, 40), np.uint8), np.zeros((50, 40), np.uint8), "differ in size: p1_1.png 40 x 40, p1_1.png 40 x 50"),
        (np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8), "expected at least 32 a side"),
        (np.zeros((40, 40), np.uint8), np.arange(1600, dtype=np.uint8).reshape(40, 40), "--tumour-labels 128-255"),
        (np.zeros((40, 40), np.uint8), np.arange(4800, dtype=np.uint8).reshape(40, 40, 3), "expected a mask of grey values"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(image, mask, message, tmp_path):
    save_picture(tmp_path / "images" / "p1_1.png", image)
    save_picture(tmp_path / "masks" / "p1_1.png", mask)
    assert message in refusal(tmp_path)


def test_a_damaged_picture_and_a_damaged_volume_are_refused(tmp_path):
    for name in ("p1_1.png", "p2.nii.gz"):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_bytes(b"nothing")
    assert "got 2 that do not. The first: p1_1.png cannot be opened as a picture" in refusal(tmp_path)


def test_a_mask_on_another_grid_is_refused(tmp_path):
    _, images, masks = patients(1)[0]
    save_volume(tmp_path / "images" / "a.nii.gz", images[..., 1])
    save_volume(tmp_path / "masks" / "a.nii.gz", masks.astype(np.uint8), AFFINE + np.diag([0, 0, 2, 0]))
    assert "lies on another grid than a.nii.gz" in refusal(tmp_path)
    save_volume(tmp_path / "masks" / "a.nii.gz", masks[:4].astype(np.uint8))
    assert "of shape (48, 48, 4) lies on another grid" in refusal(tmp_path)


def test_sequences_without_a_flair_ask_for_channels(tmp_path):
    LAYOUTS["brats"][1](tmp_path, 1)
    folder = tmp_path / "BraTS-GLI-00001-000"
    (folder / f"{folder.name}-t2f.nii.gz").unlink()
    assert "expected a FLAIR, and at most one T1 before and one after contrast, got t1c, t1n, t2w" in refusal(tmp_path)
    assert "expected a sequence t9 in" in refusal(tmp_path, channels=("t9",))
    (folder / f"{folder.name}-seg.nii.gz").rename(folder / "seg.nii.gz")
    assert "in one of these layouts" in refusal(tmp_path)


def test_several_labels_ask_for_the_tumour(tmp_path):
    LAYOUTS["decathlon"][1](tmp_path, 1)
    described = json.loads((tmp_path / "dataset.json").read_text())
    described["labels"] |= {"2": "oedema"}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    assert "names several (1 tumour, 2 oedema); choose, for example --tumour-labels 1 2" in refusal(tmp_path)
    assert "got necrosis" in refusal(tmp_path, tumour_labels=("necrosis",))
    assert len(find_own_slices(tmp_path, OwnData(tumour_labels=("tumour", "oedema")))) == 1
    (tmp_path / "labelsTr" / "p1.nii.gz").unlink()
    assert "got none for 1 of 1: p1" in refusal(tmp_path, tumour_labels=("1",))


def test_a_bids_mask_without_image_is_refused(tmp_path):
    LAYOUTS["bids"][1](tmp_path, 1)
    for path in (tmp_path / "sub-p1" / "anat").iterdir():
        path.unlink()
    assert "expected an image in sub-…/anat for derivatives/masks/sub-p1" in refusal(tmp_path)
    for path in (tmp_path / "derivatives" / "masks" / "sub-p1" / "anat").iterdir():
        path.unlink()
    assert "expected masks (…_mask.nii.gz or …_dseg.nii.gz)" in refusal(tmp_path)


def test_a_table_with_missing_files_or_patients_is_refused(tmp_path):
    def write(*rows):
        with (tmp_path / "dataset.csv").open("w", newline="") as handle:
            csv.writer(handle).writerows([["image", "mask", "patient"], *rows])

    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "a.png")
    write(["a.png", "", "p1"])
    assert not find_own_slices(tmp_path / "dataset.csv", OwnData())["p1"][0].read_mask().any()
    write(["a.png", "b.png", "p1"])
    assert "got 1 that do not exist" in refusal(tmp_path)
    write(["a.png", "", ""])
    assert "expected a value for patient in every row of" in refusal(tmp_path)


def test_a_table_with_other_columns_or_in_another_encoding_is_refused(tmp_path):
    table = tmp_path / "dataset.csv"
    table.write_text("image;mask;patient\n")
    assert "got the file dataset.csv with the columns image;mask;patient in" in refusal(table)
    table.write_bytes("image,mask,patient\na.png,,Müller\n".encode("latin-1"))
    assert "in UTF-8, got another encoding; save it as CSV UTF-8" in refusal(table)


@pytest.mark.parametrize("content", ["[", "[]", "{}", '{"channel_names": {"FLAIR": 0}}', '{"modality": "FLAIR"}'])
def test_a_description_without_channels_by_number_is_refused(content, tmp_path):
    LAYOUTS["decathlon"][1](tmp_path, 1)
    (tmp_path / "dataset.json").write_text(content)
    message = refusal(tmp_path)
    assert message.startswith("expected ")
    assert "dataset.json" in message
    assert message.endswith("; correct the file")


def test_subjects_without_a_mask_are_noted(tmp_path, capsys):
    LAYOUTS["bids"][1](tmp_path, 2)
    shutil.rmtree(tmp_path / "derivatives" / "masks" / "sub-p2")
    assert list(find_own_slices(tmp_path, OwnData())) == ["sub-p1"]
    assert "1 of 2 subjects have no mask and are not used: sub-p2" in capsys.readouterr().out


def test_pictures_without_patients_are_noted(tmp_path, capsys):
    for number in (1, 2):
        for folder in ("images", "masks"):
            save_picture(tmp_path / folder / f"img_{number}.png", np.zeros((40, 40), np.uint8))
    assert sorted(find_own_slices(tmp_path, OwnData())) == ["img_1", "img_2"]
    assert "each image counts as a patient" in capsys.readouterr().out


def test_folds_are_written_and_followed(tmp_path):
    LAYOUTS["volumes"][1](tmp_path / "data", 3)
    written, data = tmp_path / "folds.json", OwnData()
    cases = find_own_slices(tmp_path / "data", data)
    split = split_cases(own_dataset(data), cases, folds=3, fold=1, written=written)
    manifest = json.loads(written.read_text())
    assert split.validation == tuple(c for c, patient in manifest["patients"].items() if patient["fold"] == 1)

    for name, fold in (("p1", 2), ("p2", 2), ("p3", 0)):
        manifest["patients"][name]["fold"] = fold
    written.write_text(json.dumps(manifest))
    followed = own_dataset(data, written)
    assert split_cases(followed, cases, folds=3, fold=2).validation == ("p1", "p2")
    with pytest.raises(ValueError, match=r"expected 5 folds in .*, got 3; give --folds 3"):
        split_cases(followed, cases, folds=5, fold=0)
    del manifest["patients"]["p1"]
    written.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="got 1 without a fold, such as p1"):
        split_cases(followed, cases, folds=3, fold=2)


def test_the_lgg_dataset_is_recognised_by_its_patients_only(tmp_path):
    LAYOUTS["kaggle"][1](tmp_path, 1)
    assert recognise_dataset(tmp_path, OwnData()).key == "own"
    (tmp_path / "TCGA_CS_4944_20010208").mkdir()
    assert recognise_dataset(tmp_path, OwnData()).key == "lgg"
    with pytest.raises(ValueError, match="expected --licence as an identifier"):
        recognise_dataset(tmp_path / "p1", OwnData(licence="ask me"))
