"""Exact search for the nearest rows, with as many similarities in memory at a time as a constant allows."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from models.reduction import Metric

__all__ = ["CHUNK", "Nearest", "nearest"]

CHUNK = 2**25  # similarities in memory at a time


class Nearest(NamedTuple):
    """The k nearest candidates of each query, the nearest first, and how similar they are."""

    rows: Int64[Tensor, "n k"]
    similarity: Float[Tensor, "n k"]


def nearest(queries: Float[Tensor, "n d"], candidates: Float[Tensor, "m d"], k: int, metric: Metric,
            own: Int64[Tensor, " n"] | None = None) -> Nearest:  # fmt: skip
    """Return the k nearest candidates of each query by `models.reduction.similarity`, on the queries' device.

    Euclidean similarities, −|x − y|², are exact to rounding where the rows lie around the origin; rounding never makes
    one positive. Where queries are among the candidates, `own` is the candidate that each of them is: it is left out.

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
    if metric == "cosine":
        queries, candidates = normalize(queries, dim=1), normalize(candidates, dim=1)
    euclidean, found, each = metric == "euclidean", [], max(1, CHUNK // len(candidates))
    squares = candidates.square().sum(1) if euclidean else candidates.new_zeros(0)
    for start in range(0, max(1, len(queries)), each):
        part = queries[start : start + each]
        if euclidean:
            scores = torch.addmm(squares, part, candidates.T, alpha=-2)
            scores.add_(part.square().sum(1, keepdim=True)).clamp_(min=0)
        else:
            scores = part @ candidates.T
        if own is not None:
            itself = own[start : start + each, None].to(scores.device)
            scores.scatter_(1, itself, torch.inf if euclidean else -torch.inf)
        found.append(scores.topk(k, largest=not euclidean))
    values = torch.cat([part.values for part in found])
    return Nearest(torch.cat([part.indices for part in found]), values.neg() if euclidean else values)
