"""The layout of the source: safe loading, imports without side effects, and the size of modules and functions.

Who may import whom is checked by `lint-imports`; its contracts are in `pyproject.toml`.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from safetensors import safe_open

ROOT = Path(__file__).parents[1]
SOURCES = [*sorted(path for folder in ("brainmri", "train") for path in (ROOT / folder).rglob("*.py")), ROOT / "app.py"]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_MODULE_LINES = 420
MAX_FUNCTION_LINES = 90
UNSAFE = {"pickle", "cPickle", "_pickle", "pickletools", "cloudpickle", "joblib", "dill", "shelve", "marshal"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_packages(tree: ast.Module) -> set[str]:
    """Top-level packages of every import anywhere in a module."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_is_unpickled(path):
    tree = parsed(path)
    assert not imported_packages(tree) & UNSAFE
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        location = f"{path}:{node.lineno}"
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg in ("weights_only", "allow_pickle")}
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "load":
            assert ast.unparse(node.func) != "torch.load" or keywords.get("weights_only") == "True", location
        assert not name.endswith("read_pickle"), location
        assert keywords.get("allow_pickle", "False") == "False", location


def test_weights_are_safetensors_and_graphs_and_nothing_else():
    files = [file for file in (ROOT / "brainmri" / "weights").rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".safetensors", ".onnx", ".xml", ".bin", ".json", ".md", ".svg", ".webp"}
    weights = [file for file in files if file.suffix == ".safetensors"]
    assert weights
    for file in weights:
        with safe_open(file, "pt") as tensors:
            assert list(tensors.keys())
    for file in files:  # neither a pickle nor the zip archive that torch.save writes, whatever the suffix
        with file.open("rb") as handle:
            assert handle.read(2) not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), file


def test_imports_print_nothing_open_no_socket_and_load_no_heavy_package():
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a socket was opened')\n"
        "socket.socket.connect = refuse\n"
        "import brainmri, brainmri.batch.cohort, brainmri.batch.ray_engine, brainmri.analysis.pipeline, brainmri.io.writers\n"
        "assert not {'gradio', 'train', 'nibabel', 'pydicom', 'highdicom', 'pandas', 'ray', 'skimage'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_listing_the_zoo_needs_no_torch():
    program = "import sys, brainmri; brainmri.list_models(); assert not {'torch', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=relative)
def test_modules_and_functions_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES
    functions = [n for n in ast.walk(parsed(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f"{f.name}: {f.end_lineno - f.lineno + 1} lines" for f in functions if f.end_lineno - f.lineno >= MAX_FUNCTION_LINES]
    assert not long
