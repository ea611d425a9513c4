"""Heads without tumour: where they come from, what is counted, and how it gets into a card."""

import json
import shutil

import numpy as np
import pytest

import brainmri
from brainmri.entry import CARD, CONFIG, read_entry
from train import healthy
from train.card import failing, model_card
from train.release import attach_healthy


def test_heads_without_tumour_are_measured_and_told(tmp_path, monkeypatch, capsys):
    def few(heads):
        epi = healthy.person_as_epi()
        assert epi.shape == (24, 96, 128)
        yield "one person", epi[10:12]
        template = np.zeros((3, 233, 197, 189), np.float32)
        template[:, 60:170, 50:150, 60:150] = [[[[0.8]]], [[[0.3]]], [[[0.7]]]]
        yield "made up", healthy.template_as_flair(template)[8:10]

    monkeypatch.setattr(healthy, "sources", few)
    monkeypatch.chdir(tmp_path)
    healthy.main(["--out", "report.json", "--device", "cpu"])
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["sources"]) == {"one person", "made up"}
    for name, figures in report["sources"].items():
        assert (figures["heads"], figures["slices"]) == (1, 2)
        called = [figures[healthy.SLICES.format(called=c)]["count"] for c in ("called tumour", "to review", "called no tumour")]
        assert sum(called) == 2
        assert f"| {name} | 2 | {called[0]} / {called[1]} / {called[2]} |" in printed

    folder = shutil.copytree(brainmri.load("effunet-lgg", device="cpu").entry.folder, tmp_path / "entry")
    config = json.loads((folder / CONFIG).read_text())
    config["metrics"].pop("healthy", None)
    (folder / CONFIG).write_text(json.dumps(config))
    untold = read_entry(folder)
    told = attach_healthy(folder, report)
    card = (folder / CARD).read_text()
    assert card == model_card(told)
    assert printed.strip() in card
    assert "Brains without tumour" not in failing(untold)
    assert card.replace(failing(told), failing(untold)) == model_card(untold)

    (folder / CONFIG).write_text(json.dumps(config | {"temperature": 1.0}))
    with pytest.raises(SystemExit, match=r"train\.healthy on"):
        attach_healthy(folder, report)


def test_synthetic_heads_are_persons_of_their_own(monkeypatch):
    monkeypatch.setattr(healthy, "LEVELS", healthy.LEVELS[:2])
    template = np.zeros((3, 233, 197, 189), np.float32)
    template[:, 40:190, 40:160, 40:160] = 0.7
    one, two = healthy.synthetic_heads(template, 2, flair_only=True)
    assert one.shape == two.shape == (2, 256, 256)
    assert not np.array_equal(one, two)
    assert not np.array_equal(one[0], one[1])
    (whole,) = healthy.synthetic_heads(template, 1, flair_only=False)
    assert whole.shape == (2, 256, 256, 3)
