"""The wheel: complete, small, with the dependencies of requirements.txt, and usable without any extra."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from packaging.requirements import Requirement

from brainmri.zoo.entry import WEIGHTS
from brainmri.zoo.registry import DEFAULT, find_entry, list_models
from tests.support.serving import served, without_rights

ROOT = Path(__file__).parents[1]
SAMPLE = str(ROOT / "assets" / "examples" / "large-lesion.png")
MAX_MB = 100
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(path: Path) -> list[str]:
    return sorted(re.findall(r"^[^#\s-].*", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_requirements_are_those_of_the_library_and_its_extras():
    extras = [*EXTRAS["app"], *EXTRAS["dicom"], *EXTRAS["openvino"]]
    assert requirements(ROOT / "requirements.txt") == sorted([*PROJECT["dependencies"], *extras])
    assert requirements(ROOT / "train" / "requirements.txt") == sorted(EXTRAS["train"])


def test_the_wheel_holds_the_default_its_specialist_and_the_smallest_entry():
    data = SETTINGS["tool"]["setuptools"]["package-data"]["brainmri"]
    smallest = min(list_models(), key=lambda entry: ((entry.folder / WEIGHTS).stat().st_size, entry.name))
    assert {line for line in data if line.startswith("weights/") and line.endswith("/*")} == {
        f"weights/{DEFAULT}/*",
        f"weights/{smallest.name}/*",
        f"weights/{find_entry(DEFAULT).specialist.name}/*",
    }


def installed_with(requirements: list[str]) -> set[str]:
    """The names of the distributions that pip would install for the requirements, all of which this environment has."""
    found: set[str] = set()
    pending = [(Requirement(line), "") for line in requirements]
    done = set()
    while pending:
        requirement, extra = pending.pop()
        if (str(requirement), extra) in done or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        done.add((str(requirement), extra))
        found.add(requirement.name)
        needs = [Requirement(line) for line in distribution(requirement.name).requires or ()]
        pending += [(need, wanted) for need in needs for wanted in ("", *requirement.extras)]
    return found


def link_packages(names: set[str], site: Path) -> None:
    """Make installed distributions available in another environment."""
    for name in names:
        one = distribution(name)
        for top in {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(one.locate_file(top))))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # of links, since a build writes into the tree
    for name in ("brainmri", "assets"):
        shutil.copytree(ROOT / name, source / name, copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source)], check=True)
    (built,) = folder.glob("*.whl")
    return built


def install(wheel: Path, folder: Path, extra: str | None = None) -> str:
    """Make an environment that has only the wheel, its required dependencies and those of an extra; return its interpreter.

    The dependencies are this environment's; downloading them again would take minutes.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    needed = installed_with([*PROJECT["dependencies"], *(EXTRAS[extra] if extra else ())])
    link_packages(needed, Path(sysconfig.get_path("purelib", "venv", paths)))
    python = sysconfig.get_path("scripts", "venv", paths) + "/python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True)
    return python


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """A function that runs a command in an environment without extras."""
    folder = tmp_path_factory.mktemp("environment")
    python = install(wheel, folder)

    def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
        own = {"PATH": str(Path(python).parent), "HOME": str(folder / "home"), **variables}
        return subprocess.run(arguments, env=own, cwd=folder, capture_output=True, text=True, check=False)

    return command


@pytest.mark.slow
def test_the_wheel_is_small_and_holds_the_examples(wheel):
    assert wheel.stat().st_size < MAX_MB * 1e6
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [name for name in names if name.endswith(".onnx") or name.startswith(("tests/", "train/"))]
    examples = {path.relative_to(ROOT).as_posix() for path in (ROOT / "assets" / "examples").rglob("*") if path.is_file()}
    assert {f"brainmri/ui/{name}" for name in examples if not name.endswith(".py")} <= set(names)


@pytest.mark.slow
def test_the_wheel_analyses_a_slice_in_an_empty_environment(run, tmp_path):
    listed = run("brainmri", "models", "--json")
    assert {row["name"] for row in json.loads(listed.stdout) if row["default"]} == {DEFAULT}, listed.stderr
    done = run("brainmri", "predict", SAMPLE, "--out", str(tmp_path), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "large-lesion.finding.json").read_text())["verdict"] == "tumour"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs the rights of Linux")
def test_the_wheel_serves_the_page_for_a_user_without_rights_or_home(wheel, tmp_path):
    python, empty = install(wheel, tmp_path / "environment", "app"), tmp_path / "empty"
    empty.mkdir(mode=0o555)
    command = ("-m", "brainmri", "serve")
    with served(tmp_path / "run", *command, root=empty, prefix=without_rights(), python=python, HOME=str(empty)) as (_, url, log):
        client = Client(url, verbose=False, download_files=str(tmp_path), httpx_kwargs={"timeout": 120})
        record, *_ = client.predict(handle_file(SAMPLE), api_name="/predict")
    assert (record["verdict"], record["provenance"]["segmenter"]["name"]) == ("tumour", DEFAULT)
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
def test_a_missing_extra_is_explained_with_the_line_that_installs_it(run, tmp_path):
    dicom = tmp_path / "image.dcm"
    dicom.write_bytes(bytes(128) + b"DICM")
    nrrd = tmp_path / "flair.nrrd"
    nrrd.write_bytes(b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n\n" + bytes(64))
    predict = ("brainmri", "predict", "--out", str(tmp_path / "out"), "--device", "cpu")
    for extra, done in {
        "app": run("brainmri", "serve"),
        "ray": run(*predict, SAMPLE, "--engine", "ray"),
        "openvino": run(*predict, SAMPLE, BRAINMRI_RUNTIME="openvino"),
        "dicom": (files := run(*predict, str(dicom), str(nrrd))),
        "itk": files,
    }.items():
        assert done.returncode != 0
        assert f'pip install "brainmri[{extra}]"' in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_missing_packages_of_training_are_explained():
    program = "import sys; sys.modules['monai'] = None; import train.segmenter"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "training needs MONAI, which is not installed; run pip install -r train/requirements.txt\n"
