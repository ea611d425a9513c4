"""People's own data: folders of images and masks in any of `LAYOUTS`, as a `Dataset`. A new layout is a class and a line here."""

from __future__ import annotations

from train.datasets.own.base import Found, Layout, Sample, Source
from train.datasets.own.dataset import OwnData, find_layout, own_dataset, recorded_dataset
from train.datasets.own.layouts import LAYOUTS

__all__ = ["LAYOUTS", "Found", "Layout", "OwnData", "Sample", "Source", "find_layout", "own_dataset", "recorded_dataset"]
