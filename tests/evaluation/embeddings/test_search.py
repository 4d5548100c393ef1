"""Exact search for the nearest and farthest rows: against scikit-learn, where the answer is known, and unread."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances

from evaluation.embeddings import search as nearest
from evaluation.embeddings.search import Index, compare
from models import UserError


def rows(n: int = 300, width: int = 24, offset: float = 0.0) -> np.ndarray:
    return (offset + np.random.default_rng(0).normal(size=(n, width))).astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("chunk", [2**24, 7 * 24])
def test_both_ends_are_scikit_learns(metric: str, offset: float, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also far from the origin, where float32 has few digits left of a distance, and where rows come by sevens."""
    monkeypatch.setattr(nearest, "CHUNK", chunk)
    values = rows(offset=offset)
    queries = rows(n=4, offset=offset)[:, ::-1].copy()
    distances = pairwise_distances(queries.astype(float), values.astype(float), metric=metric)
    for which, (near, far) in zip(distances, Index(values).ends(queries, 9, metric), strict=True):
        assert near.rows.tolist() == which.argsort()[:9].tolist()
        assert far.rows.tolist() == which.argsort()[::-1][:9].tolist()
        told = near.euclidean if metric == "euclidean" else 1 - near.cosine
        assert told == pytest.approx(which[near.rows], rel=1e-9, abs=1e-12)


def test_copies_of_the_query_are_at_distance_nought_and_itself_can_be_left_out() -> None:
    values = np.repeat(rows(10), 3, axis=0)
    ((near, far),) = Index(values).ends(values[4:5], 2, "euclidean", [[4]])
    assert sorted(near.rows.tolist()) == [3, 5]
    assert (near.euclidean == 0).all() and near.cosine == pytest.approx([1, 1])
    assert 4 not in Index(values).ends(-values[4:5], 28, "cosine", [[4]])[0][1].rows
    assert far.euclidean[0] >= far.euclidean[1] > 1


def test_all_other_rows_can_be_asked_for() -> None:
    values = rows(40)
    ((near, far),) = Index(values).ends(values[:1], 39, "cosine", [[0]])
    assert sorted(near.rows.tolist()) == list(range(1, 40)) and far.rows.tolist() == near.rows.tolist()[::-1]
    with pytest.raises(UserError, match="Expected k from 1 to 39, the other rows, got 40"):
        Index(values).ends(values[:1], 40, "cosine", [[0]])


def test_memory_maps_halves_and_tensors_are_read(tmp_path: Path) -> None:
    values = rows().astype(np.float16)
    np.save(tmp_path / "half.npy", values)
    mapped = np.load(tmp_path / "half.npy", mmap_mode="r")
    expected = Index(values.astype(np.float32)).ends(rows(2), 5)
    for given in (mapped, torch.from_numpy(values)):
        assert [near.rows.tolist() for near, _ in Index(given).ends(rows(2), 5)] == [
            near.rows.tolist() for near, _ in expected
        ]


def test_the_matrix_stays_a_memory_map(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows())
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="c")
    index = Index(torch.from_numpy(mapped))
    assert np.shares_memory(index.values, mapped), "a copy of the matrix was made"


def test_compare_by_hand() -> None:
    cosine, euclidean = compare(np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 2.0]]))
    assert cosine == pytest.approx([1, 0]) and euclidean == pytest.approx([0, 5**0.5])
    assert np.isnan(compare(np.zeros((1, 2)), np.ones((1, 2)))[0]).all()


def test_what_cannot_be_searched_is_refused() -> None:
    broken, silent = rows(), rows()
    broken[3, 1], broken[9, 0] = np.nan, np.inf
    with pytest.raises(UserError, match=r"NaN or infinity in 2 of 300 \(the first is row 3\)"):
        Index(broken)
    silent[7] = 0
    index = Index(silent)
    with pytest.raises(UserError, match=r"1 rows of length 0 \(the first is row 7\).*metric=euclidean"):
        index.ends(rows(1), 3)
    assert index.ends(np.zeros((1, 24), np.float32), 1, "euclidean")[0][0].rows.tolist() == [7]
    with pytest.raises(UserError, match="a query of length 0"):
        Index(rows()).ends(np.zeros((1, 24), np.float32), 3)
    with pytest.raises(UserError, match="Expected queries of 24 numbers, as the rows have, got 5"):
        index.ends(rows(1, 5), 3)
    with pytest.raises(UserError, match="Expected finite queries"):
        index.ends(np.full((1, 24), np.nan, np.float32), 3)
    with pytest.raises(UserError, match="metric to be one of euclidean, cosine, got l1"):
        index.ends(rows(1), 3, "l1")


HARD = {
    "shifted by 10,000": rows(3000, offset=1e4),
    "places in metres": (np.random.default_rng(0).random((5000, 2)) * 500 + [3.5e6, 5.8e6]).astype(np.float32),
    "one number of 1e30": np.concatenate([rows(400), np.full((1, 24), 1e30, np.float32)]),
    "numbers of 1e-24": rows(400) * np.float32(1e-24),
    "numbers of 1e200": rows(400).astype(float) * 1e200,
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_no_range_of_numbers_changes_the_ends(name: str, metric: str) -> None:
    values = HARD[name]
    wide = values.astype(np.longdouble)
    if metric == "cosine":
        wide = wide / np.sqrt((wide**2).sum(1, keepdims=True))
    for row in (0, 7, 133):
        costs = ((wide - wide[row]) ** 2).sum(1)
        ((near, far),) = Index(values).ends(values[row : row + 1], 9, metric, [[row]])
        scale = float(costs.max())
        right = np.sort(np.delete(costs, row))
        assert np.allclose((costs[near.rows] / scale).astype(float), (right[:9] / scale).astype(float), rtol=1e-9)
        assert np.allclose((costs[far.rows] / scale).astype(float), (right[::-1][:9] / scale).astype(float), rtol=1e-9)
        assert row not in near.rows and row not in far.rows


def test_ordinary_rows_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Index, "distances", lambda *_: pytest.fail("the bound of rounding is too wide"))
    values = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
    for metric in ("cosine", "euclidean"):
        Index(values).ends(values[:20], 10, metric)
