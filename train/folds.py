"""The folds of the 110 patients, written down: python -m train.folds --data DIR

`train/folds.json` gives each patient of the dataset a role: a fold, with the tumour pixels that the rule of
`train.data.split_patients` dealt by, or "held out". With it the folds no longer depend on whose copy of the dataset is whole.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from train.data import CASE, HELD_OUT, Slice, Split, find_slices, split_patients, tumour_areas

MANIFEST = Path(__file__).with_name("folds.json")
FOLDS = 5


def make_manifest(areas: dict[str, int]) -> dict:
    """What `folds.json` holds.

    Args:
        areas: tumour pixels of every patient that is not held out.
    """
    fold_of = {case: fold for fold in range(FOLDS) for case in split_patients(areas, FOLDS, fold).validation}
    patients = {}
    for case in sorted(set(fold_of) | HELD_OUT):
        institution = CASE.fullmatch(case)["institution"]
        if case in HELD_OUT:
            patients[case] = {"institution": institution, "role": "held out"}
        else:
            patients[case] = {
                "institution": institution, "role": "fold", "fold": fold_of[case], "tumour_pixels": areas[case],
            }  # fmt: skip
    return {"rule": "train.data.split_patients, seed 0", "folds": FOLDS, "patients": patients}


def known_areas() -> dict[str, int]:
    """Tumour pixels of the patients in the manifest that are not held out."""
    patients = json.loads(MANIFEST.read_text(encoding="utf-8"))["patients"]
    return {case: patient["tumour_pixels"] for case, patient in patients.items() if patient["role"] == "fold"}


def split_at_hand(cases: dict[str, list[Slice]], folds: int, fold: int) -> Split:
    """The split of the whole dataset, less the patients that are not at hand: a partial copy gets the same folds.

    Patients that the manifest doesn't know (phantoms, another dataset) are dealt by the rule among themselves.

    Args:
        cases: slices of the patients at hand, without the held-out ones.

    Raises:
        ValueError: when nobody is left to train on, or to validate.
    """
    known = known_areas()
    split = split_patients(known if set(cases) <= set(known) else tumour_areas(cases), folds, fold)
    train, validation = (tuple(case for case in role if case in cases) for role in (split.train, split.validation))
    if not train or not validation:
        raise ValueError(
            f"of the {len(cases)} patients at hand {len(train)} are left to train on and {len(validation)} to "
            f"validate in fold {fold} of {folds}; choose another fold, or train with --all"
        )
    return Split(train=train, validation=validation)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the whole dataset in the Kaggle layout, the held-out 20 or not")
    parser.add_argument("--out", type=Path, default=MANIFEST)
    options = parser.parse_args(arguments)
    cases = {case: slices for case, slices in find_slices(options.data).items() if case not in HELD_OUT}
    manifest = make_manifest(tumour_areas(cases))
    options.out.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(f"{len(manifest['patients'])} patients in {options.out}")


if __name__ == "__main__":
    main()
