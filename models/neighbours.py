"""Exact search for the nearest rows, and exact ranks, whatever the rows' distance from the origin and their range.

Distances by |x|² + |y|² − 2 x·y are fast and lose all digits where rows lie near each other and far from the origin.
So rows are centred, float32 only preselects candidates, and those are ranked by differences in float64. The rounding of
the fast distance is at most `error(d)` (|x|² + |y|²), and a candidate nearer than the k-th, at distance r, has
|y| ≤ |x| + r. Where the last preselected candidate is not farther than the k-th by that bound, the search is repeated
in float64 with more candidates, and then by differences to all of them.
Bounds of rounding: Higham 2002, Accuracy and Stability of Numerical Algorithms, chapter 3.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from models.reduction import Metric, lengths_of

__all__ = ["CHUNK", "TIE", "Nearest", "nearest", "pair_costs", "ranks_of"]

CHUNK = 2**25  # similarities in memory at a time
DIFFERENCES = 2**18  # numbers of differences in memory at a time, which a processor's cache holds
SPARE = 8  # candidates that are preselected beyond the k
SAMPLE = 1000  # rows whose median is the centre
TIE = 1e-12  # relative difference of costs below which they are equal
# Most numbers of differences that decide the order of a chunk; beyond, float64 is used, and then they are ties.
UNDECIDED = {torch.float32: 2**25, torch.float64: 2**28}


class Nearest(NamedTuple):
    """The k nearest candidates of each query, the nearest first, how similar they are, and their costs in float64.

    A cost is |x − y|², 2 − 2 cos, which keeps its digits where the cosine is nearly 1, or −x·y.
    """

    rows: Int64[Tensor, "n k"]
    similarity: Float[Tensor, "n k"]
    costs: Float64[Tensor, "n k"]


def error(d: int, dtype: torch.dtype, device: torch.device) -> float:
    """Bound the rounding of |x|² + |y|² − 2 x·y, relative to |x|² + |y|², and of −x·y relative to |x| |y|."""
    reduced = dtype == torch.float32 and device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return (2 * d + 16) * (2.0**-8 if reduced else torch.finfo(dtype).eps / 2)


class Space:
    """Queries and candidates in one coordinate system in which costs, the smaller the nearer, are computed.

    The cost is |x − y|², of rows scaled to unit length for `cosine`, where it is 2 − 2 cos, and −x·y for `dot`. All
    numbers are scaled by one power of 2, so that no square overflows.
    """

    def __init__(self, queries: Float[Tensor, "n d"], candidates: Float[Tensor, "m d"], metric: Metric) -> None:
        self.queries, self.candidates, self.metric, self.d = queries, candidates, metric, candidates.shape[1]
        self.scale, self.centre = 1.0, candidates.new_zeros(self.d, dtype=torch.float64)
        if metric != "cosine":
            largest = max(float(rows.abs().amax()) if rows.numel() else 0.0 for rows in (queries, candidates))
            self.scale = 2.0 ** -float(np.frexp(largest)[1]) if 0 < largest < np.inf else 1.0
        self.factors = [self.factor(rows) for rows in (queries, candidates)]
        if metric != "dot":
            some = torch.arange(0, len(candidates), max(1, len(candidates) // SAMPLE), device=candidates.device)
            self.centre = self.of_candidates(some).median(0).values

    def factor(self, rows: Float[Tensor, "n d"]) -> Float64[Tensor, "n 1"]:
        """Return the number that scales each row: to unit length for `cosine`, where it is 0 for a row of zeros."""
        if self.metric != "cosine":
            return rows.new_full((1, 1), self.scale, dtype=torch.float64).expand(len(rows), 1)
        lengths = torch.cat([lengths_of(part) for part in rows.split(max(1, DIFFERENCES // self.d))])[:, None]
        return torch.where(lengths > 0, 1 / lengths, 0)

    def of_queries(self, rows: Int64[Tensor, "*rows"]) -> Float64[Tensor, "*rows d"]:
        """Return queries in float64, scaled, but not centred."""
        return self.queries[rows].double() * self.factors[0][rows]

    def of_candidates(self, rows: Int64[Tensor, "*rows"]) -> Float64[Tensor, "*rows d"]:
        return self.candidates[rows].double() * self.factors[1][rows]

    def pairs(self, queries: Int64[Tensor, " n"], candidates: Int64[Tensor, "n k"]) -> Float64[Tensor, "n k"]:
        """Compute the costs of queries and some candidates of each, given by their numbers, by differences."""
        step = max(1, DIFFERENCES // (self.d * max(1, candidates.shape[1])))
        parts = zip(queries.split(step), candidates.split(step), strict=True)
        return torch.cat([self.cost(query, candidate) for query, candidate in parts])

    def cost(self, query: Int64[Tensor, " n"], candidate: Int64[Tensor, "n k"]) -> Float64[Tensor, "n k"]:
        x, y = self.of_queries(query)[:, None], self.of_candidates(candidate)
        if self.metric == "dot":
            return -(y @ x.mT)[..., 0]
        costs = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")[:, 0].square()
        if self.metric == "cosine":  # the cosine with a row of zeros is 0
            without = (self.factors[0][query] == 0) | (self.factors[1][candidate, 0] == 0)
            costs = torch.where(without, 2.0, costs)
        return costs

    def nearest(self, rows: Int64[Tensor, "n k"], costs: Float64[Tensor, "n k"]) -> Nearest:
        """Return candidates with their similarities, and their costs in the rows' own unit."""
        costs = costs / self.scale / self.scale
        similarity = 1 - costs / 2 if self.metric == "cosine" else -costs
        return Nearest(rows, similarity.to(self.queries.dtype), costs)


