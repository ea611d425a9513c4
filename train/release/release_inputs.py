"""Release a network for any head: python -m train.release.release_inputs --run RUN --validated RUN --data DIR --wider DIR

The validated run has validation patients and groups of pictures, on which everything is measured and fitted: mask threshold,
fusion and review band for each sequence (`train.evaluation.calibrate_sequences`), the temperatures of the attributes, and the
figures of `train.release.release`. The figures by input come with rules fitted on the other half of the patients and groups. The
weights of `--run` are released. That may be the validated run itself, or one with another encoder; where a separate run has
validation groups of its own, it is measured on them too, with the fitted rules. Both can also be entries that were released
before, to calibrate or measure them anew; the temperatures of their attributes, which are in their weights, then stay. Afterwards
run `train.ood.fit_inputs`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import fminbound
from scipy.special import softmax
from torch import nn
from tqdm import tqdm

from brainmri.zoo.attributes import KIND, KINDS, PLANE, PLANES, SEQUENCE, SEQUENCES
from brainmri.zoo.backends import TORCH
from brainmri.zoo.entry import ModelEntry, read_config, read_split, rules_of, save_entry
from brainmri.zoo.metrics import Measurements
from brainmri.zoo.registry import EMBEDDED, LoadedModel, load
from train.datasets import dataset_of
from train.evaluation.calibrate_sequences import cross_fit
from train.evaluation.inputs import Measured, input_table, recognition_accuracy, table_rows, validation_views
from train.evaluation.inputs import measure as measure_views
from train.release.card import write_card
from train.release.release import describe_machine, measure, store_selfcheck


def fit_attribute_temperature(measured: list[Measured], attribute: str, classes: tuple[str, ...]) -> float:
    """The temperature that minimises the log loss of an attribute, between 0.2 and 5 (Guo et al. 2017)."""
    known = [one for one in measured if getattr(one, attribute)]
    logits = np.log(np.clip([one.attributes[attribute] for one in known], 1e-12, 1))  # (n, classes)
    true = np.array([classes.index(getattr(one, attribute)) for one in known])

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        return float(np.mean(np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(true)), true]))

    temperature, _, error, _ = fminbound(loss, 0.2, 5.0, full_output=True)
    if error:
        raise RuntimeError(f"no temperature found for {attribute}: its log loss has no minimum between 0.2 and 5")
    return float(temperature)


def attribute_temperatures(measured: list[Measured]) -> dict[str, float]:
    """The temperature of each attribute whose probabilities are shown or used for a decision."""
    named = ((KIND, KINDS), (SEQUENCE, SEQUENCES), (PLANE, PLANES))
    return {attribute: fit_attribute_temperature(measured, attribute, classes) for attribute, classes in named}


@torch.no_grad()
def calibrate_heads(net: nn.Module, temperatures: dict[str, float]) -> None:
    """Divide the weights of the attributes' heads by their temperatures, in place."""
    for attribute, temperature in temperatures.items():
        for parameter in net.get_submodule(f"attribute_heads.{attribute}").parameters():
            parameter /= temperature


def calibrate_measured(measured: list[Measured], temperatures: dict[str, float]) -> list[Measured]:
    """What would have been measured after `calibrate_heads`."""

    def calibrated(attribute: str, probabilities: np.ndarray) -> np.ndarray:
        return softmax(np.log(np.clip(probabilities, 1e-12, 1)) / temperatures.get(attribute, 1.0))

    return [
        replace(one, attributes={attribute: calibrated(attribute, values) for attribute, values in one.attributes.items()})
        for one in measured
    ]


def kind_table(measured: list[Measured]) -> list[list[int]]:
    """Confusion of the kinds: for each true kind, how many tumour slices are taken for each kind, in the order of `KINDS`."""
    counts = np.zeros((len(KINDS), len(KINDS)), int)
    for one in measured:
        if one.kind and one.attributes:
            counts[KINDS.index(one.kind), int(one.attributes[KIND].argmax())] += 1
    return counts.tolist()


def measure_inputs(model: LoadedModel, data: Path | None, wider: Path) -> list[Measured]:
    """The network's output for every view of its validation patients and groups."""
    views = validation_views(model.entry.folder, model, data, wider)
    return measure_views(model, tqdm(views, desc=model.entry.folder.name, unit="slice"))


