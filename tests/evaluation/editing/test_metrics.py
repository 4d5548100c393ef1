"""Metrics of edits against cases worked out by hand."""

import math

import pytest
import torch

from datamodules.factors import FactorTable
from evaluation.editing.metrics import counterfactual, cycle_error, flipped, identity, leakage, leakage_at, success
from models.labels import Factor, factor_statistics
from training.factor_classifier import reading_quality

BINARY = Factor("glasses", "binary", ("no", "yes"))
CLASSES = Factor("race", "categorical", ("a", "b", "c"))
CONTINUOUS = Factor("skin", "continuous", ("light", "dark"))
NAN = torch.nan


def test_statistics_ignore_missing_labels() -> None:
    values = torch.tensor([[1.0, NAN, 7.0], [NAN, NAN, 7.0], [2.0, NAN, 7.0], [4.0, NAN, 7.0], [5.0, NAN, 7.0]])
    statistics = factor_statistics(values)
    assert statistics.mean[0] == 3 and statistics.median[0] == 3
    assert statistics.deviation[0] == pytest.approx(math.sqrt(2.5))
    torch.testing.assert_close(statistics.low[0], torch.quantile(torch.tensor([1.0, 2, 4, 5]), 0.15))
    torch.testing.assert_close(statistics.high[0], torch.quantile(torch.tensor([1.0, 2, 4, 5]), 0.85))
    assert all(part[1].isnan() for part in statistics)
    assert statistics.deviation[2] == 0 and statistics.median[2] == 7


def test_flipped() -> None:
    before, after = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 2.0, 1.0])
    assert flipped(before, after, CLASSES, 1.0).tolist() == [False, True, True]
    assert flipped(before.clamp(max=1), after.clamp(max=1), BINARY, 1.0).tolist() == [False, False, False]
    moved = torch.tensor([0.49, -0.51, 0.5])
    assert flipped(torch.zeros(3), moved, CONTINUOUS, 1.0).tolist() == [False, True, False]
    assert flipped(torch.zeros(3), moved, CONTINUOUS, 0.9).tolist() == [True, True, True]


def test_success() -> None:
    assert success(torch.tensor([1.0, 0, 1, 1]), torch.ones(4), BINARY, 0.5) == 0.75
    assert success(torch.tensor([2.0, 1, 0]), torch.tensor([2.0, 2, 0]), CLASSES, 1.0) == pytest.approx(2 / 3)
    judged, target = torch.tensor([3.1, 2.9, 9.0, -9.0]), torch.tensor([5.0, 5.0, 1.0, 1.0])
    assert success(judged, target, CONTINUOUS, 3.0) == 0.5
    assert math.isnan(success(torch.empty(0), torch.empty(0), BINARY, 0.5))


def test_leakage() -> None:
    """Of 2 images and 2 other factors, one image's class changes: 1 of 4 pairs."""
    before = torch.tensor([[0.0, 1.0, 0.5], [0.0, 2.0, 0.5]])
    after = torch.tensor([[1.0, 1.0, 0.6], [1.0, 0.0, 0.5]])
    found = leakage(before, after, 0, (BINARY, CLASSES, CONTINUOUS), torch.tensor([0.5, 1.0, 0.3]))
    assert found.mean == 0.25
    torch.testing.assert_close(found.row, torch.tensor([NAN, 0.5, 0.0]), equal_nan=True)
    tight = leakage(before, after, 0, (BINARY, CLASSES, CONTINUOUS), torch.tensor([0.5, 1.0, 0.1]))
    assert tight.mean == 0.5


def test_leakage_of_the_only_factor_is_unknown() -> None:
    assert math.isnan(leakage(torch.zeros(3, 1), torch.ones(3, 1), 0, (BINARY,), torch.ones(1)).mean)


@pytest.mark.parametrize(
    ("successes", "leakages", "expected"),
    [
        ((0.0, 0.8, 1.0), (0.0, 0.1, 0.3), 0.2),  # halfway from .8 to 1
        ((0.0, 0.9, 1.0), (0.0, 0.1, 0.3), 0.1),  # exactly there
        ((0.95, 1.0, 1.0), (0.05, 0.1, 0.3), 0.05),  # from the start
        ((0.0, 0.5, 0.89), (0.0, 0.1, 0.3), None),  # never
        ((0.0, 1.0, 0.2), (0.0, 0.2, 0.9), 0.18),  # the smallest strength counts, whatever comes later
    ],
)
def test_leakage_at(successes: tuple[float, ...], leakages: tuple[float, ...], expected: float | None) -> None:
    assert leakage_at((0.0, 1.0, 2.0), successes, leakages) == (None if expected is None else pytest.approx(expected))


def test_counterfactual() -> None:
    original, truth = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    assert counterfactual(truth, original, truth) == 1
    assert counterfactual(original, original, truth) == 0
    assert counterfactual(original - 1, original, truth) == -1
    half = original.clone()
    half[0] = 1  # one image exact, one unchanged
    assert counterfactual(half, original, truth) == 0.5
    assert math.isnan(counterfactual(half, original, original))


def test_cycle_error_is_the_largest() -> None:
    assert cycle_error(torch.zeros(2, 2), torch.tensor([[0.0, 0.1], [-0.3, 0.0]])) == pytest.approx(0.3)


def test_identity_is_the_mean_cosine() -> None:
    original = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert identity(original, torch.tensor([[5.0, 0.0], [1.0, 0.0]])) == pytest.approx(0.5)


def test_reading_quality() -> None:
    labels = FactorTable(
        (BINARY, CLASSES, CONTINUOUS),
        torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 2.0], [0.0, 1.0, 3.0], [1.0, NAN, 4.0], [NAN, NAN, NAN]]),
    )
    judged = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 2.0], [1.0, 2.0, 2.0], [1.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
    quality = reading_quality(judged, labels, torch.tensor([0.0, 1.0, 2.5]))
    assert quality["glasses"] == pytest.approx({"accuracy": 3 / 4, "balanced_accuracy": (2 / 3 + 1) / 2})
    assert quality["race"] == pytest.approx({"accuracy": 2 / 3, "balanced_accuracy": (1 + 1 / 2) / 2})
    assert quality["skin"] == pytest.approx({"accuracy": 3 / 4, "balanced_accuracy": 3 / 4, "r2": 1 - 1 / 5})


def test_reading_quality_leaves_out_a_factor_without_labels() -> None:
    labels = FactorTable((BINARY, CLASSES), torch.tensor([[NAN, 0.0], [NAN, 1.0]]))
    assert list(reading_quality(torch.zeros(2, 2), labels, torch.zeros(2))) == ["race"]
