"""The viewer in a browser, in a report that is opened from disk."""

import base64
import json
from dataclasses import replace

import highdicom
import nibabel
import numpy as np
import pytest
from PIL import Image

from brainmri.io.orientation import TAG
from brainmri.io.reading import read_study
from brainmri.io.writers import write_png
from brainmri.report.viewer import nifti_data, orientation_data, segmentation_data
from tests.support.browsing import CHROMIUM, computed_seconds, visiting
from tests.support.phantom import images, save
from tests.support.viewing import SET_THRESHOLD, SIDE, SLICES, SMALLEST, THRESHOLD, expected_mask, results, save_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt install chromium)"),
]
# waits until earlier changes are drawn, which the viewer does in the next frame
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
# a picture's pixels that differ from those before, as a share; the first call remembers
CHANGED = """(name) => {
    const { width, height } = document.querySelector(name);
    const now = document.querySelector(name).getContext("2d").getImageData(0, 0, width, height).data;
    const before = window.before?.[name] ?? now;
    window.before = { ...window.before, [name]: now };
    return now.reduce((sum, value, n) => sum + (value !== before[n]), 0) / now.length;
}"""
IMAGE, MARKS = ".viewer-pane .viewer-image", ".viewer-pane .viewer-marks"


def shown(page) -> str:
    return f"{page.inner_text('.viewer-caption')} {page.inner_text('.viewer-size')}"


def download(page, button: str, folder):
    with page.expect_download() as waiting:
        page.click(f".viewer-save-{button}")
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def redraw_seconds(page) -> float:
    """Seconds that the page's thread computes for a change of the threshold."""
    thresholds = np.arange(0.1, 0.9, 0.05).tolist()
    before = computed_seconds(page)
    for threshold in thresholds:
        page.evaluate(SET_THRESHOLD, threshold)
    return (computed_seconds(page) - before) / len(thresholds)


def swipe_and_pinch(page) -> None:
    """Swipe through slices with one finger, then zoom with two."""
    client, pane = page.context.new_cdp_session(page), page.locator(".viewer-pane").first
    pane.scroll_into_view_if_needed()
    box = pane.bounding_box()

    def touch(kind: str, *columns: float) -> None:
        points = [{"x": box["x"] + column, "y": box["y"] + 100, "id": number} for number, column in enumerate(columns)]
        client.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    number = int(page.input_value(".viewer-number"))
    touch("Start", 100)
    touch("Move", 130)
    touch("Move", 140)
    touch("End")
    assert int(page.input_value(".viewer-number")) == number + 5  # a slice every 8 pixels
    touch("Start", 100, 150)
    touch("Move", 80, 180)
    touch("End")
    assert float(page.input_value(".viewer-zoom")) == pytest.approx(2, abs=0.3)
    page.locator(".viewer-zoom").fill("1")


def stored_mask(path, study) -> np.ndarray:
    """The mask of a NIfTI file on the scan's grid, checked to lie where the study's own files lie."""
    image = nibabel.Nifti1Image.from_filename(path)
    assert np.allclose(image.affine, study.geometry.affine)
    return study.geometry.to_scan(np.asarray(image.dataobj)) > 0


