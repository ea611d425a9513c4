"""Networks on accelerators, with the CPU in their place: operations that MPS lacks, and devices that fail."""

import pytest
import torch
from torch.nn import functional as F

import brainmri
from brainmri.zoo.ood import pool_windows
from tests.support.refusals import RefuseLikeMps

ENTRIES = [entry.name for entry in brainmri.list_models()]


@pytest.mark.parametrize("shape", [(1, 5, 5, 5), (2, 3, 10, 10), (1, 2, 16, 16), (2, 3, 9, 7), (1, 1, 3, 3)])
def test_windows_are_those_of_adaptive_pooling(shape):
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool_windows(maps, 3), F.adaptive_avg_pool2d(maps, 3), rtol=0, atol=1e-6)


def test_the_refusals_are_those_of_mps():
    with RefuseLikeMps():
        F.adaptive_avg_pool2d(torch.ones(1, 1, 6, 6), 3)
        with pytest.raises(RuntimeError, match="divisible"):
            F.adaptive_avg_pool2d(torch.ones(1, 1, 5, 5), 3)
        with pytest.raises(TypeError, match="float64"):
            torch.ones(1).double()


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_runs_with_the_operations_of_mps(name):
    model = brainmri.load(name, device="cpu", runtime="torch")
    size = model.entry.preprocess.size
    views = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = model.backend(views)
    with RefuseLikeMps():
        found = model.backend(views)
    for field, value in expected._asdict().items():
        if value is not None:
            assert torch.equal(value, getattr(found, field)), field
