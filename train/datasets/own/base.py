"""What every layout shares: the samples that it finds, and what an error says about a folder."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
VOLUMES = (".nii.gz", ".nii", ".mgz", ".mgh", ".nrrd", ".mha")
MASK_ENDINGS = ("mask", "seg", "label", "segmentation", "annotation")
SHOWN = 3  # names in an error


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image of one sequence on disk.

    Attributes:
        sequence: as the dataset names it; empty where it names none.
        path: the file.
        part: which volume of a file with four dimensions, from 0; None for a file that is one image.
    """

    sequence: str
    path: Path
    part: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A slice or a volume of a patient.

    Attributes:
        patient: whose it is; a split never divides a patient.
        sources: its sequences.
        mask: the file with the labels; None where the dataset says that there is no tumour.
    """

    patient: str
    sources: tuple[Source, ...]
    mask: Path | None

    @property
    def label(self) -> str:
        """The sample in messages: its first file."""
        return self.sources[0].path.name


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a layout finds under a folder.

    Attributes:
        samples: in order, a patient's slices along the head where their names have numbers.
        labels: values of the masks by name, if the dataset names them.
        tumour: the values that are tumour by the layout's definition; empty where it defines none.
        notes: assumptions that a person should know.
    """

    samples: list[Sample]
    labels: dict[str, int] = field(default_factory=dict)
    tumour: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


class Layout(Protocol):
    """How a dataset is arranged on disk. A new layout is a class here and an instance in `train.datasets.own.layouts.LAYOUTS`.

    Attributes:
        name: in messages and records.
        example: of its files, in a line.
    """

    name: str
    example: str

    def matches(self, root: Path) -> bool:
        """Whether a folder or file has this layout, from names alone."""
        ...

    def find(self, root: Path) -> Found:
        """The samples. Raises ValueError for a folder that has the layout but lacks files."""
        ...


def suffix_of(path: Path) -> str:
    """The suffix of an image file, in lower case, ".nii.gz" included; empty for other files."""
    name = path.name.lower()
    return next((suffix for suffix in (*VOLUMES, *PICTURES) if name.endswith(suffix)), "")


def stem_of(path: Path) -> str:
    """The name without the suffix of an image file."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def images_in(folder: Path) -> list[Path]:
    """The image files under a folder in order of their names, numbers by value, without hidden ones."""
    files = [path for path in folder.rglob("*") if path.is_file() and suffix_of(path) and not path.name.startswith(".")]
    return sorted(files, key=lambda path: natural_key(path.relative_to(folder).as_posix()))


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, in order, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def natural_key(name: str) -> list[str | tuple[int, str]]:
    """A sort key by which slice 10 follows slice 9."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), part) if number % 2 else part for number, part in enumerate(parts)]  # pyright: ignore[reportReturnType]


def without_mask_ending(stem: str) -> str | None:
    """`p1_12_mask` to `p1_12`; None for a name without such an ending."""
    match = re.fullmatch(rf"(.+?)[-_ .](?:{'|'.join(MASK_ENDINGS)})", stem, re.IGNORECASE)
    return match[1] if match else None


def name_patients(paths: list[Path], root: Path) -> dict[Path, str]:
    """The patient of each image: the folders below the root, else the name without the number of the slice.

    A volume is a patient of its own. So are pictures whose names differ in their numbers only, such as `img_12.png`.
    """
    patients = {}
    for path in paths:
        folders = path.relative_to(root).parts[:-1]
        match = re.fullmatch(r"(.+?)[-_ .]+(?:slice|z|img|image)?[-_ ]?\d+", stem_of(path), re.IGNORECASE)
        numbered = match[1] if match and suffix_of(path) in PICTURES else stem_of(path)
        patients[path] = "/".join(folders) or numbered
    if len(set(patients.values())) == 1 and not any(path.relative_to(root).parts[:-1] for path in paths):
        return {path: stem_of(path) for path in paths}
    return patients


def some(names: list[str]) -> str:
    """A few names and how many more, for an error."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def columns_of(path: Path) -> list[str]:
    """The first row of a CSV file; characters of another encoding than UTF-8 are replaced."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as handle:
        return next(csv.reader(handle), [])


def describe_folder(root: Path) -> str:
    """What a folder or a file holds, in a few words, for an error."""
    if root.suffix.lower() == ".csv" and root.is_file():
        return f"the file {root.name} with the columns {', '.join(columns_of(root)) or '(none)'}"
    if root.is_file():
        return f"the file {root.name}"
    folders = [path.name for path in folders_in(root)]
    files = [path for path in root.iterdir() if path.is_file()]
    kinds = Counter("".join(path.suffixes[-2:]) or "without suffix" for path in files)
    parts = [f"{len(folders)} folders ({some(folders)})"] if folders else []
    if files:
        parts.append(f"{len(files)} files ({', '.join(f'{count} {kind}' for kind, count in kinds.most_common(SHOWN))})")
    return " and ".join(parts) or "an empty folder"
