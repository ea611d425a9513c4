"""The server's interfaces to programs and operators: endpoints, MCP, health, queue, log and the guide's examples."""

import asyncio
import base64
import copy
import json
import logging
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError, Status

import brainmri
from brainmri.ui.decoding import decoder_pool
from brainmri.zoo.registry import DEFAULT
from tests.support import phantom
from tests.support.serving import paused

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "assets" / "examples" / "large-lesion.png"
STUDY = ROOT / "assets" / "examples" / "study-flair.nii.gz"
ENDPOINTS = ["predict", "study", "compare", "models", "health"]


def connect(url: str) -> Client:
    return Client(url, verbose=False, analytics_enabled=False, download_files=False)


@pytest.fixture(scope="module")
def client(page_url) -> Client:
    return connect(page_url)


# --- endpoints ------------------------------------------------------------------------------------------------------------


def test_every_endpoint_is_typed_and_documented(page_url):
    endpoints = httpx.get(page_url + "gradio_api/info").json()["named_endpoints"]
    assert list(endpoints) == [f"/{name}" for name in ENDPOINTS]
    for name, endpoint in endpoints.items():
        assert endpoint["description"], name
        for value in (*endpoint["parameters"], *endpoint["returns"]):
            assert value["python_type"]["type"] != "Any", (name, value)
            assert len(value["python_type"]["description"]) > 15, (name, value)
    assert [value["label"] for value in endpoints["/predict"]["returns"]] == ["record", "pictures", "mask", "overlay", "finding"]


def test_models_are_listed_with_their_metrics(client):
    offered = {model["name"]: model for model in client.predict(api_name="/models")}
    assert set(offered) == {entry.name for entry in brainmri.list_models()}
    assert [name for name, model in offered.items() if model["default"]] == [DEFAULT]
    for name, model in offered.items():
        assert model["licence"] == "cc-by-nc-sa-4.0"
        assert model["source"] == "embedded"
        assert model["parameters"] > 1e6
        figures = [value for value in model["metrics"].values() if isinstance(value, float)]
        assert all(0.5 < value < 1 for value in figures)
        assert bool(figures) == (name != "resunet-paper"), "models split by slice have no comparable metrics"
    assert offered["resunet-lgg"]["tasks"] == ["segmentation"]


def test_health_is_a_get_route_and_an_endpoint(client, page_url):
    answer = httpx.get(page_url + "health", timeout=120)
    health = answer.json()
    assert (answer.status_code, health["status"]) == (200, "ok")
    assert health["versions"]["brainmri"] == brainmri.__version__
    assert set(health["versions"]) == {"brainmri", "torch", "gradio", "python"}
    assert health["selfcheck"]["difference"] <= health["selfcheck"]["tolerance"]
    assert health["selfcheck"]["drift"] == 0  # float32 on the CPU
    assert [model["source"] for model in health["models"]] == ["embedded"] * len(brainmri.list_models())
    assert str(ROOT) not in answer.text
    assert str(Path.home()) not in answer.text
    again = client.predict(api_name="/health")
    assert again["uptime_s"] >= health["uptime_s"]
    assert {**again, "uptime_s": 0} == {**health, "uptime_s": 0}


def test_health_counts_what_analyses_ran_on(client):
    def count() -> int:
        counts = {(one["device"], one["runtime"]): one["analyses"] for one in client.predict(api_name="/health")["finished"]}
        return counts.get(("cpu", "torch"), 0)

    before = count()
    client.predict(handle_file(EXAMPLE), api_name="/predict")
    assert count() == before + 1


def test_one_of_several_studies_is_chosen_by_its_index(client, tmp_path):
    series = phantom.images()
    for number, slices in enumerate((series, phantom.images(StudyInstanceUID="1.2.2", SeriesInstanceUID="1.3.2")[:10])):
        phantom.save(tmp_path, slices, f"study{number}_")
    files = [handle_file(path) for path in sorted(tmp_path.iterdir())]
    models = {"segmenter": "resunet-lgg", "classifier": "resnet50-lgg", "api_name": "/study"}
    with pytest.raises(AppError, match=r"got 2 studies.*study 1, .* 12 slices.*study 2, .* 10 slices.*as study=…"):
        client.predict(files, **models)
    assert [client.predict(files, study=index, **models)[0]["slices"] for index in (0, 1)] == [12, 10]
    with pytest.raises(AppError, match="expected the index of a study, from 0 to 1, got 2"):
        client.predict(files, study=2, **models)


