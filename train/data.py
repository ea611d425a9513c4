"""The LGG MRI dataset on disk: its layout, its patients, honest splits, and the slices as the networks see them."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Sampler
from tqdm import tqdm

from brainmri.analysis.pipeline import predict_slices
from brainmri.io.pixels import to_unit
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.registry import LoadedModel

# Never trained or selected on by anyone: released weights are scored on them independently.
HELD_OUT = frozenset("""
    TCGA_CS_4944_20010208 TCGA_CS_6667_20011105 TCGA_CS_6668_20011025 TCGA_DU_5851_19950428 TCGA_DU_6404_19850629
    TCGA_DU_6408_19860521 TCGA_DU_7014_19860618 TCGA_HT_7616_19940813 TCGA_HT_7692_19960724 TCGA_HT_7879_19981009
    TCGA_CS_6188_20010812 TCGA_CS_6290_20000917 TCGA_DU_7013_19860523 TCGA_DU_7304_19930325 TCGA_DU_A5TW_19980228
    TCGA_DU_A5TY_19970709 TCGA_FG_A4MU_20030903 TCGA_HT_7475_19970918 TCGA_HT_7856_19950831 TCGA_HT_8105_19980826
""".split())  # fmt: skip

CASE = re.compile(r"TCGA_(?P<institution>[A-Z]{2})_[A-Z0-9]+_\d{8}")
SLICE = re.compile(r"(?P<case>.+)_(?P<number>\d+)\.tif")


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One slice on disk: its patient, its number along the head (from 1), its image and its mask."""

    case: str
    number: int
    image: Path
    mask: Path


def find_slices(root: str | Path) -> dict[str, list[Slice]]:
    """The slices of every patient under a folder in the Kaggle layout, in order along the head.

    Args:
        root: the folder that holds `<case>/<case>_<n>.tif`, or its parent with `kaggle_3m/` in it.

    Raises:
        FileNotFoundError: when there is no such folder, no patient in it, or a slice without its mask.
    """
    root = Path(root)
    root = root / "kaggle_3m" if (root / "kaggle_3m").is_dir() else root
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give the one that holds kaggle_3m/ or the TCGA_* folders")
    cases = {}
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and CASE.fullmatch(p.name)):
        slices = []
        for path in folder.glob("*.tif"):
            if (match := SLICE.fullmatch(path.name)) and match["case"] == folder.name:
                mask = path.with_name(f"{path.stem}_mask.tif")
                if not mask.exists():
                    raise FileNotFoundError(f"{path} has no mask {mask.name} beside it")
                slices.append(Slice(case=folder.name, number=int(match["number"]), image=path, mask=mask))
        if slices:
            cases[folder.name] = sorted(slices, key=lambda s: s.number)
    if not cases:
        raise FileNotFoundError(f"{root} holds no TCGA_* folders with slices in them; is it the Kaggle layout?")
    return cases


