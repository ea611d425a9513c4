"""Turn finished runs into a zoo entry: python -m train.release --data DIR --run RUN --validated RUN [--half] [--into DIR]

The validated run fits the verdict's temperature, chooses the review band and gives the figures, all on the patients
that it never trained on. `--run`, whose weights are released, is that same run, or one that started from it and went on to
see every patient (`--all --start`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from brainmri.entry import CARD, CONFIG, SPLIT, VARIANTS, ModelEntry, save_entry
from brainmri.zoo import EMBEDDED, LoadedModel, load
from train.card import model_card
from train.data import find_slices
from train.evaluate import evaluate, predict_case, table

REVIEW_ERROR = 0.03  # the verdict may be wrong on this share of the slices it decides


def fit_temperature(probability: np.ndarray, tumour: np.ndarray) -> float:
    """The temperature (Guo et al. 2017) that minimises the log loss, between 0.2 and 5.

    Args:
        probability: uncalibrated (temperature 1) tumour probabilities.
        tumour: bool.
    """
    clipped = np.clip(probability, 1e-7, 1 - 1e-7)
    logit, sign = np.log(clipped / (1 - clipped)), np.where(tumour, 1.0, -1.0)
    loss = minimize_scalar(lambda t: np.logaddexp(0, -sign * logit / t).mean(), bounds=(0.2, 5.0), method="bounded")
    return float(loss.x)


def choose_review_band(probability: np.ndarray, tumour: np.ndarray, widest: float = 0.9) -> tuple[float, float]:
    """The narrowest band (1 - h, h) outside of which at most `REVIEW_ERROR` of the slices are called wrongly.

    The widest allowed, when none keeps to that.
    """
    for high in np.arange(0.55, widest + 1e-9, 0.05):
        decided = (probability < 1 - high) | (probability > high)
        wrong = (probability > 0.5) != tumour
        if decided.any() and wrong[decided].mean() <= REVIEW_ERROR:
            break
    return round(1 - float(high), 2), round(float(high), 2)


def release(run: Path, validated: Path, data: Path, into: Path, half: bool) -> ModelEntry:
    """Measure the validated run, and write the other run's weights with those figures as an entry under `into`."""
    measured = load(validated.name, weights=validated)
    split = json.loads((validated / SPLIT).read_text(encoding="utf-8"))
    cases = {case: slices for case, slices in find_slices(data).items() if case in set(split["validation"])}
    if set(cases) != set(split["validation"]):
        raise SystemExit(f"{data} lacks {len(set(split['validation']) - set(cases))} of the validation patients of {validated}")
    if overlap := set(split["train"]) & set(cases):
        raise SystemExit(f"{validated} was trained on patients it would be measured on: {', '.join(sorted(overlap))}")
    stages, earlier = (load(folder.name, weights=folder, device="cpu").entry.training["stages"] for folder in (run, validated))
    if stages[: len(earlier)] != earlier:
        raise SystemExit(f"{run} did not start from {validated}, so the figures of one say nothing of the other")
    segments, classifies = ("segmentation" in measured.entry.tasks), ("classification" in measured.entry.tasks)
    if classifies:
        rows = [row for slices in cases.values() for row in predict_case(slices, None, measured)]
        probability, tumour = (np.array([r[key] for r in rows]) for key in ("probability", "tumour"))
        temperature = fit_temperature(probability, tumour)
        clipped = np.clip(probability, 1e-7, 1 - 1e-7)
        calibrated = 1 / (1 + (clipped / (1 - clipped)) ** (-1 / temperature))
        entry = dataclasses.replace(measured.entry, temperature=temperature, review=choose_review_band(calibrated, tumour))
        measured = LoadedModel(entry=entry, net=measured.net, device=measured.device)
    figures = evaluate(cases, measured if segments else None, measured if classifies else None, VARIANTS)
    for variant, part in figures.items():
        print(f"{variant}: {part['patients']} patients, {part['slices']} slices\n{table(part)}")

    trained = load(run.name, weights=run, device="cpu")
    config = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    config |= {
        "temperature": measured.entry.temperature,
        "review": list(measured.entry.review),
        "metrics": {
            "protocol": f"patient-level validation on {len(cases)} of {len(cases) + len(split['train'])} patients, none of whom "
            "the measured weights had seen; temperature and review band fitted on these same patients"
            + ("; mirrored view averaged in" if measured.entry.flips else ""),
            "machine": f"{platform.machine()} {measured.device.type.upper()}, float32, torch {torch.__version__.split('+')[0]}",
            "variants": figures,
        },
    }
    roles = json.loads((run / SPLIT).read_text(encoding="utf-8"))
    folder = into / config["name"]
    entry = save_entry(folder, trained.net, config, {**roles, "validated_on": split["validation"]}, half=half)
    (folder / CARD).write_text(model_card(entry), encoding="utf-8")
    return entry


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="the run whose weights are released")
    parser.add_argument(
        "--validated", type=Path, required=True, help="the run with validation patients, whose figures are published"
    )
    parser.add_argument("--into", type=Path, default=EMBEDDED, help="folder of entries")
    parser.add_argument("--half", action="store_true", help="store the weights in float16")
    options = parser.parse_args(arguments)
    entry = release(options.run, options.validated, options.data, options.into, options.half)
    print(f"released {entry.name} ({entry.parameters:,} parameters, SHA-256 {entry.sha256[:12]}…) into {options.into}")


if __name__ == "__main__":
    main()
