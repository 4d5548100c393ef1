"""Neural MDS: its losses by hand, and the linear map's optimum, which is known."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluation.planted import largest_angle, symmetric, train
from models import UserError
from models.mds import NeuralMDS, distances, order_loss, stress
from models.reduction import pca


def weight_of(module: NeuralMDS) -> Any:
    """Of the linear part of its last map."""
    return module.linear[-1].weight


def curved(n: int = 400) -> Tensor:
    """A ribbon bent to three quarters of a cylinder: two dimensions would do, but no plane."""
    generator = torch.Generator().manual_seed(0)
    angle, height = 4.7 * torch.rand(n, generator=generator), 2 * torch.rand(n, generator=generator)
    return torch.stack([angle.cos(), angle.sin(), height, 0.01 * torch.randn(n, generator=generator)], 1)


def test_losses_by_hand() -> None:
    d, e = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])
    assert float(stress(d, e)) == pytest.approx(4 / 5)
    wanted = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]])
    found = torch.tensor([[1.0, 3.0], [1.0, 3.0], [5.0, 5.0]])  # mean 3: right by 2/3, wrong by 2/3, a tie
    assert float(order_loss(wanted, found, 0.1)) == pytest.approx((0 + 0.1 + 2 / 3) / 3)
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    distances(x, x).sum().backward()
    assert bool(x.grad is not None and x.grad.isfinite().all())  # of equal rows too


def test_a_linear_map_converges_to_the_principal_subspace() -> None:
    x = symmetric()
    torch.manual_seed(1)
    module = NeuralMDS(5, 2, hidden=[], initial="random", learning_rate=0.1)
    module.start(x)
    axes = pca(x).weight[0, :, :2]
    assert largest_angle(weight_of(module).detach().T, axes) > 10
    train(module, x, 400, 200)
    assert largest_angle(weight_of(module).detach().T, axes) < 1


def test_it_starts_as_pca_and_keeps_more_of_a_curved_surface() -> None:
    x = curved()
    torch.manual_seed(0)
    module = NeuralMDS(4, 2, hidden=[64])
    module.start(x)
    torch.testing.assert_close(module(x), pca(x)(x)[:, :2], rtol=1e-4, atol=1e-5)

    @torch.no_grad()
    def lost() -> float:
        return float(stress(distances(x, x), distances(module(x), module(x))))

    before = lost()
    train(module, x, 200, 128)
    assert lost() < 0.8 * before


@pytest.mark.parametrize("pairs", ["all", "knn"])
def test_isotonic_training_puts_more_distances_into_order(pairs: Any) -> None:
    x = curved()
    torch.manual_seed(0)
    module = NeuralMDS(4, 2, objective="isotonic", pairs=pairs, hidden=[64], quadruplets=4096)
    module.start(x)

    def wrong() -> float:
        torch.manual_seed(5)
        with torch.no_grad():
            return float(module.terms({"x": x}))

    before = wrong()
    train(module, x, 200, 128)
    assert wrong() < 0.8 * before


def test_the_pairs_of_a_loss() -> None:
    wanted = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 3.0, 0.0]])

    def chosen(pairs: Any, one_kind: bool, matrix: Tensor = wanted) -> set[tuple[int, int]]:
        i, j = NeuralMDS(4, 2, kinds=2, pairs=pairs, neighbours=1).select_pairs(matrix, one_kind)
        return set(zip(i.tolist(), j.tolist(), strict=True))

    assert chosen("all", True) == {(0, 1), (0, 2), (1, 2)}
    assert chosen("cross", False) == set(product(range(3), repeat=2))
    assert chosen("knn", True) == {(0, 1), (1, 0), (2, 0)}
    cross = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.5, 9.0]])  # rows' nearest columns, and columns' nearest rows
    assert chosen("knn", False, cross) == {(0, 0), (1, 0), (2, 0), (0, 1)}


@pytest.mark.parametrize("pairs", ["all", "cross", "knn"])
@pytest.mark.parametrize("objective", ["isometric", "isotonic"])
def test_two_kinds_are_mapped_around_their_own_means(objective: Any, pairs: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 6, generator=generator)
    y = x + 0.1 * torch.randn(50, 6, generator=generator) + 5
    for shared in (True, False):
        module = NeuralMDS(6, 3, kinds=2, objective=objective, pairs=pairs, metric="cosine", shared=shared, hidden=[8])
        module.start(x, y)
        assert abs(float(module(y, 1).detach().mean())) < 1e-4 and len(module.linear) == (1 if shared else 2)
        loss = module.terms({"x": x, "y": y})
        loss.backward()
        assert 0 < float(loss.detach()) < 1 and bool(weight_of(module).grad.any())


def test_settings_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(UserError, match="Expected from 1 to 4 dimensions, as the rows have, got 5"):
        NeuralMDS(4, 5)
    with pytest.raises(UserError, match="Expected pairs of texts and images for mds.pairs=cross, got one kind"):
        NeuralMDS(4, 2, pairs="cross")
    with pytest.raises(UserError, match="Expected mds.quadruplets and mds.neighbours of at least 1, got 9 and 0"):
        NeuralMDS(4, 2, quadruplets=9, neighbours=0)
    with pytest.raises(UserError, match="Expected mds.hidden to be widths of at least 1, got .8, 0."):
        NeuralMDS(4, 2, hidden=[8, 0])
