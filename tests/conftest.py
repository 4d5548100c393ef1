"""What holds for every test. Imports no module of the project: the shape checks hook into imports only after this."""

import os
import resource
from collections.abc import Iterator

os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches a network

import numpy as np
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that run whole trainings first, so that no core waits for them at the end."""
    items.sort(key=lambda item: not item.path.name.startswith("test_train"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whichever ran before."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def no_room() -> Iterator[None]:
    """No file can grow beyond 10,000 bytes, as on a disk that is full; holds for root and for native code, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
