"""The contract of a dataset: what the training commands and the model cards need to know about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One slice on disk: its patient, its number along the head (from 1), its image file and its mask file (None: no tumour).

    The methods read image formats that Pillow opens. A dataset with other files returns a subclass that overrides them.
    """

    case: str
    number: int
    image: Path
    mask: Path | None

    def read_image(self) -> np.ndarray:
        """(H, W, 3) uint8: pre-contrast T1, FLAIR, post-contrast T1."""
        return np.asarray(Image.open(self.image).convert("RGB"))

    def read_mask(self) -> np.ndarray:
        """(H, W) bool: tumour."""
        if self.mask is None:
            return np.zeros(self.read_image().shape[:2], bool)
        return np.asarray(Image.open(self.mask).convert("L")) > 127


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One dataset. Each is a module in this package and an entry in `train.datasets.DATASETS`.

    Args:
        key: what `--dataset` takes.
        name: the published name.
        source: authors, year and collection, as the training record cites them.
        licence: as it is printed.
        licence_id: the licence's identifier on the Hub.
        hub_id: the dataset's identifier on the Hub; empty for a dataset that is not there.
        citation: the publication to cite.
        intended_use: what networks trained on it are for, and what they are not for.
        tags: further tags on the Hub for networks trained on it.
        description: Markdown about the dataset, which model cards include.
        record: what `split.json` stores to find the dataset again (`train.datasets.own`); None for one of `DATASETS`.
        held_out: patients that no command trains or validates on; released weights are tested on them independently.
        find_sequences: root folder to the inputs in it, for the training record (`brainmri.zoo.records.Training.sequences`).
        find_slices: root folder to the slices of every patient, in order along the head. Raises FileNotFoundError for a folder
            in another layout.
        institution_of: patient to institution; folds are stratified by it.
        manifest: JSON file that assigns each patient a fold (`train.folds`), or None to assign folds to the patients found.
    """

    key: str
    name: str
    source: str
    licence: str
    licence_id: str
    hub_id: str
    citation: str
    intended_use: str
    held_out: frozenset[str]
    find_slices: Callable[[str | Path], dict[str, list[Slice]]]
    institution_of: Callable[[str], str]
    manifest: Path | None = None
    tags: tuple[str, ...] = ()
    description: str = ""
    record: dict | None = None
    find_sequences: Callable[[str | Path], tuple[str, ...]] = lambda root: ()

    @property
    def reference(self) -> str:
        """Name, source and licence, as the record of a training states them."""
        return f"{self.name} ({self.source}), {self.licence}"
