"""Nearest rows by exact search, and how many of them a map keeps. Vectors of anything: images, texts, codes."""

from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from datamodules.images import with_progress
from models import UserError, check_choice

__all__ = [
    "METRICS", "Coordinates", "Neighbours", "Vectors", "checked", "draw_rows", "knn_recall", "map_quality",
    "nearest_rows", "trustworthiness",
]  # fmt: skip

Vectors: TypeAlias = Float[np.ndarray, "n features"] | Float[Tensor, "n features"]
Coordinates: TypeAlias = Float[np.ndarray, "n dimensions"] | Float[Tensor, "n dimensions"]

METRICS = ("euclidean", "cosine")
QUERIES = 5_000  # rows of which the neighbours on a map are compared with those of the vectors
CHUNK = 2**25  # distances held at a time


class Neighbours(NamedTuple):
    """The k nearest other rows of each row, the nearest first."""

    rows: Int64[np.ndarray, "n k"]
    distances: Float32[np.ndarray, "n k"]


def checked(vectors: Vectors, metric: str) -> Float32[np.ndarray, "n features"]:
    """The vectors, for cosine distances at unit length: |a − b|² = 2 (1 − cos) then, so neighbours are the same.

    Raises:
        UserError: an unknown metric; NaN or infinities; vectors of length 0 where distances are cosine.
    """
    check_choice("metric", metric, METRICS)
    if isinstance(vectors, Tensor):
        vectors = vectors.detach().float().cpu().numpy()
    values = np.asarray(vectors, np.float32)
    wrong = np.flatnonzero(~np.isfinite(values).all(1))
    if len(wrong):
        raise UserError(
            f"Expected finite vectors, got NaN or infinity in {len(wrong)} of {len(values)} (the first is row "
            f"{wrong[0]}): leave these rows out or mend what made them."
        )
    if metric == "euclidean":
        return values
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    zero = np.flatnonzero(lengths == 0)
    if len(zero):
        raise UserError(
            f"Expected vectors that have a direction, got {len(zero)} of length 0 (the first is row {zero[0]}): leave "
            "these rows out or choose metric=euclidean."
        )
    return values / lengths


def draw_rows(n: int, most: int | None, seed: int) -> Int64[np.ndarray, " drawn"]:
    """All of n rows, or `most` of them at random, ascending.

    Raises:
        UserError: fewer than one.
    """
    if most is not None and most < 1:
        raise UserError(f"Expected at least 1 of the {n} rows, got {most}: choose more.")
    if most is None or n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])


def centred(vectors: Vectors, metric: str) -> Float32[Tensor, "n features"]:
    """Around their mean, where float32 loses least of the small distances between neighbours."""
    values = checked(vectors, metric)
    return torch.from_numpy(values - values.mean(0))


def squared_distances(values: Float32[Tensor, "n features"], rows: Int64[Tensor, " rows"]) -> Float32[Tensor, "rows n"]:
    """From some rows to all; infinite from a row to itself."""
    norms = values.square().sum(1)
    squared = torch.addmm(norms, values[rows], values.T, alpha=-2).add_(norms[rows, None]).clamp_(min=0)
    squared[torch.arange(len(rows)), rows] = torch.inf
    return squared


def nearest_rows(vectors: Vectors, k: int = 15, metric: str = "euclidean") -> Neighbours:
    """The k nearest other rows of each row, with their Euclidean distances or with 1 − cos.

    Raises:
        UserError: k ≥ n; vectors as `checked` refuses them.
    """
    values = centred(vectors, metric)
    n = len(values)
    if not 1 <= k < n:
        raise UserError(f"Expected k from 1 to less than the {n} rows, got {k}: choose another k.")
    each = max(1, CHUNK // n)
    chunks = torch.arange(n).split(each)
    found = [
        squared_distances(values, rows).topk(k, largest=False)
        for rows in with_progress(chunks, n, "Nearest rows", each=each)
    ]
    squared = torch.cat([part.values for part in found])
    distances = squared / 2 if metric == "cosine" else squared.sqrt()
    return Neighbours(torch.cat([part.indices for part in found]).numpy(), distances.numpy())


def neighbour_ranks(
    vectors: Vectors, coordinates: Coordinates, k: int, metric: str, seed: int
) -> Int64[np.ndarray, "queries k"]:
    """How near in the vectors' space (1: nearest) the k rows are that are nearest on the map.

    Of at most 5,000 rows, drawn at random; their neighbours are sought among all.
    """
    n = len(vectors)
    if not 1 <= k < n / 2:
        fitting = max(1, (n - 1) // 3)
        raise UserError(f"Expected k from 1 to less than half of the {n} rows, got {k}: choose k={fitting}.")
    values, points = centred(vectors, metric), centred(coordinates, "euclidean")
    ranks = []
    for rows in torch.from_numpy(draw_rows(n, QUERIES, seed)).split(max(1, CHUNK // n)):
        near = squared_distances(points, rows).topk(k, largest=False).indices.numpy()
        squared = squared_distances(values, rows).numpy()
        limits = np.take_along_axis(squared, near, 1)
        # NumPy counts seven times as fast as torch does.
        ranks.append(np.stack([np.count_nonzero(squared < limit[:, None], 1) + 1 for limit in limits.T], 1))
    return np.concatenate(ranks)


def trust(ranks: Int64[np.ndarray, "queries k"], n: int) -> float:
    k = ranks.shape[1]
    return float(1 - 2 / (k * (2 * n - 3 * k - 1)) * np.maximum(ranks - k, 0).sum(1).mean())


def recall(ranks: Int64[np.ndarray, "queries k"]) -> float:
    return float((ranks <= ranks.shape[1]).mean())


def trustworthiness(
    vectors: Vectors, coordinates: Coordinates, k: int = 15, metric: str = "euclidean", seed: int = 0
) -> float:
    """T(k) = 1 − 2 / (n k (2n − 3k − 1)) Σ_i Σ_j max(0, r(i, j) − k), j over the k nearest of i on the map.

    r(i, j) is the rank of j among the neighbours of i in the vectors' space; 1 where the map shows no false neighbour.
    Where there are more than 5,000 rows, the mean over i is that of 5,000, drawn at random. Venna and Kaski 2001,
    https://doi.org/10.1007/3-540-44668-0_68.

    Raises:
        UserError: k ≥ n / 2; vectors as `checked` refuses them.
    """
    return trust(neighbour_ranks(vectors, coordinates, k, metric, seed), len(vectors))


def knn_recall(
    vectors: Vectors, coordinates: Coordinates, k: int = 15, metric: str = "euclidean", seed: int = 0
) -> float:
    """The share of the k nearest rows on the map that are also among the k nearest in the vectors' space.

    Of a map without any relation to the vectors it is k / (n − 1). Drawn and refused as by `trustworthiness`.
    """
    return recall(neighbour_ranks(vectors, coordinates, k, metric, seed))


def map_quality(
    vectors: Vectors, coordinates: Coordinates, k: int = 15, metric: str = "euclidean", seed: int = 0
) -> dict[str, float]:
    """`trustworthiness` and `knn_recall` for the work of one."""
    ranks = neighbour_ranks(vectors, coordinates, k, metric, seed)
    return {"trustworthiness": trust(ranks, len(vectors)), "knn_recall": recall(ranks)}
