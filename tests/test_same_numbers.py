"""The comparison of two checkouts' numbers."""

import math

from tests.same_numbers import changed


def test_only_numbers_that_should_stay_are_compared() -> None:
    before = {"a/x": 1.0, "time/total_s": 3.0, "memory/peak_mib": 1.0, "gone": 2.0, "same": math.nan}
    after = {"a/x": 1.0 + 1e-9, "time/total_s": 4.0, "new": 5.0, "same": math.nan}
    assert changed(before, after) == {"a/x": (1.0, 1.0 + 1e-9), "gone": (2.0, None), "new": (None, 5.0)}
    assert changed(before, before) == {}
