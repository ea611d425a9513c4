"""Uploads are decoded in worker processes: scans are the same, and later uploads survive a failed one."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from brainmri.io import reading
from brainmri.io.limits import UnreadableImage
from brainmri.io.writers import write_nifti, write_segmentation
from brainmri.ui import decoding
from brainmri.ui.decoding import DecoderPool
from tests.support.phantom import PHANTOM, images, nifti, save, zip_of
from tests.support.serving import suspend

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
SLICE = str(EXAMPLES / "large-lesion.png")


@pytest.fixture(scope="module")
def pool():
    decoder_pool = DecoderPool(workers=2)
    yield decoder_pool
    decoder_pool.close()


@pytest.fixture
def worker_readers(pool, monkeypatch):
    """The page's readers with the workers of this module, all of them started."""
    monkeypatch.setattr(decoding, "decoder_pool", lambda: pool)
    for _ in workers(pool):
        decoding.read_slice(SLICE)  # workers take turns
    return decoding


def workers(pool: DecoderPool) -> list[int]:
    """Process ids of idle workers."""
    return [worker.process.pid for worker in pool.idle.queue]


def unread_bytes(process: subprocess.Popen) -> int:
    """Bytes of a request that the worker has not read yet."""
    return int.from_bytes(fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4)), sys.byteorder)


def assert_equal(one, other) -> None:
    """Compare scans or geometries field by field."""
    for field in fields(one):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("geometry", "nifti") and ours is not None:
            assert_equal(ours, theirs)
        elif isinstance(ours, np.ndarray):
            assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes()), field.name
        else:
            assert ours == theirs, field.name
            assert type(ours) is type(theirs), field.name


def studies(folder: Path) -> dict[str, tuple[list[Path], dict | None]]:
    """Paths and assignments for every kind of study."""
    series = save(folder / "series", images("sagittal"))
    two = [nifti(folder / f"{name}.nii.gz", volume) for name, volume in (("a", PHANTOM), ("b", PHANTOM[::-1]))]
    return {
        "NIfTI": ([EXAMPLES / "study-flair.nii.gz"], None),
        "assigned": (two, {1: 1, 0: 0, 2: None}),
        "DICOM": (sorted(series.iterdir()), None),
        "zip": ([zip_of(series)], None),
    }


@pytest.mark.parametrize("kind", ["NIfTI", "assigned", "DICOM", "zip"])
def test_study_and_result_files_are_equal_with_and_without_a_worker(worker_readers, tmp_path, kind):
    paths, assign = studies(tmp_path)[kind]
    paths = [str(path) for path in paths]
    direct, decoded = reading.read_study(paths, assign), worker_readers.read_study(paths, assign)
    assert_equal(direct, decoded)
    assert reading.list_sequences(paths) == worker_readers.list_sequences(paths)
    mask, written = direct.pixels[..., 1] > 0.8, []
    for number, scan in enumerate((direct, decoded)):
        write_nifti(tmp_path / f"{number}.nii.gz", mask, scan.geometry)
        written.append((tmp_path / f"{number}.nii.gz").read_bytes())
    assert written[0] == written[1]
    if direct.geometry.instances:
        segmentations = []
        for scan in (direct, decoded):
            write_segmentation(tmp_path / "mask.dcm", mask, scan.geometry, "0")
            segmentation = pydicom.dcmread(tmp_path / "mask.dcm")
            # UIDs and times differ between files, and the length of the header depends on the UIDs
            text = re.sub(r"1\.2\.826\.0\.1\.3680043\.10\.511\.[\d.]+|[DT][AMT]: '[\d.]+'|Length +UL: \d+", "", str(segmentation))
            segmentations.append((text, segmentation.PixelData))
        assert segmentations[0] == segmentations[1]


def test_slice_is_equal_with_and_without_a_worker(worker_readers):
    assert_equal(reading.read_slice(SLICE), worker_readers.read_slice(SLICE))


def test_refusals_are_equal_with_and_without_a_worker(worker_readers, tmp_path):
    (tmp_path / "notes.png").write_text("Dear doctor,")
    for read in (reading.read_slice, worker_readers.read_slice):
        with pytest.raises(UnreadableImage, match=r"^notes\.png is not an image\. Please upload a PNG"):
            read(str(tmp_path / "notes.png"))
        with pytest.raises(FileNotFoundError, match="nothing is not a file"):
            read(str(tmp_path / "nothing"))
    (tmp_path / "notes.png").rename(tmp_path / "notes.dat")
    with pytest.raises(UnreadableImage, match=r"^notes\.dat is not an MRI file\. Please upload a PNG"):
        worker_readers.read_study([str(tmp_path / "notes.dat")])


