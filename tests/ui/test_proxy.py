"""The page behind nginx, under a root path that the proxy strips or passes on."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.support.serving import free_port, served

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("nginx"), reason="needs nginx (apt install nginx-light)")]

CONFIG = """
daemon off; user root; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_max_body_size 0; proxy_buffering off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {servers}
}}
"""
SERVER = """
  server {{
    listen 127.0.0.1:{port};
    location /demo/ {{
      proxy_pass http://127.0.0.1:{page}{target};
      proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Host $http_host;
    }}
  }}
"""
TARGETS = {"stripped": "/", "passed on": ""}  # what stands in the place of the root path


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """The addresses of one page at one nginx, by the names of `TARGETS`."""
    folder, ports = tmp_path_factory.mktemp("proxy"), {name: free_port() for name in TARGETS}
    with served(folder, GRADIO_ROOT_PATH="/demo") as (_, url, _):
        page = url.rsplit(":", 1)[1].strip("/")
        servers = [SERVER.format(port=ports[name], page=page, target=target) for name, target in TARGETS.items()]
        config = folder / "nginx.conf"
        config.write_text(CONFIG.format(folder=folder, servers="".join(servers)))
        nginx = subprocess.Popen(["nginx", "-c", str(config), "-e", str(folder / "error.log")], stdin=subprocess.DEVNULL)
        try:
            yield {name: wait_for(f"http://127.0.0.1:{port}/demo/") for name, port in ports.items()}
        finally:
            nginx.terminate()
            nginx.wait()


@pytest.fixture(params=TARGETS)
def proxied(request, addresses) -> str:
    """The page's address at the proxy."""
    return addresses[request.param]


def wait_for(url: str) -> str:
    with httpx.Client(timeout=60) as client:
        for _ in range(100):
            try:
                client.get(url + "health")
                return url
            except httpx.TransportError:
                time.sleep(0.1)
    raise TimeoutError(url)


def test_a_slice_is_analysed_and_its_results_are_downloaded(proxied, page_example):
    with httpx.Client(base_url=proxied, timeout=120) as client:
        (path,) = client.post("gradio_api/upload", files={"files": page_example.open("rb")}).json()
        image = {"path": path, "meta": {"_type": "gradio.FileData"}}
        event = client.post("gradio_api/call/predict", json={"data": [image, "effunet-lgg", "effunet-lgg", None]}).json()
        answer = client.get(f"gradio_api/call/predict/{event['event_id']}").text
        record, _, *files = json.loads(answer.split("data: ")[-1])
        assert record["verdict"] == "tumour"
        for file in files:
            assert file["url"].startswith(proxied)
            downloaded = client.get(file["url"])
            assert downloaded.status_code == 200
            assert "sandbox" in downloaded.headers["content-security-policy"]


def test_the_guard_holds_under_the_root_path(proxied):
    with httpx.Client(base_url=proxied, timeout=60) as client:
        for form in ("file=", "file/"):
            answer = client.get(f"gradio_api/{form}http://169.254.169.254/slice.png")
            assert (answer.status_code, answer.text) == (403, "Remote files are not served.")
        (path,) = client.post("gradio_api/upload", files={"files": ("x.html", b"<script>alert(1)</script>")}).json()
        answer = client.get(f"gradio_api/file={path}")
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["content-disposition"].startswith("attachment")
        body = json.dumps({"data": [0] * 200_000})
        for route in ("call/predict", "queue/join", "call/predict/gradio_api/upload"):
            assert client.post(f"gradio_api/{route}", content=body).status_code == 413, route


def test_tools_are_listed_under_the_root_path(proxied):
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    answer = httpx.post(
        proxied + "gradio_api/mcp/", json=body, headers={"accept": "application/json, text/event-stream"}, timeout=60
    )
    assert answer.status_code == 200
    assert "predict" in answer.text


@pytest.fixture(scope="module")
def page_example() -> Path:
    return Path(__file__).parents[2] / "assets" / "examples" / "large-lesion.png"