class Fast:
    """Costs of all candidates by matrix products in one precision, and a bound of their rounding."""

    def __init__(self, space: Space, dtype: torch.dtype) -> None:
        self.space, self.dtype = space, dtype
        parts = torch.arange(len(space.candidates), device=space.candidates.device).split(2**14)
        self.rows = torch.cat([(space.of_candidates(part) - space.centre).to(dtype) for part in parts])
        self.squares = self.rows.square().sum(1)
        self.longest = float(self.squares.amax()) ** 0.5
        self.error = error(space.d, dtype, self.rows.device)

    def costs(self, part: Int64[Tensor, " n"]) -> tuple[Float[Tensor, "n m"], Float64[Tensor, " n"]]:
        """Return the costs of some queries, given by their numbers, and the squares of these queries."""
        x = (self.space.of_queries(part) - self.space.centre).to(self.dtype)
        if self.space.metric == "dot":
            return (x @ self.rows.T).neg_(), x.double().square().sum(1)
        squares = x.square().sum(1)
        costs = torch.addmm(self.squares, x, self.rows.T, alpha=-2).add_(squares[:, None])
        if self.space.metric == "cosine":
            costs[:, self.space.factors[1][:, 0] == 0] = 2
            costs[self.space.factors[0][part, 0] == 0] = 2
        return costs, squares.double()

    def bound(self, squares: Float64[Tensor, "#n #k"], cost: Float64[Tensor, "n k"]) -> Float64[Tensor, "n k"]:
        """Bound the rounding for candidates that are no farther from queries than a cost."""
        tiny = self.space.d * 8 * torch.finfo(self.dtype).tiny
        if self.space.metric == "dot":
            return self.error * squares.sqrt() * self.longest + tiny + 0 * cost
        return self.error * (squares + (squares.sqrt() + cost.sqrt()).square()) + tiny


