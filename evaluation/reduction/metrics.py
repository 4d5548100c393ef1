"""Retrieval metrics: ranks, recall@k, k-NN accuracy and overlap, with tests of significance; pure functions."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from models.arrays import Array, as_array, as_tensor
from models.neighbours import CHUNK
from models.reduction import Metric, similarity

__all__ = ["bootstrap", "hits", "mcnemar", "overlap", "ranks", "votes"]


def ranks(queries: Float[Array, "n d"], candidates: Float[Array, "m d"], query_of: Int64[Array, " n"],
          candidate_of: Int64[Array, " m"], metric: Metric) -> Int64[Tensor, " n"]:  # fmt: skip
    """The rank, from 1, at which a query finds the first candidate that is of the same thing; ties count against it."""
    queries, candidates = as_tensor(queries), as_tensor(candidates)
    query_of, candidate_of = as_tensor(query_of), as_tensor(candidate_of)
    found = []
    for part, of in zip(queries.split(max(1, CHUNK // len(candidates))),
                        query_of.split(max(1, CHUNK // len(candidates))), strict=True):  # fmt: skip
        scores, own = similarity(part, candidates, metric), of[:, None] == candidate_of
        best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        found.append(((scores >= best) & ~own).sum(1) + 1)
    return torch.cat(found)


def hits(found: Int64[Array, " n"] | Sequence[int], ks: tuple[int, ...]) -> Float[Tensor, "n ks"]:
    """1 where the rank is at most k."""
    found = as_tensor(found)
    return (found[:, None] <= torch.tensor(ks, device=found.device)).float()


def overlap(first: Int64[Array, "n k"], second: Int64[Array, "n k"], ks: tuple[int, ...]) -> Float[Tensor, "n ks"]:
    """The share of the k nearest rows of one list that are among the k nearest of the other."""
    same = as_tensor(first)[:, :, None] == as_tensor(second)[:, None, :]
    return torch.stack([same[:, :k, :k].any(2).float().mean(1) for k in ks], 1)


def votes(labels: Int64[Array, "n k"], truth: Int64[Array, " n"], ks: tuple[int, ...]) -> Float[Tensor, "n ks"]:
    """1 where the commonest label of the k nearest rows is right; of equally common ones the nearest row's counts."""
    n, most = labels.shape
    labels, truth = as_tensor(labels), as_tensor(truth)
    classes = int(max(labels.max(), truth.max())) + 1
    found = []
    for k in ks:
        counts = torch.zeros(n, classes, device=labels.device)
        counts.scatter_add_(1, labels[:, :k], torch.ones(n, k, device=labels.device))
        commonest = counts.gather(1, labels[:, :k]) == counts.amax(1, keepdim=True)
        first = commonest.float().argmax(1, keepdim=True)  # of equal ones the first
        found.append(labels.gather(1, first)[:, 0] == truth)
    return torch.stack(found, 1).float()


def mcnemar(one: Bool[Array, " n"], other: Bool[Array, " n"], groups: Int64[Array, " n"]) -> float:
    """The exact two-sided p-value of McNemar's test: whether two methods are right on equally many of the same queries.

    Of the queries on which one of the two is right, under the null either is with probability ½ (McNemar 1947,
    https://doi.org/10.1007/BF02295996). 1 where they never differ. Captions of one image, no independent ones, are one
    query together, for the method that is right on more of them.
    """
    from scipy.stats import binomtest

    one, other, groups = map(as_array, (one, other, groups))
    ahead = np.bincount(np.unique(groups, return_inverse=True)[1], one.astype(float) - other)
    first, second = int((ahead > 0).sum()), int((ahead < 0).sum())
    return float(binomtest(first, first + second).pvalue) if first + second else 1.0


def bootstrap(right: Float[Array, "n columns"], groups: Int64[Array, " n"], draws: int,
              seed: int) -> Float64[np.ndarray, "draws columns"]:  # fmt: skip
    """The columns' means over the queries of groups drawn with replacement; the same draws for every column.

    Captions of one image are drawn together, as they are right or wrong together.
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
