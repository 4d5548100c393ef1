"""The search for nearest rows against brute force, in chunks, with ties and without the query itself."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from models import neighbours
from models.neighbours import nearest, ranks_of
from models.reduction import Metric, lengths_of, similarity, unit_rows

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


def far_from_the_origin(dtype: torch.dtype = torch.float32) -> Tensor:
    """Places within 500 m of each other, in a national grid of metres: float32 has steps of 0.25 to 0.5 m there."""
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(2000, 2, generator=generator, dtype=torch.float64) * 500 + torch.tensor([3.5e6, 5.8e6])
    return places.to(dtype)


def around(shift: float, dtype: torch.dtype = torch.float32) -> Tensor:
    rows = torch.randn(800, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (rows + shift).to(dtype)


def with_a_giant(factor: float) -> Tensor:
    rows = around(0)
    rows[5, 3] = factor
    return rows


HARD: dict[str, Tensor] = {
    "places": far_from_the_origin(),
    "places in float64": far_from_the_origin(torch.float64),
    "shifted by 10,000": around(1e4),
    "shifted by 1e9 in float64": around(1e9, torch.float64),
    "one number of 1e19": with_a_giant(1e19),
    "one number of 1e30": with_a_giant(1e30),
    "numbers of 1e30": around(0) * 1e30,
    "numbers of 1e-24": around(0) * 1e-24,
    "numbers of 1e200": around(0, torch.float64) * 1e200,
    "two far groups": torch.cat([around(0), around(0) + 1e5]),
    "nearly equal": 1 + around(0) * 1e-5,
    "halves": around(0).half(),
}


def exact_order(rows: Tensor, queries: Tensor, metric: Metric) -> Tensor:
    """Sort all rows by differences in extended precision, which numbers of 1e200 fit into as well."""
    values = rows.double().numpy().astype(np.longdouble)
    if metric == "cosine":
        values = values / np.sqrt((values**2).sum(1, keepdims=True))
    costs = np.stack([((values - values[query]) ** 2).sum(1) for query in queries.tolist()])
    costs[np.arange(len(queries)), queries] = np.inf
    return torch.from_numpy(costs.argsort(axis=1, kind="stable"))


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_no_range_of_numbers_changes_the_neighbours(name: str, metric: Metric) -> None:
    rows, queries = HARD[name], torch.arange(40)
    if name == "shifted by 1e9 in float64" and metric == "cosine":
        pytest.skip("float64 does not hold these cosines apart: 1e-18")
    right = exact_order(rows, queries, metric)
    found = nearest(rows[queries], rows, 10, metric, own=queries)
    distances = exact_costs(rows, queries, found.rows, metric)
    assert torch.equal(distances, exact_costs(rows, queries, right[:, :10], metric)), name
    assert bool((found.costs[:, 1:] >= found.costs[:, :-1]).all())
    some = right[:, [0, 3, 40, 400]]
    ranked = ranks_of(rows[queries], rows, some, metric, own=queries)
    ties = torch.tensor([[int((row == row[at]).sum()) for at in (0, 3, 40, 400)] for row in
                         exact_costs(rows, queries, right, metric)])  # fmt: skip
    wanted = torch.tensor([1, 4, 41, 401])
    assert bool(((ranked <= wanted) & (ranked > wanted - ties)).all()), name


def exact_costs(rows: Tensor, queries: Tensor, chosen: Tensor, metric: Metric) -> Tensor:
    values = rows.double() if metric == "euclidean" else unit_rows(rows)
    scale = values.abs().amax()
    return ((values[chosen] - values[queries, None]) / scale).square().sum(-1)


@pytest.mark.parametrize("metric", METRICS)
def test_many_ties_are_quick_and_equal(metric: Metric) -> None:
    """One-hot rows, all equally far from each other, and a few copies."""
    rows = torch.eye(400)[torch.arange(2000) % 400]
    found = nearest(rows, rows, 6, metric, own=torch.arange(2000))
    near = torch.arange(2000)[:, None] % 400 == found.rows % 400
    assert bool(near[:, :4].all()) and not bool(near[:, 4:].any())
    ranked = ranks_of(rows, rows, found.rows, metric, own=torch.arange(2000))
    assert (ranked == torch.tensor([1, 1, 1, 1, 5, 5])).all()
    tied = ranks_of(rows, rows, found.rows, metric, own=torch.arange(2000), ties=True)
    assert (tied == torch.tensor([4, 4, 4, 4, 1999, 1999])).all()


def test_a_row_of_zeros_has_a_cosine_of_nought() -> None:
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.1], [0.2, 1.0]])
    found = nearest(rows[1:2], rows, 4, "cosine")
    assert found.rows.tolist() == [[1, 3, 0, 2]] and found.similarity[0, 2] == 0


def test_lengths_of_all_sizes() -> None:
    rows = torch.tensor([[3e-30, 4e-30], [3e30, 4e30], [0.0, 0.0]])
    assert lengths_of(rows).tolist() == pytest.approx([5e-30, 5e30, 0])
    assert unit_rows(rows).flatten().tolist() == pytest.approx([0.6, 0.8, 0.6, 0.8, 0, 0])
