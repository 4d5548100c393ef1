"""Measures of how well a map keeps the neighbours of its rows."""

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from evaluation.maps.neighbours import CHUNK, Coordinates, Vectors, centred, draw_rows, squared_distances
from evaluation.maps.projection import Projection
from models import UserError

__all__ = ["NEIGHBOURS", "knn_recall", "map_quality", "measured", "trustworthiness"]

NEIGHBOURS = 15  # that a map is asked for, where it has the rows
QUERIES = 5_000  # rows of which the neighbours on a map are compared with those of the vectors


def neighbour_ranks(
    vectors: Vectors, coordinates: Coordinates, k: int, metric: str, seed: int
) -> Int64[np.ndarray, "queries k"]:
    """Rank in the vectors' space (1: nearest) the k nearest neighbours on the map.

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


def measured(space: Tensor, one: Projection, metric: str) -> dict[str, float]:
    """Measure trustworthiness and k-NN recall of the map at 15 neighbours, or as many as a few rows allow."""
    k = min(NEIGHBOURS, (len(one.rows) - 1) // 2)
    return map_quality(space[torch.from_numpy(one.rows)].numpy(), one.coordinates, k, metric)