def test_the_threshold_redraws_outline_area_volume_and_downloads(open_report, study, tmp_path):
    page, (_, found) = open_report(), study
    slice_ = int(found.mask.sum(axis=(1, 2)).argmax())
    assert f"Slice {slice_ + 1} of {SLICES}: tumour" in shown(page)
    volume = f"Outlined: {found.volume_mm3 / 1000:.1f} mL in total."
    assert f"{found.mask[slice_].sum() / 100:.1f} cm² outlined {volume}" in shown(page)
    page.evaluate(CHANGED, MARKS)
    for threshold in (0.05, 0.3, 0.45, 0.95):
        page.evaluate(SET_THRESHOLD, threshold)
        mask = expected_mask(found.probability_map, threshold)
        assert f"{mask[slice_].sum() / 100:.1f} cm² outlined" in shown(page), threshold
        assert f"Outlined: {mask.sum() * 3 / 1000:.1f} mL in total." in shown(page), threshold
        assert page.evaluate(CHANGED, MARKS) > 0.0005
    bars = page.locator(".study-chart .area").evaluate_all("bars => bars.map(bar => Number(bar.getAttribute('height')) > 0)")
    assert bars == mask.any(axis=(1, 2)).tolist()
    others = "The verdict, the table of lesions, the downloaded report and the zip"
    assert f"moved to 0.95. {others} use the model's mask (threshold 0.55)." in shown(page)

    page.locator(".viewer-threshold").focus()
    page.keyboard.press("ArrowLeft")
    assert page.input_value(".viewer-threshold-number") == "0.94"
    for typed, nearest in (("7", "0.95"), ("0.01", "0.05"), ("", "0.05")):
        page.fill(".viewer-threshold-number", typed)
        page.press(".viewer-threshold-number", "Enter")
        assert [page.input_value(f".viewer-threshold{end}") for end in ("", "-number")] == [nearest, nearest]
    page.fill(".viewer-threshold-number", "0.3")
    mask = expected_mask(found.probability_map, 0.3)
    assert np.array_equal(stored_mask(download(page, "mask", tmp_path), found), mask)
    record = json.loads(download(page, "record", tmp_path).read_text())
    assert record["mask"] == {"edited_by_hand": False, "voxels_edited": 0, "threshold": 0.3, "model_threshold": THRESHOLD}
    assert (record["lesion_voxels"], record["lesion_volume_mm3"]) == (mask.sum(), pytest.approx(mask.sum() * 3))
    assert [row["area_px"] for row in record["per_slice"]] == mask.sum(axis=(1, 2)).tolist()
    assert (record["lesions"], record["verdict"]) == (None, found.verdict)

    page.click(".viewer-reset")
    assert page.inner_text(".viewer-size").strip() == volume
    path = download(page, "mask", tmp_path)
    assert path.name == "phantom.mask.nii.gz"
    assert np.array_equal(stored_mask(path, found), found.mask)
    assert json.loads(download(page, "record", tmp_path).read_text())["lesions"]
    assert redraw_seconds(page) < 0.05


def test_the_chart_names_the_largest_area_where_something_is_outlined(browser, tmp_path):
    scan, found = results(peak=0.5)  # below the model's threshold
    url = save_report(tmp_path / "report.html", scan, found)
    with visiting(browser, url, ready=".viewer-caption >> text=/./") as open_page:
        page = open_page()
        label = page.locator(".study-chart .largest")
        for threshold, outlined in ((None, False), (0.3, True), (0.2, True), (0.95, False)):
            if threshold:
                page.evaluate(SET_THRESHOLD, threshold)
            areas = expected_mask(found.probability_map, threshold or THRESHOLD).sum(axis=(1, 2))
            assert areas.any() == outlined
            assert label.text_content() == (f"{areas.max() / 100:.1f}" if outlined else ""), threshold
        page.click(".viewer-reset")
        assert label.text_content() == ""


