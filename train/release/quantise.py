"""Quantise an entry's network for CPUs and measure it: python -m train.release.quantise NAME --data DIR --validated RUN…

Post-training quantisation to 8-bit integers (NNCF), with ranges from slices of the network's own training patients. In a
network with masks, all layers that the verdict and the out-of-distribution features depend on stay in float32, so that these do
not change; the rest, the decoder with its dense convolutions, is quantised. Each validated run is quantised in the same way and
compared with its float32 network on its validation patients. If that costs more than the limits below, or the self-check
drifts, nothing is written. Otherwise `int8.xml` and `int8.bin` are written beside the entry's weights, and the differences into
`config.json` and the card. Run this after `train.ood.fit`.
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

from brainmri.analysis.selfcheck import TOLERANCE, max_difference
from brainmri.io.pixels import FLAIR, to_unit
from brainmri.zoo.backends import TORCH, Backend, load_openvino, openvino_forward, to_openvino
from brainmri.zoo.entry import INT8, INT8_WEIGHTS, ModelEntry, file_sha256, read_entry, read_split, update_config
from brainmri.zoo.records import QuantisedInfo
from brainmri.zoo.registry import EMBEDDED, LoadedModel, load, split_roles
from train.datasets import Slice, dataset_of
from train.evaluation.metrics import auc, dice
from train.evaluation.predictions import predict_case
from train.release.card import write_card

SLICES_PER_PATIENT = 4  # from the middle of the head
FLAIR_ONLY_EVERY = 3  # every third slice as FLAIR only
MAX_DICE_LOST, MAX_AUC_LOST = 0.002, 0.001


def calibration_slices(model: LoadedModel, patients: Iterable[list[Slice]]) -> Tensor:
    """(n, 3, S, S) normalised: some slices of each patient, for the ranges of activations."""
    preprocess, placed = model.entry.preprocess, []
    for slices in patients:
        for place in np.linspace(0.35, 0.65, SLICES_PER_PATIENT):
            pixels = to_unit(slices[int(place * len(slices))].read_image())
            if len(placed) % FLAIR_ONLY_EVERY == 0:
                pixels = np.repeat(pixels[..., FLAIR : FLAIR + 1], 3, axis=-1)
            placed.append(preprocess(pixels)[0])
    return preprocess.normalise(torch.stack(placed))


def patients_in(folder: Path, role: str, cases: dict[str, list[Slice]]) -> list[list[Slice]]:
    """The slices of each patient whom a run or an entry has in a role; a run's groups of pictures are no patients."""
    return [cases[case] for case in read_split(folder)[role] if case in cases]


def ancestors(outputs: Iterable) -> set[str]:
    """The names of all operations that these outputs of an OpenVINO graph depend on."""
    nodes, found = [output.get_node() for output in outputs], {}
    while nodes:
        node = nodes.pop()
        if node.get_friendly_name() not in found:
            found[node.get_friendly_name()] = node.get_type_name()
            nodes += [into.get_source_output().get_node() for into in node.inputs()]
    return {name for name, kind in found.items() if kind not in ("Constant", "Parameter", "Result")}


def quantise(model: LoadedModel, views: Tensor) -> tuple:
    """The OpenVINO graphs in float32, and in 8 bits without the layers that stay in float32 (see the module's docstring)."""
    import nncf

    graph, names = to_openvino(model.backend.module, model.entry.preprocess.size), model.backend.module.names
    kept = ancestors(graph.outputs[1:]) if "mask" in names else set()
    return graph, nncf.quantize(
        graph.clone(), nncf.Dataset([view[None].numpy() for view in views]), subset_size=len(views),
        ignored_scope=nncf.IgnoredScope(names=sorted(kept)),
    )  # fmt: skip


def with_graph(model: LoadedModel, graph) -> LoadedModel:
    """The same entry with its network run as an OpenVINO graph."""
    return replace(model, backend=Backend(model.backend.module, "graph", openvino_forward(graph)))


def compare(model: LoadedModel, graphs: tuple, cases: list[list[Slice]]) -> tuple[list[tuple], list[tuple]]:
    """The network in float32 and in 8 bits, as `quantise` returns them, on patients.

    Returns:
        For each patient both volumetric Dice; for each slice whether a tumour is annotated, and both logits.
    """
    both = [with_graph(model, graph) for graph in graphs]
    volumes, logits = [], []
    for slices in tqdm(cases, desc=model.entry.folder.name, unit="patient"):
        pair = [predict_case(slices, *split_roles(each)) for each in both]
        truth = np.stack([row.annotation for row in pair[0]])
        if pair[0][0].map is not None:
            threshold = model.entry.mask_threshold
            volumes.append(tuple(dice(np.stack([np.asarray(row.map) for row in rows]) > threshold, truth) for rows in pair))
        if pair[0][0].logit is not None:
            logits += [(full.tumour, full.logit, small.logit) for full, small in zip(*pair, strict=True)]
    return volumes, logits


def summarise(volumes: list[tuple], logits: list[tuple]) -> dict[str, float]:
    """Mean Dice and AUC lost by quantisation, and the differences for single patients and slices."""
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
    """Write a graph beside an entry's weights, and its differences from float32 into `config.json` and the card."""
    load_openvino().save_model(graph, folder / INT8, compress_to_fp16=False)
    info = QuantisedInfo(files={name: file_sha256(folder / name) for name in (INT8, INT8_WEIGHTS)}, measured=measured)
    entry = update_config(folder, int8=info.config())
    write_card(entry)
    return entry


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Quantise, measure, write; returns the differences from float32."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the entry")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validated", type=Path, nargs="+", required=True, help="runs of its recipe with validation patients")
    parser.add_argument("--into", type=Path, default=EMBEDDED, help="folder of entries")
    options = parser.parse_args(arguments)
    folder = options.into / options.name
    cases = dataset_of(read_entry(folder)).find_slices(options.data)
    volumes, logits = [], []
    for run in options.validated:
        model = load(run, device="cpu", runtime=TORCH)
        graphs = quantise(model, calibration_slices(model, patients_in(run, "train", cases)))
        found = compare(model, graphs, patients_in(run, "validation", cases))
        volumes, logits = volumes + found[0], logits + found[1]
    measured = summarise(volumes, logits)
    print(json.dumps(measured, indent=2))
    if measured.get("dice_lost", 0) > MAX_DICE_LOST or measured.get("auc_lost", 0) > MAX_AUC_LOST:
        raise SystemExit(
            f"expected at most {MAX_DICE_LOST} of Dice and {MAX_AUC_LOST} of AUC lost, got more; {options.name} stays in float32"
        )
    model = load(options.name, weights=folder, device="cpu", runtime=TORCH)
    _, graph = quantise(model, calibration_slices(model, patients_in(folder, "train", cases)))
    if (gap := max_difference(with_graph(model, graph)) or 0) > TOLERANCE:
        raise SystemExit(f"expected a self-check within {TOLERANCE}, got {gap:.3f}; {options.name} stays in float32")
    entry = write(folder, graph, measured)
    size = sum((entry.folder / name).stat().st_size for name in (INT8, INT8_WEIGHTS))
    print(f"wrote {INT8} and {INT8_WEIGHTS} of {entry.name}, {size / 1e6:.1f} MB")
    return measured


if __name__ == "__main__":
    main()
