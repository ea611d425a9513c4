"""Splits by slice, as in the paper: neighbouring slices of a patient can be in training and test. A split by patient with the
same shares shows the effect. Only for `train.paper.reproduce`."""

from __future__ import annotations

from dataclasses import dataclass

from sklearn.model_selection import train_test_split

from train.datasets import Slice
from train.datasets.lgg import HELD_OUT


@dataclass(frozen=True, kw_only=True)
class SliceSplit:
    """Slices by role. Raises ValueError when a slice has two roles, or belongs to a held-out patient."""

    train: tuple[Slice, ...]
    validation: tuple[Slice, ...]
    test: tuple[Slice, ...] = ()

    def __post_init__(self) -> None:
        everything = [*self.train, *self.validation, *self.test]
        if len(set(everything)) < len(everything):
            raise ValueError("expected every slice in one role, got a slice in two roles")
        if held := set(self.patients) & HELD_OUT:
            raise ValueError(f"held-out patients in a split: {', '.join(sorted(held))}")

    @property
    def patients(self) -> tuple[str, ...]:
        """Every patient with a slice in any role."""
        return tuple(sorted({s.case for role in (self.train, self.validation, self.test) for s in role}))

    def with_a_neighbour_in_training(self, role: tuple[Slice, ...]) -> int:
        """How many slices of a role are next to a training slice: same patient, one number before or after."""
        training = {(s.case, s.number) for s in self.train}
        return sum(bool(training & {(s.case, s.number - 1), (s.case, s.number + 1)}) for s in role)


def split_for_segmenter(slices: list[Slice], seed: int) -> SliceSplit:
    """85% train, 11.25% test, 3.75% validation; the validation slices select the epoch."""
    return SliceSplit(**_shares(slices, seed))


def split_for_segmenter_by_patient(slices: list[Slice], seed: int) -> SliceSplit:
    """The same shares, of patients: all slices of a patient have one role."""
    roles = _shares(sorted({s.case for s in slices}), seed)
    return SliceSplit(**{role: tuple(s for s in slices if s.case in cases) for role, cases in roles.items()})


def _shares(items: list, seed: int) -> dict[str, tuple]:
    train, aside = train_test_split(items, test_size=0.15, random_state=seed)
    test, validation = train_test_split(aside, test_size=0.25, random_state=seed)
    return {"train": tuple(train), "validation": tuple(validation), "test": tuple(test)}


def split_for_classifier(slices: list[Slice], tumour: list[bool], seed: int) -> SliceSplit:
    """90% train, 10% validation, with the same share of tumour slices in each; the paper has no test slices here."""
    train, validation = train_test_split(slices, test_size=0.1, stratify=tumour, random_state=seed)
    return SliceSplit(train=tuple(train), validation=tuple(validation))
