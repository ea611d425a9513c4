"""Quantise an entry's network for CPUs and measure what that costs: python -m train.release.quantise NAME --data DIR --validated RUN…

Post-training quantisation to 8-bit integers (NNCF), its ranges from slices of the network's own training patients. Where a
network draws masks, whatever leads to the verdict and to the gate's features stays in float32, so that both answer as before,
and the rest is quantised: the decoder with its dense convolutions. Each validated run is quantised so and measured on its
validation patients against itself in float32. Where that costs more than the limits below, or the self-check drifts, nothing is
written; else `int8.xml` and `int8.bin` are put beside the entry's weights, and what they cost goes into `config.json` and the
card. Run it after `train.ood.fit`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from brainmri.analysis.selfcheck import TOLERANCE, drift
from brainmri.io.pixels import FLAIR, to_unit
from brainmri.zoo.backends import TORCH, Fixed, as_graph, by_openvino, load_openvino
from brainmri.zoo.entry import CONFIG, INT8, INT8_WEIGHTS, SPLIT, ModelEntry, file_sha256, read_entry
from brainmri.zoo.registry import EMBEDDED, LoadedModel, load, split_roles
from train.datasets import Slice
from train.datasets.lgg import find_slices
from train.evaluation.metrics import auc, dice
from train.evaluation.predictions import predict_case
from train.release.card import write_card

OF_EACH = 4  # slices of a training patient, from the middle of the head
FLAIR_ALONE = 3  # every third of them as FLAIR alone
DICE_LOST, AUC_LOST = 0.002, 0.001  # at most


def typical_views(model: LoadedModel, patients: Iterable[list[Slice]]) -> Tensor:
    """(n, 3, S, S) normalised: some slices of patients."""
    preprocess, placed = model.entry.preprocess, []
    for slices in patients:
        for place in np.linspace(0.35, 0.65, OF_EACH):
            pixels = to_unit(slices[int(place * len(slices))].read_image())
            if len(placed) % FLAIR_ALONE == 0:
                pixels = np.repeat(pixels[..., FLAIR : FLAIR + 1], 3, axis=-1)
            placed.append(preprocess(pixels)[0])
    return preprocess.normalise(torch.stack(placed))


def leading_to(outputs: Iterable) -> set[str]:
    """The names of all operations that outputs of a graph depend on."""
    nodes, found = [output.get_node() for output in outputs], {}
    while nodes:
        node = nodes.pop()
        if node.get_friendly_name() not in found:
            found[node.get_friendly_name()] = node.get_type_name()
            nodes += [into.get_source_output().get_node() for into in node.inputs()]
    return {name for name, kind in found.items() if kind not in ("Constant", "Parameter", "Result")}


def quantised(model: LoadedModel, views: Tensor):
    """A network's graph in 8 bits, but for what the module's docstring leaves in float32."""
    import nncf

    graph, names = as_graph(model.run.served, model.entry.preprocess.size), model.run.served.names
    kept = leading_to(graph.outputs[1:]) if "mask" in names else set()
    return nncf.quantize(
        graph, nncf.Dataset([view[None].numpy() for view in views]), subset_size=len(views),
        ignored_scope=nncf.IgnoredScope(names=sorted(kept)),
    )  # fmt: skip


def run_by(model: LoadedModel, graph) -> LoadedModel:
    """The same entry, its network run as a graph."""
    return replace(model, run=Fixed(model.run.served, "graph", by_openvino(graph)))


def cost(model: LoadedModel, graph, cases: list[list[Slice]]) -> tuple[list[tuple], list[tuple]]:
    """Volumetric Dice of each patient in float32 and in 8 bits; of each slice whether there is tumour, and both logits."""
    both = [run_by(model, each) for each in (as_graph(model.run.served, model.entry.preprocess.size), graph)]
    volumes, logits = [], []
    for slices in tqdm(cases, desc=model.entry.folder.name, unit="patient"):
        pair = [predict_case(slices, *split_roles(each)) for each in both]
        truth = np.stack([row.annotation for row in pair[0]])
        if pair[0][0].map is not None:
            threshold = model.entry.mask_threshold
            volumes.append(tuple(dice(np.stack([np.asarray(row.map) for row in rows]) > threshold, truth) for rows in pair))
        if pair[0][0].logit is not None:
            logits += [(ours.tumour, ours.logit, theirs.logit) for ours, theirs in zip(*pair, strict=True)]
    return volumes, logits


def summarise(volumes: list[tuple], logits: list[tuple]) -> dict[str, float]:
    """What 8 bits cost: the mean of Dice and the AUC lost, and how far single patients and slices are from float32."""
    found = {}
    if volumes:
        lost = -np.diff(np.array(volumes))[:, 0]
        found |= {"patients": len(lost), "dice_lost": float(lost.mean()), "dice_changed_at_most": float(np.abs(lost).max())}
    if logits:
        tumour, before, after = np.array(logits, float).T
        found |= {"slices": len(tumour), "auc_lost": auc(before, tumour) - auc(after, tumour)}
        found["probability_changed_on_average"] = float(np.abs(1 / (1 + np.exp(-before)) - 1 / (1 + np.exp(-after))).mean())
    return {name: value if isinstance(value, int) else round(value, 5) for name, value in found.items()}


def write(folder: Path, graph, measured: dict[str, float]) -> ModelEntry:
    """Put a graph beside an entry's weights, and what it costs into its `config.json` and its card."""
    load_openvino().save_model(graph, folder / INT8, compress_to_fp16=False)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["int8"] = {"files": {name: file_sha256(folder / name) for name in (INT8, INT8_WEIGHTS)}, "measured": measured}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    entry = read_entry(folder)
    write_card(entry)
    return entry


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Quantise, measure, write; returns what it costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the entry")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validated", type=Path, nargs="+", required=True, help="runs of its recipe with validation patients")
    parser.add_argument("--into", type=Path, default=EMBEDDED, help="folder of entries")
    options = parser.parse_args(arguments)
    cases = find_slices(options.data)
    volumes, logits = [], []
    for folder in options.validated:
        split = json.loads((folder / SPLIT).read_text(encoding="utf-8"))
        model = load(folder, device="cpu", runtime=TORCH)
        graph = quantised(model, typical_views(model, [cases[case] for case in split["train"]]))
        found = cost(model, graph, [cases[case] for case in split["validation"]])
        volumes, logits = volumes + found[0], logits + found[1]
    measured = summarise(volumes, logits)
    print(json.dumps(measured, indent=2))
    if measured.get("dice_lost", 0) > DICE_LOST or measured.get("auc_lost", 0) > AUC_LOST:
        raise SystemExit(f"that is more than a Dice of {DICE_LOST} or an AUC of {AUC_LOST}; {options.name} stays in float32")
    folder = options.into / options.name
    split = json.loads((folder / SPLIT).read_text(encoding="utf-8"))
    model = load(options.name, weights=folder, device="cpu", runtime=TORCH)
    graph = quantised(model, typical_views(model, [cases[case] for case in split["train"]]))
    if (gap := drift(run_by(model, graph)) or 0) > TOLERANCE:
        raise SystemExit(f"its self-check drifts by {gap:.3f}, more than {TOLERANCE}; {options.name} stays in float32")
    entry = write(folder, graph, measured)
    size = sum((entry.folder / name).stat().st_size for name in (INT8, INT8_WEIGHTS))
    print(f"wrote {INT8} and {INT8_WEIGHTS} of {entry.name}, {size / 1e6:.1f} MB")
    return measured


if __name__ == "__main__":
    main()
