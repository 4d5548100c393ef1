from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from scipy.ndimage import label

from datamodules.faces import FACTORS, NUISANCES, FaceParameters, faces, render, sample_parameters
from datamodules.splits import TEST, TRAIN, VALIDATION
from models import UserError


def neutral(**factors: float) -> FaceParameters:
    values = torch.zeros(1, len(FACTORS))
    values[0, 5] = 0.2
    scene = FaceParameters(values, torch.full((1, len(NUISANCES)), 0.5))
    for name, value in factors.items():
        scene = scene.set(name, value)
    return scene


@pytest.mark.parametrize("factor", [factor.name for factor in FACTORS])
def test_every_factor_changes_the_picture_and_only_a_part_of_it(factor: str) -> None:
    changed = (render(neutral(**{factor: 1.0})).float() - render(neutral()).float()).abs().amax((0, 1)) > 12
    assert 40 < changed.sum() < 0.4 * 64 * 64


def test_sex_shows_in_several_parts_of_the_picture() -> None:
    changed = (render(neutral(sex=1.0)).float() - render(neutral()).float()).abs().amax((0, 1)) > 25
    parts, count = label(changed.numpy())
    brows, mouth, jaw, shoulder = (parts[place] for place in ((26, 22), (46, 32), (48, 19), (63, 8)))
    assert count >= 7 and len({0, brows, mouth, jaw, shoulder}) == 5, "each is a part of its own"


def test_glasses_are_dark_around_the_eyes() -> None:
    picture = render(neutral(glasses=1.0)).float()[0]
    without = render(neutral()).float()[0]
    changed = (without - picture).mean(0) > 60
    rows, columns = changed.nonzero().unbind(1)
    assert 22 <= rows.float().mean() <= 34 and 28 <= columns.float().mean() <= 36


def test_a_seed_repeats_and_another_differs(tmp_path: Path) -> None:
    first, again, other = (faces(200, 16, seed=s, cache_dir=tmp_path / str(i)) for i, s in enumerate((0, 0, 1)))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    cached = faces(200, 16, seed=0, cache_dir=tmp_path / "0")
    assert torch.equal(cached.images, first.images)


def test_split_and_correlation(tmp_path: Path) -> None:
    data = faces(2000, 16, correlate={"glasses": {"hat": 0.9}}, cache_dir=tmp_path)
    assert [len(data.rows(s)) for s in (TRAIN, VALIDATION, TEST)] == [1800, 100, 100]
    same = (data.factors.values[:, 0] == data.factors.values[:, 3]).float()
    assert same[data.rows(TRAIN)].mean().item() == pytest.approx(0.9, abs=0.03)
    assert same[data.split != TRAIN].mean().item() == pytest.approx(0.5, abs=0.12)
    assert data.factors.values[:, 0].mean().item() == pytest.approx(0.5, abs=0.05)


def test_a_counterfactual_differs_in_one_factor_alone(tmp_path: Path) -> None:
    data = faces(200, 32, cache_dir=tmp_path)
    assert data.counterfactual is not None
    rows = torch.arange(20)
    value = data.factors.values[rows, 3]
    assert torch.equal(data.counterfactual(rows, "hat", value), data.images[rows])
    changed = data.counterfactual(rows, "hat", 1 - value).float() - data.images[rows].float()
    assert (changed.abs().sum((1, 2, 3)) > 0).all()
    assert (changed[:, :, 24:].abs() <= 1).all(), "a hat changes nothing below the eyes"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 10}, "n >= 200"),
        ({"size": 50}, "power of two"),
        ({"correlate": {"glasses": {"skin": 0.9}}}, "got {'glasses': {'skin': 0.9}}"),
        ({"correlate": {"glasses": 0.9}}, "got {'glasses': 0.9}"),
        ({"correlate": {"glasses": {"glasses": 0.9}}}, "got {'glasses': {'glasses': 0.9}}"),
        ({"correlate": {"glasses": {"hat": 1.7}}}, "a share between 0 and 1, got {'glasses': {'hat': 1.7}}"),
        ({"correlate": {"glasses": {"hat": -0.1}}}, "got {'glasses': {'hat': -0.1}}"),
        ({"correlate": {"glasses": {"hat": float("nan")}}}, "got {'glasses': {'hat': nan}}"),
        ({"correlate": {"glasses": {"hat": "often"}}}, "got {'glasses': {'hat': 'often'}}"),
        ({"correlate": {"glasses": {"beard": 0.5, "hat": None}}}, "got {'glasses': {'beard': 0.5, 'hat': None}}"),
    ],
)
def test_bad_settings(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        faces(**{"n": 200, "size": 16, "cache_dir": tmp_path} | arguments)
    assert "\n" not in str(caught.value)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 255]) + content[-8:]


def emptied(content: bytes) -> bytes:
    return b""


def without_checksum(content: bytes) -> bytes:
    return save({"images": load(content)["images"]})


@pytest.mark.parametrize("damage", [truncated, flipped, emptied, without_checksum])
def test_a_damaged_cache_is_said_and_drawn_again(
    damage: Callable[[bytes], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = faces(200, 16, cache_dir=tmp_path).images.clone()  # else a view of the file that is damaged
    (file,) = (tmp_path / "faces").iterdir()
    content = file.read_bytes()
    file.write_bytes(damage(content))
    assert torch.equal(faces(200, 16, cache_dir=tmp_path).images, images)
    assert "is damaged: drawing the faces again" in capsys.readouterr().out
    assert file.read_bytes() == content and list(file.parent.iterdir()) == [file]
    faces(200, 16, cache_dir=tmp_path)
    assert capsys.readouterr().out == ""


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="got Not a directory at .*set cache_dir=") as caught:
        faces(200, 16, cache_dir=tmp_path / "file" / "below")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_room")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="File too large.* at .*set cache_dir=") as caught:
        faces(200, 16, cache_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "faces").iterdir()) == []


def test_sample_parameters_are_independent_by_default() -> None:
    scene = sample_parameters(20_000, 0)
    correlation = torch.corrcoef(torch.cat([scene.factors, scene.nuisances], 1).T)
    assert (correlation - torch.eye(len(correlation))).abs().max() < 0.04
