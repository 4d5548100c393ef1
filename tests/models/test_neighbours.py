"""The search for nearest rows against brute force, in chunks, with ties and without the query itself."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from models import neighbours
from models.neighbours import nearest
from models.reduction import Metric, similarity

METRICS: tuple[Literal["cosine", "euclidean", "dot"], ...] = ("cosine", "euclidean", "dot")


def brute(queries: Tensor, candidates: Tensor, k: int, metric: Metric, own: bool) -> list[list[int]]:
    """Sort all candidates by their similarity in float64."""
    scores = similarity(queries.double(), candidates.double(), metric)
    if own:
        scores.fill_diagonal_(-torch.inf)
    return scores.argsort(dim=1, descending=True, stable=True)[:, :k].tolist()


@pytest.mark.parametrize("chunk", [1, 500, 2**25])
@pytest.mark.parametrize("metric", METRICS)
def test_they_are_those_of_brute_force(metric: Metric, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    queries, candidates = torch.randn(30, 5), torch.randn(60, 5)
    found = nearest(queries, candidates, 7, metric)
    assert found.rows.tolist() == brute(queries, candidates, 7, metric, own=False)
    expected = similarity(queries, candidates, metric).gather(1, found.rows)
    torch.testing.assert_close(found.similarity, expected, rtol=1e-4, atol=1e-5)
    among = nearest(candidates, candidates, 59, metric, own=torch.arange(60))
    assert among.rows.tolist() == brute(candidates, candidates, 59, metric, own=True)


@pytest.mark.parametrize("metric", METRICS)
def test_copies_are_neighbours_and_no_row_is_its_own(metric: Metric) -> None:
    copies = torch.randn(1, 5).repeat(10, 1) + 100
    found = nearest(copies, copies, 9, metric, own=torch.arange(10))
    assert all(sorted([row, *others]) == list(range(10)) for row, others in enumerate(found.rows.tolist()))
    assert metric != "euclidean" or bool((found.similarity <= 0).all())


def test_queries_may_be_some_of_the_candidates() -> None:
    rows = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    some = torch.tensor([3, 1])
    assert nearest(rows[some], rows, 2, "euclidean", own=some).rows.tolist() == [[2, 1], [0, 2]]


def test_the_arguments_stay_and_the_precision_is_theirs() -> None:
    rows = torch.randn(6, 3, dtype=torch.float64)
    before = rows.clone()
    for metric in METRICS:
        assert nearest(rows, rows, 2, metric, own=torch.arange(6)).similarity.dtype == torch.float64
    assert torch.equal(rows, before)


def test_no_query_finds_nothing() -> None:
    found = nearest(torch.zeros(0, 3), torch.randn(4, 3), 2, "cosine")
    assert found.rows.shape == found.similarity.shape == (0, 2)


@pytest.mark.parametrize(("k", "own"), [(0, None), (5, None), (4, torch.arange(4))])
def test_more_than_there_are_is_refused(k: int, own: Tensor | None) -> None:
    rows = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"Expected k from 1 to [34], the number of candidates, got"):
        nearest(rows, rows, k, "euclidean", own)
