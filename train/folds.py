"""Splits by patient: training and validation folds, stratified by institution and tumour volume.

`python -m train.folds --data DIR [--out FILE]` writes the fold manifest of a dataset, for example
`train/datasets/lgg_folds.json`. It assigns each patient a fold, with the tumour pixels that the fold was chosen by, or
"held out", so a partial copy of the dataset gets the same folds.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.arguments import choose_dataset, own_data_arguments
from train.datasets import DATASETS, Dataset, Slice
from train.distributed import is_main_process

FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Split:
    """Patients by role. Raises ValueError when a patient has two roles."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    held_out: frozenset[str]

    def __post_init__(self) -> None:
        if leaked := set(self.train) & set(self.validation):
            raise ValueError(f"patients leak between training and validation: {', '.join(sorted(leaked))}")
        if held_out := (set(self.train) | set(self.validation)) & self.held_out:
            raise ValueError(f"held-out patients in a split: {', '.join(sorted(held_out))}")


def tumour_areas(cases: dict[str, list[Slice]]) -> dict[str, int]:
    """Tumour pixels of each patient, over all slices."""
    return {case: sum(int(s.read_mask().sum()) for s in slices) for case, slices in cases.items()}


def split_patients(dataset: Dataset, areas: dict[str, int], folds: int = FOLDS, fold: int = 0, seed: int = 0) -> Split:
    """Split by patient, stratified by institution and tumour volume; held-out patients are in neither role.

    Patients are sorted by institution and, within it, by tumour pixels. Each group of `folds` consecutive patients is assigned to
    the folds in a random order that depends on `seed`.

    Args:
        areas: tumour pixels of each patient, from `tumour_areas`.
        fold: the fold that validates, 0 to folds - 1.
    """
    if not 0 <= fold < folds:
        raise ValueError(f"expected a fold from 0 to {folds - 1}, got {fold}")
    eligible = [case for case in areas if case not in dataset.held_out]
    if len(eligible) < folds:
        raise ValueError(f"expected at least {folds} patients for {folds} folds, got {len(eligible)}")
    ordered = sorted(eligible, key=lambda case: (dataset.institution_of(case), areas[case], case))
    generator = np.random.default_rng(seed)
    chosen = set()
    for start in range(0, len(ordered), folds):
        order = generator.permutation(folds)
        chosen |= {case for case, to in zip(ordered[start : start + folds], order, strict=False) if to == fold}
    return Split(
        train=tuple(sorted(set(eligible) - chosen)),
        validation=tuple(sorted(chosen)),
        held_out=dataset.held_out,
    )


def make_manifest(dataset: Dataset, areas: dict[str, int], folds: int = FOLDS) -> dict:
    """The content of a fold manifest.

    Args:
        areas: tumour pixels of every patient that is not held out.
    """
    fold_of = {case: fold for fold in range(folds) for case in split_patients(dataset, areas, folds, fold).validation}
    patients = {}
    for case in sorted(set(fold_of) | dataset.held_out):
        institution = dataset.institution_of(case)
        if case in dataset.held_out:
            patients[case] = {"institution": institution, "role": "held out"}
        else:
            patients[case] = {
                "institution": institution, "role": "fold", "fold": fold_of[case], "tumour_pixels": areas[case],
            }  # fmt: skip
    return {"rule": "train.folds.split_patients, seed 0", "folds": folds, "patients": patients}


def manifest_areas(dataset: Dataset) -> dict[str, int]:
    """Tumour pixels of the manifest's patients that are not held out; empty for a dataset without a manifest."""
    if dataset.manifest is None:
        return {}
    patients = json.loads(dataset.manifest.read_text(encoding="utf-8"))["patients"]
    return {case: patient["tumour_pixels"] for case, patient in patients.items() if patient["role"] == "fold"}


def split_cases(dataset: Dataset, cases: dict[str, list[Slice]], folds: int, fold: int, written: Path | None = None) -> Split:
    """The split of the whole dataset, restricted to the patients found: a partial copy gets the same folds.

    Phantoms in the LGG layout, and a dataset without a manifest, are split among themselves.

    Args:
        cases: slices of the patients found, without the held-out ones.
        written: where the manifest of people's own data goes.

    Raises:
        ValueError: when no patient is left for training or for validation; or when the manifest of people's own data lacks a
            patient or has another number of folds.
    """
    if dataset.record is not None:
        manifest = own_manifest(dataset, cases, folds)
        if written and is_main_process():
            write_manifest(written, manifest)
        fold_of = {case: patient["fold"] for case, patient in manifest["patients"].items() if case in cases}
        split = Split(
            train=tuple(sorted(case for case in fold_of if fold_of[case] != fold)),
            validation=tuple(sorted(case for case in fold_of if fold_of[case] == fold)),
            held_out=dataset.held_out,
        )
    else:
        areas = manifest_areas(dataset)
        split = split_patients(dataset, areas if set(cases) <= set(areas) else tumour_areas(cases), folds, fold)
    train, validation = (tuple(case for case in role if case in cases) for role in (split.train, split.validation))
    if not train or not validation:
        raise ValueError(
            f"expected patients for training and validation in fold {fold} of {folds}, got {len(train)} and {len(validation)} of "
            f"the {len(cases)} found; choose another fold, or train with --all"
        )
    return Split(train=train, validation=validation, held_out=dataset.held_out)


def own_manifest(dataset: Dataset, cases: dict[str, list[Slice]], folds: int) -> dict:
    """The manifest of people's own data: that of `--manifest`, or one made of the patients found."""
    if dataset.manifest is None:
        if len(cases) < folds:
            raise ValueError(
                f"expected at least {folds} patients for {folds} folds, got {len(cases)}; give fewer --folds, or --all"
            )
        return make_manifest(dataset, tumour_areas(cases), folds)
    manifest = json.loads(dataset.manifest.read_text(encoding="utf-8"))
    if lacking := sorted(set(cases) - set(manifest["patients"])):
        raise ValueError(
            f"expected every patient in {dataset.manifest}, got {len(lacking)} without a fold, such as {lacking[0]}; "
            "add them, or make a new manifest by python -m train.folds"
        )
    if manifest["folds"] != folds:
        raise ValueError(
            f"expected {folds} folds in {dataset.manifest}, got {manifest['folds']}; give --folds {manifest['folds']}"
        )
    return manifest


def write_manifest(path: Path, manifest: dict) -> None:
    """Write a fold manifest as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the whole dataset; held-out patients may be missing")
    parser.add_argument("--dataset", choices=list(DATASETS), help="default: recognised")
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--out", type=Path, help="file to write (default: the dataset's manifest)")
    own_data_arguments(parser)
    options = parser.parse_args(arguments)
    dataset = choose_dataset(options)
    out: Path | None = options.out or dataset.manifest
    if out is None:
        parser.error(f"expected --out, the file to write, because the dataset {dataset.key} names no manifest")
    cases = {case: slices for case, slices in dataset.find_slices(options.data).items() if case not in dataset.held_out}
    manifest = make_manifest(dataset, tumour_areas(cases), options.folds)
    write_manifest(out, manifest)
    print(f"{len(manifest['patients'])} patients in {out}")


if __name__ == "__main__":
    main()