def test_pictures_of_different_heads_keep_their_own_masks_and_are_no_volume(browser, tmp_path):
    scan, found = results(slices=10, side=64)
    scan, maps = replace(scan, geometry=None), found.probability_map.copy()
    maps[2:8] *= np.float32(0.5 / maps[2:8].max())  # below the threshold of the others
    own = [0.45 if 2 <= number < 8 else THRESHOLD for number in range(len(maps))]
    maps[0, 4:8, 4:8] = 1  # small compared with the largest lesion
    masks = maps > np.array(own, np.float32)[:, None, None]
    masks &= (masks.sum(axis=(1, 2)) >= SMALLEST)[:, None, None]
    assert masks[0].any()
    assert masks[2:8].any()
    findings = tuple(
        replace(one, mask=mask, probability_map=own_map, provenance=one.provenance | {"mask_threshold": cut})
        for one, mask, own_map, cut in zip(found.findings, masks, maps, own, strict=True)
    )
    pictures = replace(found, findings=findings, mask=masks, probability_map=maps, geometry=None, apart=True)
    url = save_report(tmp_path / "report.html", scan, pictures)
    with visiting(browser, url, ready=".viewer-caption >> text=/./") as open_page:
        page = open_page()
        assert f"Outlined: {masks.sum():,} voxels in total." in shown(page)
        page.evaluate(SET_THRESHOLD, 0.95)
        page.click(".viewer-reset")
        assert f"Outlined: {masks.sum():,} voxels in total." in shown(page)
        assert page.locator(".viewer-planes, .viewer-rotation").count() == 0


def test_views_display_and_slices(open_report, tmp_path):
    page = open_report()
    assert page.locator(".viewer-pane:visible .viewer-letter").all_inner_texts() == ["A", "P", "R", "L"]
    page.wait_for_timeout(500)  # images are decoded
    page.evaluate(CHANGED, IMAGE), page.evaluate(CHANGED, MARKS)
    page.click("text=Original")
    page.evaluate(DRAWN)
    assert page.evaluate(CHANGED, MARKS) > 0.01
    assert page.evaluate(CHANGED, IMAGE) == 0
    page.click("text=Heat map")
    assert page.is_visible(".viewer-legend")
    page.evaluate(DRAWN)
    assert page.evaluate(CHANGED, MARKS) > 0.01
    page.click("text=Mask >> nth=0")
    page.evaluate(DRAWN)
    assert page.evaluate(CHANGED, IMAGE) > 0.3
    page.click("text=Overlay")
    page.evaluate(DRAWN)
    page.evaluate(CHANGED, IMAGE), page.evaluate(CHANGED, MARKS)
    page.click("summary:has-text('Display')")
    page.select_option(".viewer-sequence", label="Post-contrast T1")
    page.wait_for_timeout(500)
    assert page.evaluate(CHANGED, IMAGE) > 0.1
    for control, value in (("opacity", "1"), ("zoom", "3"), ("swipe", "30")):
        page.locator(f".viewer-{control}").fill(value)
        page.evaluate(DRAWN)
        assert page.evaluate(CHANGED, MARKS) > 0.001, control
    page.locator(".viewer-brightness").fill("2")
    page.evaluate(DRAWN)
    assert "brightness(2)" in page.locator(IMAGE).first.evaluate("canvas => canvas.style.filter")

    pane = page.locator(".viewer-pane").first
    pane.focus()
    page.keyboard.press("0")
    assert page.input_value(".viewer-zoom") == "1"
    for key, number in (("Home", 1), ("ArrowRight", 2), ("PageUp", 7), ("ArrowDown", 6), ("End", 60)):
        page.keyboard.press(key)
        assert page.inner_text(".viewer-caption").startswith(f"Slice {number} of 60"), key
    pane.scroll_into_view_if_needed()
    box = pane.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.wheel(0, 100)
    page.wait_for_function("document.querySelector('.viewer-caption').textContent.startsWith('Slice 59 of')")
    page.mouse.down()
    page.mouse.move(box["x"] + 50, box["y"] + 90)
    page.mouse.up()
    assert page.inner_text(".viewer-caption").startswith("Slice 54 of 60")
    page.locator(".study-chart .hit[data-slice='30']").click()
    assert page.inner_text(".viewer-caption").startswith("Slice 30 of 60: tumour")
    picture = Image.open(download(page, "picture", tmp_path))
    assert picture.size[0] >= 400