# --- queue ----------------------------------------------------------------------------------------------------------------


def test_queue_reports_positions_and_when_it_is_full(page_url):
    from brainmri.ui import page as app

    page = app.build()
    page.queue(max_size=2)
    _, url, _ = page.launch(**app.launch_options(), server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        client = connect(url)
        with paused(worker.process.pid for worker in decoder_pool().idle.queue):
            running = client.submit([handle_file(STUDY)], api_name="/study")
            while running.status().code not in (Status.PROCESSING, Status.PROGRESS):
                time.sleep(0.02)
            waiting = [client.submit(handle_file(EXAMPLE), api_name="/predict") for _ in range(2)]
            while any(job.status().code != Status.IN_QUEUE for job in waiting):
                time.sleep(0.02)
            first, second = sorted((job.status() for job in waiting), key=lambda status: status.rank)
            assert (first.rank, second.rank, second.queue_size) == (0, 1, 2)
            with pytest.raises(QueueError, match=r"Queue is full! Please try again\."):
                client.predict(handle_file(EXAMPLE), api_name="/predict")
            refused = httpx.post(url + "gradio_api/call/v2/predict", json={"image": None})
            assert (refused.status_code, refused.json()["detail"]) == (503, "Queue is full. Max size is 2 and size is 2.")
        assert all(job.result()[0]["verdict"] == "tumour" for job in (running, *waiting))
    finally:
        page.close(verbose=False)


# --- MCP ------------------------------------------------------------------------------------------------------------------


def guide_blocks() -> dict[str, str]:
    """The code of the section "HTTP API" in the library's guide, by language."""
    section = re.search(r"^## HTTP API\n(.*?)^## ", (ROOT / "brainmri" / "README.md").read_text(encoding="utf-8"), re.M | re.S)[1]
    return dict(re.findall(r"^```(\w+)\n(.*?)^```", section, re.M | re.S))


BLOCKS = guide_blocks()
LOCAL = "http://127.0.0.1:7860"


def with_page_url(language: str, page_url: str) -> str:
    """A code block of the guide with the address of the test server."""
    assert LOCAL in BLOCKS[language]
    return BLOCKS[language].replace(LOCAL, page_url.rstrip("/"))


def test_only_the_endpoints_are_mcp_tools(page_url):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    (server,) = json.loads(with_page_url("json", page_url))["mcpServers"].values()

    async def talk():
        async with streamablehttp_client(server["url"]) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            tools = (await session.list_tools()).tools
            image = "data:image/png;base64," + base64.b64encode(EXAMPLE.read_bytes()).decode()
            answer = await session.call_tool("predict", {"image": image}, progress_callback=listen)
            return tools, answer, await session.call_tool("predict", {"image": "x"})

    progress = []

    async def listen(done, total, message):
        progress.append(message)

    tools, answer, refusal = asyncio.run(talk())
    assert [tool.name for tool in tools] == ENDPOINTS
    predict = tools[0]
    assert predict.description.startswith("Detect and outline a tumour in one brain MRI slice")
    assert "Returns: record: verdict (tumour, no tumour or review)" in predict.description
    assert predict.inputSchema["required"] == ["image"]
    effunets = ["effunet-any", "effunet-lgg", "effunet-lite2-lgg", "effunet-pair-lgg"]
    segmenters = [*effunets, "resunet-any", "resunet-lgg", "resunet-paper"]
    assert sorted(predict.inputSchema["properties"]["segmenter"]["enum"]) == segmenters
    for tool in tools:
        assert all(field["description"] for field in tool.inputSchema["properties"].values())
    assert not answer.isError
    assert "'verdict': 'tumour'" in answer.content[0].text
    assert [part.mimeType for part in answer.content if part.type == "image"] == ["image/png"] * 2  # mask and overlay
    assert "Processing" in progress
    assert refusal.isError


# --- the guide's examples --------------------------------------------------------------------------------------------------


def test_python_example_runs(page_url, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(compile(with_page_url("python", page_url), "brainmri/README.md", "exec"), {})
    assert re.match(r"tumour 0\.\d+ \S+\.mask\.png", capsys.readouterr().out)


def run_example(command: list, **options) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_example_runs(page_url):
    printed = run_example(["bash", "-euo", "pipefail", "-c", with_page_url("sh", page_url)])
    health, _, events = printed.partition("\n")
    assert json.loads(health)["status"] == "ok"
    data = re.search(r"^event: complete\ndata: (.*)$", events, re.M)[1]
    assert json.loads(data)[0]["verdict"] == "tumour"


@pytest.fixture(scope="session")
def javascript(pytestconfig) -> Path:
    """A folder in which node finds the npm package `@gradio/client`, cached between runs."""
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("needs node and npm")
    folder = Path(pytestconfig.cache.mkdir("gradio-client"))
    if not (folder / "node_modules" / "@gradio" / "client").is_dir():
        install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), "@gradio/client@2"]
        done = subprocess.run(install, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            pytest.skip(f"@gradio/client could not be installed: {done.stderr.strip().splitlines()[-1]}")
    return folder


def test_javascript_example_runs(page_url, javascript):
    program = javascript / "example.mjs"
    program.write_text(with_page_url("javascript", page_url), encoding="utf-8")
    assert re.match(r"tumour 0\.\d+ http://.*\.mask\.png", run_example(["node", str(program)]))


# --- the log --------------------------------------------------------------------------------------------------------------

PLANTED = re.compile(rf"planted|[a-z]4711|19700102|19991231|acc0815|{re.escape(phantom.ROOT)}|127\.0\.0\.1", re.I)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Run `python app.py`: its address, and a function that stops it and returns the log."""
    cache = tmp_path_factory.mktemp("cache")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = {
        "BRAINMRI_LOG": "json",
        "GRADIO_SERVER_PORT": port,
        "GRADIO_TEMP_DIR": str(cache),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    variables |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    log = cache / "log"
    with log.open("w") as stderr:
        server = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=os.environ | variables, stderr=stderr, stdout=subprocess.DEVNULL
        )
    url = f"http://127.0.0.1:{port}/"
    with httpx.Client(timeout=60) as client:
        while True:
            assert server.poll() is None, log.read_text()
            try:
                client.get(url + "health")
                break
            except httpx.TransportError:
                time.sleep(0.1)

    def stop() -> list[str]:
        server.terminate()
        server.wait(timeout=30)
        return log.read_text().splitlines()

    yield url, stop
    server.kill()


def test_log_describes_requests_without_identifying_anyone(logged, tmp_path):
    url, stop = logged
    client = connect(url)
    series = phantom.images()
    study = sorted(phantom.save(tmp_path / "Planted", series).iterdir())
    assert client.predict([handle_file(path) for path in study], api_name="/study")[0]["slices"] == len(series)
    planted = tmp_path / "Planted^Patient 4711.png"
    planted.write_text("Planted text")
    with pytest.raises(AppError, match="is not an image"):
        client.predict(handle_file(planted), api_name="/predict")
    planted.write_bytes(EXAMPLE.read_bytes())
    with pytest.raises(AppError, match="segmenter: expected one of"):
        client.predict(handle_file(planted), segmenter="Planted model", api_name="/predict")

    def predict(path: str) -> str:
        body = {"image": {"path": path, "meta": {"_type": "gradio.FileData"}}}
        event = httpx.post(url + "gradio_api/call/v2/predict", json=body).json()["event_id"]
        return httpx.get(url + f"gradio_api/call/predict/{event}", timeout=60).text

    with planted.open("rb") as file:
        (uploaded,) = httpx.post(url + "gradio_api/upload", files={"files": file}).json()
    shutil.rmtree(Path(uploaded).parent)  # as if it had expired
    assert "Please upload it again." in predict(uploaded)
    assert "Please upload the files first." in predict("/srv/Planted^Patient.png")
    assert httpx.get(url + "gradio_api/file=/srv/Planted^Patient.png").status_code in (403, 404)

    lines = [json.loads(line) for line in stop()]
    assert not [line for line in lines if PLANTED.search(json.dumps(line))]
    loaded = [line["model"] for line in lines if "source" in line]
    assert loaded[0] == DEFAULT  # a visitor who comes early waits for this one
    assert sorted(loaded) == [entry.name for entry in brainmri.list_models()]
    assert {line["source"] for line in lines if "source" in line} == {"embedded"}
    assert [line["difference"] < 0.02 for line in lines if "difference" in line] == [True]
    requests = [line for line in lines if "kind" in line]
    assert [(line["kind"], line["outcome"]) for line in requests] == [
        ("/study", "answered"),
        ("/predict", "refused"),
        ("/predict", "refused"),
        ("/predict", "refused"),
        ("/predict", "refused"),
    ]
    assert (requests[0]["files"], requests[0]["bytes"]) == (len(study), sum(path.stat().st_size for path in study))
    assert (requests[0]["slices"], requests[1]["files"]) == (len(series), 1)
    assert requests[0]["seconds"] > 0
    assert not [line for line in requests if line.get("trace")]


def test_messages_of_other_libraries_are_not_logged():
    from brainmri.ui.logs import JsonFormatter, TextFormatter

    name = "".join(["Plan", "ted"])  # source lines appear in tracebacks, so the name is not written out

    def record(logger: str) -> logging.LogRecord:
        try:
            try:
                raise FileNotFoundError(f"/tmp/{name}.dcm")
            except FileNotFoundError as error:
                raise ValueError(f"bad value {name}") from error
        except ValueError:
            return logging.LogRecord(logger, logging.ERROR, __file__, 1, "it is %s", (name,), sys.exc_info())

    third_party = TextFormatter().format(record("pydicom.dataset"))
    assert name not in third_party
    assert re.search(r"pydicom\.dataset at test_api:1\n.*\n.*\nFileNotFoundError\n.*\n.*\nValueError$", third_party)
    assert f"it is {name}" in TextFormatter().format(record("brainmri.ui"))
    assert json.loads(JsonFormatter().format(record("brainmri.ui")))["trace"][-1] == "ValueError"


# --- ZeroGPU --------------------------------------------------------------------------------------------------------------

ON_ZERO_GPU = """
import contextlib
import numpy as np
import spaces, torch
from brainmri.io.scan import Scan
from brainmri.ui import page as app
from brainmri.ui import inference, service
from spaces.zero import client
from spaces.zero.decorator import decorated_cache
app.build()
service.load_models()
assert {model.device.type for model in map(inference.get_model, inference.available_models)} == {"cuda"}
assert {p.device.type for name in inference.available_models for p in inference.get_model(name).net.parameters()} == {"cuda"}
slice_functions = {"analyse_slice", "explain_slice", "analyse_and_explain_slice", "compare_models", "check"}
assert {f.__name__ for f in decorated_cache} == slice_functions | {"analyse_study", "analyse_and_explain_study"}
seconds = []
def schedule(task_id, request, duration, gpu_size):
    seconds.append(duration.seconds)
    raise TimeoutError("there is no GPU here")
client.schedule = schedule
scans = [Scan(pixels=np.zeros((*shape, 8, 8, 3), np.float32), name="zeros", sha256="") for shape in ((), (60,), (155,))]
functions = inference.analyse_slice, inference.analyse_study, inference.analyse_and_explain_study
for function, scan in zip(functions, scans):
    with contextlib.suppress(TimeoutError):
        function(scan, "resunet-lgg", "resnet50-lgg", None)
assert seconds == [5, 11, 22], seconds
print(service.default_selfcheck().passed)
"""


def test_on_zero_gpu_all_models_are_on_cuda_before_the_launch():
    """Uses the CUDA emulation that the `spaces` package provides for the process without a GPU."""
    pytest.importorskip("spaces")
    zero = {
        "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    assert run_example([sys.executable, "-c", ON_ZERO_GPU], env=os.environ | zero).strip().endswith("True")


def test_arguments_and_results_of_gpu_calls_can_be_pickled(page_url):
    from brainmri.io.reading import read_slice, read_study
    from brainmri.ui.inference import analyse_slice, compare_models, explain_slice

    scan, default = read_slice(EXAMPLE), DEFAULT
    sent = scan, read_study(STUDY), analyse_slice(scan, default, default, None), compare_models(scan, [default])
    things = (*sent, explain_slice(scan, default, default, None))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        returned = list(executor.map(copy.copy, things))
    assert [type(thing) for thing in returned] == [type(thing) for thing in things]
    assert np.array_equal(returned[2].mask, sent[2].mask)
