"""The Dockerfile, followed step by step without Docker: its files, its variables, its user's rights, its commands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gradio_client import Client, handle_file

from tests.support.serving import served, without_rights

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "assets" / "examples" / "large-lesion.png"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, in order."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8")).replace("\\\n", " ")
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def values(name: str) -> list[str]:
    return [rest for word, rest in instructions() if word == name]


def test_it_runs_the_page_as_an_unprivileged_user_with_the_torch_of_the_package():
    assert values("USER") == ["brainmri"]
    assert values("USER")[0] in values("RUN")[0]
    pins = re.findall(r'"((?:torch|torchvision)~=[^"]+)"', values("RUN")[1])
    assert set(pins) <= set((ROOT / "requirements.txt").read_text(encoding="utf-8").split())
    assert "download.pytorch.org/whl/cpu" in values("RUN")[1]
    assert values("CMD") == ['["python", "app.py"]']


@pytest.fixture
def image(tmp_path):
    """The files that the Dockerfile copies, in folders in which nothing can be created; weights and assets are links."""
    folder = tmp_path / "app"
    ignored = shutil.ignore_patterns(*(line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().split()))
    for line in values("COPY"):
        *sources, target = line.split()
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / target, copy_function=os.symlink, ignore=ignored)
            else:
                folder.mkdir(exist_ok=True)
                shutil.copy(ROOT / source, folder / target)
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for one in folders:
        one.chmod(0o555)
    yield folder
    for one in folders:
        one.chmod(0o755)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs the rights of Linux")
def test_the_page_runs_from_a_read_only_tree_without_a_home(image, tmp_path):
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir(mode=0o555)
    temporary.mkdir()
    written = subprocess.run(
        [*without_rights(), "touch", str(image / "file"), str(home / "file")], check=False, capture_output=True
    )
    assert written.returncode != 0, "the simulation does not protect the tree"
    before = sorted(image.rglob("*"))
    (variables,) = values("ENV")
    environment = dict(pair.split("=", 1) for pair in shlex.split(variables))
    environment = {name: value.replace("/tmp/", f"{temporary}/") for name, value in environment.items()}
    environment |= {"HOME": str(home), "TMPDIR": str(temporary), "GRADIO_TEMP_DIR": str(temporary / "gradio")}
    with served(tmp_path / "run", root=image, prefix=without_rights(), **environment) as (_, url, log):
        client = Client(url, verbose=False, download_files=str(temporary), httpx_kwargs={"timeout": 120})
        record, *_ = client.predict(handle_file(SAMPLE), api_name="/predict")
        check = re.search(r'CMD \[.*?(".*")\]', values("HEALTHCHECK")[0])
        program = check[1].split('", "')[-1].rstrip('"').replace("http://127.0.0.1:7860/", url)
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert record["verdict"] == "tumour"
    assert (sorted(image.rglob("*")), list(home.iterdir())) == (before, [])
    assert "Traceback" not in log.read_text()
