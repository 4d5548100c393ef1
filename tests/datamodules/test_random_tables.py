"""A few hundred of the random tables of `make tables`: none is read wrongly."""

import pytest

from tests.datamodules.random_tables import CASES, outcome


@pytest.mark.parametrize("number", range(len(CASES)))
def test_random_tables_are_read_as_meant_or_refused(number: int) -> None:
    found = {seed: outcome(seed) for seed in range(number, 50 * len(CASES), len(CASES))}
    assert not [seed for seed, name in found.items() if name.endswith("wrong")]
    assert sum(name.endswith("stuck") for name in found.values()) <= 2
