"""Measures of how well a map preserves neighbours: trustworthiness and k-NN recall."""

from typing import cast

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from evaluation.maps.neighbours import Coordinates, Vectors, draw_rows, finite
from evaluation.maps.projection import Projection
from models import UserError
from models.neighbours import nearest, ranks_of
from models.reduction import Metric

__all__ = ["NEIGHBOURS", "knn_recall", "map_quality", "measured", "trustworthiness"]

NEIGHBOURS = 15  # k of both measures, where there are enough rows
EQUAL = 1e-6  # relative difference of squared distances that may come from the rounding of float32 rows
QUERIES = 5_000  # most rows whose neighbours are compared


def neighbour_ranks(
    vectors: Vectors, coordinates: Coordinates, k: int, metric: str, seed: int
) -> Int64[np.ndarray, "queries k"]:
    """Rank the k nearest neighbours on the map by their distance in the space of the vectors (1: nearest).

    The queries are at most 5,000 random rows; their neighbours are searched among all rows.
    """
    n = len(vectors)
    if not 1 <= k < n / 2:
        fitting = max(1, (n - 1) // 3)
        raise UserError(f"Expected k from 1 to less than half of the {n} rows, got {k}: choose k={fitting}.")
    values, points = finite(vectors, metric), finite(coordinates, "euclidean")
    rows = torch.from_numpy(draw_rows(n, QUERIES, seed))
    near = nearest(points[rows], points, k, "euclidean", own=rows).rows
    return ranks_of(values[rows], values, near, cast(Metric, metric), own=rows, slack=EQUAL).numpy()


def trust(ranks: Int64[np.ndarray, "queries k"], n: int) -> float:
    """Compute trustworthiness from ranks."""
    k = ranks.shape[1]
    return float(1 - 2 / (k * (2 * n - 3 * k - 1)) * np.maximum(ranks - k, 0).sum(1).mean())


def recall(ranks: Int64[np.ndarray, "queries k"]) -> float:
    """Compute k-NN recall from ranks."""
    return float((ranks <= ranks.shape[1]).mean())


def trustworthiness(
    vectors: Vectors, coordinates: Coordinates, k: int = 15, metric: str = "euclidean", seed: int = 0
) -> float:
    """Compute trustworthiness, T(k) = 1 − 2 / (n k (2n − 3k − 1)) Σ_i Σ_j max(0, r(i, j) − k), 1 ≤ j ≤ k.

    r(i, j) is the rank, among the neighbours of i in the space of the vectors, of the j-th nearest neighbour of i on
    the map; 1 means no false neighbours. Above 5,000 rows the mean over i is that of a random sample of 5,000.
    Source: Venna and Kaski 2001, https://doi.org/10.1007/3-540-44668-0_68.

    Raises:
        UserError: k ≥ n / 2; vectors as `checked` refuses them.

    >>> trustworthiness(np.eye(8), np.eye(8)[:, :2], k=1, metric="euclidean") <= 1
    True
    """
    return trust(neighbour_ranks(vectors, coordinates, k, metric, seed), len(vectors))


def knn_recall(
    vectors: Vectors, coordinates: Coordinates, k: int = 15, metric: str = "euclidean", seed: int = 0
) -> float:
    """Compute the share of the k nearest neighbours on the map that are among the k nearest in the vectors' space.

    A random map has k / (n − 1). Sampling and errors are those of `trustworthiness`.

    >>> line = np.arange(8.0)[:, None]
    >>> knn_recall(line, np.hstack([line, 0 * line]), k=2)
    1.0
    """
    return recall(neighbour_ranks(vectors, coordinates, k, metric, seed))


def map_quality(
    vectors: Vectors, coordinates: Coordinates, k: int = 15, metric: str = "euclidean", seed: int = 0
) -> dict[str, float]:
    """Compute `trustworthiness` and `knn_recall` from one neighbour search.

    >>> line = np.arange(8.0)[:, None]
    >>> map_quality(line, np.hstack([line, 0 * line]), k=2)
    {'trustworthiness': 1.0, 'knn_recall': 1.0}
    """
    ranks = neighbour_ranks(vectors, coordinates, k, metric, seed)
    return {"trustworthiness": trust(ranks, len(vectors)), "knn_recall": recall(ranks)}


def measured(space: Tensor, one: Projection, metric: str) -> dict[str, float]:
    """Measure trustworthiness and k-NN recall of a map at 15 neighbours, or fewer where rows are few."""
    k = min(NEIGHBOURS, (len(one.rows) - 1) // 2)
    return map_quality(space[torch.from_numpy(one.rows)].numpy(), one.coordinates, k, metric)
