"""README and guides: links resolve, commands have the options that they are shown with, and commands and programs run.

A comment beside a command marks one that does not run here: it takes minutes or hours, needs something, or starts a server.
"""

import re
import shlex
import shutil
import subprocess
from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path

import pytest

from brainmri.analysis import pipeline
from brainmri.zoo import registry
from tests.test_language import ROOT, tracked_files
from train.phantoms import write_phantom_dataset

GUIDES = ["README.md", "brainmri/README.md", "train/README.md"]
DOCUMENTS = [path for path in tracked_files() if path.suffix == ".md" and "templates" not in path.parts]
DOCUMENTS = [path for path in DOCUMENTS if not path.name.endswith("_template.md")]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)")
MARKDOWNLINT = "0.22.1"
NOT_RUN = re.compile(r"\bhours?\b|minutes|needs|starts a server")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub and the Hub make them."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_resolve(path):
    broken = []
    for target in LINK.findall(BLOCK.sub("", path.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.slow
def test_markdownlint_finds_no_problem(pytestconfig):
    folder = pytestconfig.cache.mkdir(f"markdownlint-{MARKDOWNLINT}")
    program = folder / "node_modules" / "markdownlint-cli2" / "markdownlint-cli2-bin.mjs"
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("needs node and npm")
    if not program.is_file():
        install = ["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", f"markdownlint-cli2@{MARKDOWNLINT}"]
        done = subprocess.run(install, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            pytest.skip(f"npm could not install markdownlint-cli2: {done.stderr.strip()[-200:]}")
    done = subprocess.run(["node", program, *map(relative, DOCUMENTS)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def commands(guide: str) -> list[tuple[list[str], str]]:
    """The Python commands of a guide, each as words without the interpreter, and the comment beside it."""
    found = []
    for language, block in BLOCK.findall((ROOT / guide).read_text(encoding="utf-8")):
        for line in block.splitlines() if language == "sh" else ():
            if line.startswith(("python -m ", "python app.py")):
                command, _, comment = line.partition(" #")
                found.append((shlex.split(re.sub(r"[\[\]…]", "", command))[1:], comment))
    return found


COMMANDS = [(guide, words, comment) for guide in GUIDES for words, comment in commands(guide)]


class ParsedArguments(Exception):
    """Raised once a command has parsed its arguments; it holds those that are left for another command."""


@pytest.fixture
def parse(monkeypatch):
    """A function that lets a module parse its arguments and stops there; it returns those that are left."""
    depth = [0]

    def stop_after(name: str):
        original = getattr(ArgumentParser, name)

        def method(*arguments, **options):
            depth[0] += 1
            try:
                found = original(*arguments, **options)
            finally:
                depth[0] -= 1
            if not depth[0]:
                raise ParsedArguments(found[1] if isinstance(found, tuple) else [])
            return found

        monkeypatch.setattr(ArgumentParser, name, method)

    stop_after("parse_args")
    stop_after("parse_known_args")

    def parsed(module: str, arguments: list[str]) -> list[str]:
        with pytest.raises(ParsedArguments) as caught:
            import_module(module).main(arguments)
        return caught.value.args[0]

    return parsed


@pytest.mark.parametrize(("words", "comment"), [case[1:] for case in COMMANDS], ids=lambda part: " ".join(part[:4]) or None)
def test_a_command_takes_the_options_that_it_is_shown_with(words, comment, parse):
    if words[0] == "app.py":
        module, arguments = "brainmri.__main__", ["serve", *words[1:]]
    else:
        module, arguments = words[1].replace("brainmri", "brainmri.__main__") if words[1] == "brainmri" else words[1], words[2:]
    if left := parse(module, arguments):
        assert not parse("train.segmenter", [*left, "--out", "RUN"])


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with the examples, a folder of studies and a dataset; the zoo is a copy of two fast entries."""
    examples = ROOT / "assets" / "examples"
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "examples").symlink_to(examples)
    (tmp_path / "brainmri").symlink_to(ROOT / "brainmri")
    (tmp_path / "FOLDER_OF_STUDIES").mkdir()
    shutil.copy(examples / "study-flair.nii.gz", tmp_path / "FOLDER_OF_STUDIES" / "one.nii.gz")
    write_phantom_dataset(tmp_path / "DIR", patients=2, slices=2)
    monkeypatch.chdir(tmp_path)
    for name in ("effunet-lgg", "resunet-lgg"):
        shutil.copytree(registry.EMBEDDED / name, tmp_path / "zoo" / name)
    monkeypatch.setattr(registry, "EMBEDDED", tmp_path / "zoo")
    monkeypatch.setattr(pipeline, "DEFAULT", "effunet-lgg")
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("guide", GUIDES)
def test_commands_run_unless_they_are_marked(guide):
    for words, comment in commands(guide):
        if not NOT_RUN.search(comment):
            assert words[0] == "-m", words
            module = "brainmri.__main__" if words[1] == "brainmri" else words[1]
            assert not import_module(module).main(words[2:]), words
    if guide == "README.md":
        assert "lesion_volume_ml" in Path("results/studies.csv").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("guide", GUIDES)
def test_programs_run(guide):
    text = re.sub(r"^## HTTP API\n.*?^## ", "## ", (ROOT / guide).read_text(encoding="utf-8"), flags=re.M | re.S)
    for language, program in BLOCK.findall(text):
        if language == "python":
            exec(compile(program, guide, "exec"), {})