def test_the_mask_is_corrected_by_hand(open_report, study, tmp_path):
    page, (_, found) = open_report(), study
    slice_ = int(found.mask.sum(axis=(1, 2)).argmax())
    page.click("summary:has-text('Correct the mask')")
    page.click("[data-tool=brush]")
    pane = page.locator(".viewer-pane").first
    pane.scroll_into_view_if_needed()
    box = pane.bounding_box()

    def point(row: float, column: float) -> tuple[float, float]:
        return box["x"] + box["width"] * column / SIDE, box["y"] + box["height"] * row / SIDE

    page.mouse.move(*point(200.5, 60.5))
    page.mouse.down()
    page.mouse.move(*point(200.5, 90.5), steps=10)
    page.mouse.up()
    page.click("[data-tool=eraser]")
    page.mouse.move(*point(108.5, 154.5))
    page.mouse.down()
    page.mouse.up()
    assert "The mask was edited by hand." in shown(page)
    path = download(page, "mask", tmp_path)
    edited = stored_mask(path, found)
    added, removed = edited & ~found.mask, found.mask & ~edited
    assert added.any(axis=(1, 2)).nonzero()[0].tolist() == removed.any(axis=(1, 2)).nonzero()[0].tolist() == [slice_]
    assert added[slice_, 200, 60:91].all()
    assert not added[slice_, 207:].any()
    assert removed[slice_, 108, 154]
    assert 60 <= removed.sum() <= 110  # a disc of radius 5.5
    assert f"Outlined: {edited.sum() * 3 / 1000:.1f} mL" in shown(page)
    assert nibabel.Nifti1Image.from_filename(path).header["descrip"].item() == b"edited by hand"
    record = json.loads(download(page, "record", tmp_path).read_text())
    assert record["mask"]["edited_by_hand"]
    assert record["mask"]["voxels_edited"] == added.sum() + removed.sum()

    page.evaluate(SET_THRESHOLD, 0.3)  # corrections outlive a change of the threshold
    kept = stored_mask(download(page, "mask", tmp_path), found)
    assert kept[slice_, 200, 60:91].all()
    assert not kept[slice_, 108, 154]
    page.evaluate(SET_THRESHOLD, THRESHOLD)
    page.click(".viewer-undo")
    page.keyboard.press("Control+z")
    assert page.is_disabled(".viewer-undo")
    assert np.array_equal(stored_mask(download(page, "mask", tmp_path), found), found.mask)

    page.click("[data-tool=brush]")
    pane.focus()
    for key in ("Shift+ArrowDown", "Shift+ArrowDown", "ArrowDown", "Space"):
        page.keyboard.press(key)
    by_key = stored_mask(download(page, "mask", tmp_path), found) & ~found.mask
    assert by_key[slice_, 149, 128]
    pane.focus()
    page.keyboard.press("Escape")
    assert page.get_attribute("[data-tool=browse]", "aria-pressed") == "true"


def test_three_planes_share_a_crosshair(open_report):
    page = open_report()
    page.click(".viewer-planes")
    panes = page.locator(".viewer-pane")
    assert [panes.nth(n).locator(".viewer-letter").all_inner_texts() for n in range(3)] == [
        ["A", "P", "R", "L"], ["S", "I", "R", "L"], ["S", "I", "A", "P"],
    ]  # fmt: skip
    panes.nth(1).scroll_into_view_if_needed()
    box = panes.nth(1).bounding_box()  # a square; the coronal plane has 256 columns of 1 mm and 60 slices of 3 mm
    tall = box["height"] * 180 / 256
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + (box["height"] - tall) / 2 + tall * (1 - 20.5 / 60))
    assert page.inner_text(".viewer-caption").startswith("Slice 21 of 60")
    panes.nth(1).focus()
    page.keyboard.press("ArrowRight")  # through the coronal plane: the axial slice stays
    assert page.inner_text(".viewer-caption").startswith("Slice 21 of 60")
    page.click(".viewer-planes")
    assert not panes.nth(1).is_visible()


