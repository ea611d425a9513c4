"""The command line: help, results and tables, and one line for wrong arguments."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import tifffile
from PIL import Image

import brainmri
from brainmri.__main__ import COMMANDS, main, output_stems
from brainmri.arguments import parse
from brainmri.zoo.registry import DEFAULT

EXAMPLES = Path(__file__).parents[1] / "assets" / "examples"
# small networks, so that the tests are fast
SMALL = ["--segmenter", "resunet-lgg", "--classifier", "resnet50-lgg", "--device", "cpu"]


def error_of_predict(capsys, *options: str) -> str:
    """What `predict` prints to stderr when it refuses the options."""
    with pytest.raises(SystemExit) as caught:
        main(["predict", str(EXAMPLES / "large-lesion.png"), *options])
    assert caught.value.code == 2
    return capsys.readouterr().err


def help_of(capsys, *command: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert not caught.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [[], *([name] for name in COMMANDS)], ids=lambda command: command[0] if command else "brainmri"
)
def test_help_describes_the_command_with_examples_that_are_valid(command, capsys):
    text = help_of(capsys, *command)
    assert text.startswith(f"usage: brainmri {' '.join(command)}")
    if not command:
        assert re.findall(r"^    (\w+)  +\w", text, re.M) == list(COMMANDS)
    examples = re.findall(r"^  (?:\w+=\w+ )?brainmri(.*?)(?:  +\S.*)?$", text.partition("\nexamples:\n")[2], re.M)
    assert len(examples) > 1
    for example in examples:
        parsed = parse(shlex.split(example))
        assert not command or [parsed.command] == command


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"brainmri {brainmri.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("predct x.png", "brainmri: error: unknown command 'predct'; did you mean 'predict'?"),
        ("README.md", "to analyse it: brainmri predict README.md"),
        ("serve here", "brainmri serve: error: unknown argument 'here'; choose from --models, --device, --from-hub"),
        ("predict x.png --treshold 0.4", "brainmri predict: error: unknown argument '--treshold'; did you mean '--threshold'?"),
        ("predict x.png --threshold 1", "expected a number between 0 and 1, both excluded, got '1'"),
        ("predict x.png --threshold half", "expected a number between 0 and 1, both excluded, got 'half'"),
        ("predict x.png --sequence flar", "unknown sequence 'flar'; did you mean 'FLAIR'?"),
        ("predict x.png --segmenter resunet-lg", "unknown model 'resunet-lg'; did you mean 'resunet-lgg'?"),
        ("predict x.png --device cdua", "unknown device 'cdua'; did you mean 'cuda'?"),
        ("predict x.png --runtime openvno", "unknown runtime 'openvno'; did you mean 'openvino'?"),
        ("predict x.png --engine cluster", "unknown engine 'cluster'; choose from local, ray"),
        ("predict x.png --workers two", "expected a whole number of at least 1, got 'two'"),
        ("predict", "the following arguments are required: PATH"),
        ("models effunet", "did you mean 'effunet-"),
    ],
)
def test_wrong_arguments_give_one_line_with_the_nearest_word(arguments, expected, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments.split())
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert expected in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out


def test_sequences_and_runtimes_may_be_written_in_lower_case():
    assert parse("predict x.png --sequence flair --runtime INT8".split()).sequence == "FLAIR"


@pytest.mark.slow
def test_predict_prints_json_and_uses_the_threshold(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = []
    for options in ([], ["--threshold", "0.999"]):
        assert main(["predict", str(EXAMPLES / "large-lesion.png"), "nothing.png", "--json", *options, *SMALL]) == 1
        printed = capsys.readouterr()
        slice_row, failed = map(json.loads, printed.out.splitlines())
        record = json.loads(Path("results/large-lesion.finding.json").read_text())  # the default folder
        assert slice_row["path"] == str(EXAMPLES / "large-lesion.png")
        assert (slice_row["verdict"], slice_row["reason"]) == (record["verdict"], record["reason"])
        assert (failed["status"], failed["problem"]) == ("failed", "nothing.png is not a file")
        assert printed.err.strip() == "1 of 2 inputs failed; the results of the others are in results"
        sizes.append(slice_row["lesion_voxels"])
    assert sizes[1] < sizes[0]


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.slow
def test_predict_shows_the_progress_of_one_study(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([Image.open(EXAMPLES / "large-lesion.png")] * 2))
    assert main(["predict", str(tmp_path / "stack.tif"), "--out", str(tmp_path), *SMALL]) == 0
    assert re.search(r"2/2 \[.*slice", terminal.getvalue())
    assert "stack.tif: tumour, " in (printed := capsys.readouterr().out)
    assert "slice/s" not in printed
    assert pandas.read_csv(tmp_path / "studies.csv")["reason"][0] in printed


def test_predict_writes_mask_overlay_and_record_of_each_slice(tmp_path, capsys):
    bad = tmp_path / "notes.png"
    bad.write_text("not an image")
    sources = [str(EXAMPLES / "large-lesion.png"), str(bad), str(EXAMPLES / "flair-only.png")]
    assert main(["predict", *sources, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert "notes.png" in printed.err
    assert "1 of 3 inputs failed" in printed.err
    for stem in ("large-lesion", "flair-only"):
        mask = Image.open(tmp_path / "out" / f"{stem}.mask.png")
        assert (mask.mode, mask.size) == ("L", (256, 256))
        assert set(np.unique(mask)) == {0, 255}
        assert Image.open(tmp_path / "out" / f"{stem}.overlay.png").size == (256, 256)
        record = json.loads((tmp_path / "out" / f"{stem}.finding.json").read_text())
        assert record["verdict"] == "tumour"
        assert record["area_px"] == int((np.asarray(mask) > 0).sum())
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_predict_ignores_its_own_output_folder(tmp_path):
    out = tmp_path / "results"
    for name in ("letters", "notes"):
        (tmp_path / name).mkdir()
    for _ in range(2):
        assert main(["predict", str(tmp_path), "--out", str(out), "--device", "cpu"]) == 1
        assert pandas.read_csv(out / "studies.csv")["input"].tolist() == ["letters", "notes"]


@pytest.mark.slow
def test_predict_skips_a_finished_slice_and_repeats_a_damaged_one(tmp_path):
    command = ["predict", str(EXAMPLES / "large-lesion.png"), "--out", str(tmp_path), "--device", "cpu"]
    record, mask = (tmp_path / f"large-lesion.{end}" for end in ("finding.json", "mask.png"))
    times = set()
    for _ in range(2):
        assert main(command) == 0
        times.add(record.stat().st_mtime_ns)
    assert len(times) == 1
    expected = mask.read_bytes()
    mask.write_bytes(b"")
    record.write_text(record.read_text()[:-20])  # a truncated record does not count
    assert main(command) == 0
    assert mask.read_bytes() == expected


def test_inputs_with_the_same_name_get_different_output_names():
    assert output_stems([Path("a/x.png"), Path("b/x.png"), Path("c/X.tif"), Path("y.png")]) == ["x", "x-2", "X-3", "y"]


def test_unknown_model_is_an_error(tmp_path, capsys):
    assert "unknown model 'vgg'; choose from" in error_of_predict(capsys, "--out", str(tmp_path), "--segmenter", "vgg")


def test_missing_ray_is_an_error_that_says_how_to_install_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert 'pip install ".[ray]"' in error_of_predict(capsys, "--out", str(tmp_path), "--engine", "ray")


def test_local_engine_rejects_cluster_options(tmp_path, capsys):
    assert "are for --engine ray" in error_of_predict(capsys, "--out", str(tmp_path), "--workers", "2")


def test_models_lists_the_zoo(capsys):
    assert main(["models"]) == 0
    header, *rows = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert {row.split()[0] for row in rows} == {e.name for e in brainmri.list_models()}
    for title in header.split():
        column = header.index(title)
        assert all(row[column - 2 : column] == "  " != row[column : column + 2] for row in rows if column), title
    pair = next(row for row in rows if row.startswith("effunet-pair-lgg"))
    assert all(word in pair for word in ("mask and verdict", "axial; FLAIR", "0.861", "0.992", "cc-by-nc-sa-4.0"))
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == {e.name for e in brainmri.list_models()}
    assert [row["name"] for row in rows if row["default"]] == [DEFAULT]


@pytest.mark.slow
def test_check_verifies_an_entry(capsys):
    assert main(["check", "resunet-lgg", "--device", "cpu"]) == 0
    assert "The paper's network (resunet-lgg) on cpu" in capsys.readouterr().out


def test_missing_gradio_is_an_error_that_says_how_to_install_it():
    program = "import sys; sys.modules['gradio'] = None; from brainmri.__main__ import main; main(['serve'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'pip install ".[app]"' in done.stderr


def test_an_entry_that_is_not_published_needs_no_download(monkeypatch, capsys):
    monkeypatch.delenv("BRAINMRI_HUB_OWNER", raising=False)
    if brainmri.zoo.registry.pins():
        pytest.skip("the entries are published")
    assert main(["download", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(brainmri.list_models())
    assert all("not published on the Hub; the embedded copy is used" in line for line in lines)
