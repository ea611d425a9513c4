"""Measure weights on patients: python -m train.evaluation.evaluate --data DIR --out report.json [--segmenter NAME] …

A model is a zoo name, a run folder or OWNER/NAME on the Hub. Everything is measured on the images' own grid, with the
preprocessing and prediction of the page. The report has the figures by the ids of `brainmri.zoo.metrics`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from monai.transforms.post.array import KeepLargestConnectedComponent
from tqdm import tqdm

from brainmri.analysis.findings import REVIEW, TUMOUR
from brainmri.report.metric_tables import failure_tables
from brainmri.zoo.entry import read_split
from brainmri.zoo.metrics import (
    ACCURACY,
    AUC,
    CALIBRATION_ERROR,
    DECIDED_ACCURACY,
    FAILURES,
    MASK_FALSE_ALARMS,
    PUBLIC_UNET_DICE,
    RELIABILITY,
    REVIEW_SHARE,
    SENSITIVITY,
    SLICE_DICE,
    SLICE_VARIANTS,
    SPECIFICITY,
    THREE_SEQUENCES,
    TVERSKY,
    VARIANTS,
    VOLUMETRIC_DICE,
    VOLUMETRIC_DICE_BY_PATIENT,
    VOLUMETRIC_DICE_MEDIAN,
    is_figure,
    label,
)
from brainmri.zoo.registry import DEFAULT, LoadedModel, load
from train.data import read_patients
from train.datasets import DATASETS, Dataset, Slice, dataset_of
from train.evaluation.failures import failures
from train.evaluation.healthy import identity
from train.evaluation.metrics import (
    accuracy,
    auc,
    dice,
    expected_calibration_error,
    mean,
    pooled_mean,
    reliability,
    sensitivity,
    specificity,
    with_interval,
)
from train.evaluation.predictions import SlicePrediction, predict_case
from train.losses import tversky_index

TVERSKY_BATCH = 16


def paper_tversky(predictions: list[SlicePrediction]) -> float:
    """The paper's soft Tversky index, pooled over each 16 slices with tumour; the mean over these batches."""
    batches = [predictions[start : start + TVERSKY_BATCH] for start in range(0, len(predictions), TVERSKY_BATCH)]
    maps = [torch.from_numpy(np.stack([np.asarray(one.map) for one in batch])) for batch in batches]
    masks = [torch.from_numpy(np.stack([one.annotation for one in batch])) for batch in batches]
    return mean([tversky_index(*pair) for pair in zip(maps, masks, strict=True)])


def public_unet_dice(predicted: np.ndarray, true: np.ndarray) -> float:
    """Dice as mateuszbuda/brain-segmentation-pytorch measures its own network, but on the images' own grid.

    The first and the last slice are left out. Of the predicted mask in the other slices only the largest component counts; voxels
    that touch at faces, edges or corners are connected. Two empty masks have a Dice of 1.

    Args:
        predicted: (S, H, W) bool, a patient's slices in order along the head.
        true: (S, H, W) bool, the annotation.
    """
    inner = torch.from_numpy(np.stack([predicted, true])[:, 1:-1])
    largest = torch.as_tensor(KeepLargestConnectedComponent(is_onehot=False)(inner[:1]))
    return dice(largest[0].numpy(), inner[1].numpy())


def summarise(dataset: Dataset, cases: dict[str, list[SlicePrediction]]) -> dict:
    """All figures that the predictions allow, by metric id; intervals by bootstrap over patients.

    Args:
        dataset: that the patients belong to.
        cases: patient to predictions, as `predict_case` returns them.
    """
    patients = list(cases.values())
    first = patients[0][0]
    report: dict = {"patients": len(cases), "slices": sum(map(len, patients))}
    if first.map is not None:
        report |= mask_figures(cases)
    if first.probability is not None:
        report |= verdict_figures(patients)
    if first.verdict is not None:
        verdicts = [(one.verdict, one.tumour) for predictions in patients for one in predictions]
        decided = [(verdict == TUMOUR) == tumour for verdict, tumour in verdicts if verdict != REVIEW]
        report[REVIEW_SHARE] = {"value": 1 - len(decided) / len(verdicts)}
        report[DECIDED_ACCURACY] = {"value": float(np.mean(decided)) if decided else float("nan")}
    report[FAILURES] = failures(dataset, cases)
    return report


def mask_figures(cases: dict[str, list[SlicePrediction]]) -> dict:
    """The figures of the masks, by metric id."""
    patients = list(cases.values())
    masks = [
        (np.stack([one.mask for one in predictions]), np.stack([one.annotation for one in predictions]))
        for predictions in patients
    ]
    volumes = [dice(*pair) for pair in masks]
    by_slice = [[dice(one.mask, one.annotation) for one in predictions if one.tumour] for predictions in patients]
    every = [one for predictions in patients for one in predictions]
    false_alarms = [bool(one.mask.any()) for one in every if not one.tumour]
    return {
        VOLUMETRIC_DICE: with_interval(volumes, mean),
        VOLUMETRIC_DICE_MEDIAN: with_interval(volumes, lambda drawn: float(np.median(drawn))),
        VOLUMETRIC_DICE_BY_PATIENT: dict(zip(cases, volumes, strict=True)),
        PUBLIC_UNET_DICE: with_interval([public_unet_dice(*pair) for pair in masks], mean),
        SLICE_DICE: with_interval(by_slice, pooled_mean),
        TVERSKY: {"value": paper_tversky([one for one in every if one.tumour])},
        MASK_FALSE_ALARMS: {"value": mean(false_alarms) if false_alarms else float("nan")},
    }


