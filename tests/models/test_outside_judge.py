"""Predictors from files as a member of the committee."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import UserError
from models.labels import Factor
from models.outside_judge import load_outside, outside_judge

FACTORS = (
    Factor("glasses", "binary", ("without", "with")),
    Factor("hair", "categorical", ("a", "b", "c")),
    Factor("age", "continuous", ("low", "high")),
)


class Means(nn.Module):
    """The channels' means through a matrix."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(rows))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) @ self.weight.T


def saved(network: nn.Module, path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(network).save(str(path))
    return str(path)


def colours(*levels: tuple[float, float, float]) -> Tensor:
    return torch.tensor(levels)[:, :, None, None].expand(-1, 3, 8, 8).contiguous()


ALL: list[list[float]] = [[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 10, 0]]


def test_one_file_reads_every_factor_in_the_runs_order(tmp_path: Path) -> None:
    judge = outside_judge(load_outside(saved(Means(ALL), tmp_path / "all.pt")), FACTORS, 8)
    images = colours((0.9, 0.2, 0.1), (0.2, 0.3, 0.8), (0.4, 0.6, 0.5))
    expected = torch.tensor([[1.0, 0, -6], [0, 2, -4], [0, 1, 2]])
    torch.testing.assert_close(judge.read(images), expected)
    read = judge.read((images * 255).round().to(torch.uint8))
    assert torch.equal(read[:, :2], expected[:, :2]) and (read[:, 2] - expected[:, 2]).abs().max() < 0.1
    assert judge.read(images[:0]).shape == (0, 3)


def test_a_file_for_each_factor(tmp_path: Path) -> None:
    files = {
        "age": saved(Means([[0, 5.0, 0]]), tmp_path / "age.pt"),
        "glasses": saved(Means([[1.0, 0, 0]]), tmp_path / "glasses.pt"),
    }
    read = outside_judge(load_outside(files), FACTORS, 8).read(colours((0.9, 0.5, 0.1), (0.2, 1.0, 0.1)))
    assert read[:, 1].isnan().all() and read[:, 0].tolist() == [1, 0]
    torch.testing.assert_close(read[:, 2], torch.tensor([0.0, 5.0]))


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"nothing of use")
    for given, message in (
        (tmp_path / "none.pt", "a judge model .TorchScript or ONNX., got no file at .*none.pt: check the path"),
        ({"glasses": str(tmp_path / "broken.pt")}, "a TorchScript judge model at .*broken.pt, got a file that cannot"),
        ({}, "judge_model= to be a file or"),
        ({"glasses": None}, "judge_model= to be a file or"),
        (3, "judge_model= to be a file or .* got 3: give"),
    ):
        with pytest.raises(UserError, match=message) as error:
            load_outside(given)
        assert "\n" not in str(error.value)


def test_what_is_no_number_is_no_vote(tmp_path: Path) -> None:
    file = saved(Means([[float("nan"), 0, 0], *ALL[1:]]), tmp_path / "nan.pt")
    with pytest.raises(UserError, match="judge_model to return finite numbers, got NaN or infinities: give another"):
        outside_judge(load_outside(file), FACTORS, 8)
    judge = outside_judge(load_outside(saved(Means(ALL), tmp_path / "all.pt")), FACTORS, 8)
    images = colours((0.9, 0.2, 0.1), (0.2, 0.3, 0.8))
    images[1, 0] = float("nan")  # what a network makes of some images alone
    read = judge.read(images)
    assert read[0].isfinite().all() and read[1, :2].isnan().all()


@pytest.mark.parametrize(
    ("rows", "name", "message"),
    [
        (ALL[:4], "", r"judge_model to return 5 outputs .* glasses, hair, age, in that order.*got shape \(2, 4\)"),
        (ALL[:2], "glasses", r"judge_model.glasses to return 1 outputs .*got shape \(2, 2\)"),
        (ALL[:1], "glases", r"judge_model.glases to name a factor among glasses, .* mean glasses\?"),
        ([[1.0, 0]], "glasses", "judge_model.glasses to read RGB images of 8 x 8 pixels, got .*: give another file"),
    ],
)
def test_networks_of_other_factors(rows: list[list[float]], name: str, message: str, tmp_path: Path) -> None:
    file = saved(Means(rows), tmp_path / "x.pt")
    with pytest.raises(UserError, match=message) as error:
        outside_judge(load_outside({name: file} if name else file), FACTORS, 8)
    assert "\n" not in str(error.value)
