"""The solver against scikit-learn's Lasso and scipy's nnls; planted weights found again."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.linear_model import Lasso
from torch import Tensor
from torch.nn.functional import normalize

from evaluation.planted import mixed, support_f1, words
from models import UserError
from models.sae import Codes, combination
from models.splice import SpLiCE, nonnegative_lasso, nonnegative_quadratic, penalty_at


def lasso(rows: Tensor, directions: Tensor, penalty: float, tolerance: float) -> np.ndarray:
    model = Lasso(alpha=penalty / rows.shape[1], positive=True, fit_intercept=False, tol=tolerance, max_iter=100_000)
    return model.fit(np.asfortranarray(directions.T.numpy()), np.asfortranarray(rows.T.numpy())).coef_


@pytest.mark.parametrize("penalty", [0.02, 0.1, 0.3])
def test_the_weights_are_the_lassos(penalty: float) -> None:
    directions = words(500, 64, 50, spread=0.5)
    rows, _ = mixed(directions, 40, 5, noise=0.05)
    found = nonnegative_lasso(rows, directions, penalty)
    expected = lasso(rows.double(), directions.double(), penalty, 1e-10)
    assert np.abs(found.dense(500).numpy() - expected).max() < 1e-4
    assert bool((found.values[:, :-1] >= found.values[:, 1:]).all())  # the largest first


def test_rows_of_any_length_and_more_texts_than_a_working_set_takes_at_once() -> None:
    directions = words(300, 40, 6)
    rows = torch.tensor([1e-3, 1.0, 1e3])[:, None] * mixed(directions, 3, 20, noise=0.1)[0]
    for row in rows:
        penalty = 1e-3 * float(row.norm())
        found = nonnegative_lasso(row[None], directions, penalty).dense(300).numpy()
        expected = lasso(row[None].double(), directions.double(), penalty, 1e-12)
        assert np.abs(found - expected).max() < 1e-4 * float(row.norm())
        assert (found > 0).sum() > 16


def test_programs_are_solved_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix, wanted = torch.randn(20, 12, 8, generator=generator).double(), torch.randn(20, 12).double()
    expected = np.stack([nnls(a.numpy(), b.numpy())[0] for a, b in zip(matrix, wanted, strict=True)])
    target = (matrix.mT @ wanted[..., None])[..., 0]
    for guess in (torch.zeros(20, 8, dtype=torch.bool), torch.rand(20, 8) < 0.5):
        found = nonnegative_quadratic(matrix.mT @ matrix, target, guess)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_equal_texts_share_their_weight() -> None:
    directions = words(30, 16, 30)
    row = mixed(directions, 1, 2)[0]
    once = nonnegative_lasso(row, directions, 0.1).dense(30)[0]
    text = int(once.argmax())
    twice = nonnegative_lasso(row, torch.cat([directions, directions[[text]]]), 0.1).dense(31)[0]
    assert float(twice[text] + twice[30]) == pytest.approx(float(once[text]), abs=1e-5)


def test_nothing_gains_of_a_large_penalty() -> None:
    directions = words(30, 16, 30)
    found = nonnegative_lasso(mixed(directions, 5, 2)[0], directions, 1.5)
    assert found.values.shape == (5, 1)
    assert not bool(found.values.any())
    assert not bool(combination(found, directions).any())


def test_planted_texts_are_recovered_at_their_number() -> None:
    directions = words(1000, 256, 1000)
    rows, support = mixed(directions, 300, 5)
    penalty = penalty_at(rows, directions, 5)
    found = nonnegative_lasso(rows, directions, penalty)
    assert 4.5 <= int((found.values > 0).sum()) / 300 <= 5
    assert support_f1(found, support) >= 0.95


def test_rows_are_taken_apart_around_their_own_mean_and_put_together_again() -> None:
    """Images around one mean, texts around another, as of CLIP: the offset between them is no text's weight."""
    torch.manual_seed(0)
    texts = normalize(torch.randn(400, 128), dim=1) + 2 * normalize(torch.randn(128), dim=0)
    splice = SpLiCE(texts, 0.6 * normalize(torch.randn(128), dim=0), 0.05)
    torch.testing.assert_close(splice.directions.norm(dim=1), torch.ones(400))
    wanted = Codes(torch.tensor([[2.0, 1.0], [1.0, 1.0]]), torch.tensor([[3, 7], [11, 2]]))
    rows = splice.decode(wanted)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    found = splice.encode(5 * rows)  # the length does not matter
    assert [set(units[values > 0].tolist()) for values, units in zip(*found, strict=True)] == [{3, 7}, {11, 2}]
    assert float(torch.nn.functional.cosine_similarity(splice.decode(found), rows).min()) > 0.99


def test_errors() -> None:
    rows = torch.randn(3, 4)
    with pytest.raises(UserError, match="Expected a penalty above 0, got 0"):
        nonnegative_lasso(rows, rows, 0.0)
    with pytest.raises(UserError, match="Expected active= above 0"):
        penalty_at(rows, rows, 0)
    with pytest.raises(UserError, match="two or more texts of 4 numbers"):
        SpLiCE(torch.randn(1, 4), torch.zeros(4), 0.1)
    with pytest.raises(UserError, match="two or more texts of 4 numbers"):
        SpLiCE(torch.randn(9, 5), torch.zeros(4), 0.1)
