"""Measures of final pictures, on answers known by hand."""

import math

import pytest
import torch

from evaluation.editing.counterfactual_metrics import (
    counterfactual_image,
    effectiveness,
    frechet_distance,
    identity_distance,
    mean_absolute_difference,
    mean_known,
    minimality,
    moments,
    value_weights,
)
from models.labels import Factor

NAN = float("nan")
BINARY = Factor("glasses", "binary", ("without", "with"))
CONTINUOUS = Factor("age", "continuous", ("young", "old"))


def test_effectiveness_starts_where_each_member_sees_the_label() -> None:
    labels, target = torch.tensor([0.0, 0, 1, 1, NAN]), torch.tensor([1.0, 1, 0, 0, 1])
    before = torch.tensor([[0.0, 0, 1, 1, 0], [0, 1, 1, 0, 0], [1, 1, 0, 0, 0], [NAN, NAN, NAN, NAN, NAN]])
    after = torch.tensor([[1.0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 1, 0, 0, 1], [1, 1, 0, 0, 1]])
    assert effectiveness(before, after, labels, target, BINARY, 0.0) == [0.75, 0.5, None, None]


def test_no_edit_is_not_effective() -> None:
    labels, target = torch.tensor([0.1, 0.9]), torch.tensor([0.8, 0.2])
    read = torch.tensor([[0.2, 0.7], [NAN, 0.7]])
    assert effectiveness(read, read, labels, target, CONTINUOUS, 0.5) == [0, 0]
    assert effectiveness(read, read.flip(1), labels, target, CONTINUOUS, 0.5) == [1, 0], "NaN sees nothing"


def test_mean_absolute_difference() -> None:
    a = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    b = a.clone()
    b[0] = 51
    assert mean_absolute_difference(a, a) == 0
    assert mean_absolute_difference(a, b) == pytest.approx(0.1)
    assert mean_absolute_difference(b, a) == pytest.approx(0.1), "unsigned numbers wrap around"
    assert mean_absolute_difference(a.float(), b.float() / 255) == pytest.approx(0.1)


def test_identity_distance() -> None:
    assert identity_distance(torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0]])) == 3


def test_minimality_by_hand() -> None:
    """One photograph at 0; with the target value at 1, 2, 3, 4; with its own at 1, 3. The edit moves it by 2.5."""
    real = torch.tensor([[1.0], [2], [3], [4], [1], [3]])
    of_target = torch.tensor([[True, True, True, True, False, False]])
    expected = math.log(0.8 * math.exp(0.5) + 0.2 * math.exp(0.5))
    measured = minimality(torch.zeros(1, 1), torch.tensor([[2.5]]), real, of_target, ~of_target)
    assert measured == pytest.approx(expected)


@pytest.mark.parametrize(("moved", "p1", "p2"), [(0.0, 0, 1), (1.0, 0.25, 1), (2.0, 0.5, 0.5), (9.0, 1, 0)])
def test_minimality_counts_equal_distances(moved: float, p1: float, p2: float) -> None:
    real = torch.tensor([[1.0], [2], [3], [4], [1], [3]])
    of_target = torch.tensor([[True, True, True, True, False, False]])
    expected = math.log(0.8 * math.exp(p1) + 0.2 * math.exp(p2))
    edited = torch.tensor([[moved]])
    assert minimality(torch.zeros(1, 1), edited, real, of_target, ~of_target) == pytest.approx(expected)


def test_minimality_leaves_out_what_has_nobody_to_compare_with() -> None:
    real, none = torch.zeros(2, 1), torch.zeros(1, 2, dtype=torch.bool)
    assert math.isnan(minimality(torch.zeros(1, 1), torch.ones(1, 1), real, none, ~none))


def test_frechet_of_equal_sets_is_zero() -> None:
    features = torch.randn(50, 80)  # fewer rows than features: the covariance is singular
    assert frechet_distance(moments(features), moments(features)) == pytest.approx(0, abs=1e-5)


def test_frechet_of_two_normals() -> None:
    """N(0, I) against N(m, diag(4, 9)): |m|² + Σ(σ₁ − σ₂)²; and, turned by a rotation, the same."""
    mean, covariance = torch.tensor([3.0, 4.0]).double(), torch.diag(torch.tensor([4.0, 9.0])).double()
    standard = moments(torch.zeros(1, 2))._replace(covariance=torch.eye(2).double())
    other = standard._replace(mean=mean, covariance=covariance)
    assert frechet_distance(standard, other) == pytest.approx(25 + 1 + 4)
    turn = torch.linalg.qr(torch.randn(2, 2).double())[0]
    turned = standard._replace(mean=turn @ mean, covariance=turn @ covariance @ turn.T)
    assert frechet_distance(turned, standard) == pytest.approx(30)


def test_frechet_agrees_with_the_matrix_root_of_scipy() -> None:
    from scipy.linalg import sqrtm

    a, b = moments(torch.randn(40, 5)), moments(torch.randn(40, 5) * 2 + 1)
    root = torch.from_numpy(sqrtm((a.covariance @ b.covariance).numpy()).real)
    expected = (a.mean - b.mean).square().sum() + (a.covariance + b.covariance - 2 * root).trace()
    assert frechet_distance(a, b) == pytest.approx(expected.item())


def test_weighted_moments_are_those_of_repeated_rows() -> None:
    features = torch.randn(3, 2)
    repeated = moments(features[[0, 0, 0, 1, 2, 2]])
    weighted = moments(features, torch.tensor([3.0, 1, 2]))
    torch.testing.assert_close(weighted.mean, repeated.mean)
    torch.testing.assert_close(weighted.covariance, repeated.covariance)


def test_real_photographs_weigh_as_often_as_their_value_is_a_target() -> None:
    target, values = torch.tensor([1.0, 1, 1, 0, 2]), torch.tensor([0.0, 0, 1, NAN])
    kept, weights = value_weights(target, values)
    assert kept.tolist() == [True, True, True, True, False], "nobody has the value 2"
    assert weights.tolist() == pytest.approx([0.125, 0.125, 0.75, 0])


def test_counterfactual_image() -> None:
    photograph, truth = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)
    assert counterfactual_image(truth, photograph, truth) == 1
    assert counterfactual_image(photograph, photograph, truth) == 0
    assert counterfactual_image(torch.full((1, 3, 2, 2), 0.25), photograph, truth) == 0.5
    assert counterfactual_image(torch.ones(1, 3, 2, 2), photograph, truth) == 0
    assert counterfactual_image(-truth, photograph, truth) == -1


def test_the_mean_of_what_there_is() -> None:
    assert mean_known([None, 1.0, NAN, 2.0]) == 1.5 and mean_known([None]) is None
