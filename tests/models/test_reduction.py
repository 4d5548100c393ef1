"""Closed-form reductions against NumPy's and scikit-learn's, and what they promise of pairs."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from models import UserError
from models.reduction import CLOSED_FORM, fit_reduction, pca, similarity


def rows(n: int = 60, d: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) @ torch.randn(d, d, generator=generator)


def paired() -> tuple[Tensor, Tensor]:
    """Texts and images that share half of what they say, and are apart by an offset larger than their spread."""
    x = rows()
    y = 0.5 * x + 0.5 * rows(seed=1)
    y[:, 0] += 40
    return x, y


@pytest.mark.parametrize("k", [1, 3, 8])
def test_cross_modal_scores_are_the_truncated_svd_of_the_full_ones(k: int) -> None:
    x, y = paired()
    found = fit_reduction("cross_modal_svd", x, y)
    scores = similarity(found(x)[:, :k], found(y, 1)[:, :k], found.metric)
    u, s, vh = np.linalg.svd((x.double() @ y.double().T).numpy())
    torch.testing.assert_close(scores.double(), torch.from_numpy(u[:, :k] * s[:k] @ vh[:k]), rtol=1e-4, atol=2e-3)


def test_no_other_reduction_has_scores_nearer_to_the_full_ones() -> None:
    x, y = paired()
    full = x @ y.T

    def error(method: str) -> float:
        found = fit_reduction(method, x, y)
        return float((found(x)[:, :3] @ found(y, 1)[:, :3].T - full).square().sum())

    assert error("cross_modal_svd") < 0.5 * min(error(name) for name in CLOSED_FORM if name != "cross_modal_svd")


def test_the_first_columns_are_the_principal_components() -> None:
    x = rows()
    expected = PCA(3).fit(x.double().numpy())
    found = pca(x)
    codes = expected.transform(x.double().numpy())
    np.testing.assert_allclose(abs(found(x)[:, :3].numpy()), abs(codes), rtol=1e-4, atol=1e-4)
    new = rows(5, seed=2)
    np.testing.assert_allclose(abs(found(new)[:, :3].numpy()), abs(expected.transform(new.double().numpy())), atol=1e-3)


def test_only_pca_around_a_mean_of_each_kind_ignores_the_offset_between_them() -> None:
    x, y = paired()
    for method, offset in (("pca", 30.0), ("centred_pca", 1e-3)):
        found = fit_reduction(method, x, y)
        apart = found(y, 1)[:, 0].mean() - found(x)[:, 0].mean()
        assert abs(float(apart)) > offset if method == "pca" else abs(float(apart)) < offset


def test_random_ones_are_repeatable_and_coordinates_are_the_rows_own_numbers() -> None:
    x = rows()
    for method in ("gaussian_projection", "coordinates"):
        found = [fit_reduction(method, x, seed=seed)(x) for seed in (0, 0, 1)]
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    shown = fit_reduction("coordinates", x)(x)
    assert torch.equal(shown.sort(1).values, x.sort(1).values)


def test_similarities_by_hand() -> None:
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    for metric, expected in (("dot", [8.0, 9.0]), ("cosine", [0.8, 0.6]), ("euclidean", [-13.0, -16.0])):
        assert similarity(x, y, metric)[0].tolist() == pytest.approx(expected)  # type: ignore[arg-type]


def test_directions_that_no_row_has_are_left_out() -> None:
    """Fewer rows than numbers: the moments have no inverse."""
    x, y = rows(5), rows(5, seed=3)
    found = fit_reduction("cross_modal_svd", x, y)
    torch.testing.assert_close(found(x) @ found(y, 1).T, x @ y.T, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["pca", "centred_pca", "cross_modal_svd"])
def test_rows_are_taken_a_few_at_a_time(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = paired()
    whole = fit_reduction(method, x, y)
    monkeypatch.setattr("models.reduction.CHUNK", 7)
    found = fit_reduction(method, x, y)
    torch.testing.assert_close(found.weight, whole.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.mean, whole.mean)


def test_what_cannot_be_fitted_is_one_line() -> None:
    x = rows()
    with pytest.raises(UserError, match=r"Expected method to be one of pca, .*, got ica"):
        fit_reduction("ica", x)
    with pytest.raises(UserError, match=r"Expected pairs, row by row, got \(60, 8\) and \(59, 8\)"):
        fit_reduction("pca", x, x[1:])
    with pytest.raises(UserError, match="Expected finite embeddings, got NaN"):
        fit_reduction("pca", x.index_fill(0, torch.tensor([2]), float("nan")))
