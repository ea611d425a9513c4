"""Fixtures for the tests of training: finished smoke runs, and pictures of many sources."""

import csv
from functools import partial

import numpy as np
import pytest
from PIL import Image

from train import segmenter
from train.datasets.wider import COLUMNS
from train.evaluation import metrics
from train.phantoms import phantom_slice

SMOKE = ["--smoke", "--precision", "float32"]


@pytest.fixture(scope="module")
def few_resamples():
    """Intervals from 20 instead of 2,000 resamples, which take seconds a release, for a module that does not check them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "bootstrap_interval", partial(metrics.bootstrap_interval, resamples=20))
        yield


@pytest.fixture(scope="session")
def resunet_run(tmp_path_factory):
    """A finished smoke run of the network without verdict. Tests that change it copy it first."""
    out = tmp_path_factory.mktemp("runs") / "resunet"
    segmenter.main([*SMOKE, "--out", str(out)])
    return out


@pytest.fixture(scope="session")
def effunet_run(tmp_path_factory):
    """A finished smoke run of a network with verdict. Tests that change it copy it first."""
    out = tmp_path_factory.mktemp("runs") / "effunet"
    segmenter.main([*SMOKE, "--net", "effunet", "--out", str(out)])
    return out


@pytest.fixture(scope="session")
def wider(tmp_path_factory):
    """A folder of pictures of every source: three kinds of tumour, heads without one, and a picture of no head."""
    root = tmp_path_factory.mktemp("wider")
    rows = []
    for source, finding, label, sequence in [
        ("figshare", "glioma", 1, "T1c"), ("figshare", "meningioma", 1, "T1c"), ("figshare", "pituitary", 1, "T1c"),
        ("heads", "none known", 0, "T2"), ("alzheimer", "dementia or none", 0, "T1"),
        ("open_ms", "multiple sclerosis", 0, "FLAIR"), ("headct", "not a brain MR slice", "", ""),
    ]:  # fmt: skip
        for number in range(4):
            pixels, mask = phantom_slice(size=96, seed=number, lesion=(0.35, 0.45, 0.12) if label else None)
            name = f"{source}-{finding[:4]}-{number}"
            Image.fromarray(pixels[..., 1]).save(root / f"{name}.png")
            if label:
                Image.fromarray(mask.astype(np.uint8) * 255).save(root / f"{name}_mask.png")
            mask_name = f"{name}_mask.png" if label else ""
            rows.append((f"{name}.png", mask_name, source, f"{finding[:4]}{number}", label, finding, sequence, "axial"))
    with (root / "index.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([COLUMNS, *rows])
    return root
