"""The datasets that networks can be trained on. A new one is a module in this package and a line in `DATASETS`."""

from __future__ import annotations

from brainmri.zoo.entry import ModelEntry
from train.datasets.base import Dataset, Slice
from train.datasets.lgg import LGG

__all__ = ["DATASETS", "Dataset", "Slice", "dataset_of"]

DATASETS: dict[str, Dataset] = {dataset.key: dataset for dataset in (LGG,)}


def dataset_of(entry: ModelEntry) -> Dataset:
    """The dataset that an entry was trained on, by the name in its training record.

    Raises:
        ValueError: if the record names no dataset of `DATASETS`.
    """
    recorded = entry.training.dataset or "no dataset"
    for dataset in DATASETS.values():
        if recorded.startswith(f"{dataset.name} ("):
            return dataset
    known = ", ".join(dataset.name for dataset in DATASETS.values())
    raise ValueError(
        f"expected {entry.name} to be trained on one of the datasets {known}, got {recorded}; add the dataset to train.datasets"
    )
