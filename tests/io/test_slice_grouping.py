"""Pictures of several folders or cases are separate studies."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from brainmri.io.reading import UnreadableImage, count_studies, list_sequences, open_study, read_study
from tests.support.phantom import zip_of
from tests.support.studies import png, read, refusal, zip_of_bytes

LAYOUTS = {
    "folders of patients": "P{0}/case_{1}.png",
    "folders of series": "P{0}/axial/slice_{1}.png",
    "folders of different depth": "{2}/a_{1}.png",
    "cases in one folder": "P{0}_{1}.png",
    "one picture a folder": "P{0}/picture.png",
}


def write(folder: Path, name: str, value: int) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(png(value))


def values(source, study=None) -> list[int]:
    """The grey value of each slice."""
    return np.rint(read_study(source, study=study).pixels[:, 0, 0, 0] * 255).tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_and_cases_are_studies_of_their_own(tmp_path, layout):
    count = 1 if layout == "one picture a folder" else 3
    for patient, other in ((1, "P1"), (2, "P2/visit")):
        for number in range(1, count + 1):
            write(tmp_path / "upload", LAYOUTS[layout].format(patient, number, other), 10 * patient + number)
    for source in (tmp_path / "upload", zip_of(tmp_path / "upload")):
        assert count_studies(source) == 2
        assert list_sequences(source) == ()
        for study in (0, 1):
            assert values(source, study) == [10 * (study + 1) + number for number in range(1, count + 1)]
        assert "got 2 studies, of different folders or cases" in refusal(source)


def test_result_says_that_numbered_pictures_are_read_as_one_head(tmp_path):
    for number in range(10, 23):
        write(tmp_path, f"Te_{number:04d}.png", number)
    warning = "13 numbered pictures were read as neighbouring slices of one head; if they are of different people, rename them"
    assert [one for one in read(tmp_path).warnings if "one head" in one] == [f"{warning} or upload them one at a time"]
    write(tmp_path / "single", "picture.png", 1)
    assert not any("one head" in one for one in read(tmp_path / "single").warnings)


@pytest.mark.parametrize("name", ["Screenshot_20240501_1010{}", "20240501_1010{}", "PXL_20240501_1010{}123", "head_202405{}"])
def test_dates_and_times_are_no_slice_numbers(tmp_path, name):
    numbers = (11, 12, 13)
    for number in numbers:
        write(tmp_path, f"{name.format(number)}.png", number)
    assert open_study(tmp_path).pictures == tuple(f"{name.format(number)}.png" for number in numbers)
    assert [values(tmp_path, study) for study in range(3)] == [[number] for number in numbers]


def test_slices_of_a_case_with_a_date_in_its_name_are_numbered(tmp_path):
    for number in (2, 10):
        write(tmp_path, f"TCGA_CS_4941_19960909_{number}.png", number)
    assert values(tmp_path) == [2, 10]


def test_tiffs_of_several_pages_are_studies_of_their_own(tmp_path):
    for patient in (1, 2):
        pages = np.stack([np.full((40, 40), 10 * patient + number, np.uint8) for number in range(3)])
        tifffile.imwrite(tmp_path / f"P_{patient}.tif", pages, photometric="minisblack")
    assert [values(tmp_path, study) for study in (0, 1)] == [[10, 11, 12], [20, 21, 22]]
    assert values([tmp_path / "P_1.tif"]) == [10, 11, 12]


def test_masks_and_previews_in_folders_of_their_own_are_left_out(tmp_path):
    for number in (1, 2):
        write(tmp_path, f"images/case_{number}.png", number)
        write(tmp_path, f"masks/case_{number}.png", 255)
    write(tmp_path, "images/thumbs/case_1.png", 9)
    assert values(tmp_path) == [1, 2]
    assert "3 pictures are left out, in folders of masks or below the folder of the slices" in read(tmp_path).warnings


@pytest.mark.parametrize("mask", ["mask_{}", "pat_seg_{}", "pat_mask_{}", "label_pat_{}", "seg_pat_{}", "pat_{}_seg", "Mask_0{}"])
def test_masks_beside_their_pictures_are_ignored_by_name(tmp_path, mask):
    for number in (6, 7, 8):
        write(tmp_path, f"pat_{number}.png", number)
        write(tmp_path, f"{mask.format(number)}.png", 255)
    for source in (tmp_path, zip_of(tmp_path), sorted(tmp_path.glob("*.png"))):
        assert count_studies(source) == 1
        assert values(source) == [6, 7, 8]


def test_pictures_are_no_masks_without_the_pictures_that_they_belong_to(tmp_path):
    for number in (6, 7, 8):
        write(tmp_path, f"label_{number}.png", number)
        write(tmp_path / "other", f"scan_{number}.png", number)
    assert values(sorted(tmp_path.glob("*.png"))) == [6, 7, 8]


def test_picture_without_number_among_others_is_refused(tmp_path):
    for name in ("a_1.png", "b_1.png", "cover.png"):
        write(tmp_path, name, 1)
    for source in (tmp_path, zip_of(tmp_path)):
        reason = refusal(source)
        assert "cover.png has no slice number. Please name slices <case>_<number>" in reason
        assert "or give single slices one by one, as files and not in a zip or folder" in reason


@pytest.mark.parametrize("study", [-1, 2])
def test_study_that_does_not_exist_is_refused(tmp_path, study):
    for name in ("a_1.png", "b_1.png"):
        write(tmp_path, name, 1)
    with pytest.raises(UnreadableImage, match=f"expected the index of a study, from 0 to 1, got {study}"):
        open_study(tmp_path).read(study=study)


def picture(width: int, height: int, value: int = 90) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (width, height), value).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("members", "names"),
    [
        (["no/1 no.png", "yes/Y1.png", "yes/Y2.png"], ["1 no.png", "Y1.png", "Y2.png"]),  # without slice numbers
        (["no/1.png", "yes/1.png"], ["no/1.png", "yes/1.png"]),
        (["glioma_1.png", "glioma_2.png", "glioma_3.png"], ["glioma_1.png", "glioma_2.png", "glioma_3.png"]),  # sizes differ
        (["007.png", "head_1.png", "other_1.png"], ["007.png", "head_1.png", "other_1.png"]),
    ],
)
def test_pictures_that_are_no_slices_of_one_head_are_read_one_by_one(tmp_path, members, names):
    source = zip_of_bytes(tmp_path, {name: picture(40 + 2 * number, 36, number) for number, name in enumerate(members)})
    opened = open_study(source)
    assert opened.pictures == tuple(names)
    for number in range(len(members)):
        scan = opened.read(study=number)
        assert scan.pixels.shape == (1, 36, 40 + 2 * number, 3)
        assert scan.name == names[number]
        assert round(255 * scan.pixels[0, 0, 0, 0]) == number
    assert f"got {len(members)} " in refusal(source)


def test_slices_of_one_size_by_their_orientation_stay_one_study(tmp_path):
    lying = Image.new("L", (36, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    lying.save(stream, "PNG", exif=exif)
    source = zip_of_bytes(tmp_path, {"case_1.png": picture(40, 36), "case_2.png": stream.getvalue()})
    assert open_study(source).pictures == (None,)
    assert read_study(source).pixels.shape == (2, 36, 40, 3)


def test_a_damaged_picture_stays_with_the_slices_of_its_case_and_is_refused(tmp_path):
    source = zip_of_bytes(tmp_path, {"case_1.png": picture(40, 36), "case_2.png": picture(40, 36)[:30]})
    assert refusal(source).startswith("case_2.png is not an image")


def test_a_slice_by_itself_and_a_stack_of_pages_are_no_pictures(tmp_path):
    write(tmp_path, "a/case_1.png", 1)
    write(tmp_path, "b/head.png", 1)
    (tmp_path / "c").mkdir()
    tifffile.imwrite(tmp_path / "c" / "pages.tif", np.zeros((5, 40, 36), np.uint8), photometric="minisblack")
    assert sorted(map(str, open_study(zip_of(tmp_path)).pictures)) == ["None", "None", "head.png"]
