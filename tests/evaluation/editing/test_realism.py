"""FID's features, where their weights are at hand."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluation.editing.realism import WEIGHTS, inception_features


class Network(torch.nn.Module):
    """In place of Inception: the mean of each channel."""

    def __init__(self, name: str, features: list[str], weights: str) -> None:
        super().__init__()
        assert features == ["2048"] and Path(weights).read_bytes() == b"weights"

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        assert images.dtype == torch.uint8
        return (images.float().mean((2, 3)),)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_without_its_weights_there_is_none(hub: Path) -> None:
    assert inception_features(torch.device("cpu")) is None


def test_in_batches(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hub / WEIGHTS).write_bytes(b"weights")
    package: Any = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    package.FeatureExtractorInceptionV3 = Network
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", package)
    features = inception_features(torch.device("cpu"))
    assert features is not None
    images = torch.randint(0, 256, (70, 3, 4, 4), dtype=torch.uint8)
    torch.testing.assert_close(features(images), images.float().mean((2, 3)))
