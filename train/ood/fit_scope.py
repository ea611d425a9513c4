"""Fit which slices an entry leaves to a specialist: python -m train.ood.fit_scope NAME --specialist NAME --validated RUN …

The specialist (`brainmri.analysis.specialist`) decides slices like its own training data: axial, with skull, of the sequences
that it was evaluated on. A detector on the features of the entry tells them from the same slices without skull, from other
sequences and planes, and from other heads. The validated run sets the thresholds by its validation patients and groups, and
measures each set of other heads with a detector fitted without the set. Run this after `train.ood.fit_inputs`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from tqdm import tqdm

from brainmri.analysis.forward import encoder_features
from brainmri.analysis.specialist import LEAST_SHARE
from brainmri.io.pixels import to_unit
from brainmri.report.metric_tables import scope_table
from brainmri.zoo.attributes import FLAIR, THREE_SEQUENCES
from brainmri.zoo.entry import SCOPE, file_sha256, read_split, update_config
from brainmri.zoo.ood import OodDetector
from brainmri.zoo.records import OodConfig, SpecialistConfig
from brainmri.zoo.registry import EMBEDDED, LoadedModel, find_entry, load
from train.datasets import dataset_of
from train.evaluation.inputs import without_skull
from train.examples import CHANNELS, Example, patient_examples, picture_examples, single_sequence
from train.mix import AXIAL, CUT
from train.ood.fit import FEATURES, fit_tensors
from train.ood.fit_inputs import find_slice, make_detector
from train.release.card import write_card
from train.uploads import as_upload

STEP = 3  # every third slice, since neighbours are alike
CHANGED = 0.5  # share of the training slices that are changed into uploads first (`train.uploads`)
OWN = (THREE_SEQUENCES, FLAIR)  # what the specialists of the LGG dataset read; a class of the distance each
OF_LGG = NO_SKULL, OTHER_SEQUENCE, OTHER_PLANE = "skull removed", "other sequence", "other plane"
FAR_SHARE = 0.01  # of the specialist's own validation slices that are beyond the distance
PASSING_SHARE = 0.01  # of all other validation slices that are taken for its own


@dataclass(kw_only=True)
class Features:
    """A network's features of slices, by kind; a batch is of one patient or group of pictures."""

    model: LoadedModel
    batches: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, kind: str, units: list[np.ndarray]) -> None:
        """Add a batch of slices (H, W, 3) in [0, 1]."""
        if units:
            preprocess = self.model.entry.preprocess
            images = preprocess.normalise(torch.stack([preprocess(unit)[0] for unit in units]))
            self.batches.setdefault(kind, []).append(encoder_features(self.model, images, FEATURES).numpy())

    def __getitem__(self, kind: str) -> np.ndarray:
        return np.concatenate(self.batches[kind])

    @property
    def sets(self) -> list[str]:
        """The sets of pictures of other heads."""
        return [kind for kind in self.batches if kind not in (*OWN, *OF_LGG)]

    def others(self, without: str = "") -> list[np.ndarray]:
        """A class for each kind of LGG slices that are not the specialist's own, and one for all sets of other heads but one."""
        sets = [self[name] for name in self.sets if name != without]
        return [self[kind] for kind in OF_LGG if kind in self.batches] + ([np.concatenate(sets)] if sets else [])


def patient_batches(examples: list[Example], seed: int, changed: float) -> Iterator[tuple[str, list[np.ndarray]]]:
    """The kinds of an LGG patient's slices, each with its slices."""
    axial, cut = ([e for e in examples if e.source == source][::STEP] for source in (AXIAL, CUT))
    flair = [single_sequence(example, FLAIR) for example in axial]
    others = [single_sequence(e, (*CHANNELS,)[2 * (n % 2)]) for n, e in enumerate(axial)]
    kinds = {
        THREE_SEQUENCES: axial,
        FLAIR: flair,
        NO_SKULL: [without_skull(pair[n % 2], seed + n) for n, pair in enumerate(zip(axial, flair, strict=True))],
        OTHER_SEQUENCE: [e for e, f in zip(others, flair, strict=True) if e.sequence != f.sequence],
        OTHER_PLANE: [e if n % 2 else single_sequence(e, FLAIR) for n, e in enumerate(cut)],
    }
    for kind, chosen in kinds.items():
        yield kind, [uploaded(example, seed + number, changed) for number, example in enumerate(chosen)]


