"""The nearest and farthest rows of a few queries, by exact search over a matrix that may be larger than the memory.

The rows are read where they lie, in chunks, once per call; of a million of them nothing but their lengths and their
scores is held. Scores in float32 choose a few rows more than are wanted, and the distances of these are computed anew
in float64, where rows that are nearly the query itself keep their digits.
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
SAMPLE = 1000  # rows whose mean is near enough to that of all
SPARE = 32  # rows beyond the k that are looked at in float64


class Found(NamedTuple):
    """The nearest or farthest rows of one query, the most extreme first, and their distances."""

    rows: Int64[np.ndarray, " k"]
    cosine: Float64[np.ndarray, " k"]
    euclidean: Float64[np.ndarray, " k"]


def compare(
    first: Float[Array, "*n features"], second: Float[Array, "*m features"]
) -> tuple[Float64[np.ndarray, "*_"], Float64[np.ndarray, "*_"]]:
    """Cosine and Euclidean distance of rows with rows, in float64; the cosine of a row of length 0 is NaN."""
    a, b = as_array(first).astype(np.float64), as_array(second).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return np.clip(cosine, -1, 1), np.linalg.norm(a - b, axis=-1)


class Index:
    """Rows to search among: a matrix in memory or a memory map.

    Attributes:
        squares: |x|² of each row.
        spread: |x − c|² of each row, c about the mean: |x − q|² = |x − c|² − 2 (x − c)·(q − c) + |q − c|² then loses
            few digits where the rows are far from the origin and near to one another.

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
            with np.errstate(invalid="ignore", over="ignore"):  # of NaN and infinities, told below
                self.squares[rows] = np.einsum("nd,nd->n", part, part)
                part = part - self.centre
                self.spread[rows] = np.einsum("nd,nd->n", part, part)

        self.read(measure)
        if len(wrong := np.flatnonzero(~np.isfinite(self.squares))):
            raise UserError(
                f"Expected finite vectors, got NaN or infinity in {len(wrong)} of {len(self.values)} (the first is "
                f"row {wrong[0]}): leave these rows out or mend what made them."
            )

    def read(self, use: Callable[[slice, Float32[np.ndarray, "rows features"]], None]) -> None:
        """All rows, chunk by chunk, by as many threads as torch would take; NumPy's own would only be in their way."""
        step = max(1, CHUNK // self.values.shape[1])
        parts = [slice(start, start + step) for start in range(0, len(self.values), step)]
        alone = self.libraries.limit(limits=1, user_api="blas")
        with alone, ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for _ in pool.map(lambda rows: use(rows, np.asarray(self.values[rows], np.float32)), parts):
                pass

    def scores(self, queries: Float32[np.ndarray, "queries features"], metric: str) -> Float32[np.ndarray, "queries n"]:
        """How near each row is to each query, the larger the nearer, in an order that is right but for rounding."""
        found = np.empty((len(queries), len(self.values)), np.float32)
        lengths = np.sqrt(self.squares) if metric == "cosine" else None
        aims = queries if lengths is not None else queries - self.centre

        def score(rows: slice, part: Float32[np.ndarray, "rows features"]) -> None:
            dots = aims @ part.T if len(aims) > 1 else (part @ aims[0])[None]
            found[:, rows] = dots / lengths[rows] if lengths is not None else 2 * dots - self.spread[rows]

        self.read(score)
        return found

    def ends(
        self, queries: Vectors, k: int, metric: str = "cosine", without: Sequence[Sequence[int]] | None = None
    ) -> list[tuple[Found, Found]]:
        """Of each query its k nearest and its k farthest rows; `without` are rows to leave out, by query.

        Raises:
            UserError: an unknown metric; more rows than there are; a query of another width or not finite; vectors of
                length 0 where distances are cosine.
        """
        check_choice("metric", metric, METRICS)
        wanted = np.asarray(as_array(queries), np.float32)
        left_out = [np.array(rows, np.int64) for rows in ([[] for _ in wanted] if without is None else without)]
        self.check(wanted, k, metric, max(map(len, left_out), default=0))
        found = []
        for query, scores, rows in zip(wanted, self.scores(wanted, metric), left_out, strict=True):
            sides = []
            for sign in (1, -1):
                scores[rows] = -sign * np.inf
                sides.append(self.best(query, scores, k, sign, metric))
            found.append((sides[0], sides[1]))
        return found

    def check(self, queries: Float32[np.ndarray, "queries features"], k: int, metric: str, left_out: int) -> None:
        n, width = self.values.shape
        if queries.shape[1] != width:
            raise UserError(f"Expected queries of {width} numbers, as the rows have, got {queries.shape[1]}.")
        if not np.isfinite(queries).all():
            raise UserError("Expected finite queries, got NaN or infinity: check what made them.")
        if not 1 <= k <= n - left_out:
            raise UserError(f"Expected k from 1 to {n - left_out}, the other rows, got {k}: choose another k.")
        zero = np.flatnonzero(self.squares == 0)
        if metric == "cosine" and (len(zero) or not queries.any(1).all()):
            told = f"{len(zero)} rows of length 0 (the first is row {zero[0]})" if len(zero) else "a query of length 0"
            raise UserError(
                f"Expected vectors that have a direction, got {told}: leave them out or choose metric=euclidean."
            )

    def best(
        self, query: Float32[np.ndarray, " features"], scores: Float32[np.ndarray, " n"], k: int, sign: int, metric: str
    ) -> Found:
        """The k rows of the highest scores, or with sign −1 of the lowest, ordered by their distances in float64."""
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
