"""Pictures of heads outside the LGG dataset: other tumours, people without a tumour, other sequences and planes.

The folder has an `index.csv` with the columns of `COLUMNS` and one greyscale picture a row. `label` is 1 for a tumour, 0 for
none, and empty for a picture that is not a brain MR slice.
"""

from __future__ import annotations

import csv
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

COLUMNS = ("file", "mask", "set", "group", "label", "finding", "sequence", "plane")

# for the cards of networks that are trained on these pictures besides the LGG dataset
INTENDED_USE = """\
Research and teaching on brain MR slices and studies of adults: FLAIR, T1 and post-contrast T1, axial, coronal or sagittal, with
or without skull. Not a medical device; no clinical decision may rest on it. It has seen gliomas, meningiomas and pituitary
tumours; metastases and other tumours, children, and scans after surgery are outside what it has seen. It was trained on no
tumours in T2 and PD slices, which are for review where it recognises the sequence."""
TAGS = ("glioma", "meningioma", "pituitary", "t1", "flair")
DESCRIPTION = """\
Besides the LGG dataset, it was trained on pictures of other heads:

- Post-contrast T1 with glioma, meningioma or pituitary tumour (Cheng 2017, figshare 1512427, CC BY 4.0).
- Multiple sclerosis, whose lesions are no tumours (open_ms_data, CC BY; Mendeley Data, CC BY 4.0).
- Heads without a known tumour in three planes (examples of brainchop, NiiVue, SPM, ANTs and nibabel), and old brains with and
  without Alzheimer's disease (public copies without a stated licence; not redistributed).

figshare names no patients, so its groups are blocks of 16 neighbouring pictures: a patient may be in two groups."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture on disk and its labels.

    Attributes:
        image: the file.
        mask: the file of the tumour's outline; None where there is no outline.
        collection: the set that the picture belongs to, such as "figshare".
        group: the patient, or a block of neighbouring pictures where patients are unknown. A split never divides a group.
        tumour: whether it shows a tumour; None where the picture is not a brain MR slice.
        finding: "glioma", "meningioma", "pituitary", "multiple sclerosis" and so on.
        sequence: "FLAIR", "T1", "T1c", "T2" or "PD"; empty where unknown.
        plane: "axial", "coronal" or "sagittal"; empty where unknown.
    """

    image: Path
    mask: Path | None
    collection: str
    group: str
    tumour: bool | None
    finding: str
    sequence: str
    plane: str


def find_pictures(root: str | Path) -> list[Picture]:
    """The pictures that a folder's `index.csv` lists, in its order.

    Raises:
        FileNotFoundError: when the folder has no `index.csv`, or a picture is missing.
        ValueError: when the index lacks a column.
    """
    root = Path(root)
    index = root / "index.csv"
    if not index.is_file():
        raise FileNotFoundError(f"expected an index.csv with the columns {', '.join(COLUMNS)} in {root}, got none")
    with index.open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
            raise ValueError(f"expected the columns {', '.join(COLUMNS)} in {index}; missing: {', '.join(missing)}")
        pictures = [
            Picture(
                image=root / row["file"],
                mask=root / row["mask"] if row["mask"] else None,
                collection=row["set"],
                group=f"{row['set']}/{row['group']}",
                tumour=bool(int(row["label"])) if row["label"] else None,
                finding=row["finding"],
                sequence=row["sequence"],
                plane=row["plane"],
            )
            for row in reader
        ]
    files = [path for picture in pictures for path in (picture.image, picture.mask) if path]
    if missing_files := [path for path in files if not path.is_file()]:
        raise FileNotFoundError(f"{index} lists {len(missing_files)} files that do not exist, for example {missing_files[0]}")
    return pictures


def fold_of(group: str, folds: int) -> int:
    """The fold of a group: by a hash of its name, so that a partial copy of the data gets the same folds."""
    return zlib.crc32(group.encode()) % folds


def read_picture(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8 grey values and (H, W) bool mask, all False where there is no outline."""
    with Image.open(picture.image) as image:
        pixels = np.asarray(image.convert("L"))
    if picture.mask is None:
        return pixels, np.zeros(pixels.shape, bool)
    with Image.open(picture.mask) as mask:
        return pixels, np.asarray(mask.convert("L")) > 127