def test_timeout_is_reported_and_the_next_upload_is_decoded(worker_readers, pool, monkeypatch):
    stopped = workers(pool)
    for pid in stopped:
        suspend(pid)
    monkeypatch.setattr(decoding, "SLICE_SECONDS", 0.5)
    monkeypatch.setattr(decoding, "STUDY_SECONDS", 0.25)
    with pytest.raises(
        UnreadableImage, match=r"large-lesion\.png: reading took more than 0\.5 seconds\. Please export the images again"
    ):
        worker_readers.read_slice(SLICE)
    with pytest.raises(UnreadableImage, match=r"large-lesion\.png: reading took more than 0\.25 seconds\. Please export"):
        worker_readers.read_study([SLICE])
    monkeypatch.undo()
    monkeypatch.setattr(decoding, "decoder_pool", lambda: pool)
    assert not set(workers(pool)) & set(stopped)
    assert [worker_readers.read_slice(SLICE).pixels.shape for _ in stopped] == [(256, 256, 3)] * len(stopped)


def test_crash_is_reported_and_the_next_upload_is_decoded(worker_readers, pool):
    stopped = [worker.process for worker in pool.idle.queue]
    for process in stopped:
        suspend(process.pid)
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(worker_readers.read_slice, SLICE)
        # wait until one has its request, so that it dies while it is busy
        while not (busy := [process for process in stopped if unread_bytes(process)]):
            assert not future.done(), future.result()
            time.sleep(0.01)
        busy[0].send_signal(signal.SIGSEGV)
        busy[0].send_signal(signal.SIGCONT)
        with pytest.raises(UnreadableImage, match=r"large-lesion\.png: the reader crashed"):
            future.result()
    for worker in list(pool.idle.queue):  # idle workers that died are replaced without an error
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
    assert worker_readers.read_slice(SLICE).pixels.ndim == 3


def test_worker_that_died_before_its_request_is_reported_as_a_crash():
    worker = decoding.Worker()
    worker.request(20, call="read_slice", source=SLICE)
    worker.process.kill()
    worker.process.wait()
    with pytest.raises(decoding.WorkerDied, match="crash"):
        worker.request(20, call="read_slice", source=SLICE)


def test_too_much_memory_is_reported_and_the_next_upload_is_decoded(tmp_path, monkeypatch):
    small = DecoderPool(workers=1, memory=2**29)
    monkeypatch.setattr(decoding, "decoder_pool", lambda: small)
    volume = np.zeros((320, 320, 256), np.uint8)
    volume[100] = 9
    path = tmp_path / "flair.nii"
    path.write_bytes(nibabel.Nifti1Image(volume, np.eye(4)).to_bytes())
    with pytest.raises(UnreadableImage, match=r": reading took more than 0\.5 GiB of memory\. Please export"):
        decoding.read_study([str(path)])
    assert decoding.read_slice(SLICE).pixels.ndim == 3
    small.close()


def test_concurrent_uploads_get_their_own_scans(worker_readers, pool, tmp_path):
    paths = []
    for value in range(1, 9):
        paths.append(str(tmp_path / f"{value}.png"))
        Image.new("L", (40 + value, 64), value).save(paths[-1])
    with ThreadPoolExecutor(4) as executor:
        for value, scan in enumerate(executor.map(worker_readers.read_slice, paths * 3)):
            value = value % 8 + 1
            assert scan.pixels.shape == (64, 40 + value, 3)
            assert np.rint(scan.pixels * 255).min() == value
    assert len(workers(pool)) == 2


def test_worker_is_replaced_after_its_maximum_of_requests(worker_readers, pool, monkeypatch):
    first, *others = pool.idle.queue
    monkeypatch.setattr(decoding, "REQUESTS", first.answered + 1)
    worker_readers.read_slice(SLICE)
    assert first.process.poll() is not None
    assert len(workers(pool)) == 1 + len(others)


def test_worker_ends_with_its_server():
    program = (
        "from brainmri.ui.decoding import Worker\n"
        f"worker = Worker(); worker.request(20, call='read_slice', source={SLICE!r})\n"
        "print(worker.process.pid, flush=True); import os; os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=EXAMPLES.parents[1], check=False)
    pid = int(done.stdout)
    for _ in range(100):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the worker still runs")


def test_worker_imports_no_heavy_packages():
    program = "import sys, brainmri.ui.worker; assert not {'torch', 'gradio', 'pandas', 'highdicom'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=EXAMPLES.parents[1])


def test_hanging_upload_gives_a_message_and_can_be_sent_again(page_url, tmp_path, monkeypatch):
    client = Client(page_url, verbose=False, analytics_enabled=False, download_files=str(tmp_path))
    for _ in range(decoding.WORKERS):
        decoding.read_slice(SLICE)  # makes sure that all have started
    monkeypatch.setattr(decoding, "SLICE_SECONDS", 1)
    for pid in workers(decoding.decoder_pool()):
        suspend(pid)
    with pytest.raises(AppError, match=r"large-lesion\.png: reading took more than 1 seconds\. Please export the images again"):
        client.predict(handle_file(SLICE), api_name="/predict")
    for pid in workers(decoding.decoder_pool()):
        os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    assert client.predict(handle_file(SLICE), api_name="/predict")[0]["width"] == 256
