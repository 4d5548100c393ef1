"""Find the nearest and farthest rows of queries by exact search over a matrix that may be larger than the memory.

The matrix is read in chunks, once per call, from where it is; only the norms and the scores of its rows are held in
memory. Scores in float32 preselect a few more rows than are returned, and the distances of these are computed again in
float64, where rows that nearly equal the query keep their digits.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from threadpoolctl import ThreadpoolController

from evaluation.maps.neighbours import METRICS, Vectors
from models import UserError, check_choice
from models.arrays import Array, as_array

__all__ = ["Found", "Index", "compare"]

CHUNK = 2**21  # numbers that one thread reads at a time
SAMPLE = 1000  # rows whose mean approximates that of all
SPARE = 32  # rows beyond the k whose distances are computed in float64


class Found(NamedTuple):
    """The nearest or farthest rows of one query, the most extreme first, with their cosines and distances."""

    rows: Int64[np.ndarray, " k"]
    cosine: Float64[np.ndarray, " k"]
    euclidean: Float64[np.ndarray, " k"]


def compare(
    first: Float[Array, "*n features"], second: Float[Array, "*m features"]
) -> tuple[Float64[np.ndarray, "*_"], Float64[np.ndarray, "*_"]]:
    """Compute cosine and Euclidean distance of rows with rows, in float64; the cosine of a row of length 0 is NaN.

    >>> [float(x[0]) for x in compare(np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]]))]
    [0.0, 2.23606797749979]
    """
    a, b = as_array(first).astype(np.float64), as_array(second).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return np.clip(cosine, -1, 1), np.linalg.norm(a - b, axis=-1)


class Index:
    """An index for exact nearest-neighbour search in a matrix, in memory or memory-mapped.

    Attributes:
        squares: |x|² of each row.
        spread: |x − c|² of each row, with c near the mean: |x − q|² = |x − c|² − 2 (x − c)·(q − c) + |q − c|² loses few
            digits then, even where the rows are far from the origin and near to each other.

    Raises:
        UserError: NaN or infinities.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.values = as_array(vectors)
        self.libraries = ThreadpoolController()
        n = len(self.values)
        self.squares, self.spread = np.empty(n, np.float32), np.empty(n, np.float32)
        with np.errstate(invalid="ignore"):
            self.centre = np.asarray(self.values[:: max(1, n // SAMPLE)], np.float32).mean(0)

        def measure(rows: slice, part: Float32[np.ndarray, "rows features"]) -> None:
            with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinities raise below
                self.squares[rows] = np.einsum("nd,nd->n", part, part)
                part = part - self.centre
                self.spread[rows] = np.einsum("nd,nd->n", part, part)

        self.read(measure)
        if len(wrong := np.flatnonzero(~np.isfinite(self.squares))):
            raise UserError(
                f"Expected finite vectors, got NaN or infinity in {len(wrong)} of {len(self.values)} (the first is "
                f"row {wrong[0]}): leave these rows out or correct them."
            )

    def read(self, use: Callable[[slice, Float32[np.ndarray, "rows features"]], None]) -> None:
        """Read all rows in chunks, by as many threads as torch uses; NumPy's own threads are off meanwhile."""
        step = max(1, CHUNK // self.values.shape[1])
        parts = [slice(start, start + step) for start in range(0, len(self.values), step)]
        alone = self.libraries.limit(limits=1, user_api="blas")
        with alone, ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for _ in pool.map(lambda rows: use(rows, np.asarray(self.values[rows], np.float32)), parts):
                pass

    def scores(self, queries: Float32[np.ndarray, "queries features"], metric: str) -> Float32[np.ndarray, "queries n"]:
        """Score each row for each query in float32: the larger the nearer, up to rounding."""
        scores = np.empty((len(queries), len(self.values)), np.float32)
        lengths = np.sqrt(self.squares) if metric == "cosine" else None
        centred = queries if lengths is not None else queries - self.centre

        def score(rows: slice, part: Float32[np.ndarray, "rows features"]) -> None:
            dots = centred @ part.T if len(centred) > 1 else (part @ centred[0])[None]
            scores[:, rows] = dots / lengths[rows] if lengths is not None else 2 * dots - self.spread[rows]

        self.read(score)
        return scores

    def ends(
        self, queries: Vectors, k: int, metric: str = "cosine", without: Sequence[Sequence[int]] | None = None
    ) -> list[tuple[Found, Found]]:
        """Find the k nearest and the k farthest rows of each query; `without` are the rows to leave out, by query.

        Raises:
            UserError: an unknown metric; more rows than there are; a query of another width or not finite; vectors of
                length 0 where distances are cosine.
        """
        check_choice("metric", metric, METRICS)
        values = np.asarray(as_array(queries), np.float32)
        left_out = [np.array(rows, np.int64) for rows in ([[] for _ in values] if without is None else without)]
        self.check(values, k, metric, max(map(len, left_out), default=0))
        found = []
        for query, scores, rows in zip(values, self.scores(values, metric), left_out, strict=True):
            sides = []
            for sign in (1, -1):
                scores[rows] = -sign * np.inf
                sides.append(self.best(query, scores, k, sign, metric))
            found.append((sides[0], sides[1]))
        return found

    def check(self, queries: Float32[np.ndarray, "queries features"], k: int, metric: str, left_out: int) -> None:
        """Check queries and k against the matrix.

        Raises:
            UserError: see `ends`.
        """
        n, width = self.values.shape
        if queries.shape[1] != width:
            raise UserError(f"Expected queries of {width} numbers, as the rows have, got {queries.shape[1]}.")
        if not np.isfinite(queries).all():
            raise UserError("Expected finite queries, got NaN or infinity: check their embedding.")
        if not 1 <= k <= n - left_out:
            raise UserError(f"Expected k from 1 to {n - left_out}, the other rows, got {k}: choose another k.")
        zero = np.flatnonzero(self.squares == 0)
        if metric == "cosine" and (len(zero) or not queries.any(1).all()):
            got = f"{len(zero)} rows of length 0 (the first is row {zero[0]})" if len(zero) else "a query of length 0"
            raise UserError(
                f"Expected vectors that have a direction, got {got}: leave them out or choose metric=euclidean."
            )

    def best(
        self, query: Float32[np.ndarray, " features"], scores: Float32[np.ndarray, " n"], k: int, sign: int, metric: str
    ) -> Found:
        """Select the k rows of the highest scores, or with sign −1 of the lowest, in the order of float64 distances."""
        n = len(scores)
        most = min(k + SPARE, n)
        if sign > 0:
            rows = np.argpartition(scores, n - most)[n - most :]
        else:
            rows = np.argpartition(scores, most - 1)[:most]
        rows = np.sort(rows[np.isfinite(scores[rows])])
        cosine, euclidean = compare(self.values[rows], query[None])
        order = np.argsort(sign * (-cosine if metric == "cosine" else euclidean), kind="stable")[:k]
        return Found(rows[order], cosine[order], euclidean[order])
