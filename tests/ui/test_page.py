"""The page's endpoint, over HTTP, as a program would use it."""

import asyncio
import json
import re
import shutil
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest
import tifffile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from skimage import data

import brainmri
from brainmri.ui.compare_tab import table_html
from brainmri.ui.page import build
from brainmri.zoo.registry import DEFAULT, find_entry

pytestmark = pytest.mark.slow

STUDY = Path(__file__).parents[2] / "assets" / "examples" / "study-flair.nii.gz"
EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"


@pytest.fixture(scope="module")
def client(page_url, tmp_path_factory) -> Client:
    return Client(page_url, verbose=False, analytics_enabled=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def test_predict_gives_the_record_the_pictures_and_the_files(client):
    record, pictures, mask, overlay, finding = client.predict(handle_file(EXAMPLES / "large-lesion.png"), api_name="/predict")
    width, height = Image.open(EXAMPLES / "large-lesion.png").size
    assert record["verdict"] in ("tumour", "no tumour", "review")
    assert {"input": "large-lesion.png", **record} == json.loads(Path(finding).read_text(encoding="utf-8"))
    assert (record["width"], record["height"]) == (width, height)
    assert all(Path(p["image"]).suffix == ".png" for p in pictures)
    assert len(pictures) == 5
    drawn = Image.open(mask)
    assert (drawn.mode, drawn.size) == ("L", (width, height))
    assert set(np.unique(drawn)) <= {0, 255}
    assert np.count_nonzero(drawn) == record["area_px"]
    assert (Image.open(overlay).mode, Image.open(overlay).size) == ("RGB", (width, height))
    assert [Path(p).name for p in (mask, overlay, finding)] == [
        f"large-lesion.{end}" for end in ("mask.png", "overlay.png", "finding.json")
    ]


def test_a_page_without_requests_computes_next_to_nothing():
    """Compared with Gradio's own interval between two looks into the queue."""
    requests = build()._queue

    async def wait(interval: float) -> None:
        requests.sleep_when_free, requests.stopped = interval, False
        waiting = asyncio.create_task(requests.start_processing())
        await asyncio.sleep(1)
        requests.stopped = True
        await waiting

    def seconds(interval: float) -> float:
        began = time.thread_time()
        asyncio.run(wait(interval))
        return time.thread_time() - began

    assert seconds(requests.sleep_when_free) < seconds(0.001) / 2


def test_the_document_describes_the_page_in_place_of_gradios_own_words(page_url):
    html = httpx.get(page_url).text
    assert 'name="description" content="Find, outline and measure brain tumours' in html
    assert "Click to try out the app" not in html
    assert html.index("gradio-app { visibility: hidden") < html.index("<gradio-app")


def test_a_photograph_is_for_review_without_a_probability(client, tmp_path):
    Image.fromarray(data.astronaut()).save(tmp_path / "astronaut.png")
    record, *_ = client.predict(handle_file(tmp_path / "astronaut.png"), api_name="/predict")
    assert record["verdict"] == "review"
    assert record["ood"]["out_of_distribution"]
    assert "meaningful" in record["warnings"][-1]


def test_the_threshold_is_the_segmenters_own_unless_given(client):
    image = handle_file(EXAMPLES / "large-lesion.png")
    areas = []
    for threshold in (0.05, None, 0.95):
        record = client.predict(image, threshold=threshold, api_name="/predict")[0]
        areas.append(record["area_px"])
        if threshold is not None:
            assert record["provenance"]["mask_threshold"] == threshold
    assert areas[0] > areas[1] > areas[2] > 0


def test_a_given_threshold_replaces_that_of_the_sequence(client):
    image, entry = handle_file(EXAMPLES / "flair-only.png"), find_entry(DEFAULT)
    own = {name: one.mask_threshold for name, one in entry.sequences.items()}
    sequence = next(name for name, threshold in own.items() if threshold != entry.mask_threshold)
    used = [
        client.predict(image, threshold=threshold, sequence=sequence, api_name="/predict")[0]["provenance"]["mask_threshold"]
        for threshold in (None, entry.mask_threshold)
    ]
    assert used == [own[sequence], entry.mask_threshold]


def test_the_sequence_of_a_greyscale_slice_can_be_given(client):
    image = handle_file(EXAMPLES / "flair-only.png")
    recognised, positional, given, contrast = (
        client.predict(image, *values, **options, api_name="/predict")[0]
        for values, options in (((), {}), ((DEFAULT, DEFAULT, None), {}), ((), {"sequence": "FLAIR"}), ((), {"sequence": "T2"}))
    )
    assert positional == recognised
    assert recognised["recognition"]["sequence"]["name"] == "FLAIR"
    assert recognised["recognition"]["sequence"]["probability"] < 1
    assert given["recognition"]["sequence"] == {"name": "FLAIR", "probability": 1}
    assert [record["provenance"]["sequence"] for record in (recognised, given, contrast)] == [None, "FLAIR", "T2"]
    assert [record["verdict"] for record in (recognised, given, contrast)] == ["tumour", "tumour", "review"]
    assert contrast["reason"].startswith("The model was not evaluated on tumours in T2 images")
    record, _ = client.predict(image, ["effunet-lgg", "effunet-any"], "T1c", api_name="/compare")
    assert [model["warnings"] for model in record["models"]] == [["the model was not evaluated on tumours in T1c images"], []]


@pytest.mark.parametrize("name", ["/etc", "../weights", "owner/model"])
def test_only_offered_models_can_be_loaded(name, client, page_url):
    from brainmri.ui.inference import get_model

    with pytest.raises(ValueError, match=r"unknown model .*; choose from effunet-any"):
        get_model(name)
    with pytest.raises(AppError, match="segmenter: expected one of effunet-any"):
        client.predict(handle_file(EXAMPLES / "large-lesion.png"), segmenter=name, api_name="/predict")


def test_a_text_file_named_png_is_refused_in_plain_words(client, tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not a picture", encoding="utf-8")
    with pytest.raises(AppError, match=r"^notes\.png is not an image\. Please upload a PNG, JPEG, TIFF, WebP or BMP slice\.$"):
        client.predict(handle_file(path), api_name="/predict")


def test_a_stack_of_pages_is_refused_in_plain_words(client, tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((3, 64, 64), np.uint8), photometric="minisblack")
    with pytest.raises(AppError, match="got a TIFF of 3 pages"):
        client.predict(handle_file(path), api_name="/predict")


def test_slices_are_recognised_by_their_bytes(client, tmp_path):
    path = tmp_path / "slice.gif"
    Image.new("L", (64, 64)).save(path)
    with pytest.raises(AppError, match=r"slice\.gif is a GIF image\. Please save it as PNG"):
        client.predict(handle_file(path), api_name="/predict")
    path.write_bytes((EXAMPLES / "large-lesion.png").read_bytes())
    assert client.predict(handle_file(path), api_name="/predict")[0]["verdict"] == "tumour"


def test_two_visitors_get_their_own_results(page_url, tmp_path):
    """Same file name, different slices, at the same time."""
    sizes = [(96, 128), (160, 112)]
    uploads = []
    for number, size in enumerate(sizes):
        folder = tmp_path / str(number)
        folder.mkdir()
        Image.open(EXAMPLES / "small-lesion.png").resize(size).save(folder / "slice.png")
        uploads.append(folder)

    def visit(folder: Path) -> tuple:
        visitor = Client(page_url, verbose=False, analytics_enabled=False, download_files=str(folder / "downloads"))
        return visitor.predict(handle_file(folder / "slice.png"), api_name="/predict")

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(visit, uploads)
    for (record, _, mask, overlay, _), size in zip((first, second), sizes, strict=True):
        assert (record["width"], record["height"]) == Image.open(mask).size == Image.open(overlay).size == size
    assert first[0]["provenance"]["input"] != second[0]["provenance"]["input"]


def test_only_the_endpoints_are_public(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(endpoints) == ["/predict", "/study", "/compare", "/models", "/health"]


def test_models_are_compared(client):
    record, pictures = client.predict(handle_file(EXAMPLES / "small-lesion.png"), api_name="/compare")
    by_name = {model["name"]: model for model in record["models"]}
    assert set(by_name) == {entry.name for entry in brainmri.list_models()}
    assert by_name["resnet50-lgg"]["area_px"] is None
    assert by_name["resunet-lgg"]["probability"] is None
    assert 0.5 < record["mean_dice_between_masks"] <= 1
    assert len(pictures) == len(brainmri.list_models("segmentation")) + 1  # and where they disagree
    record, pictures = client.predict(handle_file(EXAMPLES / "small-lesion.png"), ["effunet-lgg"], api_name="/compare")
    assert (len(record["models"]), len(pictures)) == (1, 1)
    assert record["mean_dice_between_masks"] is None


def test_a_comparison_says_what_was_changed(client, tmp_path):
    path = tmp_path / "turned.png"
    Image.open(EXAMPLES / "small-lesion.png").rotate(180).save(path)
    record, _ = client.predict(handle_file(path), ["effunet-lgg"], api_name="/compare")
    assert record["warnings"] == ["the slice is turned by 180°; it was analysed upright"]


def test_a_comparison_says_that_it_is_of_the_first_of_several_inputs(client, tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("small-lesion.png", "large-lesion.png"):
            archive.write(EXAMPLES / name, name)
    record, _ = client.predict(handle_file(tmp_path / "two.zip"), ["effunet-lgg"], api_name="/compare")
    assert record["warnings"] == ["only the first of 2 inputs is compared"]


def test_models_are_compared_on_a_study(client):
    record, pictures = client.predict(handle_file(STUDY), ["effunet-lgg", "resunet-lgg"], api_name="/compare")
    with_verdict, without = record["models"]
    assert with_verdict["probability"] > 0.5
    assert 1 <= with_verdict["likeliest_slice"] <= 16
    assert without["probability"] is None
    assert without["volume_ml"] == pytest.approx(with_verdict["volume_ml"], rel=0.2)
    assert record["mean_dice_between_masks"] > 0.8
    assert all(picture["caption"].endswith("of 16") for picture in pictures)


def test_a_comparison_marks_models_that_were_not_evaluated_on_the_sequence(client, tmp_path):
    path = shutil.copy(STUDY, tmp_path / "t1ce.nii.gz")
    record, _ = client.predict(handle_file(path), ["effunet-lgg", "resunet-any"], api_name="/compare")
    missing = "the model was not evaluated on tumours in T1c images"
    assert [model["warnings"] for model in record["models"]] == [[missing], []]
    table, below = table_html(record, "t1ce.nii.gz").split("</table>")
    assert re.findall(r"<small>([^<]+)</small> <sup>1</sup></th>", table) == ["effunet-lgg"]
    assert "<sup>1</sup> The model was not evaluated on tumours in T1c images." in below


def test_no_models_are_compared_on_a_picture_that_is_no_brain(client, tmp_path):
    Image.fromarray(data.astronaut()).save(tmp_path / "astronaut.png")
    with pytest.raises(AppError, match="This does not look like a brain MRI slice"):
        client.predict(handle_file(tmp_path / "astronaut.png"), ["effunet-lgg"], api_name="/compare")


# --- studies --------------------------------------------------------------------------------------------------------------


def test_a_study_returns_all_files_in_one_zip(client, tmp_path):
    models = {"segmenter": "effunet-pair-lgg", "classifier": "effunet-pair-lgg"}
    record, packed, report = client.predict([handle_file(STUDY)], **models, api_name="/study")
    assert record["verdict"] == "tumour"
    assert record["lesion_volume_ml"] == pytest.approx(47, abs=5)
    assert record["sequences"]["FLAIR"] == "study-flair.nii.gz"
    with zipfile.ZipFile(packed) as archive:
        assert Path(packed).name == "study-flair.zip"
        archive.extractall(tmp_path)
    mask, source = nibabel.load(tmp_path / "study-flair" / "mask.nii.gz"), nibabel.load(STUDY)
    assert mask.shape == source.shape
    assert np.allclose(mask.affine, source.affine)
    assert int(np.asarray(mask.dataobj).sum()) == record["lesion_voxels"]
    assert (tmp_path / "study-flair" / "report.html").read_bytes() == Path(report).read_bytes()


def test_the_sequences_of_a_study_can_be_chosen(client, tmp_path):
    files = []
    for name in ("one", "two"):
        files.append(tmp_path / f"{name}.nii.gz")
        files[-1].write_bytes(STUDY.read_bytes())
    uploads = [handle_file(file) for file in files]
    with pytest.raises(AppError, match="choose the sequences"):
        client.predict(uploads, api_name="/study")
    record, *_ = client.predict(uploads, flair=1, pre=0, api_name="/study")
    assert record["sequences"] == {"pre-contrast T1": "one.nii.gz", "FLAIR": "two.nii.gz", "post-contrast T1": None}


def test_the_sequence_of_a_study_with_a_single_one_can_be_given(client):
    models = {"segmenter": "effunet-lgg", "classifier": "effunet-lgg"}
    record, *_ = client.predict([handle_file(STUDY)], **models, sequence="T1c", api_name="/study")
    assert (record["verdict"], record["provenance"]["sequence"]) == ("review", "T1c")
    assert record["reason"] == "The model was not evaluated on tumours in T1c images."
    three = handle_file(EXAMPLES / "study-three.zip")
    for sent, endpoint in (([three], "/study"), (three, "/compare")):
        with pytest.raises(AppError, match="expected a study of one sequence for sequence='T1c', got 3 sequences; leave it out"):
            client.predict(sent, sequence="T1c", api_name=endpoint)


def test_a_refused_study_says_why(client, tmp_path):
    (tmp_path / "cut.nii.gz").write_bytes(STUDY.read_bytes()[:100_000])
    with pytest.raises(AppError, match=r"cut\.nii\.gz: got a damaged volume file"):
        client.predict([handle_file(tmp_path / "cut.nii.gz")], api_name="/study")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(AppError, match="MRI file"):
        client.predict([handle_file(tmp_path / "empty.zip")], api_name="/study")
