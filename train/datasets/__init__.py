"""The datasets that networks can be trained on. A new one is a module in this package and a line in `DATASETS`."""

from __future__ import annotations

from train.datasets.base import Dataset, Slice
from train.datasets.lgg import LGG

__all__ = ["DATASETS", "Dataset", "Slice"]

DATASETS: dict[str, Dataset] = {dataset.key: dataset for dataset in (LGG,)}
