"""Measure weights on patients: python -m train.evaluation.evaluate --data DIR [--patients FILE] --out report.json [--segmenter NAME] …

A model is a zoo name, a run folder or OWNER/NAME on the Hub. Everything is measured on the images' own grid, through the very
preprocessing and prediction that the page uses. Each figure's name says its protocol.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from monai.transforms import KeepLargestConnectedComponent
from tqdm import tqdm

from brainmri.analysis.findings import REVIEW
from brainmri.report.metric_tables import (
    ACCURACY,
    FAILURES,
    RELIABILITY,
    SENSITIVITY,
    SLICE_DICE,
    SPECIFICITY,
    VOLUMETRIC_DICE,
    failure_tables,
)
from brainmri.zoo.entry import VARIANTS
from brainmri.zoo.registry import DEFAULT, LoadedModel, load
from train.data import read_patients
from train.datasets import Slice
from train.datasets.lgg import find_slices
from train.evaluation.failures import failures
from train.evaluation.healthy import identity
from train.evaluation.metrics import (
    accuracy,
    auc,
    dice,
    expected_calibration_error,
    reliability,
    sensitivity,
    specificity,
    with_interval,
)
from train.evaluation.predictions import outline_of, predict_case
from train.losses import tversky_index

TVERSKY_BATCH = 16
TVERSKY = "soft Tversky as the paper, tumour slices, mean over batches of 16"
PUBLIC_UNET_DICE = "volumetric Dice of the largest island, end slices left out, as the public U-Net's, mean over patients"


def paper_tversky(rows: list[dict]) -> float:
    """The soft Tversky index pooled over each 16 of `predict_case`'s rows with tumour; the mean over these batches."""
    batches = [rows[i : i + TVERSKY_BATCH] for i in range(0, len(rows), TVERSKY_BATCH)]
    return float(np.mean([tversky_index(np.stack([r["map"] for r in b]), np.stack([r["mask"] for r in b])) for b in batches]))


def public_unet_dice(outlined: np.ndarray, true: np.ndarray) -> float:
    """Dice as mateuszbuda/brain-segmentation-pytorch measures its own network; here on the images' own grid.

    Args:
        outlined: (S, H, W) bool, a patient's slices in order along the head, and so `true`. The first and the last are left out,
            and of what is outlined in the others all but the largest component, its voxels joined at faces, edges or corners.
    """
    inner = torch.from_numpy(np.stack([outlined, true])[:, 1:-1])
    largest = KeepLargestConnectedComponent(is_onehot=False)(inner[:1])
    return dice(largest[0].numpy(), inner[1].numpy())


def summarise(cases: dict[str, list[dict]]) -> dict:
    """Figures over patients, from the rows of `predict_case`, whatever these hold; intervals by bootstrap over patients."""
    report: dict = {"patients": len(cases), "slices": sum(map(len, cases.values()))}
    rows = list(cases.values())
    first = rows[0][0]
    if "map" in first:
        masks = [(np.stack([outline_of(r) for r in p]), np.stack([r["mask"] for r in p])) for p in rows]
        volumes = [dice(*pair) for pair in masks]
        report[VOLUMETRIC_DICE] = with_interval(volumes, np.mean)
        report["volumetric Dice, median over patients"] = with_interval(volumes, np.median)
        report["volumetric Dice, by patient"] = dict(zip(cases, volumes, strict=True))
        report[PUBLIC_UNET_DICE] = with_interval([public_unet_dice(*pair) for pair in masks], np.mean)
        slicewise = [[dice(outline_of(r), r["mask"]) for r in p if r["tumour"]] for p in rows]
        report[SLICE_DICE] = with_interval(slicewise, lambda drawn: np.mean(np.concatenate(drawn)))
        report[TVERSKY] = {"value": paper_tversky([r for p in rows for r in p if r["tumour"]])}
        empty = [r for p in rows for r in p if not r["tumour"]]
        alarms = np.mean([bool(outline_of(r).any()) for r in empty]) if empty else float("nan")
        report["false alarms by mask, share of slices without tumour"] = {"value": float(alarms)}
    if "probability" in first:
        pairs = [np.array([(r["probability"], r["tumour"]) for r in p]) for p in rows]  # (slices, 2) of each patient

        def over_slices(function):
            return lambda drawn: function(*np.concatenate(drawn).T)

        for name, function in {
            "verdict AUC, by slice": auc,
            ACCURACY: accuracy,
            SENSITIVITY: sensitivity,
            SPECIFICITY: specificity,
            "verdict expected calibration error, 15 bins, by slice": expected_calibration_error,
        }.items():
            report[name] = with_interval(pairs, over_slices(function))
        report[RELIABILITY] = reliability(pairs)
    if "verdict" in first:
        verdicts = [(r["verdict"], r["tumour"]) for p in rows for r in p]
        decided = [(v == "tumour") == t for v, t in verdicts if v != REVIEW]
        report["three-state verdict, share of slices to review"] = {"value": 1 - len(decided) / len(verdicts)}
        report["three-state verdict, accuracy where decided"] = {"value": float(np.mean(decided)) if decided else float("nan")}
    report[FAILURES] = failures(cases)
    return report


