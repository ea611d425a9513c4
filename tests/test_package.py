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
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
MAX_MB = 100
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(path: Path) -> list[str]:
    return sorted(re.findall(r"^[^#\s-].*", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_requirements_are_those_of_the_library_and_its_extras():
    extras = [*EXTRAS["app"], *EXTRAS["dicom"], *EXTRAS["openvino"]]
    assert requirements(ROOT / "requirements.txt") == sorted([*PROJECT["dependencies"], *extras])
    assert requirements(ROOT / "train" / "requirements.txt") == sorted(EXTRAS["train"])


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


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """A function that runs a command in an environment that has only the wheel and its required dependencies.

    The dependencies are this environment's; downloading them again would take minutes.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    link_packages(installed_with(PROJECT["dependencies"]), Path(sysconfig.get_path("purelib", "venv", paths)))
    install = ["install", "-q", "--no-deps", "--no-index", str(wheel)]
    python = sysconfig.get_path("scripts", "venv", paths) + "/python"
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)

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
    assert {row["name"] for row in json.loads(listed.stdout)} >= {"resunet-lgg"}, listed.stderr
    sample = str(ROOT / "assets" / "examples" / "large-lesion.png")
    done = run("brainmri", "predict", sample, "--out", str(tmp_path), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "large-lesion.finding.json").read_text())["verdict"] == "tumour"


@pytest.mark.slow
def test_a_missing_extra_is_explained_with_the_line_that_installs_it(run, tmp_path):
    sample = str(ROOT / "assets" / "examples" / "large-lesion.png")
    dicom = tmp_path / "image.dcm"
    dicom.write_bytes(bytes(128) + b"DICM")
    predict = ("brainmri", "predict", "--out", str(tmp_path / "out"), "--device", "cpu")
    for extra, done in {
        "app": run("brainmri", "serve"),
        "ray": run(*predict, sample, "--engine", "ray"),
        "openvino": run(*predict, sample, BRAINMRI_RUNTIME="openvino"),
        "dicom": run(*predict, str(dicom)),
    }.items():
        assert done.returncode != 0
        assert f'which is not installed; run pip install "brainmri[{extra}]"' in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
