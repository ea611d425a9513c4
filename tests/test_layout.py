"""The rooms of the house: who may import whom, and that importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

ROOT = Path(__file__).parents[1]
# every room of the package and the rooms it may know
ROOMS = {
    "__init__": {"entry", "zoo", "predict", "findings"},  # predict and findings for type checkers and on first use
    "__main__": {"bench", "cohort", "engines", "entry", "findings", "hub", "selfcheck", "zoo"},
    "bench": {"predict", "reading", "render", "report", "runtime", "selfcheck", "zoo", "findings"},
    "compare": {"predict", "zoo"},
    "cohort": {"dicom", "files", "outputs", "predict", "reading", "scan", "sequences", "volumes"},
    "engines": {"cohort", "predict", "zoo"},
    "findings": {"ood", "lesions", "scan"},
    "dicom": {"files", "jpeg", "preprocess", "scan", "sequences", "volumes"},
    "calibration": set(),
    "entry": {"calibration", "preprocess"},
    "writers": {"dicom", "files", "scan"},
    "explain": {"zoo"},
    "figures": {"entry", "predict", "report"},
    "files": {"scan"},
    "ood": {"entry"},
    "hub": {"entry"},
    "jpeg": set(),
    "lesions": {"preprocess", "scan"},
    "lite": set(),
    "nets": {"lite", "pretrained"},
    "predict": {
        "",
        "calibration",
        "entry",
        "findings",
        "ood",
        "lesions",
        "preprocess",
        "reading",
        "runtime",
        "zoo",
    },  # "" is the package itself, for its version
    "preprocess": set(),
    "pretrained": {"entry", "hub", "preprocess"},
    "reading": {"dicom", "files", "preprocess", "scan", "sequences", "volumes"},
    "outputs": {"", "writers", "findings", "render", "report", "scan"},
    "render": {"findings", "preprocess", "scan"},
    "report": {"findings", "render", "scan"},
    "runtime": {"", "entry", "ood"},
    "scan": {"preprocess"},
    "selfcheck": {"predict", "reading", "zoo"},
    "sequences": {"preprocess", "scan"},
    "stability": {"predict", "zoo"},
    "volumes": {"files", "preprocess", "scan", "sequences"},
    "zoo": {"entry", "ood", "hub", "nets", "runtime"},
}


def imports(path: Path) -> set[str]:
    """Dotted names of every module a file imports, anywhere in it; `from brainmri import x` counts as the room x."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "brainmri":
                rooms = {a.name for a in node.names if (ROOT / "brainmri" / f"{a.name}.py").exists()}
                found |= {f"brainmri.{room}" for room in rooms} if rooms else {"brainmri"}
            else:
                found.add(node.module)
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "brainmri").glob("*.py")), ids=lambda p: p.stem)
def test_rooms_know_only_whom_they_may(path):
    found = imports(path)
    known = {name.removeprefix("brainmri").lstrip(".") for name in found if name.split(".")[0] == "brainmri"}
    assert known <= ROOMS[path.stem]
    assert not {name.split(".")[0] for name in found} & {"train", "gradio", "app"}


def test_only_the_page_knows_its_parts():
    others = [*(ROOT / "brainmri").glob("*.py"), *(ROOT / "train").glob("*.py")]
    assert not [path for path in others if any(name.startswith("brainmri.ui") for name in imports(path))]


@pytest.mark.parametrize("path", sorted((ROOT / "train").glob("*.py")), ids=lambda p: p.stem)
def test_training_does_not_know_the_page(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"gradio", "app"}


@pytest.mark.parametrize("path", sorted([*(ROOT / "brainmri").rglob("*.py"), *(ROOT / "train").glob("*.py"), ROOT / "app.py"]))
def test_nothing_is_unpickled(path):
    found = {name.split(".")[0] for name in imports(path)}
    assert not found & {"pickle", "cPickle", "_pickle", "pickletools", "cloudpickle", "joblib", "dill", "shelve", "marshal"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        where = f"{path}:{node.lineno}"
        assert called != "torch.load" or keywords.get("weights_only") == "True", where
        assert not called.endswith("read_pickle"), where
        assert keywords.get("allow_pickle", "False") == "False", where


def test_weights_are_safetensors_and_graphs_and_nothing_else():
    files = [file for file in (ROOT / "brainmri" / "weights").rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".safetensors", ".onnx", ".xml", ".bin", ".json", ".md", ".svg"}
    weights = [file for file in files if file.suffix == ".safetensors"]
    assert weights
    for file in weights:
        with safe_open(file, "pt") as tensors:
            assert list(tensors.keys())
    for file in files:  # neither a pickle nor torch's zip of one, whatever it is called
        with file.open("rb") as handle:
            assert handle.read(2) not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), file


def test_importing_prints_nothing_and_opens_no_socket():
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
    program = "import sys, brainmri; brainmri.list_models(); assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