def evaluate(
    cases: dict[str, list[Slice]],
    segmenter: LoadedModel | None,
    classifier: LoadedModel | None,
    variants: tuple[str, ...] = VARIANTS[:1],
) -> dict:
    """The figures of `summarise` for each variant of the input."""
    report = {}
    for variant in variants:
        predicted = {
            case: predict_case(slices, segmenter, classifier, variant)
            for case, slices in tqdm(cases.items(), desc=variant, unit="patient")
        }
        report[variant] = summarise(predicted)
    return report


def table(figures: dict) -> str:
    """The scalar figures, a line each, with their intervals."""
    lines = []
    for name, figure in figures.items():
        if isinstance(figure, dict) and "value" in figure:
            interval = "  [{:.3f}, {:.3f}]".format(*figure["interval_95"]) if "interval_95" in figure else ""
            lines.append(f"  {name:66} {figure['value']:.3f}{interval}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder in the Kaggle layout")
    add("--patients", type=Path, help="text file with a patient a line; every patient in --data without it")
    add("--segmenter", default=DEFAULT, help="zoo name, run folder or OWNER/NAME")
    add("--classifier", default=DEFAULT, help="zoo name, run folder or OWNER/NAME")
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS[:1]))
    add("--device", default="auto")
    add("--out", type=Path, required=True, help="where the JSON report goes")
    options = parser.parse_args(arguments)
    cases = find_slices(options.data)
    if options.patients:
        wanted = read_patients(options.patients)
        if missing := set(wanted) - set(cases):
            raise SystemExit(f"{options.data} lacks {len(missing)} of the patients asked for: {', '.join(sorted(missing)[:5])} …")
        cases = {case: cases[case] for case in wanted}
    segmenter = load(options.segmenter, device=options.device)
    classifier = segmenter if options.classifier == options.segmenter else load(options.classifier, device=options.device)
    seen = {m.entry.name: len(set(cases) & set(trained_on(m))) for m in (segmenter, classifier)}
    for name, count in seen.items():
        if count:
            print(f"note: {name} was trained on {count} of these {len(cases)} patients, so its figures flatter it")
    figures = evaluate(cases, segmenter, classifier, tuple(options.variants))
    report = {
        role: identity(model.entry, role) | {"device": model.device.type, "runtime": model.run.kind}
        for role, model in (("segmenter", segmenter), ("classifier", classifier))
    } | {
        "patients": sorted(cases),
        "patients_trained_on": seen,
        "empty_masks": "two empty masks have Dice 1, a false alarm on an empty mask 0",
        "intervals": "95 %, bootstrap over patients, 2000 resamples",
        "figures": figures,
    }
    for variant, figures in report["figures"].items():
        print(f"{variant}: {figures['patients']} patients, {figures['slices']} slices\n{table(figures)}")
    print(f"\nwhere it fails, {options.variants[0]}:\n\n{failure_tables(report['figures'])}")
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def trained_on(model: LoadedModel) -> list[str]:
    """The patients whose slices the weights were trained on, from the entry's `split.json`."""
    return json.loads((model.entry.folder / "split.json").read_text(encoding="utf-8"))["train"]


if __name__ == "__main__":
    main()