def test_the_report_prints_results_without_controls(open_report):
    page = open_report(color_scheme="dark")
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF")
    assert 2 <= pdf.count(b"/Type /Page\n") <= 6
    page.emulate_media(media="print", color_scheme="dark")
    assert page.inner_text("pre").startswith("{")  # printing opens what is folded
    assert page.locator(":is(button, input, label, summary, .viewer-correct):visible").count() == 0
    assert page.locator(":is(.viewer-image, .viewer-caption, .study-chart, .montage, .model-mask):visible").count() == 7
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    page.evaluate(SET_THRESHOLD, 0.3)  # then only the mask that is shown is printed, and its volume
    assert (page.locator(":is(.model-mask, .montage):visible").count(), page.inner_text("main").count(" mL")) == (0, 1)


def test_the_viewer_on_a_phone_and_for_everyone(open_report, axe):
    page = open_report(390, 844, has_touch=True, color_scheme="dark")
    page.click("summary:has-text('Display')")
    page.click("summary:has-text('Correct the mask')")
    for planes in (False, True):
        if planes:
            page.click(".viewer-planes")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click(".viewer-planes")
    swipe_and_pinch(page)
    page.evaluate(axe)
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        report = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        found = [(rule["id"], node["target"]) for rule in report["violations"] for node in rule["nodes"]]
        assert found == []


def write_in_browser(page, function: str, mask: np.ndarray, *arguments) -> bytes:
    """The bytes that one of the viewer's functions writes for a mask (S, H, W)."""
    slices, height, width = mask.shape
    sizes = {"slices": slices, "height": height, "width": width, "plane": height * width}
    written = page.evaluate(
        """async ([write, mask, voxels, ...rest]) => {
            const parts = await eval(write)({ ...mask, voxels: bytesOf(voxels) }, ...rest), reader = new FileReader();
            const read = new Promise((done) => reader.addEventListener("load", done));
            reader.readAsDataURL(new Blob(parts));
            await read;
            return reader.result.split(",")[1];
        }""",
        [function, sizes, base64.b64encode(mask.tobytes()).decode(), *arguments],
    )
    return base64.b64decode(written)


def test_a_slices_mask_is_written_as_the_server_writes_it(open_report, tmp_path):
    page = open_report()
    for tag in range(1, 9):  # orientations
        mask = np.random.default_rng(tag).random((40, 60)) > 0.5
        write_png(tmp_path / "server.png", mask, tag)
        written = write_in_browser(page, "maskPng", mask[None], orientation_data(tag), "edited by hand")
        (tmp_path / "browser.png").write_bytes(written)
        server, browser = Image.open(tmp_path / "server.png"), Image.open(tmp_path / "browser.png")
        assert (browser.mode, browser.getexif().get(TAG)) == ("L", server.getexif().get(TAG))
        assert np.array_equal(np.asarray(browser), np.asarray(server)), tag
        assert browser.info["Comment"] == "edited by hand"


def test_a_corrected_segmentation_references_the_images(open_report, tmp_path):
    page = open_report()
    scan = read_study(save(tmp_path / "series", images("coronal")))
    assert scan.geometry
    mask = np.random.default_rng(0).random(scan.pixels.shape[:3]) > 0.7
    data = nifti_data(mask, scan.geometry), segmentation_data(scan.geometry)
    uids = set()
    for _ in range(2):  # each file has its own UIDs
        (tmp_path / "mask.dcm").write_bytes(write_in_browser(page, "segmentationFile", mask, *data))
        segmentation = highdicom.seg.segread(tmp_path / "mask.dcm")
        assert segmentation.file_meta.MediaStorageSOPInstanceUID == segmentation.SOPInstanceUID
        uids |= {segmentation.SOPInstanceUID, segmentation.SeriesInstanceUID}
    assert len(uids) == 4
    assert all(uid.is_valid for uid in uids)
    instances = [instance.uid for instance in scan.geometry.instances]
    found = segmentation.get_pixels_by_source_instance(instances, assert_missing_frames_are_empty=True)[..., 0]
    assert np.array_equal(found > 0, scan.geometry.to_original(mask))
