"""dlib's faces in a real photograph, which scikit-image ships."""

import importlib.util
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models import UserError, dlib_faces
from models.dlib_faces import CROP, DlibIdentity, find_faces, landmarks_of


@pytest.fixture(scope="module")
def astronaut() -> Tensor:
    pytest.importorskip("dlib")
    data = pytest.importorskip("skimage.data")
    return torch.from_numpy(data.astronaut()).permute(2, 0, 1).contiguous()


@pytest.fixture(scope="module")
def head(astronaut: Tensor) -> Tensor:
    """The face as data sets crop it, in [0, 1]."""
    return functional.interpolate(astronaut[None, :, 45:205, 140:300] / 255, (64, 64), mode="bilinear", antialias=True)


def test_the_face_is_found_with_its_eyes(astronaut: Tensor) -> None:
    (face,) = find_faces(astronaut)
    left, top, right, bottom = face.box
    assert 150 < left < 200 and 60 < top < 100 and 250 < right < 290 and 150 < bottom < 190
    eyes = torch.stack([face.points[2:4].mean(0), face.points[:2].mean(0)])  # at the left of the picture, at its right
    torch.testing.assert_close(eyes, torch.tensor([[204.0, 103.0], [247.0, 105.0]]), atol=6, rtol=0)
    assert face.points[4, 1] > eyes[:, 1].max()


def test_two_faces_largest_first_and_always_the_same(astronaut: Tensor) -> None:
    small = functional.interpolate(astronaut[None], (320, 320), mode="bilinear", antialias=True)[0]
    both = torch.zeros(3, 512, 832, dtype=torch.uint8)
    both[:, :320, :320], both[:, :, 320:] = small, astronaut
    found = find_faces(both)
    assert [face.box[0] > 320 for face in found] == [True, False]
    again = find_faces(both)
    assert all(torch.equal(one.points, other.points) for one, other in zip(found, again, strict=True))


def test_no_face() -> None:
    pytest.importorskip("dlib")
    assert find_faces(torch.zeros(3, 40, 60, dtype=torch.uint8)) == []
    assert landmarks_of(torch.zeros(3, 64, 64, dtype=torch.uint8)) is None


def test_a_person_is_nearer_to_themselves_than_to_somebody_else(head: Tensor) -> None:
    """The astronaut, darker and shifted; and nobody, whose face is taken to lie in the fixed rectangle."""
    embed = DlibIdentity()
    with_shift = functional.pad(head, (2, 0, 0, 0), mode="replicate")[..., :64] * 0.8
    same, other, nobody = embed(torch.cat([head, with_shift, torch.full_like(head, 0.5)]))
    assert same.shape == (128,) and (same - other).norm() < 0.4 < (same - nobody).norm()
    assert embed(head[:0]).shape == (0, 128)


def test_embeddings_at_the_landmarks_of_another_image(head: Tensor) -> None:
    embed = DlibIdentity()
    points = embed.landmarks(head)
    assert torch.equal(embed.at(head, points), embed(head))
    same = landmarks_of((head[0] * 255).round().to(torch.uint8))
    assert same is not None and (points[0] - same).abs().max() * CROP < 4
    assert not torch.equal(embed.at(head, points + 0.1), embed(head))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("detector", "predictor", "network"):
        getattr(dlib_faces, name).cache_clear()
    monkeypatch.setitem(sys.modules, "dlib", None)
    assert not dlib_faces.are_installed()
    with pytest.raises(UserError, match=r"^Expected the package dlib to read faces, got none .*'\.\[faces\]'\.$"):
        DlibIdentity()


def test_without_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^Expected shape_.*\.dat of the package face_recognition_models, got none"):
        dlib_faces.file(dlib_faces.LANDMARKS)
