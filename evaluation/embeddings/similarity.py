"""Measure the similarity of rows: between classes, as matrices, and as a k-NN graph."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64

from evaluation.drawing.heatmap import MOST_CELLS
from evaluation.embeddings.search import compare
from evaluation.maps.neighbours import METRICS, Vectors, finite, nearest_rows
from models import UserError, check_choice
from models.reduction import unit_rows

__all__ = ["class_matrix", "class_similarity", "neighbour_graph", "similarity_matrix"]


def similarity_matrix(vectors: Vectors, names: Sequence[str], metric: str = "cosine") -> pd.DataFrame:
    """Compute the cosines or Euclidean distances of all rows with all.

    >>> similarity_matrix(np.array([[1.0, 0.0], [0.0, 2.0]]), ["a", "b"]).loc["a", "b"].item()
    0.0
    """
    values = finite(vectors, metric)
    if metric == "cosine":
        units = unit_rows(values).numpy()
        return pd.DataFrame(np.clip(units @ units.T, -1, 1), list(names), list(names))
    # Differences, not products: near rows far from the origin keep their distance.
    distances = torch.cdist(values.double(), values.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return pd.DataFrame(distances.numpy(), list(names), list(names))


def drawn_pairs(first: Int64[np.ndarray, " n"], second: Int64[np.ndarray, " m"], most: int,
                rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Draw pairs of a row of each class, all of them or `most` different ones; within a class no row with itself."""
    same = first is second
    n, m = len(first), len(second)
    total = n * (n - 1) // 2 if same else n * m
    if total <= most:
        a, b = np.triu_indices(n, 1) if same else np.divmod(np.arange(total), m)
        return first[a], second[b]
    if not same:
        a, b = np.divmod(rng.choice(total, most, replace=False), m)
        return first[a], second[b]
    # The i-th of n (n − 1) ordered pairs of different rows. A pair may be drawn in both orders, which is rare.
    a, b = np.divmod(rng.choice(2 * total, most, replace=False), n - 1)
    return first[a], second[b + (b >= a)]


def class_similarity(
    vectors: Vectors, labels: pd.Series, metric: str = "cosine", pairs: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Return mean and deviation of the similarity of every two classes, over random pairs of different rows.

    Columns: first, second, mean, sd, pairs. Rows without a label are left out.

    Raises:
        UserError: fewer than one pair to draw; no class at all, or too many to show; vectors that have no distance.

    >>> table = class_similarity(np.eye(2)[[0, 0, 1, 1]], pd.Series(["a", "a", "b", "b"]))
    >>> table["mean"].round(3).tolist()  # a with a, a with b, b with b
    [1.0, 0.0, 1.0]
    """
    check_choice("metric", metric, METRICS)
    if pairs < 1:
        raise UserError(f"Expected pairs to be at least 1, got {pairs}.")
    values, rng = finite(vectors, metric), np.random.default_rng(seed)
    known = labels.reset_index(drop=True).dropna().astype(str)
    classes = {name: known.index[known == name].to_numpy() for name in sorted(known.unique())}
    if not classes:
        raise UserError(f"Expected labels to compare classes by, got none in {labels.name}.")
    if len(classes) > MOST_CELLS:
        raise UserError(f"Expected at most {MOST_CELLS} classes, got {len(classes)} in {labels.name}: choose others.")
    found = []
    names = list(classes)
    for i, a in enumerate(names):
        for b in names[i:]:
            cosine, euclidean = compare(*(values[rows] for rows in drawn_pairs(classes[a], classes[b], pairs, rng)))
            numbers = euclidean if metric == "euclidean" else cosine
            mean = float(numbers.mean()) if len(numbers) else np.nan
            deviation = float(numbers.std(ddof=1)) if len(numbers) > 1 else np.nan
            found.append({"first": a, "second": b, "mean": mean, "sd": deviation, "pairs": len(numbers)})
    return pd.DataFrame(found)


def class_matrix(table: pd.DataFrame) -> pd.DataFrame:
    """Arrange the means of `class_similarity` as a symmetric matrix of classes.

    >>> class_matrix(class_similarity(np.eye(2)[[0, 0, 1, 1]], pd.Series(["a", "a", "b", "b"]))).loc["b", "a"]
    np.float64(0.0)
    """
    half = table.pivot(index="first", columns="second", values="mean")
    names = list(dict.fromkeys([*table["first"], *table["second"]]))
    half = half.reindex(index=names, columns=names)
    return half.where(half.notna(), half.T)


def neighbour_graph(vectors: Vectors, names: Sequence[str], k: int = 3, metric: str = "cosine") -> pd.DataFrame:
    """Build the k-NN graph: the edges from each row to its k nearest, each pair once.

    Columns: first, second (names), cosine, euclidean, mutual (both are among each other's nearest), rows (numbers).

    Raises:
        UserError: k ≥ n; vectors that have no distance.
    """
    near = nearest_rows(vectors, k, metric).rows
    n = len(near)
    ends = np.stack([np.repeat(np.arange(n), k), near.ravel()], 1)
    pairs, count = np.unique(np.sort(ends, 1), axis=0, return_counts=True)
    values = finite(vectors, "euclidean")
    cosine, euclidean = compare(values[pairs[:, 0]], values[pairs[:, 1]])
    table = pd.DataFrame({"first": [names[a] for a, _ in pairs], "second": [names[b] for _, b in pairs]})
    return table.assign(cosine=cosine, euclidean=euclidean, mutual=count > 1, rows=[(int(a), int(b)) for a, b in pairs])
