"""The datasets that networks can be trained on. A new one is a module in this package and a line in `DATASETS`.

People's own data need no module: `train.datasets.own` recognises the common layouts.
"""

from __future__ import annotations

from pathlib import Path

from brainmri.zoo.entry import SPLIT, ModelEntry, read_split
from train.datasets.base import Dataset, Slice
from train.datasets.lgg import LGG, holds_lgg
from train.datasets.own import OwnData, own_dataset, recorded_dataset

__all__ = ["DATASETS", "Dataset", "OwnData", "Slice", "dataset_of", "recognise_dataset"]

DATASETS: dict[str, Dataset] = {dataset.key: dataset for dataset in (LGG,)}


def recognise_dataset(root: str | Path, data: OwnData, manifest: Path | None = None) -> Dataset:
    """The LGG dataset for a folder with its patients, else people's own data, read and described as `data` says.

    Args:
        manifest: file with the folds of people's own data.

    Raises:
        ValueError: for a licence that is no identifier.
    """
    return LGG if holds_lgg(root) else own_dataset(data, manifest)


def dataset_of(entry: ModelEntry) -> Dataset:
    """The dataset that an entry was trained on: people's own data by its `split.json`, else by the name in its training record.

    Raises:
        ValueError: if the record names no dataset of `DATASETS`.
    """
    if (entry.folder / SPLIT).is_file() and (record := read_split(entry.folder).get("dataset")):
        return recorded_dataset(record)
    recorded = entry.training.dataset or "no dataset"
    for dataset in DATASETS.values():
        if recorded.startswith(f"{dataset.name} ("):
            return dataset
    known = ", ".join(dataset.name for dataset in DATASETS.values())
    raise ValueError(
        f"expected {entry.name} to be trained on one of the datasets {known}, got {recorded}; add the dataset to train.datasets"
    )
