"""Names that the doctests of every module may use: `python -m pytest --doctest-modules models`."""

from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace: dict[str, Any]) -> None:
    """Make `torch` and `np` known to every doctest."""
    doctest_namespace["torch"] = torch
    doctest_namespace["np"] = np
