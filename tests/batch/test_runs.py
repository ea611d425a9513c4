"""A run on the command line: the same files every time, and one sentence for everything that is in its way."""

import json
import resource
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

import brainmri
from brainmri.__main__ import main
from brainmri.batch.cohort import process
from brainmri.batch.output_folder import LOCK, reserve_output_folder
from brainmri.report.outputs import UNFINISHED, is_results_folder
from tests.support.phantom import header, images, save

pytestmark = pytest.mark.slow

SLICE = Path(__file__).parents[2] / "assets" / "examples" / "large-lesion.png"
SMALL = ["--segmenter", "effunet-lgg", "--device", "cpu"]  # one small network, so that the tests are fast


def predict(*arguments: object) -> int:
    return main(["predict", *map(str, arguments), *SMALL])


def refusal(capsys, *arguments: object) -> str:
    """The sentence with which `predict` refuses to run."""
    with pytest.raises(SystemExit) as caught:
        predict(*arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err.strip().rpartition("error: ")[2]


@pytest.fixture
def study(tmp_path) -> Path:
    return save(tmp_path / "head", images())


# --- the same files -------------------------------------------------------------------------------------------------------


def test_a_study_gives_the_same_files_first_and_third(study, tmp_path):
    """The segmentation has its own UIDs and times; `test_ray_engine.py` compares the engines."""
    folders = [shutil.copytree(study, tmp_path / f"study-{number}") for number in range(3)]
    assert predict(*folders, "--out", tmp_path / "out") == 0
    first, third = (tmp_path / "out" / folders[number].name for number in (0, 2))
    names = sorted(file.name for file in first.iterdir())
    assert {"mask.nii.gz", "probability.nii.gz", "study.json", "mask.dcm"} <= set(names)
    for name in names:
        if name in ("study.json", "report.html"):  # they name the input
            expected, found = ((folder / name).read_text().replace(folder.name, "") for folder in (first, third))
            assert found == expected, name
        elif name != "mask.dcm":
            assert (third / name).read_bytes() == (first / name).read_bytes(), name
    assert json.loads((third / "study.json").read_text())["provenance"]["segmenter"]["runtime"] == "torch"


def test_another_runtime_or_sequence_is_another_analysis(tmp_path):
    times, verdicts = set(), []
    for options in ((), (), ("--sequence", "T2"), ("--runtime", "half")):
        assert predict(SLICE, "--out", tmp_path, *options) == 0
        record = tmp_path / "large-lesion.finding.json"
        times.add(record.stat().st_mtime_ns)
        verdicts.append(json.loads(record.read_text())["verdict"])
    assert len(times) == 3
    assert verdicts == ["tumour", "tumour", "review", "tumour"]


def test_a_sequence_is_for_studies_of_one_sequence(tmp_path, capsys):
    folder = save(tmp_path / "head", images() + images(description="AX T1", series=2))
    assert predict(folder, "--out", tmp_path / "out", "--sequence", "T1") == 1
    assert "expected a study of one sequence" in capsys.readouterr().err


def test_each_header_is_read_once(tmp_path):
    """A file of a series that is not used is opened to recognise the format and to read the header."""
    pipe = brainmri.Pipeline("effunet-lgg", device="cpu")
    folder = save(tmp_path / "head", images())
    save(folder, images(description="AX T2 FSE", series=2), prefix="unused")
    opened: Counter[str] = Counter()
    watched = [True]

    def count(event: str, arguments: tuple) -> None:
        if event == "open" and watched and isinstance(arguments[0], str | Path):
            opened[Path(arguments[0]).name] += 1

    sys.addaudithook(count)
    try:
        (row,) = process(pipe, folder, tmp_path / "out", "head")
    finally:
        watched.clear()
    assert row["status"] == "done"
    unused = [times for name, times in opened.items() if name.startswith("unused")]
    assert len(unused) == 12
    assert set(unused) == {2}


# --- the output folder ----------------------------------------------------------------------------------------------------


def test_results_inside_the_study_are_left_out_of_it(study):
    for _ in range(2):
        assert predict(study, "--out", study / "results") == 0
    assert is_results_folder(study / "results" / "head")
    assert predict(study, "--out", study / "again") == 0  # nor are the results of an earlier run a part of it
    first, second = (json.loads((study / out / "head" / "study.json").read_text()) for out in ("results", "again"))
    assert first == second


def test_an_output_folder_is_none_of_the_inputs(study, tmp_path, capsys):
    sentence = f"expected --out apart from the input {study}, got {{}}; choose a folder inside it or beside it"
    assert refusal(capsys, study, "--out", study) == sentence.format(study)
    assert refusal(capsys, study, "--out", tmp_path) == sentence.format(tmp_path)  # the results would lie in the study
    assert len(list(study.iterdir())) == 12


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    expected = f"cannot write to the output folder ({tmp_path / 'file'}{{}}); choose another --out"
    assert refusal(capsys, SLICE, "--out", tmp_path / "file") == expected.format(": file exists")
    assert refusal(capsys, SLICE, "--out", tmp_path / "file" / "out") == expected.format("/out: not a directory")


def test_two_runs_do_not_share_an_output_folder(tmp_path, capsys):
    with reserve_output_folder(tmp_path):
        (tmp_path / "head" / f"{UNFINISHED}x").mkdir(parents=True)  # of the running one
        assert refusal(capsys, SLICE, "--out", tmp_path).startswith(f"another run is writing to {tmp_path}; wait")
        assert (tmp_path / "head" / f"{UNFINISHED}x").is_dir()
    (tmp_path / "head" / f"{UNFINISHED}y").mkdir()  # of a run that was killed
    assert predict(SLICE, "--out", tmp_path) == 0
    assert not list(tmp_path.rglob(".*"))
    assert not (tmp_path / LOCK).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs resource limits of Linux")
def test_a_full_disk_ends_the_run(tmp_path, capsys):
    """A limit on the size of files stands in for the full disk."""
    second = shutil.copy(SLICE, tmp_path / "second.png")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        sentence = refusal(capsys, SLICE, second, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert sentence == f"cannot write results to {tmp_path / 'out'} (file too large)"


def test_an_unreadable_file_is_one_failed_input(tmp_path, capsys):
    save(tmp_path / "head", [header()])  # a header without pixels
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    assert predict(tmp_path / "head", tmp_path / "gone.png", SLICE, "--out", tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "2 of 3 inputs failed" in printed.err
    assert "Traceback" not in printed.err
    assert f"{SLICE}: tumour" in printed.out