def read_mask(path: Path) -> np.ndarray:
    """(H, W) bool."""
    return np.asarray(Image.open(path).convert("L")) > 127


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8: pre-contrast T1, FLAIR, post-contrast T1."""
    return np.asarray(Image.open(path).convert("RGB"))


def tumour_areas(cases: dict[str, list[Slice]]) -> dict[str, int]:
    """Tumour pixels of each patient, over all slices."""
    return {case: sum(int(read_mask(s.mask).sum()) for s in slices) for case, slices in cases.items()}


@dataclass(frozen=True, kw_only=True)
class Split:
    """Patients by role. Raises ValueError when one stands in two roles, or a held-out one in any."""

    train: tuple[str, ...]
    validation: tuple[str, ...]

    def __post_init__(self) -> None:
        both = set(self.train) & set(self.validation)
        if both:
            raise ValueError(f"patients leak between training and validation: {', '.join(sorted(both))}")
        if held := (set(self.train) | set(self.validation)) & HELD_OUT:
            raise ValueError(f"held-out patients in a split: {', '.join(sorted(held))}")


def split_patients(areas: dict[str, int], folds: int = 5, fold: int = 0, seed: int = 0) -> Split:
    """Split by patient, stratified by institution and tumour volume; the held-out 20 stand in neither role.

    Patients are dealt to the folds in order of institution and, within it, of tumour pixels; each round of `folds`
    neighbours is dealt in an order of its own, drawn from `seed`.

    Args:
        areas: tumour pixels of each patient, as `tumour_areas` gives them.
    """
    if not 0 <= fold < folds:
        raise ValueError(f"fold {fold} came; with {folds} folds it is 0 to {folds - 1}")
    eligible = [case for case in areas if case not in HELD_OUT]
    if len(eligible) < folds:
        raise ValueError(f"{len(eligible)} patients cannot make {folds} folds")
    ordered = sorted(eligible, key=lambda case: (CASE.fullmatch(case)["institution"], areas[case], case))
    generator = np.random.default_rng(seed)
    chosen = set()
    for start in range(0, len(ordered), folds):
        dealt = generator.permutation(folds)
        chosen |= {case for case, to in zip(ordered[start : start + folds], dealt, strict=False) if to == fold}
    return Split(
        train=tuple(sorted(set(eligible) - chosen)),
        validation=tuple(sorted(chosen)),
    )


def read_patients(path: str | Path) -> tuple[str, ...]:
    """Patients from a text file, one a line; blank lines and lines starting with # are skipped."""
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def load_placed(slices: list[Slice], preprocess: Preprocess, teacher: LoadedModel | None = None) -> list[dict]:
    """Decode slices once and put them on the network's grid, before augmentation and normalisation.

    Args:
        teacher: a segmenter whose masks the annotators' are drawn halfway towards (Hinton et al. 2015). It sees each slice as it
            is, on its own grid: what is done to the slice afterwards is done to its mask too.

    Returns:
        One dict a slice: `image` (3, S, S) float32 in [0, 1]; `mask` (1, S, S) float32 in [0, 1], antialiased;
        `tumour` 0 or 1; `case`; `number`.
    """
    loaded = []
    for item in tqdm(slices, desc="reading slices", unit="slice", leave=False):
        unit = to_unit(read_image(item.image))
        image, placement = preprocess(unit)
        mask = read_mask(item.mask)
        target = mask.astype(np.float32)
        if teacher:
            target = (target + predict_slices(teacher, None, unit[None]).maps[0]) / 2
        placed = preprocess.place(torch.from_numpy(target)[None], placement)
        loaded.append({"image": image, "mask": placed, "tumour": int(mask.any()), "case": item.case, "number": item.number})
    return loaded


class TumourShareSampler(Sampler[int]):
    """Draw slices, with replacement, a fixed share of them with tumour.

    The draw depends on the seed and the epoch alone, so that a resumed run sees what an unbroken one would.

    Args:
        slices: what `load_placed` gives.
        samples: slices an epoch.
        share: of them that show tumour.
        evenness: 0 draws every slice alike, 1 every patient alike, however many slices a scanner made of a head; in between,
            a patient's share grows with the number of slices to the power of 1 - evenness.
    """

    def __init__(self, slices: list[dict], samples: int, share: float, seed: int, evenness: float = 0.0) -> None:
        tumour, cases = [s["tumour"] for s in slices], [s["case"] for s in slices]
        self.pools = []  # without tumour, with tumour: the slices, and where each one's share of [0, 1) ends
        for wanted, drawn in ((0, share < 1), (1, share > 0)):
            pool = [i for i, t in enumerate(tumour) if t == wanted]
            if drawn and not pool:
                raise ValueError("training needs slices with tumour and slices without; one kind is missing")
            counts = Counter(cases[i] for i in pool)
            weights = torch.tensor([counts[cases[i]] ** -evenness for i in pool], dtype=torch.float64)
            self.pools.append((torch.tensor(pool), weights.cumsum(0) / weights.sum()))
        self.samples, self.share, self.seed, self.epoch = samples, share, seed, 0

    def __len__(self) -> int:
        return self.samples

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        with_tumour, which = torch.rand(2, self.samples, generator=generator, dtype=torch.float64)
        for positive, drawn in zip((with_tumour < self.share).tolist(), which, strict=True):
            pool, ends = self.pools[positive]
            yield int(pool[torch.searchsorted(ends, drawn, right=True).clamp(max=len(pool) - 1)])


def institutions(cases: list[str]) -> dict[str, int]:
    """How many patients each institution gives."""
    counts: dict[str, int] = defaultdict(int)
    for case in cases:
        counts[CASE.fullmatch(case)["institution"]] += 1
    return dict(counts)


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows with the union of their keys as columns, in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=columns)
        writer.writeheader()
        writer.writerows(rows)
