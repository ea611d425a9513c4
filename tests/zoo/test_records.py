"""The parts of `config.json` as records: nothing is lost in reading, and old or damaged records are converted or refused."""

import json
import shutil
from dataclasses import FrozenInstanceError

import pytest

from brainmri.zoo.entry import CARD, CONFIG, ONNX, SPLIT, WEIGHTS, copy_entry, read_config, read_entry, require_metrics
from brainmri.zoo.metrics import Measurements
from brainmri.zoo.records import SelfCheckOutputs, Training, TrainingStage
from brainmri.zoo.registry import embedded


@pytest.fixture
def change(tmp_path):
    """Copy the smallest entry and change its `config.json`; returns the folder."""

    def changed(**fields):
        folder = shutil.copytree(embedded()["resunet-lgg"].folder, tmp_path / "entry", dirs_exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(read_config(folder) | fields), encoding="utf-8")
        return folder

    return changed


@pytest.mark.parametrize("name", embedded())
def test_records_store_what_they_were_read_from(name):
    entry = embedded()[name]
    stored = read_config(entry.folder)
    records = {part: getattr(entry, part) for part in ("selfcheck", "ood", "int8", "training", "metrics", "preprocess")}
    assert {part: record.config() if record else {} for part, record in records.items()} == {p: stored[p] for p in records}
    assert {mode: fusion.config() for mode, fusion in entry.fusion.items()} == stored["fusion"]
    assert entry.arguments == stored["arguments"]


def test_records_cannot_be_changed():
    entry = embedded()["effunet-lgg"]
    for record, field in ((entry.selfcheck, "probability"), (entry.metrics, "protocol"), (entry.training, "stages")):
        with pytest.raises(FrozenInstanceError):
            setattr(record, field, None)


def test_a_command_stored_as_a_string_is_split(change):
    stages = read_config(change())["training"]["stages"]
    expected = read_entry(change()).training.stages
    typed = [stage | {"command": " ".join(["python", "-m", *stage["command"]])} for stage in stages]
    found = read_entry(change(training={"stages": typed})).training.stages
    assert found == expected
    assert found[0].command[:3] == ("train.segmenter", "--data", "DIR")
    assert found[0].command_line == typed[0]["command"]


@pytest.mark.parametrize("command", [None, 3, {"module": "train.segmenter"}, ["train.segmenter", 3]])
def test_a_command_of_another_type_is_refused(change, command):
    folder = change(training={"stages": [{"command": command, "samples": 8, "patients": 1}]})
    with pytest.raises(ValueError, match="expected a training command as a list of strings, got"):
        read_entry(folder)


def test_a_stage_stores_only_what_it_has():
    stage = TrainingStage(command=("train.segmenter", "--all"), samples=8, patients=1)
    assert stage.config() == {"command": ["train.segmenter", "--all"], "samples": 8, "patients": 1}
    assert TrainingStage.from_config(stage.config()) == stage


def test_the_sequences_of_a_training_are_stored_and_known(change):
    training = Training(dataset="mine", sequences=("T1c", "T2"))
    assert Training.from_config(json.loads(json.dumps(training.config()))) == training
    assert read_entry(change(training=training.config())).evaluated_on == {"T1c", "T2"}
    assert embedded()["effunet-lgg"].evaluated_on == {"FLAIR", "three sequences"}


@pytest.mark.parametrize("selfcheck", [{"probability": 0.5}, {"map": [[0.25, 0.5], [0.0, 1.0]]}])
def test_self_check_outputs_store_what_the_network_gives(selfcheck):
    assert SelfCheckOutputs.from_config(selfcheck).config() == selfcheck


def test_missing_metrics_and_self_check_are_none(change):
    entry = read_entry(change(metrics={}, selfcheck={}))
    assert (entry.metrics, entry.selfcheck) == (None, None)
    with pytest.raises(ValueError, match=r"expected an entry with metrics, got resunet-lgg without"):
        require_metrics(entry)


def test_metrics_of_another_layout_do_not_prevent_loading(change):
    assert read_entry(change(metrics=["unknown"])).metrics == Measurements()
    assert read_entry(change(metrics={"protocol": "mine", "notes": "?"})).metrics == Measurements(protocol="mine")


def test_a_copy_has_the_entrys_files_and_no_others(change, tmp_path):
    folder = change()
    (folder / "figure-3.png").touch()
    (folder / ONNX).unlink(missing_ok=True)
    copied = copy_entry(folder, tmp_path / "zoo" / "copy")
    files = {path.name for path in copied.folder.iterdir()}
    assert files == set(copied.files) == {path.name for path in folder.iterdir()} - {"figure-3.png"}
    assert {CONFIG, SPLIT, CARD, WEIGHTS} < files
