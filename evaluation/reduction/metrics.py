"""Retrieval metrics: ranks, recall@k, k-NN accuracy and neighbour overlap, with significance tests; pure functions."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from models.arrays import Array, as_array, as_tensor
from models.neighbours import CHUNK, TIE, pair_costs, ranks_of
from models.reduction import Metric

__all__ = ["bootstrap", "hits", "mcnemar", "overlap", "ranks", "votes"]


def ranks(queries: Float[Array, "n d"], candidates: Float[Array, "m d"], query_of: Int64[Array, " n"],
          candidate_of: Int64[Array, " m"], metric: Metric) -> Int64[Tensor, " n"]:  # fmt: skip
    """Rank, from 1, the first correct candidate of each query: one of the same group; ties count as worse ranks."""
    queries, candidates = as_tensor(queries), as_tensor(candidates)
    query_of, candidate_of = as_tensor(query_of), as_tensor(candidate_of)
    found, step = [], max(1, CHUNK // len(candidates))
    for part, of in zip(queries.split(step), query_of.split(step), strict=True):
        query, candidate = torch.nonzero(of[:, None] == candidate_of, as_tuple=True)
        costs = pair_costs(part, candidates, query, candidate, metric)
        order = costs.argsort(descending=True, stable=True)
        best = torch.zeros_like(of).index_put((query[order],), candidate[order])  # the last one counts: the nearest
        own = torch.bincount(query, minlength=len(part))
        as_near = ranks_of(part, candidates, best[:, None], metric, ties=True)[:, 0]
        limit = costs.new_full((len(part),), torch.inf).scatter_reduce(0, query, costs, "amin")[query]
        tied = torch.bincount(query[costs <= limit + TIE * limit.abs()], minlength=len(part))
        found.append(torch.where(own > 0, as_near - tied, len(candidates)) + 1)
    return torch.cat(found)


def hits(found: Int64[Array, " n"] | Sequence[int], ks: tuple[int, ...]) -> Float[Tensor, "n ks"]:
    """Mark with 1 the queries whose rank is at most k; the mean is recall@k.

    >>> hits(torch.tensor([1, 7]), (1, 10)).tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    found = as_tensor(found)
    return (found[:, None] <= torch.tensor(ks, device=found.device)).float()


def overlap(first: Int64[Array, "n k"], second: Int64[Array, "n k"], ks: tuple[int, ...]) -> Float[Tensor, "n ks"]:
    """Compute the share of the k nearest neighbours in one list that are among the k nearest of the other.

    >>> overlap(torch.tensor([[1, 2]]), torch.tensor([[2, 3]]), (1, 2)).tolist()
    [[0.0, 0.5]]
    """
    same = as_tensor(first)[:, :, None] == as_tensor(second)[:, None, :]
    return torch.stack([same[:, :k, :k].any(2).float().mean(1) for k in ks], 1)


def votes(labels: Int64[Array, "n k"], truth: Int64[Array, " n"], ks: tuple[int, ...]) -> Float[Tensor, "n ks"]:
    """Mark with 1 the queries that k-NN classifies correctly; among equally frequent labels the nearest one decides.

    >>> votes(torch.tensor([[2, 1, 1]]), torch.tensor([1]), (1, 3)).tolist()
    [[0.0, 1.0]]
    """
    n, most = labels.shape
    labels, truth = as_tensor(labels), as_tensor(truth)
    classes = int(max(labels.max(), truth.max())) + 1
    found = []
    for k in ks:
        counts = torch.zeros(n, classes, device=labels.device)
        counts.scatter_add_(1, labels[:, :k], torch.ones(n, k, device=labels.device))
        most_frequent = counts.gather(1, labels[:, :k]) == counts.amax(1, keepdim=True)
        first = most_frequent.float().argmax(1, keepdim=True)  # the nearest of them
        found.append(labels.gather(1, first)[:, 0] == truth)
    return torch.stack(found, 1).float()


def mcnemar(one: Bool[Array, " n"], other: Bool[Array, " n"], groups: Int64[Array, " n"]) -> float:
    """Compute the exact two-sided p-value of McNemar's test that two methods are correct on equally many queries.

    Under the null hypothesis each query on which exactly one of the two is correct is won by either with probability ½
    (McNemar 1947, https://doi.org/10.1007/BF02295996). 1 where they never differ. Captions of one image are not
    independent, so they count as one query, won by the method that is correct on more of them.
    """
    from scipy.stats import binomtest

    one, other, groups = map(as_array, (one, other, groups))
    ahead = np.bincount(np.unique(groups, return_inverse=True)[1], one.astype(float) - other)
    first, second = int((ahead > 0).sum()), int((ahead < 0).sum())
    return float(binomtest(first, first + second).pvalue) if first + second else 1.0


def bootstrap(right: Float[Array, "n columns"], groups: Int64[Array, " n"], draws: int,
              seed: int) -> Float64[np.ndarray, "draws columns"]:  # fmt: skip
    """Compute bootstrap means of the columns over queries, by drawing groups with replacement.

    Every column uses the same draws. Captions of one image are a group, as their results are not independent.
    """
    right, groups = as_array(right), as_array(groups)
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), right.shape[1]))
    np.add.at(sums, place, right)
    generator, found = np.random.default_rng(seed), np.empty((draws, right.shape[1]))
    for draw in found:
        times = np.bincount(generator.integers(len(sizes), size=len(sizes)), minlength=len(sizes))
        draw[:] = times @ sums / (times @ sizes)
    return found
