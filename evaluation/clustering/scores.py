"""Score the agreement of two partitions of the same rows, and a partition without labels; pure functions."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64
from torch import Tensor

from models import UserError
from models.arrays import Array, as_array, as_tensor

__all__ = [
    "MOST_COMPARED",
    "accuracy",
    "contingency",
    "occupancy",
    "prediction_strength",
    "scores",
    "silhouette",
    "stability",
    "used_clusters",
]

Partition: TypeAlias = Tensor | np.ndarray | pd.Series | Sequence[int | float | str | None]
MOST_COMPARED = 5_000  # rows of scores whose cost is quadratic
NEARLY_EMPTY = 0.01  # share of an equal share below which a cluster counts as empty


def pair_of_partitions(labels_true: Partition, labels_pred: Partition) -> tuple[np.ndarray, np.ndarray]:
    """Convert both partitions to class numbers, leaving out rows whose true label is unknown (NaN, None).

    Raises:
        UserError: different lengths; no row whose label is known.
    """
    true, predicted = flat_labels(labels_true), flat_labels(labels_pred)
    if true.shape != predicted.shape or true.ndim != 1:
        raise UserError(
            f"Expected as many predicted as true labels, one each, got shapes {predicted.shape} and {true.shape}: "
            "give both for the same rows."
        )
    known = ~pd.isna(true)
    if not known.any():
        raise UserError("Expected at least one row with a label, got none: scores need labels.")
    true, predicted = (pd.factorize(part[known], sort=True, use_na_sentinel=False)[0] for part in (true, predicted))
    return true, predicted


def flat_labels(labels: Partition) -> np.ndarray:
    """Convert labels to an array; a list to one of objects, as NumPy would turn a NaN among words into a word."""
    if isinstance(labels, Tensor):
        return as_array(labels)
    return np.array(labels, dtype=object) if isinstance(labels, list | tuple) else np.asarray(labels)


def contingency(labels_true: Partition, labels_pred: Partition) -> Int64[np.ndarray, "classes clusters"]:
    """Count the rows of each class (in sorted order) in each cluster.

    >>> contingency(["cat", "cat", "dog"], [1, 0, 0]).tolist()
    [[1, 1], [1, 0]]
    """
    true, predicted = pair_of_partitions(labels_true, labels_pred)
    table = np.zeros((true.max() + 1, predicted.max() + 1), dtype=np.int64)
    np.add.at(table, (true, predicted), 1)
    return table


def accuracy(labels_true: Partition, labels_pred: Partition) -> float:
    """Compute clustering accuracy: max_m Σ_i 1[y_i = m(c_i)] / n over one-to-one matchings m of clusters and classes.

    The best matching is found by the Hungarian algorithm. Where there are more clusters than classes, the rows of
    unmatched clusters count as wrong.

    >>> accuracy([0, 0, 1, 1], [1, 1, 0, 1])
    0.75
    """
    from scipy.optimize import linear_sum_assignment

    table = contingency(labels_true, labels_pred)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / table.sum())


def scores(labels_true: Partition, labels_pred: Partition) -> dict[str, float]:
    """Score the agreement of a clustering with classes: 1 is the same partition; a random one has ami and ari near 0.

    ami, ari, fmi and nmi (arithmetic mean) are scikit-learn's; accuracy is that of the best one-to-one matching. Rows
    whose label is NaN or None are left out.

    Raises:
        UserError: different lengths, or no label at all.

    >>> scores([0, 0, 1, 1], [1, 1, 0, 0])["ami"]
    1.0
    """
    from sklearn import metrics

    true, predicted = pair_of_partitions(labels_true, labels_pred)
    return {
        "ami": float(metrics.adjusted_mutual_info_score(true, predicted)),
        "ari": float(metrics.adjusted_rand_score(true, predicted)),
        "fmi": float(metrics.fowlkes_mallows_score(true, predicted)),
        "nmi": float(metrics.normalized_mutual_info_score(true, predicted)),
        "accuracy": accuracy(true, predicted),
    }


def occupancy(clusters: Int64[Array, " n"] | Sequence[int], k: int) -> Float[Tensor, " k"]:
    """Compute the share of the rows in each cluster.

    >>> occupancy(torch.tensor([0, 0, 1, 1]), 3).tolist()
    [0.5, 0.5, 0.0]
    """
    return as_tensor(clusters).bincount(minlength=k).float() / max(1, len(clusters))


def used_clusters(shares: Float[Array, " k"] | Sequence[float]) -> int:
    """Count the clusters that are used: those with at least 1 % of an equal share of the rows, 1 / k.

    >>> used_clusters(torch.tensor([0.5, 0.5, 0.0]))
    2
    """
    return int((as_tensor(shares) * len(shares) >= NEARLY_EMPTY).sum())


def stability(partitions: Sequence[Partition]) -> float | None:
    """Average the adjusted Rand index over all pairs of partitions of the same rows; None for a single partition.

    1 means that every seed finds the same clusters.

    >>> stability([[0, 0, 1], [1, 1, 0]])
    1.0
    """
    from sklearn.metrics import adjusted_rand_score

    pairs = [(a, b) for i, a in enumerate(partitions) for b in partitions[i + 1 :]]
    return float(np.mean([adjusted_rand_score(flat_labels(a), flat_labels(b)) for a, b in pairs])) if pairs else None


def sample(n: int, most: int, seed: int) -> np.ndarray:
    """Draw at most `most` of n row numbers without replacement."""
    return np.random.default_rng(seed).choice(n, min(n, most), replace=False)


def silhouette(
    values: Float[Array, "n d"], clusters: Int64[Array, " n"] | Sequence[int], seed: int = 0
) -> float | None:
    """Average the silhouette (b - a) / max(a, b) of at most 5,000 rows.

    a is the mean distance of a row to its own cluster, b that to the nearest other cluster (Rousseeuw 1987). 1 means
    compact and separated clusters, 0 overlapping ones, negative values misplaced rows. None for a single cluster.

    >>> silhouette(np.array([[0.0], [1.0], [9.0], [10.0]]), [0, 0, 1, 1]) > 0.8
    True
    """
    from sklearn.metrics import silhouette_score

    rows = sample(len(values), MOST_COMPARED, seed)
    chosen = as_array(clusters)[rows]
    used = len(np.unique(chosen))
    return float(silhouette_score(as_array(values)[rows], chosen)) if 1 < used < len(rows) else None


def prediction_strength(values: Float[Array, "n d"], k: int, seed: int = 0, splits: int = 3) -> float:
    """Measure how well k-means on one half of the rows predicts which rows of the other half share a cluster.

    For each cluster of one half (of at least two rows) it is the share of its pairs that the centres of the other half
    assign to one cluster; the minimum over clusters, averaged over splits. It is near 1 where the data has k clusters.
    Tibshirani and Walther (2005), "Cluster Validation by Prediction Strength", who choose the largest k above .8 to .9.

    >>> prediction_strength(np.repeat([[0.0], [9.0]], 20, axis=0), k=2)
    1.0
    """
    from sklearn.cluster import KMeans

    values, rows = as_array(values), sample(len(values), MOST_COMPARED, seed)
    strengths = []
    for split in range(splits):
        order = np.random.default_rng([seed, split]).permutation(rows)
        halves = values[order[: len(order) // 2]], values[order[len(order) // 2 :]]
        first, second = (KMeans(k, n_init=5, random_state=seed + split).fit(half) for half in halves)
        counts = contingency(second.labels_, first.predict(halves[1])).astype(float)  # own clusters x predicted
        size = counts.sum(1)
        together = (counts * (counts - 1)).sum(1) / np.maximum(size * (size - 1), 1)
        strengths.append(together[size > 1].min())
    return float(np.mean(strengths))