def uploaded(example: Example, seed: int, changed: float) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]: the slice, or, with the probability `changed`, the slice as somebody may upload it."""
    random, pixels = np.random.default_rng(seed), example.pixels
    if random.random() < changed:
        pixels, _ = as_upload(pixels, example.mask.astype(np.float32), random, skull_removal=0.0)
    return find_slice(to_unit(np.ascontiguousarray(pixels)))


def collect(model: LoadedModel, data: Path, wider: Path, role: str, changed: float) -> Features:
    """Features of the patients and groups of a role.

    Args:
        role: "train" or "validation", of the run's `split.json`.
        changed: share of the slices that are changed into uploads.
    """
    split = read_split(model.entry.folder)
    chosen, found = set(split[role]), Features(model=model)
    patients = [(case, s) for case, s in dataset_of(model.entry).find_slices(data).items() if case in chosen]
    for number, (_, slices) in enumerate(tqdm(patients, desc=f"{role} patients", unit="patient")):
        for kind, units in patient_batches(patient_examples(slices), 1000 * number, changed):
            found.add(kind, units)
    pictures = [example for example in picture_examples(wider) if example.group in chosen]
    for name, group in tqdm(dict.fromkeys((e.collection, e.group) for e in pictures), desc=f"{role} groups", unit="group"):
        part = [example for example in pictures if (example.collection, example.group) == (name, group)][::STEP]
        found.add(name, [uploaded(example, seed, changed) for seed, example in enumerate(part)])
    return found


def fit(train: Features, without: str = "") -> OodDetector:
    """The detector without thresholds; `without` a set of other heads."""
    own = [train[kind] for kind in OWN]
    classes = np.repeat(np.arange(len(own)), [len(part) for part in own])
    near = FEATURES.distance_size(train.model.net.feature_channels)
    return make_detector(fit_tensors(np.concatenate(own), classes, train.others(without), near))


def choose_thresholds(detector: OodDetector, validation: Features) -> dict[str, float]:
    """Thresholds that `FAR_SHARE` of the own and all but `PASSING_SHARE` of the other validation slices are beyond."""
    own = np.concatenate([validation[kind] for kind in OWN])
    other = np.concatenate(validation.others())
    return {
        "distance_threshold": round(float(np.quantile(detector.distance(own), 1 - FAR_SHARE)), 3),
        "other_threshold": round(float(np.quantile(detector.other_log_odds(other), PASSING_SHARE)), 3),
    }


def shares(detector: OodDetector, features: Features) -> dict[str, dict]:
    """By kind: the number of `slices`, the share `inside`, the number of `batches`, and the share that the specialist decides."""
    found = {}
    for kind, batches in features.batches.items():
        inside = [detector.is_inside(batch) for batch in batches]
        found[kind] = {
            "slices": sum(map(len, inside)),
            "inside": round(float(np.concatenate(inside).mean()), 4),
            "batches": len(inside),
            "decided": round(float(np.mean([one.mean() >= LEAST_SHARE for one in inside])), 4),
        }
    return found


def measure(run: Path, data: Path, wider: Path) -> tuple[dict[str, float], dict[str, dict]]:
    """Thresholds from a validated run, and the shares of its validation slices; each set is measured by a fit without it."""
    model = load(run, device="cpu")
    train, validation = (collect(model, data, wider, role, CHANGED * (role == "train")) for role in ("train", "validation"))
    detector = fit(train)
    thresholds = choose_thresholds(detector, validation)
    own = Features(model=model, batches={kind: found for kind, found in validation.batches.items() if kind in (*OWN, *OF_LGG)})
    found = shares(replace(detector, **thresholds), own)
    for name in train.sets:
        part = Features(model=model, batches={name: train.batches[name] + validation.batches.get(name, [])})
        without = fit(train, without=name)
        found |= shares(replace(without, **choose_thresholds(without, validation)), part)
    return thresholds, found


def main(arguments: list[str] | None = None) -> dict:
    """Fit, write, measure; returns the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="entry that leaves slices to the specialist")
    parser.add_argument("--specialist", required=True, help="entry of the zoo, for the LGG dataset")
    parser.add_argument("--data", type=Path, required=True, help="the LGG dataset")
    parser.add_argument("--wider", type=Path, required=True, help="folder with the index.csv of other heads")
    parser.add_argument("--validated", type=Path, required=True, help="run with validation patients and groups")
    parser.add_argument("--into", type=Path, default=EMBEDDED, help="folder of entries")
    options = parser.parse_args(arguments)
    if find_entry(options.specialist).evaluated_on != set(OWN):
        raise SystemExit(f"expected a specialist for {' and '.join(OWN)}, got {options.specialist}; choose another entry")
    thresholds, report = measure(options.validated, options.data, options.wider)
    print(scope_table(report))
    folder = options.into / options.name
    model = load(options.name, weights=folder, device="cpu")
    detector = fit(collect(model, options.data, options.wider, "train", CHANGED))
    save_file(detector.tensors(), folder / SCOPE)
    scope = OodConfig(sha256=file_sha256(folder / SCOPE), feature_spec=FEATURES, any_plane=True, **thresholds)
    entry = update_config(folder, specialist=SpecialistConfig(name=options.specialist, scope=scope, measured=report).config())
    if entry.metrics is not None:
        write_card(entry)
    return report


if __name__ == "__main__":
    main()
