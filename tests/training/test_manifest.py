"""What a run was made of, and the values of its factors."""

import math
from pathlib import Path

import pytest
import torch

from datamodules.factors import FactorTable, ImageData
from models import UserError
from models.labels import Factor, factor_value
from training import manifest as module
from training.manifest import describe, git_state, manifest

AGE = Factor("age", "continuous", ("young", "old"), "age")
RACE = Factor("race", "categorical", ("a", "b", "c"))


@pytest.fixture
def data() -> ImageData:
    ages = torch.tensor([20.0, 30, 40, math.nan, 90])
    values = torch.stack([ages, torch.tensor([0.0, 1, 2, 0, 1])], dim=1)
    images, split = torch.zeros(5, 3, 16, 16, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 2], dtype=torch.uint8)
    return ImageData(
        "folder", images, list("vwxyz"), FactorTable((AGE, RACE), values), split, "f00d", ["a note"], ["bad"]
    )


def test_data_is_described(data: ImageData) -> None:
    described = describe(data)
    assert described["splits"] == {"train": 3, "validation": 1, "test": 1}
    assert (described["notes"], described["skipped"], described["fingerprint"]) == (["a note"], ["bad"], "f00d")
    age = described["factors"][0]
    assert (age["name"], age["kind"], age["values"], age["source"]) == AGE[:4]
    assert [float(age[end]) for end in ("lowest", "low", "high", "highest")] == pytest.approx([20, 23, 37, 90])


def test_manifest_says_what_the_run_was_made_of(data: ImageData) -> None:
    content = manifest(data, {"name": "vae", "sha256": "abc"}, 7, "cpu")
    assert content["encoder"] == {"name": "vae", "sha256": "abc"}
    assert (content["seed"], content["device"]) == (7, "cpu")
    assert {"python", "torch", "FrEIA", "pytorch-lightning"} <= content["versions"].keys()
    assert torch.__version__.startswith(content["versions"]["torch"].split("+")[0])


def test_sources_outside_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert git_state() is None


@pytest.mark.parametrize(
    ("value", "number"), [("Young", 23.0), ("old", 37.0), (20, 20.0), (90.0, 90.0), ("33.5", 33.5)]
)
def test_continuous_values(data: ImageData, value: str | float, number: float) -> None:
    assert factor_value(AGE, value, describe(data)["factors"][0]) == pytest.approx(number)


@pytest.mark.parametrize(("value", "number"), [("a", 0.0), ("C", 2.0), (1, 1.0), (2.0, 2.0), ("1", 1.0)])
def test_classes(value: str | float, number: float) -> None:
    assert factor_value(RACE, value, {}) == number


@pytest.mark.parametrize("value", [19, 91, "ancient", math.nan, math.inf])
def test_no_such_age(data: ImageData, value: str | float) -> None:
    with pytest.raises(UserError, match=r"Expected a value of age, a number between 20 \(young\) and 90 \(old\), got"):
        factor_value(AGE, value, describe(data)["factors"][0])


@pytest.mark.parametrize("value", [3, -1, 0.5, "d"])
def test_no_such_class(value: str | float) -> None:
    with pytest.raises(UserError, match=r"Expected a value of race, 0 \(a\) or 1 \(b\) or 2 \(c\), got"):
        factor_value(RACE, value, {})


def test_the_word_of_an_unknown_end() -> None:
    with pytest.raises(UserError, match=r"Expected a value of age, .*, got 'young'"):
        factor_value(AGE, "young", {})