def release(run: Path, validated: Path, data: Path, wider: Path, into: Path, name: str) -> ModelEntry:
    """Fit, measure and write the entry `name` under `into`."""
    trained, fold = (load(folder, device="cpu", runtime=TORCH) for folder in (run, validated))
    if fold.entry.metrics and not trained.entry.metrics:
        raise SystemExit(f"expected a run to find the temperatures of {run} with, got the entry {validated}; give its run folder")
    measured = measure_inputs(fold, data, wider)
    if not fold.entry.metrics:  # else its heads were calibrated when it was released
        temperatures = attribute_temperatures(measured)
        print("temperatures:", temperatures)
        measured = calibrate_measured(measured, temperatures)  # the pipeline decides by calibrated probabilities too
        if not trained.entry.metrics:
            calibrate_heads(trained.net, temperatures)
    each, fitted = cross_fit(measured, rules_of(fold.entry, fold.entry))

    patients = sorted(set(read_split(validated)["validation"]) & set(dataset_of(fold.entry).find_slices(data)))
    rules, figures = measure([fold], [patients], data)
    inputs = {
        "validated": {
            "rows": table_rows(measured, each),
            "recognised": recognition_accuracy(measured),
            "kinds": kind_table(measured),
        }
    }
    own = [] if trained.entry.sha256 == fold.entry.sha256 else measure_inputs(trained, None, wider)
    if own:
        inputs["released"] = {
            "rows": table_rows(own, dict.fromkeys((one.group for one in own), fitted)),
            "recognised": recognition_accuracy(own),
            "kinds": kind_table(own),
        }
    for title, part in inputs.items():
        print(f"\n{title}\n{input_table(part['rows'])}\n{part['recognised']}")
    config = read_config(run) | {
        "name": name,
        "mask_threshold": rules.mask_threshold,
        "mask_neighbours": rules.mask_neighbours,
        "temperature": rules.temperature,
        "review": list(rules.review),
        "fusion": {mode: fusion.config() for mode, fusion in rules.fusion.items()},
        "sequences": {sequence: one.config() for sequence, one in fitted.sequences.items()},
        "metrics": Measurements(
            protocol=describe_protocol(trained.entry, fold.entry, len(patients), len({one.group for one in measured})),
            stages=len(fold.entry.training.stages),
            machine=describe_machine(fold.device),
            variants=figures,
            inputs=inputs,
        ).config(),
    }
    save_entry(into / name, trained.net, config, {**read_split(run), "validated_on": patients}, half=True)
    entry = store_selfcheck(into / name)
    write_card(entry)
    return entry


def describe_protocol(released: ModelEntry, validated: ModelEntry, patients: int, groups: int) -> str:
    """How the figures were measured, in two sentences without the last full stop."""
    slices = f"validation on {patients} patients and {groups - patients} groups of pictures"
    rest = "Mask threshold, calibration and review bands were fitted on the other patients and groups"
    if validated.flips:
        rest += ", and predictions were averaged over each slice and its mirror image"
    if released.sha256 == validated.sha256:
        return f"{slices} that the released weights were not trained on. {rest}"
    drawn = [sum(stage.samples for stage in entry.training.stages) for entry in (validated, released)]
    encoders = [entry.arguments.get("encoder", "lite0") for entry in (validated, released)]
    other = f"had the encoder {encoders[0]} instead of {encoders[1]} and " if encoders[0] != encoders[1] else ""
    return (
        f"{slices}, with the weights of a separate training run that did not use them: it {other}saw {drawn[0]:,} training "
        f"slices, the released weights {drawn[1]:,}. {rest}"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run whose weights are released")
    parser.add_argument("--validated", type=Path, required=True, help="run with validation patients and groups")
    parser.add_argument("--data", type=Path, required=True, help="the LGG dataset")
    parser.add_argument("--wider", type=Path, required=True, help="folder with the index.csv of other heads")
    parser.add_argument("--into", type=Path, default=EMBEDDED, help="folder of entries")
    parser.add_argument("--name", default="effunet-any", help="of the entry")
    options = parser.parse_args(arguments)
    entry = release(options.run, options.validated, options.data, options.wider, options.into, options.name)
    print(f"released {entry.name} ({entry.parameters:,} parameters, SHA-256 {entry.sha256[:12]}…) into {options.into}")


if __name__ == "__main__":
    main()
