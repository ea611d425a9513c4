"""The wheel: complete, small, and with the dependencies of requirements.txt."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_MB = 100
SLICE = """
import sys, brainmri
from brainmri.ui.common import ASSETS
assert brainmri.__file__.startswith(sys.argv[1]), brainmri.__file__
assert str(ASSETS).startswith(sys.argv[1]), ASSETS
print([entry.name for entry in brainmri.list_models()])
print(brainmri.Pipeline(device="cpu")(ASSETS / "examples/large-lesion.png").verdict)
"""


def test_requirements_are_those_of_the_library_and_the_page():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = re.findall(r"^[^#\s].*", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(lines) == sorted([*project["dependencies"], *extras["app"], *extras["openvino"]])


@pytest.mark.slow
def test_the_wheel_runs_outside_the_source_tree(tmp_path):
    """Its dependencies are this environment's; downloading them again would take minutes."""
    source = tmp_path / "source"  # of links, since a build writes into the tree
    for folder in ("brainmri", "assets"):
        shutil.copytree(ROOT / folder, source / folder, copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < MAX_MB * 1e6
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert not [name for name in names if name.endswith(".onnx") or name.startswith(("tests/", "train/"))]
    program = [sys.executable, "-P", "-c", SLICE, str(tmp_path)]
    done = subprocess.run(
        program,
        env={"PATH": "", "PYTHONPATH": str(tmp_path / "installed")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "['effunet-pair-lgg', 'resunet-lgg']\ntumour\n", done.stderr
