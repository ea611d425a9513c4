"""Training on many sources: the pictures' index, examples, shares of the sampler, and the command from folder to pipeline."""

import csv
from collections import Counter

import numpy as np
import pytest

import brainmri
from brainmri.analysis.forward import predict_slices
from brainmri.io.pixels import to_unit
from brainmri.zoo.attributes import KINDS, SEQUENCES
from brainmri.zoo.backends import TORCH
from brainmri.zoo.entry import read_entry
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.registry import load
from train import generalist
from train.datasets.lgg import find_slices
from train.datasets.wider import find_pictures, fold_of, read_picture
from train.examples import (
    UNKNOWN,
    SourceSampler,
    UploadDataset,
    learn_from,
    patient_examples,
    picture_examples,
    single_sequence,
)
from train.mix import MIXES
from train.phantoms import phantom_slice, write_phantom_dataset


def test_pictures_are_read_with_their_masks(wider):
    pictures = find_pictures(wider)
    assert len(pictures) == 28
    pixels, mask = read_picture(pictures[0])
    assert pixels.shape == mask.shape == (96, 96)
    assert (pixels.dtype, mask.dtype) == (np.uint8, bool)
    assert mask.any()
    assert pictures[-1].tumour is None


def test_a_bad_index_is_refused(wider, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected an index"):
        find_pictures(tmp_path)
    (tmp_path / "index.csv").write_text("file,mask\na.png,\n")
    with pytest.raises(ValueError, match="missing: set, group"):
        find_pictures(tmp_path)
    (tmp_path / "index.csv").write_text((wider / "index.csv").read_text())
    with pytest.raises(FileNotFoundError, match="40 files that do not exist"):
        find_pictures(tmp_path)


def test_folds_divide_no_group_and_depend_on_its_name_only():
    folds = [fold_of(f"figshare/block{n:03}", 5) for n in range(100)]
    assert folds == [fold_of(f"figshare/block{n:03}", 5) for n in range(100)]
    assert set(folds) == set(range(5))


def test_a_patient_gives_axial_coronal_and_sagittal_examples(tmp_path):
    write_phantom_dataset(tmp_path, patients=1, slices=20)
    (slices,) = find_slices(tmp_path).values()
    examples = patient_examples(slices)
    assert Counter(e.plane for e in examples) == {0: 20, 1: 14, 2: 14}
    for example in examples:
        assert example.pixels.shape[:2] == example.mask.shape
        assert example.tumour == int(example.mask.any())
    one = single_sequence(next(e for e in examples if e.tumour), "T1c")
    assert one.pixels.shape[2] == 1
    assert (SEQUENCES[one.sequence], KINDS[one.kind]) == ("T1c", "glioma")


def test_flair_takes_the_place_of_a_sequence_that_the_dataset_lacks(tmp_path):
    write_phantom_dataset(tmp_path, patients=1, slices=4)
    (slices,) = find_slices(tmp_path).values()
    example = patient_examples(slices)[0]
    example.pixels[..., 0] = example.pixels[..., 1]
    one = single_sequence(example, "T1")
    assert SEQUENCES[one.sequence] == "FLAIR"


def test_items_are_on_the_grid_and_depend_on_their_seed_only(wider):
    dataset = UploadDataset(picture_examples(wider), Preprocess(size=64), MIXES["any"])
    for index in range(len(dataset)):
        first, second = dataset[index, 5], dataset[index, 5]
        assert first["image"].shape == (3, 64, 64)
        assert first["mask"].shape == (1, 64, 64)
        assert (first["image"] == second["image"]).all()
        assert (first["image"][0] == first["image"][2]).all()  # one sequence in three channels
        assert first["tumour"] in (0, 1, UNKNOWN)


@pytest.mark.slow
def test_a_teacher_moves_the_targets_and_no_label(wider, tmp_path):
    write_phantom_dataset(tmp_path, patients=1, slices=4)
    (slices,) = find_slices(tmp_path).values()
    teacher = load("effunet-lite2-lgg", device="cpu", runtime=TORCH)
    examples = [*patient_examples(slices), *picture_examples(wider)[:3]]
    taught = learn_from(teacher, examples)
    for before, after in zip(examples, taught, strict=True):
        maps = predict_slices(teacher, None, to_unit(before.pixels)[None]).maps
        np.testing.assert_allclose(after.mask, (before.mask + maps[0]) / 2, atol=1e-3)
        np.testing.assert_array_equal(after.mask > 0.5, before.mask)
        assert (after.tumour, after.kind) == (before.tumour, before.kind)
    items = [UploadDataset(part, Preprocess(size=64), MIXES["any"])[0, 5] for part in (examples, taught)]
    assert (items[0]["image"] == items[1]["image"]).all()
    assert not (items[0]["mask"] == items[1]["mask"]).all()


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_sources_and_kinds_are_sampled_by_their_shares(wider, mix):
    for shares in (mix.source, mix.kind, mix.lgg, mix.heads):
        assert sum(shares.values()) == pytest.approx(1)
    examples = picture_examples(wider)
    drawn = Counter((examples[i].source, examples[i].kind) for i, _ in SourceSampler(examples, 6000, seed=0, mix=mix))
    present = {e.source for e in examples}
    total = sum(mix.source[source] for source in present)
    for source in present:
        share = sum(count for (s, _), count in drawn.items() if s == source) / 6000
        assert share == pytest.approx(mix.source[source] / total, abs=0.03)
    assert drawn["figshare", KINDS.index("glioma")] > drawn["figshare", KINDS.index("meningioma")]


def test_an_epoch_repeats_and_the_next_one_differs(wider):
    sampler = SourceSampler(picture_examples(wider), 50, seed=1, mix=MIXES["any"])
    first = list(sampler)
    assert first == list(sampler)
    sampler.epoch = 1
    assert first != list(sampler)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "name"),
    [(["--encoder", "lite0"], "effunet-lite0-any"), (["--net", "resunet", "--start", "resunet-lgg"], "resunet-any")],
)
def test_from_folders_to_a_model_the_pipeline_loads(net, name, wider, tmp_path, capsys):
    out = tmp_path / "run"
    generalist.main(["--wider", str(wider), "--out", str(out), *net, "--teacher", "effunet-lite2-lgg", "--smoke"])
    assert name in capsys.readouterr().out
    with (out / "history.csv").open() as handle:
        last = list(csv.DictReader(handle))[-1]
    assert {"validation plane accuracy", "train mask loss"} <= set(last)
    assert any(key.startswith("validation lgg FLAIR") for key in last)
    assert read_entry(out).training.stages[-1].teacher.startswith("effunet-lite2-lgg, SHA-256 ")
    finding = brainmri.Pipeline(str(out), device="cpu")(phantom_slice(size=96)[0])
    assert finding.mask.shape == (96, 96)


def test_options_that_do_nothing_here_are_refused(wider, tmp_path, capsys):
    with pytest.raises(SystemExit):
        generalist.parse(["--wider", str(wider), "--out", str(tmp_path), "--on-device"])
    assert "use --workers" in capsys.readouterr().err
