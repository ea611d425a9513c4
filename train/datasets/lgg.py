"""The LGG MRI dataset: 110 patients with lower-grade glioma, published on Kaggle by Buda, Saha and Mazurowski."""

from __future__ import annotations

import re
from pathlib import Path

from train.datasets.base import Dataset, Slice

LICENCE = "CC BY-NC-SA 4.0"

CITATION = """\
Buda M, Saha A, Mazurowski MA. Association of genomic subtypes of lower-grade gliomas with shape features
automatically extracted by a deep learning algorithm. Computers in Biology and Medicine, 2019. Dataset:
[mateuszbuda/lgg-mri-segmentation](https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation) on Kaggle."""

INTENDED_USE = """\
Research and teaching on brain MR slices: axial FLAIR, alone or with T1 before and after contrast, of adults with
suspected lower-grade glioma. Not a medical device; no clinical decision may rest on it. Other tumours, other
sequences, children, and scans after surgery are outside what it has seen."""

# Never used for training or model selection: released weights are tested on these patients independently.
HELD_OUT = frozenset("""
    TCGA_CS_4944_20010208 TCGA_CS_6667_20011105 TCGA_CS_6668_20011025 TCGA_DU_5851_19950428 TCGA_DU_6404_19850629
    TCGA_DU_6408_19860521 TCGA_DU_7014_19860618 TCGA_HT_7616_19940813 TCGA_HT_7692_19960724 TCGA_HT_7879_19981009
    TCGA_CS_6188_20010812 TCGA_CS_6290_20000917 TCGA_DU_7013_19860523 TCGA_DU_7304_19930325 TCGA_DU_A5TW_19980228
    TCGA_DU_A5TY_19970709 TCGA_FG_A4MU_20030903 TCGA_HT_7475_19970918 TCGA_HT_7856_19950831 TCGA_HT_8105_19980826
""".split())  # fmt: skip

CASE = re.compile(r"TCGA_(?P<institution>[A-Z]{2})_[A-Z0-9]+_\d{8}")
SLICE = re.compile(r"(?P<case>.+)_(?P<number>\d+)\.tif")


def holds_lgg(root: str | Path) -> bool:
    """Whether a folder, or its `kaggle_3m/`, has folders named as this dataset's patients."""
    folders = [Path(root), Path(root) / "kaggle_3m"]
    return any(CASE.fullmatch(path.name) for folder in folders if folder.is_dir() for path in folder.iterdir())


def find_slices(root: str | Path) -> dict[str, list[Slice]]:
    """The slices of every patient under a folder in the Kaggle layout, in order along the head.

    Args:
        root: the folder with `<case>/<case>_<n>.tif` and `<case>/<case>_<n>_mask.tif`, or its parent with `kaggle_3m/` in it.

    Raises:
        FileNotFoundError: when the folder does not exist, holds no patient, or holds a slice without its mask.
    """
    root = Path(root)
    root = root / "kaggle_3m" if (root / "kaggle_3m").is_dir() else root
    if not root.is_dir():
        raise FileNotFoundError(f"expected a folder, got {root}; give the one that holds kaggle_3m/ or the TCGA_* folders")
    cases = {}
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and CASE.fullmatch(p.name)):
        slices = []
        for path in folder.glob("*.tif"):
            if (match := SLICE.fullmatch(path.name)) and match["case"] == folder.name:
                mask = path.with_name(f"{path.stem}_mask.tif")
                if not mask.exists():
                    raise FileNotFoundError(f"expected a mask beside {path}, got none; add {mask.name}")
                slices.append(Slice(case=folder.name, number=int(match["number"]), image=path, mask=mask))
        if slices:
            cases[folder.name] = sorted(slices, key=lambda s: s.number)
    if not cases:
        raise FileNotFoundError(f"expected TCGA_* folders with slices in {root}, got none; give a folder in the Kaggle layout")
    return cases


def institution_of(case: str) -> str:
    """The two-letter institution code in a patient's name; ValueError for a name in another form."""
    match = CASE.fullmatch(case)
    if not match:
        raise ValueError(f"expected a patient named TCGA_<institution>_<number>_<date>, got {case!r}")
    return match["institution"]


LGG = Dataset(
    key="lgg",
    name="LGG MRI Segmentation",
    source="Buda, Saha, Mazurowski 2019; TCGA-LGG",
    licence=LICENCE,
    licence_id="cc-by-nc-sa-4.0",
    hub_id="",  # it is on Kaggle; the copies on the Hub are other people's
    citation=CITATION,
    intended_use=INTENDED_USE,
    held_out=HELD_OUT,
    find_slices=find_slices,
    institution_of=institution_of,
    manifest=Path(__file__).with_name("lgg_folds.json"),
    tags=("glioma", "flair"),
)
