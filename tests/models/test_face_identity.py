"""Face-embedding models from files."""

import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from models import UserError
from models.face_identity import embed_edited, load_identity


class FakeSession:
    """onnxruntime's session on a model exported for two images of 8 × 8: the mean of each channel."""

    def __init__(self, path: str, providers: list[str]) -> None:
        if Path(path).read_bytes() != b"model":
            raise RuntimeError("INVALID_PROTOBUF\nmore")

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="data", shape=[2, 3, 8, 8])]

    def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        images = feed["data"]
        assert images.shape == (2, 3, 8, 8)
        return [images.mean(axis=(2, 3))]


@pytest.fixture
def onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=FakeSession))
    (tmp_path / "face.onnx").write_bytes(b"model")
    return tmp_path / "face.onnx"


def constant_images(n: int, size: int) -> torch.Tensor:
    return torch.linspace(0, 1, 3 * n).reshape(n, 3, 1, 1).expand(n, 3, size, size)


def test_onnx_in_its_own_size_and_batches(onnx: Path) -> None:
    images = constant_images(5, 16)
    torch.testing.assert_close(load_identity(onnx)(images), images[:, :, 0, 0] * 2 - 1)


def test_onnx_without_its_package(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[identity\]'"):
        load_identity(onnx)


def test_torchscript(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.trace(network, torch.zeros(1, 3, 12, 12)).save(tmp_path / "face.pt")
    images = constant_images(3, 16)
    torch.testing.assert_close(load_identity(tmp_path / "face.pt", size=12)(images), images[:, :, 0, 0] * 2 - 1)


def test_dlib_at_the_landmarks_of_the_original() -> None:
    pytest.importorskip("dlib")
    head = (
        torch.from_numpy(pytest.importorskip("skimage.data").astronaut()[45:205, 140:300]).permute(2, 0, 1)[None] / 255
    )
    moved = torch.roll(head, 12, -1)
    embed = load_identity("dlib")
    stayed, followed = embed_edited(embed, moved, head), embed(moved)
    assert torch.equal(embed_edited(embed, head, head), embed(head))
    assert (stayed - embed(head)).norm() > (followed - embed(head)).norm()


def test_models_without_landmarks_read_the_edited_image(onnx: Path) -> None:
    images = constant_images(4, 16)
    embed = load_identity(onnx)
    torch.testing.assert_close(embed_edited(embed, images[:2], images[2:]), embed(images[:2]))


@pytest.mark.parametrize("name", ["absent.pt", "broken.pt", "broken.onnx"])
def test_files_that_cannot_be_used(name: str, onnx: Path) -> None:
    path = onnx.parent / name
    if name.startswith("broken"):
        path.write_bytes(b"nothing of use")
    with pytest.raises(UserError, match=name) as error:
        load_identity(path)
    assert "\n" not in str(error.value)
