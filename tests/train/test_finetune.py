"""From a folder to the page: people's own data train, are released under their own name, and appear on the page."""

import json

import pytest
from huggingface_hub import ModelCard

from brainmri.analysis.pipeline import Pipeline
from brainmri.zoo.entry import CARD, read_config, read_entry, read_split
from brainmri.zoo.metrics import THREE_SEQUENCES, VOLUMETRIC_DICE
from brainmri.zoo.nets import EffUNet
from tests.train.layouts import LAYOUTS, patients, save_picture
from train import finetune, segmenter
from train.datasets import dataset_of
from train.release.release import release
from train.run import find_source

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_resamples")]

SMOKE = ["--smoke", "--precision", "float32"]
DATASET_CARD = """---
license: cc-by-4.0
pretty_name: Phantoms of a test
---
Heads drawn from seeds.
"""


def test_a_folder_becomes_a_model_on_the_page(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "runs"
    LAYOUTS["brats"][1](data, 2)
    (tmp_path / "card.md").write_text(DATASET_CARD)
    command = [*SMOKE, "--data", str(data), "--name", "mine", "--out", str(out), "--dataset-card", str(tmp_path / "card.md")]
    command += ["--folds", "2", "--start", "effunet-lgg", "--lr", "1e-3"]
    entry = finetune.main(command)
    folder = out / "models" / "mine"
    assert capsys.readouterr().out.rstrip().endswith(f"python -m brainmri serve --models {folder}")
    assert (entry.name, entry.net, entry.arguments["encoder"]) == ("mine", "EffUNet", "lite0")
    assert entry.ood is not None
    recorded = entry.training.stages[-1].command
    assert [recorded.count(option) for option in ("--lr", "--epochs", "--size")] == [1, 1, 1]  # the schedule's lr gives way
    assert recorded[recorded.index("--lr") + 1] == "1e-3"
    assert entry.training.sequences == ("three sequences",)
    assert entry.training.dataset.startswith(
        "Phantoms of a test (own data), cc-by-4.0; started from effunet-lgg, trained on LGG MRI Segmentation (Buda"
    )
    split = read_split(folder)
    assert {*split["train"], *split["validation"]} == {"BraTS-GLI-00001", "BraTS-GLI-00002"}
    assert len(split["earlier"]) == 90  # patients of the start: no later run validates on them
    card = ModelCard.load(folder / CARD)
    assert (card.data.license, card.data.datasets) == ("cc-by-4.0", None)
    assert {result.dataset_type for result in card.data.eval_results} == {"phantoms-of-a-test"}
    assert "## Dataset\n\nHeads drawn from seeds." in card.text
    assert "Training started\nfrom effunet-lgg, trained on LGG MRI Segmentation" in card.text

    before = (out / "validated" / "model.safetensors").stat().st_mtime_ns
    options, others = finetune.parse(command)
    finetune.train(options, others, find_source(options.start))  # the finished run is kept
    assert (out / "validated" / "model.safetensors").stat().st_mtime_ns == before
    assert Pipeline(segmenter=str(folder))(patients(1)[0][1][3]).mask.shape == (48, 48)
    from brainmri.ui import page

    shown = json.dumps(page.build([str(folder)]).get_config_file())
    assert f'"{folder}"' in shown or '"mine"' in shown


def test_every_layout_trains_a_model_that_the_page_offers(tmp_path):
    from brainmri.ui import page

    folders = {name: tmp_path / "runs" / name for name in LAYOUTS}
    for name, (_, write, _) in LAYOUTS.items():
        write(tmp_path / "data" / name, 2)
        command = ["--data", str(tmp_path / "data" / name), "--out", str(folders[name]), "--name", f"of-{name}", "--folds", "2"]
        segmenter.main([*SMOKE, *command, "--net", "effunet", "--epochs", "1", "--samples", "4"])
        assert Pipeline(segmenter=str(folders[name]))(patients(1)[0][1][3]).mask.shape == (48, 48)
    shown = json.dumps(page.build([str(folder) for folder in folders.values()]).get_config_file())
    assert all(f'"{folder}"' in shown for folder in folders.values())


def test_pictures_with_tumours_only_train_a_segmenter_without_verdict(tmp_path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    for name, images, masks in patients(2):
        for n in (3, 4, 5):
            save_picture(data / "images" / f"{name}_{n}.png", images[n][..., 1])
            save_picture(data / "masks" / f"{name}_{n}.png", masks[n].astype("uint8") * 255)
    command = [*SMOKE, "--data", str(data), "--out", str(run), "--net", "effunet", "--name", "tumours", "--licence", "mit"]
    segmenter.main(command)
    assert "the network learns masks and no verdict" in capsys.readouterr().out
    assert read_entry(run).tasks == ("segmentation",)
    manifest = json.loads((run / "folds.json").read_text())
    assert {case: patient["role"] for case, patient in manifest["patients"].items()} == {"p1": "fold", "p2": "fold"}
    assert dataset_of(read_entry(run)).name == "data of tumours"

    entry = release(run, [run], data, tmp_path / "zoo", half=False)
    assert VOLUMETRIC_DICE in entry.metrics.variants[THREE_SEQUENCES]
    card = (entry.folder / CARD).read_text()
    assert "mit, as the dataset." in card
    for text in (card, json.dumps(read_config(entry.folder)), json.dumps(read_split(entry.folder))):
        assert "lgg" not in text.lower()

    EffUNet.from_pretrained(entry.folder).save_pretrained(tmp_path / "pushed")  # the files of push_to_hub
    pushed = ModelCard.load(tmp_path / "pushed" / CARD)
    assert pushed.data.license == "mit"
    assert read_config(tmp_path / "pushed")["training"]["dataset"] == "data of tumours (own data), mit"
    assert "lgg" not in pushed.content.lower()


def test_an_ensemble_is_a_start(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    LAYOUTS["folders"][1](data, 2)
    segmenter.main([*SMOKE, "--data", str(data), "--out", str(run), "--start", "effunet-pair-lgg", "--lr", "1e-9"])
    entry = read_entry(run)
    assert (entry.net, entry.arguments["encoder"], entry.name) == ("EffUNet", "lite2", "effunet-lite2-own")
    stages = read_entry("brainmri/weights/effunet-pair-lgg").training.stages
    assert entry.training.stages[:-1] == stages[: stages[-1].unites[0]]
    with pytest.raises(ValueError, match="expected a start with the network of this run, got resunet-lgg with ResUNet"):
        segmenter.main([*SMOKE, "--data", str(data), "--out", str(run), "--start", "resunet-lgg", "--net", "effunet"])


def test_data_that_do_not_fit_end_the_command_with_a_sentence(tmp_path):
    with pytest.raises(SystemExit, match="expected a dataset in one of these layouts, got an empty folder"):
        segmenter.main(["--data", str(tmp_path), "--out", str(tmp_path / "run"), "--precision", "float32"])
    LAYOUTS["csv"][1](tmp_path, 1)
    with pytest.raises(SystemExit, match="expected at least 5 patients for 5 folds, got 1"):
        segmenter.main(["--data", str(tmp_path), "--out", str(tmp_path / "run"), "--precision", "float32"])
    with pytest.raises(SystemExit, match="expected one or three sequences after --channels, got 2"):
        segmenter.main(["--data", str(tmp_path), "--out", str(tmp_path / "run"), "--channels", "t1", "t2"])