def verdict_figures(patients: list[list[SlicePrediction]]) -> dict:
    """The figures of the calibrated probabilities, by metric id, and the bins of the reliability diagram."""
    pairs = [np.array([(one.probability, one.tumour) for one in predictions]) for predictions in patients]  # (slices, 2) each

    def over_slices(function):
        return lambda drawn: function(*np.concatenate(drawn).T)

    functions = {
        AUC: auc,
        ACCURACY: accuracy,
        SENSITIVITY: sensitivity,
        SPECIFICITY: specificity,
        CALIBRATION_ERROR: expected_calibration_error,
    }
    figures: dict = {metric: with_interval(pairs, over_slices(function)) for metric, function in functions.items()}
    return figures | {RELIABILITY: reliability(pairs)}


def evaluate(
    dataset: Dataset,
    cases: dict[str, list[Slice]],
    segmenter: LoadedModel | None,
    classifier: LoadedModel | None,
    variants: tuple[str, ...] = (THREE_SEQUENCES,),
) -> dict:
    """The figures of `summarise` for each variant of the input."""
    report = {}
    for variant in variants:
        predicted = {
            case: predict_case(slices, segmenter, classifier, variant)
            for case, slices in tqdm(cases.items(), desc=VARIANTS[variant], unit="patient")
        }
        report[variant] = summarise(dataset, predicted)
    return report


def summary(variant: str, figures: dict) -> str:
    """A variant's figures for the terminal: its name and counts, then one line per figure with its interval."""
    lines = [f"{VARIANTS[variant]}: {figures['patients']} patients, {figures['slices']} slices"]
    for metric, figure in figures.items():
        if is_figure(figure):
            interval = "  [{:.3f}, {:.3f}]".format(*figure["interval_95"]) if "interval_95" in figure else ""
            lines.append(f"  {label(metric):66} {figure['value']:.3f}{interval}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="the dataset's folder")
    add("--dataset", choices=list(DATASETS), help="which dataset --data holds; default: the segmenter's training dataset")
    add("--patients", type=Path, help="text file, one patient a line; default: every patient in --data")
    add("--segmenter", default=DEFAULT, help="zoo name, run folder or OWNER/NAME")
    add("--classifier", default=DEFAULT, help="zoo name, run folder or OWNER/NAME")
    add("--variants", nargs="+", choices=SLICE_VARIANTS, default=[THREE_SEQUENCES], help="of the input")
    add("--device", default="auto")
    add("--out", type=Path, required=True, help="where the JSON report goes")
    options = parser.parse_args(arguments)
    segmenter = load(options.segmenter, device=options.device)
    dataset = DATASETS[options.dataset] if options.dataset else dataset_of(segmenter.entry)
    cases = dataset.find_slices(options.data)
    if options.patients:
        wanted = read_patients(options.patients)
        if missing := set(wanted) - set(cases):
            raise SystemExit(
                f"expected the patients of {options.patients} in {options.data}, but {len(missing)} are missing: "
                f"{', '.join(sorted(missing)[:5])} …; correct the list or the folder"
            )
        cases = {case: cases[case] for case in wanted}
    classifier = segmenter if options.classifier == options.segmenter else load(options.classifier, device=options.device)
    seen = {m.entry.name: len(set(cases) & set(trained_on(m))) for m in (segmenter, classifier)}
    for name, count in seen.items():
        if count:
            print(f"note: {name} was trained on {count} of these {len(cases)} patients, so its figures are too good")
    figures = evaluate(dataset, cases, segmenter, classifier, tuple(options.variants))
    report = {
        role: identity(model.entry, role) | {"device": model.device.type, "runtime": model.backend.kind}
        for role, model in (("segmenter", segmenter), ("classifier", classifier))
    } | {
        "patients": sorted(cases),
        "patients_trained_on": seen,
        "empty_masks": "two empty masks have Dice 1, a false alarm on an empty mask 0",
        "intervals": "95%, bootstrap over patients, 2000 resamples",
        "figures": figures,
    }
    for variant in options.variants:
        print(summary(variant, figures[variant]))
    print(f"\nfailure analysis, {VARIANTS[options.variants[0]]}:\n\n{failure_tables(figures)}")
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def trained_on(model: LoadedModel) -> list[str]:
    """The patients whose slices the weights were trained on, from the entry's `split.json`."""
    return read_split(model.entry.folder)["train"]


if __name__ == "__main__":
    main()
