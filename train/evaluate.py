"""Measure weights on patients: python -m train.evaluate --data DIR [--patients FILE] --out report.json [--segmenter NAME] …

A model is a zoo name, a run folder or OWNER/NAME on the Hub. Everything is measured on the images' own grid, through the very
preprocessing and prediction that the page uses. Each figure's name says its protocol.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from brainmri.entry import VARIANTS
from brainmri.findings import REVIEW, decide
from brainmri.predict import run_model
from brainmri.preprocess import FLAIR, to_unit
from brainmri.zoo import DEFAULT, LoadedModel, load
from train.data import Slice, find_slices, read_image, read_mask, read_patients
from train.losses import tversky_index
from train.metrics import auc, bootstrap_interval, dice, expected_calibration_error

TVERSKY_BATCH = 16
# the figures that the paper has too, or hides
TVERSKY = "soft Tversky as the paper, tumour slices, mean over batches of 16"
SLICE_DICE = "slice Dice, mean over tumour slices"
ACCURACY = "verdict accuracy at 0.5, by slice"


def predict_case(
    slices: list[Slice], segmenter: LoadedModel | None, classifier: LoadedModel | None, variant: str = VARIANTS[0]
) -> list[dict]:
    """One row a slice of a patient, in order along the head.

    Args:
        variant: "three sequences" as read; "FLAIR only", FLAIR in all three channels; "volume normalisation", mean and
            deviation over the patient's slices instead of each slice's own.

    Returns:
        Rows with `case`, `number`, `tumour`, `mask` (H, W) bool, and where there is a segmenter `map` (H, W) float32
        and `grid_area` (mask pixels on the network's grid), where there is a classifier `probability`, where there are both
        `verdict`, one of the three states.
    """
    units = [to_unit(read_image(s.image)) for s in slices]
    if variant == "FLAIR only":
        units = [np.repeat(u[..., FLAIR : FLAIR + 1], 3, axis=2) for u in units]
    rows = []
    for item in slices:
        mask = read_mask(item.mask)
        rows.append({"case": item.case, "number": item.number, "tumour": bool(mask.any()), "mask": mask})
    done = {}
    for model in {id(m): m for m in (segmenter, classifier) if m}.values():
        over = "volume" if variant == "volume normalisation" else "slice"
        preprocess = dataclasses.replace(model.entry.preprocess, normalise_over=over)
        placed, placements = zip(*(preprocess(u) for u in units), strict=True)
        images = torch.stack(placed)
        done[id(model)] = (run_model(model, images, preprocess), placements)
    if segmenter:
        (maps, _), placements = done[id(segmenter)]
        for row, grid_map, placement in zip(rows, maps, placements, strict=True):
            row["map"] = segmenter.entry.preprocess.restore(grid_map, placement).numpy()
            row["grid_area"] = float((grid_map > segmenter.entry.mask_threshold).sum())
    if classifier:
        (_, probabilities), _ = done[id(classifier)]
        for row, probability in zip(rows, probabilities.tolist(), strict=True):
            row["probability"] = probability
            if segmenter:
                row["verdict"], _ = decide(probability, row["grid_area"], classifier.entry.review)
    return rows


def _figure(name: str, per_patient: list, statistic, report: dict) -> None:
    """Add a figure with its interval; `statistic` maps a list of patients' values to a number."""
    low, high = bootstrap_interval(lambda drawn: statistic([per_patient[i] for i in drawn]), len(per_patient))
    report[name] = {"value": float(statistic(per_patient)), "interval_95": [low, high]}


def paper_tversky(rows: list[dict]) -> float:
    """The soft Tversky index pooled over each 16 of `predict_case`'s rows with tumour; the mean over these batches."""
    batches = [rows[i : i + TVERSKY_BATCH] for i in range(0, len(rows), TVERSKY_BATCH)]
    return float(np.mean([tversky_index(np.stack([r["map"] for r in b]), np.stack([r["mask"] for r in b])) for b in batches]))


def summarise(cases: dict[str, list[dict]], mask_threshold: float) -> dict:
    """Figures over patients, from the rows of `predict_case`, whatever these hold; intervals by bootstrap over patients."""
    report: dict = {"patients": len(cases), "slices": sum(map(len, cases.values()))}
    rows = list(cases.values())
    first = rows[0][0]
    if "map" in first:
        volumes = [dice(np.stack([r["map"] for r in p]) > mask_threshold, np.stack([r["mask"] for r in p])) for p in rows]
        _figure("volumetric Dice, mean over patients", volumes, np.mean, report)
        _figure("volumetric Dice, median over patients", volumes, np.median, report)
        report["volumetric Dice, by patient"] = dict(zip(cases, volumes, strict=True))
        slicewise = [[dice(r["map"] > mask_threshold, r["mask"]) for r in p if r["tumour"]] for p in rows]
        _figure(SLICE_DICE, slicewise, lambda drawn: np.mean(np.concatenate(drawn)), report)
        report[TVERSKY] = {"value": paper_tversky([r for p in rows for r in p if r["tumour"]])}
        empty = [r for p in rows for r in p if not r["tumour"]]
        alarms = np.mean([bool((r["map"] > mask_threshold).any()) for r in empty]) if empty else float("nan")
        report["false alarms by mask, share of slices without tumour"] = {"value": float(alarms)}
    if "probability" in first:
        pairs = [[(r["probability"], r["tumour"]) for r in p] for p in rows]

        def over_slices(function):
            return lambda drawn: function(*zip(*(pair for p in drawn for pair in p), strict=True))

        _figure("verdict AUC, by slice", pairs, over_slices(auc), report)
        _figure(ACCURACY, pairs, over_slices(_accuracy), report)
        _figure("verdict sensitivity at 0.5, by slice", pairs, over_slices(_sensitivity), report)
        _figure("verdict specificity at 0.5, by slice", pairs, over_slices(_specificity), report)
        _figure("verdict expected calibration error, 15 bins, by slice", pairs, over_slices(expected_calibration_error), report)
    if "verdict" in first:
        verdicts = [(r["verdict"], r["tumour"]) for p in rows for r in p]
        decided = [(v == "tumour") == t for v, t in verdicts if v != REVIEW]
        report["three-state verdict, share of slices to review"] = {"value": 1 - len(decided) / len(verdicts)}
        report["three-state verdict, accuracy where decided"] = {"value": float(np.mean(decided)) if decided else float("nan")}
    return report


def _accuracy(probability, tumour) -> float:
    return float(np.mean((np.asarray(probability) > 0.5) == np.asarray(tumour)))


def _sensitivity(probability, tumour) -> float:
    called = np.asarray(probability)[np.asarray(tumour, bool)] > 0.5
    return float(called.mean()) if called.size else float("nan")


def _specificity(probability, tumour) -> float:
    called = np.asarray(probability)[~np.asarray(tumour, bool)] <= 0.5
    return float(called.mean()) if called.size else float("nan")


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
        report[variant] = summarise(predicted, segmenter.entry.mask_threshold if segmenter else 0.5)
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
    report = {
        "segmenter": {"name": segmenter.entry.name, "sha256": segmenter.entry.sha256},
        "classifier": {"name": classifier.entry.name, "sha256": classifier.entry.sha256},
        "patients": sorted(cases),
        "patients_trained_on": seen,
        "empty_masks": "two empty masks have Dice 1, a false alarm on an empty mask 0",
        "intervals": "95 %, bootstrap over patients, 2000 resamples",
        "figures": evaluate(cases, segmenter, classifier, tuple(options.variants)),
    }
    for variant, figures in report["figures"].items():
        print(f"{variant}: {figures['patients']} patients, {figures['slices']} slices\n{table(figures)}")
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def trained_on(model: LoadedModel) -> list[str]:
    """The patients whose slices the weights were trained on, from the entry's `split.json`."""
    return json.loads((model.entry.folder / "split.json").read_text(encoding="utf-8"))["train"]


if __name__ == "__main__":
    main()
