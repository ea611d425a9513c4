"""The contract of every zoo entry, and loading."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import brainmri
from brainmri.zoo.entry import (
    CARD,
    CONFIG,
    METRICS_PAGE,
    WEIGHTS,
    count_parameters,
    file_sha256,
    read_config,
    read_entry,
    read_split,
    save_entry,
)
from brainmri.zoo.metrics import DECIDED_ACCURACY, REVIEW_SHARE, THREE_SEQUENCES, VOLUMETRIC_DICE, Measurements
from brainmri.zoo.nets import create_network
from brainmri.zoo.records import Training, TrainingStage
from brainmri.zoo.registry import DEFAULT, find_entry, source
from train.datasets.lgg import HELD_OUT
from train.release.card import (
    OPEN,
    by_slice,
    card_data,
    headlines,
    long_tables,
    measured,
    metrics_page,
    model_card,
    readme_row,
    readme_table,
    released_weights,
)
from train.release.card_calibration import change, fusion_table

ROOT = Path(__file__).parents[2]
ENTRIES = {entry.name: entry for entry in brainmri.list_models()}


def test_the_zoo_has_what_the_readme_says():
    effunets = {"effunet-any", "effunet-lgg", "effunet-lite2-lgg", "effunet-pair-lgg"}
    assert set(ENTRIES) == {*effunets, "resnet50-lgg", "resunet-any", "resunet-lgg", "resunet-paper"}
    assert DEFAULT in {e.name for e in brainmri.list_models("segmentation")} & {
        e.name for e in brainmri.list_models("classification")
    }
    assert "resunet-lgg" not in {e.name for e in brainmri.list_models("classification")}


@pytest.fixture(params=ENTRIES)
def entry(request):
    return ENTRIES[request.param]


def test_parameters_and_hash_are_recounted(entry):
    net = create_network(entry.net, entry.arguments)
    assert count_parameters(net) == entry.parameters
    assert file_sha256(entry.folder / WEIGHTS) == entry.sha256


def test_it_loads_strictly_in_eval_mode(entry):
    model = brainmri.load(entry.name, device="cpu")
    assert not any(module.training for module in model.net.modules())
    assert not any(p.requires_grad for p in model.net.parameters())
    assert {p.dtype for p in model.net.parameters()} == {torch.float32}


def test_its_outputs_have_the_shapes_of_its_tasks(entry):
    net = brainmri.load(entry.name, device="cpu").net
    side = entry.preprocess.size
    with torch.inference_mode():
        image = torch.randn(1, 3, side, side)
        mask, verdict, _ = net(image)
    assert (None if mask is None else mask.shape) == ((1, 1, side, side) if "segmentation" in entry.tasks else None)
    assert (None if verdict is None else verdict.shape) == ((1, 2) if "classification" in entry.tasks else None)


def test_its_weights_are_finite_and_not_the_initial_ones(entry):
    state = brainmri.load(entry.name, device="cpu").net.state_dict()
    assert all(torch.isfinite(t).all() for t in state.values())
    variances = [t for name, t in state.items() if name.endswith("running_var")]
    assert all((t != 1).any() for t in variances)


def test_values_beyond_half_precision_are_stored_whole(tmp_path):
    source = ENTRIES["resunet-lgg"]
    net = brainmri.load(source.name, device="cpu").net
    name = next(name for name in net.state_dict() if name.endswith("running_var"))
    net.state_dict()[name][:2] = torch.tensor([1e5, 3e38])
    save_entry(tmp_path, net, {k: v for k, v in read_config(source.folder).items() if k != "int8"}, {"train": []}, half=True)
    stored, loaded = load_file(tmp_path / WEIGHTS), brainmri.load("it", weights=tmp_path, device="cpu").net.state_dict()
    assert {key for key, tensor in stored.items() if tensor.dtype == torch.float32} == {name}
    assert loaded[name][:2].tolist() == torch.tensor([1e5, 3e38]).tolist()


def test_its_split_has_no_leak(entry):
    split = read_split(entry.folder)
    assert not (set(split["train"]) | set(split["validation"]) | set(split["validated_on"])) & HELD_OUT
    assert set(split["held_out"]) == HELD_OUT
    # stages on pictures of other heads, and the means of their weights, count groups, too; their patients are those of the split
    patients = sum(case.startswith("TCGA") for case in split["train"])
    stages = [patients if "--wider" in one.command or one.averages == 1 else one.patients for one in entry.training.stages]
    if by_slice(entry):  # patients on both sides, which it says
        train, test = (set(split["slices"][role]) for role in ("train", "test"))
        assert not train & test
        assert entry.metrics.variants[THREE_SEQUENCES]["slices"] == len(test)
        assert not any(metric == VOLUMETRIC_DICE for _, metric in measured(entry))
        return
    seen = set(split["train"]) & set(split["validated_on"])
    if not seen:
        assert set(stages) == {72}
        return
    # what is released saw every patient, whom what was measured had not seen; both may share stages that saw none of them
    assert seen == set(split["validated_on"])
    shared = stages.count(72)
    assert stages == [72] * shared + [90] * (len(stages) - shared)
    assert len(seen) in ((18,) if shared else (18, 90))  # one fold of five, or all of them


def test_its_thresholds_make_sense(entry):
    assert 0 < entry.mask_threshold < 1
    low, high = entry.review
    assert 0 < low <= 0.5 <= high < 1
    assert 0.2 <= entry.temperature <= 5
    assert entry.labels == (("no tumour", "tumour") if "classification" in entry.tasks else ())


def test_its_card_matches_the_entry(entry):
    assert (entry.folder / CARD).read_text(encoding="utf-8") == model_card(entry)
    page = entry.folder / METRICS_PAGE
    assert (page.read_text(encoding="utf-8") if page.is_file() else "") == metrics_page(entry)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["effunet-lgg", "resnet50-lgg"])  # as segmenter and as classifier
def test_the_program_of_a_card_runs(name, tmp_path, monkeypatch, capsys):
    examples = Path(__file__).parents[2] / "assets" / "examples"
    shutil.copy(examples / "large-lesion.png", tmp_path / "slice.png")
    shutil.copy(examples / "study-flair.nii.gz", tmp_path / "flair.nii.gz")
    (program,) = re.findall(r"^## Use\n.*?^```python\n(.*?)^```", model_card(ENTRIES[name]), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(program, CARD, "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_published_card_names_its_repo(entry):
    card = model_card(entry, "someone", "demo")
    assert f'"someone/{entry.name}"' in card
    assert "https://huggingface.co/spaces/someone/demo" in card
    assert "OWNER" not in card
    assert "in the folder of the repository" not in card


def test_a_share_of_nothing_is_not_sent_to_the_hub():
    shares = {REVIEW_SHARE: 1.0, DECIDED_ACCURACY: float("nan")}
    variants = {THREE_SEQUENCES: {name: {"value": value} for name, value in shares.items()}}
    made_up = replace(ENTRIES["resunet-lgg"], metrics=Measurements(variants=variants))
    assert measured(made_up) == {(THREE_SEQUENCES, REVIEW_SHARE): 1.0}
    assert "accuracy where decided" not in card_data(made_up).to_yaml()


@pytest.mark.parametrize(
    ("patients", "measured", "expected"),
    [
        ([90], 1, "with the same recipe on all patients, including these."),
        ([90, 90], 1, "including these, and trained further in the last stage below."),
        ([72, 72, 90], 2, "continue the training of the measured ones, from stage 3 below, with these patients"),
        ([72, 72, 90], 3, "including these. Both share the stages before stage 3 below, which did not use"),
        (
            [72, 90, 90, 90],
            3,
            "including these, and trained further in the last stage below. Both share the stages before stage 2",
        ),
    ],
)
def test_a_card_relates_the_released_weights_to_the_measured_ones(patients, measured, expected):
    stages = tuple(TrainingStage(command=(), samples=0, patients=number) for number in patients)
    made_up = replace(ENTRIES["resunet-lgg"], training=Training(stages=stages), metrics=Measurements(stages=measured))
    assert expected in released_weights(made_up)


def test_a_card_claims_no_shared_stages_that_were_trained_on_the_measured_patients():
    patients = ({"command": ("train.generalist", "--all-patients"), "patients": 434}, {"command": (), "patients": 522})
    stages = tuple(TrainingStage(samples=0, **stage) for stage in patients)
    made_up = replace(ENTRIES["resunet-lgg"], training=Training(stages=stages), metrics=Measurements(variants={}, stages=2))
    assert "they share no stage" in released_weights(made_up)
    assert "share" not in released_weights(ENTRIES["resunet-lgg"])


def test_the_cards_headline_and_its_table_have_the_same_share_for_review():
    entry = ENTRIES["effunet-any"]
    (row,) = [line for line in model_card(entry).splitlines() if line.startswith("| lgg | three sequences | axial |")]
    review, right = row.split(" | ")[-2:]
    assert headlines(entry)[1].endswith(f"{review} of slices go to review, {right.strip(' |')} of the others are right.")


def test_a_card_shows_the_fusions_that_the_pipeline_applies():
    table = fusion_table(ENTRIES["effunet-any"])
    assert table.count("| study |") == len(ENTRIES["effunet-any"].sequences)
    assert "any sequence" not in table
    assert "any sequence" in fusion_table(ENTRIES["effunet-lgg"])
    assert not fusion_table(ENTRIES["resunet-lgg"])


def test_a_card_writes_no_change_as_zero():
    assert change(-0.00001) == change(0.0) == "less than 0.0001"
    assert (change(0.00064), change(-0.0366), change(0.0072, sign="")) == ("+0.0006", "-0.0366", "0.0072")


@pytest.mark.parametrize("name", ENTRIES)
def test_a_card_lists_the_sections_of_its_long_tables(name):
    titles = {title.lower() for title in re.findall(r"^## (.+)$", metrics_page(ENTRIES[name]), re.M)}
    words = {"brains without tumour": "heads without tumour", "failures": "failures by group and patient"}
    assert {words.get(title, title) for title in titles} == set(long_tables(ENTRIES[name]))


def test_weights_from_a_split_by_slice_are_the_measured_ones():
    assert released_weights(ENTRIES["resunet-paper"]) == "The released weights are the measured ones."


def test_the_readme_shows_its_measured_figures(entry):
    text = (entry.folder.parents[2] / "README.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| [`{entry.name}`]("))
    cells = row.strip("| ").split(" | ")
    assert row == readme_row(entry, best_for=cells[1], milliseconds=cells[-1])


def test_rows_for_the_readme_have_its_cells_and_mark_those_that_are_missing():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme_table(ENTRIES.values(), text).splitlines()
    assert len(table) == 2 + len(ENTRIES)
    assert {*table} <= {*text.splitlines()}
    known, new = ENTRIES["effunet-lgg"], replace(ENTRIES["effunet-lgg"], name="mine")
    header, _, first, second, *note = readme_table([known, new], text).splitlines()
    columns, complete, cells = (line.strip("| ").split(" | ") for line in (header, first, second))
    assert [column for column, cell in zip(columns, cells, strict=True) if cell == OPEN] == ["best for", "ms"]
    assert [cell for cell in cells[1:] if cell != OPEN] == complete[2:-1]
    assert "python -m brainmri bench NAME" in " ".join(note)


def test_saved_entries_load_bit_for_bit(tmp_path):
    from brainmri.zoo.nets import ResUNet

    net = ResUNet().eval()
    config = json.loads((ENTRIES["resunet-lgg"].folder / CONFIG).read_text())
    save_entry(tmp_path, net, config, {"train": [], "validation": []})
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(brainmri.load("mine", weights=tmp_path, device="cpu").net(image).mask, net(image).mask)


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match=r"unknown model 'resnet'; choose from effunet-any, .*resunet-lgg"):
        brainmri.load("resnet")
    with pytest.raises(ValueError, match="unknown task 'detection'"):
        brainmri.list_models("detection")
    with pytest.raises(ValueError, match="device 'cuda:77'"):
        brainmri.load("resunet-lgg", device="cuda:77")
    with pytest.raises(ValueError, match="device 'toaster'"):
        brainmri.load("resunet-lgg", device="toaster")


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(ENTRIES["resunet-lgg"].folder, tmp_path / "copy")


def test_a_damaged_file_is_refused(copy):
    with (copy / WEIGHTS).open("r+b") as handle:
        handle.seek(-4, 2)
        handle.write(b"\x11\x22\x33\x44")
    with pytest.raises(ValueError, match="damaged or was exchanged"):
        brainmri.load("resunet-lgg", weights=copy)


def test_weights_of_another_net_are_refused(copy):
    config = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps(config | {"net": "EffUNet"}))
    with pytest.raises(ValueError, match="do not fit EffUNet"):
        brainmri.load("resunet-lgg", weights=copy)


@pytest.mark.parametrize("change", [{"net": "Perceptron"}, {"tasks": []}, {"preprocess": {"size": 7}}, {"review": None}])
def test_a_configuration_of_another_layout_is_refused(copy, change):
    config = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=r"config\.json"):
        read_entry(copy)


@pytest.mark.parametrize("folder", ["mine", "/mine", ".", "runs/mine"])
def test_the_origin_of_any_other_folder_is_that_it_is_one(folder):
    assert source(replace(find_entry("resunet-lgg"), folder=Path(folder))) == "folder"


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        brainmri.load("resunet-lgg", weights=tmp_path)
