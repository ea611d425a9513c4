"""The readers' fuzzing in small; `python -m tests.fuzz` is the whole."""

import numpy as np
import pytest

from tests import mutants
from tests.fuzz import fuzz


def test_spoilt_files_are_read_or_refused(capsys):
    assert fuzz(range(10 * len(mutants.KINDS)), seed=0) == [], capsys.readouterr().out


@pytest.mark.parametrize("kind", mutants.KINDS)
def test_a_mutant_is_made_again_from_its_number(kind):
    first, again, other = (mutants.mutant(np.random.default_rng([0, number]), kind) for number in (5, 5, 6))
    assert first == again != other
