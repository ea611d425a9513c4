"""Slices as the networks are trained on them: decoded once, placed on the network's grid, and sampled."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import WeightedRandomSampler
from tqdm import tqdm

from brainmri.analysis.forward import predict_slices
from brainmri.io.pixels import to_unit
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.registry import LoadedModel
from train.datasets import Slice


def read_patients(path: str | Path) -> tuple[str, ...]:
    """Patients from a text file, one per line; blank lines and lines starting with # are skipped."""
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def average_with_teacher(mask: np.ndarray, unit: np.ndarray, teacher: LoadedModel) -> np.ndarray:
    """The mean of an annotator's mask and a teacher's probability map (Hinton et al. 2015).

    Args:
        mask: (H, W), False or True, or 0 to 1.
        unit: (H, W, 3) float32 in [0, 1], the slice before augmentation.
        teacher: a segmenter, which gets the slice on its own grid.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        ValueError: when the teacher gives no mask.
    """
    maps = predict_slices(teacher, None, unit[None]).maps
    if maps is None:
        raise ValueError(f"expected a segmenter as teacher, got {teacher.entry.name}, which gives no mask")
    return (mask.astype(np.float32) + maps[0]) / 2


def load_placed(slices: list[Slice], preprocess: Preprocess, teacher: LoadedModel | None = None) -> list[dict]:
    """Decode slices once and put them on the network's grid, before augmentation and normalisation.

    Args:
        teacher: a segmenter from which each target is learnt too (`average_with_teacher`); augmentation moves slice and target
            alike.

    Returns:
        One dict per slice: `image` (3, S, S) float32 in [0, 1]; `mask` (1, S, S) float32 in [0, 1], antialiased;
        `tumour` 0 or 1; `case`; `number`.

    Raises:
        ValueError: when the teacher gives no mask.
    """
    loaded = []
    for item in tqdm(slices, desc="reading slices", unit="slice", leave=False):
        unit = to_unit(item.read_image())
        image, placement = preprocess(unit)
        mask = item.read_mask()
        target = mask.astype(np.float32)
        if teacher:
            target = average_with_teacher(target, unit, teacher)
        placed = preprocess.place(torch.from_numpy(target)[None], placement)
        loaded.append({"image": image, "mask": placed, "tumour": int(mask.any()), "case": item.case, "number": item.number})
    return loaded


class TumourShareSampler(WeightedRandomSampler):
    """Sample slices with replacement, a fixed share of them with tumour.

    The sample depends on the seed and the epoch only, so a resumed run gets the same slices as an uninterrupted one.

    Args:
        slices: from `load_placed`.
        samples: slices per epoch.
        share: expected share of slices with tumour, 0 to 1.
        evenness: 0 samples every slice equally often, 1 every patient equally often; in between, a patient's share is
            proportional to its number of slices to the power of 1 - evenness.

    Raises:
        ValueError: when there are no slices with tumour or none without, and the share asks for them.
    """

    def __init__(self, slices: list[dict], samples: int, share: float, seed: int, evenness: float = 0.0) -> None:
        counts = Counter((s["tumour"], s["case"]) for s in slices)
        weights = torch.tensor([counts[s["tumour"], s["case"]] ** -evenness for s in slices], dtype=torch.float64)
        tumour = torch.tensor([bool(s["tumour"]) for s in slices])
        for group, part in ((tumour, share), (~tumour, 1 - share)):
            if part > 0 and not group.any():
                raise ValueError("expected slices with tumour and slices without, got only one kind; add patients")
            weights[group] *= part / weights[group].sum()
        self.random = torch.Generator()
        super().__init__(weights.tolist(), samples, generator=self.random)
        self.seed, self.epoch = seed, 0

    def __iter__(self) -> Iterator[int]:
        self.random.manual_seed(self.seed * 100_003 + self.epoch)
        yield from super().__iter__()


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows with the union of their keys as columns, in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=columns)
        writer.writeheader()
        writer.writerows(rows)
