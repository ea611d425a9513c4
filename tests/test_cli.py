"""The command line: predict, models and check print and write what they promise, and refuse wrong options in one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

import brainmri
from brainmri.__main__ import main, output_stems

EXAMPLES = Path(__file__).parents[1] / "assets" / "examples"


def error_of_predict(capsys, *options: str) -> str:
    """What `predict` prints to stderr when it refuses the options."""
    with pytest.raises(SystemExit) as caught:
        main(["predict", str(EXAMPLES / "large-lesion.png"), *options])
    assert caught.value.code == 2
    return capsys.readouterr().err


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
    assert 'pip install "brainmri[ray]"' in error_of_predict(capsys, "--out", str(tmp_path), "--engine", "ray")


def test_local_engine_rejects_cluster_options(tmp_path, capsys):
    assert "are for --engine ray" in error_of_predict(capsys, "--out", str(tmp_path), "--workers", "2")


def test_models_lists_the_zoo(capsys):
    assert main(["models"]) == 0
    assert "effunet-lgg" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == {e.name for e in brainmri.list_models()}
    assert [row["name"] for row in rows if row["default"]] == ["effunet-pair-lgg"]


def test_check_verifies_an_entry(capsys):
    assert main(["check", "resunet-lgg", "--device", "cpu"]) == 0
    assert "resunet-lgg on cpu" in capsys.readouterr().out


def test_missing_gradio_is_an_error_that_says_how_to_install_it():
    program = "import sys; sys.modules['gradio'] = None; from brainmri.__main__ import main; main(['serve'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'pip install "brainmri[app]"' in done.stderr


def test_an_entry_that_is_not_published_needs_no_download(monkeypatch, capsys):
    monkeypatch.delenv("BRAINMRI_HUB_OWNER", raising=False)
    if brainmri.zoo.registry.pins():
        pytest.skip("the entries are published")
    assert main(["download", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(brainmri.list_models())
    assert all("not published on the Hub; the embedded copy is used" in line for line in lines)
