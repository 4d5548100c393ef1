"""Exact k-nearest-neighbour search over embeddings of images, texts or codes."""

from typing import NamedTuple, TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from datamodules.progress import with_progress
from models import UserError, check_choice
from models.arrays import Array, as_array, as_tensor
from models.neighbours import CHUNK, nearest
from models.reduction import Metric, unit_rows

__all__ = [
    "Coordinates",
    "METRICS",
    "Neighbours",
    "Vectors",
    "checked",
    "draw_rows",
    "finite",
    "nearest_rows",
    "precise",
]

Vectors: TypeAlias = Float[Array, "n features"]
Coordinates: TypeAlias = Float[Array, "n dimensions"]
METRICS = ("euclidean", "cosine")
CHUNKS = 4  # that are searched between two lines of progress


class Neighbours(NamedTuple):
    """The k nearest neighbours of each row, the row itself excluded, nearest first."""

    rows: Int64[np.ndarray, "n k"]
    distances: Float[np.ndarray, "n k"]


def checked(vectors: Vectors, metric: str) -> Float32[np.ndarray, "n features"]:
    """Return finite vectors in float32, for cosine distances scaled to unit length.

    Raises:
        UserError: see `precise`.
    """
    return precise(as_array(vectors).astype(np.float32, copy=False), metric)


def precise(vectors: Vectors, metric: str) -> Float[np.ndarray, "n features"]:
    """Return finite vectors in float32, or in float64 if they are, for cosine distances scaled to unit length.

    |a − b|² = 2 (1 − cos) then, so the neighbours are the same.

    Raises:
        UserError: an unknown metric; NaN or infinities; vectors of length 0 where distances are cosine.
    """
    values = finite(vectors, metric)
    if metric == "euclidean":
        return values.numpy()
    return torch.cat([unit_rows(part).to(part.dtype) for part in values.split(2**14)]).numpy()


def finite(vectors: Vectors, metric: str) -> Float[Tensor, "n features"]:
    """Return vectors as they are, in float32, or in float64 if they are.

    Raises:
        UserError: see `precise`.
    """
    check_choice("metric", metric, METRICS)
    values = as_array(vectors)
    values = values.astype(np.float64 if values.dtype == np.float64 else np.float32, copy=False)
    wrong = np.flatnonzero(~np.isfinite(values).all(1))
    if len(wrong):
        raise UserError(
            f"Expected finite vectors, got NaN or infinity in {len(wrong)} of {len(values)} (the first is row "
            f"{wrong[0]}): leave these rows out or check their encoder."
        )
    zero = np.flatnonzero(~values.any(1))
    if metric == "cosine" and len(zero):
        raise UserError(
            f"Expected vectors that have a direction, got {len(zero)} of length 0 (the first is row {zero[0]}): leave "
            "these rows out or choose metric=euclidean."
        )
    return as_tensor(values)


def draw_rows(n: int, most: int | None, seed: int) -> Int64[np.ndarray, " drawn"]:
    """Return the indices of all n rows, or of a random sample of `most` of them, ascending.

    Raises:
        UserError: fewer than one.
    """
    if most is not None and most < 1:
        raise UserError(f"Expected at least 1 of the {n} rows, got {most}: choose more.")
    if most is None or n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])


def nearest_rows(vectors: Vectors, k: int = 15, metric: str = "euclidean") -> Neighbours:
    """Find the k nearest neighbours of each row, with Euclidean distances or 1 − cos.

    Raises:
        UserError: k ≥ n; vectors as `checked` refuses them.
    """
    values = finite(vectors, metric)
    n = len(values)
    if not 1 <= k < n:
        raise UserError(f"Expected k from 1 to less than the {n} rows, got {k}: choose another k.")
    each = CHUNKS * max(1, CHUNK // n)
    parts = with_progress(torch.arange(n).split(each), n, "Nearest neighbours", each=each)
    found = [nearest(values[rows], values, k, cast(Metric, metric), own=rows) for rows in parts]
    costs = torch.cat([part.costs for part in found])
    distances = costs / 2 if metric == "cosine" else costs.sqrt()
    return Neighbours(torch.cat([part.rows for part in found]).numpy(), distances.to(values.dtype).numpy())
