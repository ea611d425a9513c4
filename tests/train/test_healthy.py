"""Heads without tumour: their sources, the counts, and the section of the card."""

import json
import shutil

import numpy as np
import pytest

import brainmri
from brainmri.zoo.entry import CARD, CONFIG, METRICS_PAGE, read_entry
from brainmri.zoo.metrics import CALLED, SLICES, share_metric
from brainmri.zoo.registry import DEFAULT
from train.evaluation import healthy
from train.release.card import metrics_page
from train.release.release import attach_healthy


@pytest.mark.slow
def test_heads_without_tumour_are_measured_and_reported_in_the_card(tmp_path, monkeypatch, capsys):
    every = healthy.sources
    monkeypatch.setattr(healthy, "sources", lambda heads: ((name, head[10:12]) for name, head in every(heads)))
    monkeypatch.chdir(tmp_path)
    healthy.main(["--out", "report.json", "--device", "cpu", "--heads", "0"])  # the images from packages only, two slices of each
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["sources"]) == 3
    for name, figures in report["sources"].items():
        assert (figures["heads"], figures["slices"]) == (1, 2)
        called = [figures[share_metric(SLICES, words)]["count"] for words in CALLED]
        assert sum(called) == 2
        assert f"| {name} | 2 | {called[0]} / {called[1]} / {called[2]} |" in printed

    folder = shutil.copytree(brainmri.load(DEFAULT, device="cpu").entry.folder, tmp_path / "entry")
    config = json.loads((folder / CONFIG).read_text())
    config["metrics"].pop("healthy", None)
    (folder / CONFIG).write_text(json.dumps(config))
    before = metrics_page(read_entry(folder))
    entry = attach_healthy(folder, report)
    page = (folder / METRICS_PAGE).read_text()
    assert page == metrics_page(entry)
    assert "heads without tumour" in (folder / CARD).read_text()
    assert printed.strip() in page
    assert "Brains without tumour" not in before
    assert page.startswith(before)

    (folder / CONFIG).write_text(json.dumps(config | {"temperature": 1.0}))
    with pytest.raises(SystemExit, match=r"train\.evaluation\.healthy on"):
        attach_healthy(folder, report)


def test_the_example_scan_is_axial_with_the_nose_up():
    head = healthy.person_as_epi()  # (S, H, W)
    assert (head.shape, head.dtype) == ((24, 96, 128), np.uint8)
    shown = head[12] > 60
    assert np.ptp(np.flatnonzero(shown.any(1))) > np.ptp(np.flatnonzero(shown.any(0)))  # longer from front to back


@pytest.mark.slow
def test_synthetic_heads_differ(monkeypatch):
    monkeypatch.setattr(healthy, "LEVELS", healthy.LEVELS[:2])
    template = np.zeros((3, 233, 197, 189), np.float32)
    template[:, 40:190, 40:160, 40:160] = 0.7
    one, two = healthy.synthetic_heads(template, 2, flair_only=True)
    assert one.shape == two.shape == (2, 256, 256)
    assert not np.array_equal(one, two)
    assert not np.array_equal(one[0], one[1])
    (whole,) = healthy.synthetic_heads(template, 1, flair_only=False)
    assert whole.shape == (2, 256, 256, 3)