def nearest(queries: Float[Tensor, "n d"], candidates: Float[Tensor, "m d"], k: int, metric: Metric,
            own: Int64[Tensor, " n"] | None = None) -> Nearest:  # fmt: skip
    """Return the k nearest candidates of each query by `models.reduction.similarity`, on the queries' device.

    They are exact to the rounding of float64; Euclidean similarities are −|x − y|², and never positive. Where queries
    are among the candidates, `own` is the candidate that each of them is: it is left out.

    Raises:
        ValueError: k is below 1, or there are fewer candidates.

    >>> nearest(torch.tensor([[1.0, 0.2]]), torch.tensor([[0.0, 2.0], [3.0, 0.0]]), 1, "cosine").rows
    tensor([[1]])
    >>> rows = torch.tensor([[0.0], [1.0], [3.0]])
    >>> nearest(rows, rows, 1, "euclidean", own=torch.arange(3)).rows.flatten()
    tensor([1, 0, 1])
    """
    most = len(candidates) - (own is not None)
    if not 1 <= k <= most:
        raise ValueError(f"Expected k from 1 to {most}, the number of candidates, got {k}: choose another k.")
    space = Space(queries, candidates, metric)
    device = candidates.device
    found = torch.empty(len(queries), k, dtype=torch.int64, device=device)
    costs = torch.empty(len(queries), k, dtype=torch.float64, device=device)
    left, many = torch.arange(len(queries), device=device), min(k + max(SPARE, k // 8), most)
    itself = None if own is None else own.to(device)
    for dtype, count in ((torch.float32, many), (torch.float64, min(4 * many, most))):
        if len(left):
            fast, undecided = Fast(space, dtype), []
            for part in left.split(max(1, CHUNK // len(candidates))):
                rows, exact, sure = preselected(fast, part, k, count, itself)
                found[part], costs[part] = rows[:, :k], exact[:, :k]
                tied = exact[:, -1] - exact[:, k - 1] <= TIE * exact[:, k - 1].abs()
                undecided.append(part[~(sure | (tied if dtype == torch.float64 else sure))])
            left = torch.cat(undecided)
    for query in left:
        found[query], costs[query] = nearest_of_all(space, query, k, itself)
    return space.nearest(found, costs)


def preselected(
    fast: Fast, part: Int64[Tensor, " n"], k: int, count: int, own: Int64[Tensor, " all"] | None
) -> tuple[Int64[Tensor, "n count"], Float64[Tensor, "n count"], Bool[Tensor, " n"]]:
    """Preselect candidates of some queries, and order them by their costs in float64; tell where the first k are sure.

    Equal costs are in the order of the candidates.
    """
    approximate, squares = fast.costs(part)
    if own is not None:
        approximate.scatter_(1, own[part, None], torch.inf)
    last, rows = approximate.topk(count, largest=False)
    rows = rows.sort(1).values
    exact, order = fast.space.pairs(part, rows).sort(dim=1, stable=True)
    limit = exact[:, k - 1]
    all_of_them = count == approximate.shape[1] - (own is not None)
    sure = last[:, -1].double() >= limit + fast.bound(squares[:, None], limit[:, None])[:, 0]
    least = torch.full_like(sure, fast.space.metric != "dot") & (limit == 0)  # nothing is nearer than an equal row
    return rows.gather(1, order), exact, sure | least | all_of_them


def nearest_of_all(
    space: Space, query: Int64[Tensor, ""], k: int, own: Int64[Tensor, " all"] | None
) -> tuple[Int64[Tensor, " k"], Float64[Tensor, " k"]]:
    """Return the k nearest candidates of one query, and their costs, by differences to all candidates."""
    every = torch.arange(len(space.candidates), device=query.device)
    costs = torch.cat([space.cost(query[None], part[None])[0] for part in every.split(max(1, DIFFERENCES // space.d))])
    if own is not None:
        costs[own[query]] = torch.inf
    ordered = costs.sort(stable=True)
    return ordered.indices[:k], ordered.values[:k]


def pair_costs(queries: Float[Tensor, "n d"], candidates: Float[Tensor, "m d"], of_queries: Int64[Tensor, " pairs"],
               of_candidates: Int64[Tensor, " pairs"], metric: Metric) -> Float64[Tensor, " pairs"]:  # fmt: skip
    """Compute the costs of pairs, the smaller the nearer, of rows that are given by their numbers, in float64.

    >>> rows = torch.tensor([[0.0], [1.0], [3.0]])
    >>> pair_costs(rows, rows, torch.tensor([0, 1]), torch.tensor([1, 1]), "euclidean").argsort()
    tensor([1, 0])
    """
    return Space(queries, candidates, metric).pairs(of_queries, of_candidates[:, None])[:, 0]


def ranks_of(queries: Float[Tensor, "n d"], candidates: Float[Tensor, "m d"], rows: Int64[Tensor, "n k"],
             metric: Metric, own: Int64[Tensor, " n"] | None = None, ties: bool = False,
             slack: float = TIE) -> Int64[Tensor, "n k"]:  # fmt: skip
    """Rank the given candidates among all candidates of each query: 1 + the number of nearer ones.

    With `ties` it is the number of those that are as near or nearer, the candidate itself included. `own` is left out,
    as in `nearest`. Costs that differ by less than `slack`, relatively, are equal.

    >>> rows = torch.tensor([[0.0], [1.0], [3.0]])
    >>> ranks_of(rows, rows, torch.tensor([[1, 2], [0, 2], [0, 1]]), "euclidean", own=torch.arange(3)).tolist()
    [[1, 2], [1, 2], [2, 1]]
    """
    space, found = Space(queries, candidates, metric), []
    fast = Fast(space, torch.float32)
    for part in torch.arange(len(queries), device=rows.device).split(max(1, CHUNK // len(candidates))):
        counts = counted(fast, part, rows[part], own, ties, slack)
        if counts is None:
            fast = Fast(space, torch.float64) if fast.dtype == torch.float32 else fast
            counts = counted(fast, part, rows[part], own, ties, slack)
        found.append(counts)
    ranks = torch.cat([torch.from_numpy(counts) for counts in found if counts is not None]).to(rows.device)
    return ranks if ties else ranks + 1


def counted(fast: Fast, part: Int64[Tensor, " n"], rows: Int64[Tensor, "n k"], own: Int64[Tensor, " all"] | None,
            ties: bool, slack: float) -> Int64[np.ndarray, "n k"] | None:  # fmt: skip
    """Count the candidates that are nearer to some queries than the given ones, or with `ties` also those as near.

    The order is decided by differences where rounding may change it; None in float32 where that would be too many.
    """
    limits = fast.space.pairs(part, rows)
    approximate, squares = fast.costs(part)
    if own is not None:
        approximate.scatter_(1, own.to(part.device)[part, None], torch.inf)
    margin = 2 * fast.bound(squares[:, None], limits) + slack * limits.abs()
    costs = approximate.cpu().numpy()
    low, high = (limit.cpu().numpy().astype(costs.dtype) for limit in (limits - margin, limits + margin))
    # NumPy counts seven times as fast as torch.
    below = np.stack([np.count_nonzero(costs < limit[:, None], 1) for limit in low.T], 1)
    above = np.stack([np.count_nonzero(costs <= limit[:, None], 1) for limit in high.T], 1)
    open_pairs = above - below
    if open_pairs.sum() * fast.space.d > UNDECIDED[fast.dtype]:
        return (above if ties else below) if fast.dtype == torch.float64 else None
    for column, few in enumerate(open_pairs.T):
        chosen = np.flatnonzero(few > 1)  # the only one is the given candidate itself
        some = costs[chosen]
        near = np.nonzero((some >= low[chosen, column, None]) & (some <= high[chosen, column, None]))
        query, which = (torch.from_numpy(numbers).to(part.device) for numbers in (chosen[near[0]], near[1]))
        exact, limit = fast.space.pairs(part[query], which[:, None])[:, 0], limits[query, column]
        nearer = exact <= limit + slack * limit.abs() if ties else exact < limit - slack * limit.abs()
        below[:, column] += np.bincount(query[nearer].cpu().numpy(), minlength=len(below))
        below[few == 1, column] += ties
    return below
