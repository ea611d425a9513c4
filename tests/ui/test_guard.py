"""The server against hostile requests: URLs it may fetch, files it serves back, and malicious file names."""

import asyncio
import io
import json
import socket
import threading
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio import processing_utils
from PIL import Image

from brainmri.ui import fetch, guard

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "assets" / "examples" / "large-lesion.png"
SCRIPT = b"<html><script>alert(document.domain)</script></html>"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(document.domain)'/>"


@pytest.fixture(scope="module")
def web(page_url):
    with httpx.Client(base_url=page_url + "gradio_api/", timeout=60) as client:
        yield client


def upload(web: httpx.Client, name: str, data: bytes) -> str | None:
    """Upload a file and return its path on the server, or None if the server refuses the name."""
    answer = web.post("upload", files={"files": (name, data)})
    if answer.status_code == 400:
        assert "Invalid file name" in answer.text
        return None
    return answer.json()[0]


def call(web: httpx.Client, path: str, endpoint: str = "predict") -> str:
    """Response of an endpoint, up to the last event, for a path as its input."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [[file] if endpoint == "study" else file, "effunet-lgg", "effunet-lgg", None]
    data += [None] * 4 if endpoint == "study" else []
    answer = web.post(f"call/{endpoint}", json={"data": data})
    if answer.status_code != 200:
        return answer.text
    return web.get(f"call/{endpoint}/{answer.json()['event_id']}").text


ENTRIES = ["effunet-lgg", "effunet-lgg"]

# --- refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "body", "status", "message"),
    [
        ("run/predict", {"data": [None, "effunet-lgg", "effunet-lgg", None]}, 422, "Please upload a slice"),
        ("run/predict", {"data": []}, 422, "expected 5 values (image, segmenter, classifier, threshold, sequence), got 0"),
        ("run/predict", {"data": [None, *ENTRIES]}, 422, "threshold, sequence), got 3"),
        ("run/predict", {"data": [None, *ENTRIES, None, "T3"]}, 422, "expected one of FLAIR, T1, T1c, T2, PD, got 'T3'"),
        ("run/predict", {"data": [None, *ENTRIES, None, None]}, 422, "Please upload a slice"),
        ("run/predict", {"data": [5, "effunet-lgg", "effunet-lgg", None]}, 422, "image: expected a file, as {"),
        ("run/predict", {"data": [None, "<b>'s", "effunet-lgg", None]}, 422, ', resunet-paper, got "<b>\'s"; '),
        ("run/predict", {"data": [None, ["effunet-lgg"], "effunet-lgg", None]}, 422, "segmenter: expected one of effunet-any, "),
        ("run/predict", {"data": [None, "effunet-lgg", None, None]}, 422, "classifier: expected one of effunet-any, "),
        ("run/predict", {"data": [None, "effunet-lgg", "effunet-lgg", 7]}, 422, "a number from 0.05 to 0.95, got 7;"),
        ("run/predict", {"data": [None, "effunet-lgg", "effunet-lgg", "0.5"]}, 422, "a number from 0.05 to 0.95, got '0.5'"),
        ("run/study", {"data": ["x", *ENTRIES, None, None, None, None, None]}, 422, "files: expected a list of files, each as"),
        ("run/study", {"data": [None, *ENTRIES, None, 0.5, *[None] * 3]}, 422, "flair: expected a whole number of at least 0"),
        ("run/compare", {"data": [None, "effunet-lgg"]}, 422, "models: expected a list of models, each one of effunet-any, "),
        ("run/any", {"data": [], "fn_index": 0}, 422, "Unknown function. /gradio_api/info lists"),
        ("run/nothing", {"data": []}, 404, "Unknown endpoint 'nothing'; /gradio_api/info lists them."),
        ("call/nothing", {"data": []}, 404, "Unknown endpoint 'nothing'"),
        ("call/v2/nothing", {}, 404, "Unknown endpoint 'nothing'"),
        ("call/v2/predict", {}, 422, "No value provided for required argument: image; /gradio_api/info lists the parameters."),
        ("call/v2/predict", {"image": None, "zoom": 2}, 422, "Parameter `zoom` is not a valid key-word argument"),
    ],
)
def test_a_call_that_its_sender_can_mend_is_a_client_error(web, route, body, status, message):
    answer = web.post(route, json=body)
    assert answer.status_code == status, answer.text
    (text,) = (answer.json().get(key) for key in ("error", "detail") if key in answer.json())
    assert message in text


def test_result_that_does_not_exist_or_was_delivered_is_a_client_error(web):
    event = web.post("call/models", json={"data": []}).json()["event_id"]
    assert "event: complete" in web.get(f"call/models/{event}").text
    for name in (event, "unknown"):
        answer = web.get(f"call/models/{name}")
        assert (answer.status_code, answer.json()["detail"][:25]) == (404, "There is no such result; ")


def test_upload_of_text_instead_of_a_file_is_a_client_error(web):
    answer = web.post("upload", files={"files": (None, b"text")})
    assert answer.status_code == 422
    assert answer.json()["detail"] == "Expected files in the form's field 'files', got text."


def test_refusals_in_json_have_no_html_entities(web):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("a.png", "b.png"):
            archive.writestr(name, "nothing")
    file = {"path": upload(web, "notes.zip", packed.getvalue()), "meta": {"_type": "gradio.FileData"}}
    answer = web.post("run/study", json={"data": [[file], "effunet-lgg", "effunet-lgg", None, None, None, None, None]})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("notes.zip: ")
    assert "Please name slices <case>_<number>" in answer.json()["error"]
    assert "<case>_<number>" in json.loads(call(web, file["path"], "study").rpartition("data: ")[2])["error"]


# --- fetched URLs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secret():
    """An internal server: its port and the requests that reach it."""
    requests, listener = [], socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                requests.append(connection.recv(999))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1], requests
    listener.close()


def private_urls(port: int) -> list[str]:
    hosts = ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "127.1"]
    return [f"http://{host}:{port}/slice.png" for host in hosts] + [
        "http://169.254.169.254/latest/meta-data/slice.png", "http://100.100.100.200/slice.png", "http://10.0.0.1/slice.png",
        "http://[64:ff9b::7f00:1]/slice.png", "http://[2002:7f00:1::]/slice.png",
    ]  # fmt: skip


def test_private_addresses_are_not_fetched_as_inputs(web, secret):
    port, requests = secret
    for url in private_urls(port):
        answer = call(web, url)
        assert "event: error" in answer, url
        assert "secret" not in answer
    assert "event: error" in call(web, f"http://127.0.0.1:{port}/flair.nii", "study")
    assert requests == []


def test_remote_files_are_not_served(web, secret):
    port, requests = secret
    for url in [*private_urls(port), "http://example.com/x.png", "https://example.com/x.png"]:
        for form in ("file=", "file/"):
            answer = web.get(form + url)
            assert (answer.status_code, answer.text) == (403, "Remote files are not served."), url
    assert requests == []


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "file:///etc/passwd", "/proc/self/environ", "../../../../etc/passwd", __file__, "//etc/passwd", "~"]
)
def test_only_uploaded_files_are_read_and_served(web, path):
    for endpoint in ("predict", "compare", "study"):
        answer = call(web, path, endpoint)
        assert "event: error" in answer or "detail" in answer, answer
        assert "root:" not in answer
    assert web.get("file=" + path).status_code in (403, 404)


@pytest.mark.parametrize(
    "host", ["localhost", "10.1.2.3", "169.254.169.254", "100.64.0.1", "::1", "fd00::1", "64:ff9b::a00:1", "224.0.0.1"]
)
def test_hosts_that_are_not_public_are_refused(host):
    with pytest.raises(fetch.FetchRefused, match="not public"):
        asyncio.run(fetch.public_address(host))


def test_gradio_fetches_from_public_hosts_only_and_within_the_upload_limit(page_url, secret, monkeypatch):
    def fetch_from(host: str) -> bytes:
        return asyncio.run(processing_utils.async_ssrf_protected_get(f"http://{host}:{port}/slice.png")).content

    port, requests = secret
    with pytest.raises(fetch.FetchRefused, match="not public"):
        fetch_from("127.0.0.1")
    with pytest.raises(fetch.FetchRefused, match="unknown host"):
        fetch_from("no-such-host.invalid")
    assert asyncio.run(fetch.public_address("93.184.215.14")) == "93.184.215.14"
    assert requests == []

    async def local_address(host: str) -> str:
        return "127.0.0.1"

    monkeypatch.setattr(fetch, "public_address", local_address)  # stands in for a public host
    assert fetch_from("public.example") == b"secret"
    assert b"Host: public.example" in requests.pop()
    monkeypatch.setattr(fetch, "MAX_FILE", 5)
    with pytest.raises(fetch.FetchRefused, match="exceeds 0 MiB"):
        fetch_from("public.example")
    monkeypatch.setattr(fetch, "MAX_FILE", 6)
    monkeypatch.setattr(fetch, "FETCH_SECONDS", -1)
    with pytest.raises(fetch.FetchRefused, match="-1 seconds"):
        fetch_from("public.example")
    requests.clear()


# --- request sizes --------------------------------------------------------------------------------------------------------


def test_too_large_requests_are_refused(web, monkeypatch):
    monkeypatch.setattr(guard, "MAX_REQUEST", 2**16)
    monkeypatch.setattr(guard, "MAX_UPLOADS", 2**18)
    body = json.dumps({"data": ["x" * 2**17]}).encode()

    def in_pieces():
        yield from (body[start : start + 4096] for start in range(0, len(body), 4096))

    for content in (body, in_pieces()):
        answer = web.post("call/predict", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 413
    assert upload(web, "slice.png", bytes(2**17))
    answer = web.post("upload", files={"files": ("slice.png", bytes(2**19))})
    assert (answer.status_code, answer.text) == (413, "Request too large: the limit is 0 MiB.")


# --- served files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [("x.html", SCRIPT), ("x.svg", SVG), ("x.htm", SCRIPT), ("x.xhtml", SCRIPT), ("x.xml", SVG), ("x.png", SCRIPT), ("x", SCRIPT),
     ("x.jpg", SVG), ("x.js", b"alert(1)"), ("x.pdf", b"%PDF-1.4"), ("x.mht", SCRIPT), ("x.png.html", SCRIPT)],
)  # fmt: skip
def test_uploads_are_never_served_as_web_pages(web, name, data):
    path = upload(web, name, data)
    for headers in ({}, {"Range": "bytes=0-20"}):
        answer = web.get("file=" + path, headers=headers)
        assert answer.status_code in (200, 206)
        kind = answer.headers["content-type"]
        assert kind in ("application/octet-stream", "image/png", "image/jpeg")
        assert kind.startswith("image/") or answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("name", "data"), [("x.html", SCRIPT), ("x.svg", SVG), ("x.png", SVG), ("x.jpg", SCRIPT), ("x.tif", b"%PDF-1.4")]
)
def test_html_and_svg_are_refused_as_slices_and_as_studies(web, name, data):
    path = upload(web, name, data)
    slice_, study = call(web, path), call(web, path, "study")
    assert any(reason in slice_ for reason in ("not an image", "an SVG drawing", "is a PDF", "is a web page"))
    assert any(reason in study for reason in ("MRI file", "not an image", "is a PDF", "is a web page", "an SVG drawing"))


# --- file names -----------------------------------------------------------------------------------------------------------

NAMES = [
    "CON.png", "x" * 300 + ".PNG", "Schädel Ø 脑 🧠.png", "a\nb\r\n<b>.png", "../../x.png", "..\\x.png", "-rf '; `c`.png", "..",
    "%2e%2e%2fx.png", "\u202egnp.exe.png", "...png", "a\0b.png", "x.png/",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_is_read_and_result_files_have_safe_names(web, name):
    cache = Path(upload(web, "slice.png", b"")).parents[1]
    path = upload(web, name, EXAMPLE.read_bytes())
    if path is None:
        assert not name.strip("./\\")
        return
    assert Path(path).parents[1] == cache
    answer = call(web, path)
    assert "event: complete" in answer, answer
    files = [part["path"] for part in json.loads(answer.split("data: ")[-1])[2:]]
    assert len(files) == 3
    for file in map(Path, files):
        assert file.name.isascii()
        assert not set(file.name) & set(" '\"\\;:`<>\r\n%")
        assert len(file.name) < 120


# --- polyglots ------------------------------------------------------------------------------------------------------------


def polyglots() -> dict[str, bytes]:
    picture, packed = EXAMPLE.read_bytes(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../evil.png", picture)
    jpeg = io.BytesIO()
    Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)).save(jpeg, "JPEG", comment=SCRIPT)
    return {"png and zip.png": picture + packed.getvalue(), "jpeg and html.jpg": jpeg.getvalue() + SCRIPT}


@pytest.mark.parametrize("name", polyglots())
def test_polyglot_is_read_as_the_image_it_starts_with(web, name):
    path = upload(web, name, polyglots()[name])
    answer = call(web, path)
    assert "event: complete" in answer
    assert "event: complete" in call(web, path, "study")
    assert web.get("file=" + path).headers["content-type"].startswith("image/")
    assert not [file for file in json.loads(answer.split("data: ")[-1])[2:] if b"script" in Path(file["path"]).read_bytes()]


def test_image_hidden_in_a_document_is_refused(web):
    hidden = b"%PDF-1.4\n" + EXAMPLE.read_bytes()
    assert "is a PDF" in call(web, upload(web, "x.png", hidden))
