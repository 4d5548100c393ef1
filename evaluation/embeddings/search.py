"""Find the nearest and farthest rows of queries by exact search over a matrix that may be larger than the memory.

The matrix is read in chunks, once per call, from where it is; only the norms and the scores of its rows are held in
memory. Scores in float32 preselect a few more rows than are returned, and the distances of these are computed again by
differences in float64. Where the rounding of the scores could hide a nearer or farther row, as it can where rows are
far from the origin or of very different lengths, the differences to all rows are computed.
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
from models.arrays import Array, as_array, as_tensor
from models.reduction import lengths_of, unit_rows

__all__ = ["Found", "Index", "compare"]

CHUNK = 2**21  # numbers that one thread reads at a time
SAMPLE = 1000  # rows whose median is the centre
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
    a, b = as_tensor(as_array(first)).double(), as_tensor(as_array(second)).double()
    cosine = (unit_rows(a) * unit_rows(b)).sum(-1).clamp(-1, 1)
    zero = ~a.bool().any(-1) | ~b.bool().any(-1)
    return torch.where(zero, torch.nan, cosine).numpy(), lengths_of(a - b).numpy()


class Index:
    """An index for exact nearest-neighbour search in a matrix, in memory or memory-mapped.

    Attributes:
        lengths: |x| of each row.
        spread: |x − c|² of each row, with c near the middle: |x − q|² = |x − c|² − 2 (x − c)·(q − c) + |q − c|² loses
            few digits then, even where the rows are far from the origin and near to each other.

    Raises:
        UserError: NaN or infinities.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.values = as_array(vectors)
        self.libraries = ThreadpoolController()
        n = len(self.values)
        self.lengths, self.spread = np.empty(n, np.float64), np.empty(n, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            some = np.asarray(self.values[:: max(1, n // SAMPLE)], np.float64)
            self.centre = np.nan_to_num(np.median(some, axis=0)).astype(np.float32)

        def measure(rows: slice, part: np.ndarray) -> None:
            self.lengths[rows] = lengths_of(as_tensor(part)).numpy()
            part = part.astype(np.float32) - self.centre
            self.spread[rows] = np.einsum("nd,nd->n", part, part)

        with np.errstate(over="ignore", invalid="ignore"):
            self.read(measure, raw=True)
        if len(wrong := np.flatnonzero(~np.isfinite(self.lengths))):
            raise UserError(
                f"Expected finite vectors, got NaN or infinity in {len(wrong)} of {len(self.values)} (the first is "
                f"row {wrong[0]}): leave these rows out or correct them."
            )

    def read(self, use: Callable[[slice, np.ndarray], None], raw: bool = False) -> None:
        """Read all rows in chunks, by as many threads as torch uses; NumPy's own threads are off meanwhile.

        Rows are float32, or with `raw` of their own type.
        """
        step = max(1, CHUNK // self.values.shape[1])
        parts = [slice(start, start + step) for start in range(0, len(self.values), step)]
        alone = self.libraries.limit(limits=1, user_api="blas")

        def one(rows: slice) -> None:
            with np.errstate(over="ignore", invalid="ignore"):
                use(rows, np.asarray(self.values[rows], None if raw else np.float32))

        with alone, ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for _ in pool.map(one, parts):
                pass

    def scores(self, queries: Float32[np.ndarray, "queries features"], metric: str) -> Float32[np.ndarray, "queries n"]:
        """Score each row for each query in float32: the larger the nearer, up to rounding."""
        scores = np.empty((len(queries), len(self.values)), np.float32)
        lengths = self.lengths.astype(np.float32) if metric == "cosine" else None
        centred = queries if lengths is not None else queries - self.centre

        def score(rows: slice, part: Float32[np.ndarray, "rows features"]) -> None:
            dots = centred @ part.T if len(centred) > 1 else (part @ centred[0])[None]
            with np.errstate(divide="ignore"):  # a length that float32 does not hold
                scores[:, rows] = dots / lengths[rows] if lengths is not None else 2 * dots - self.spread[rows]

        self.read(score)
        return scores

    def distances(self, query: Float64[np.ndarray, " features"], metric: str) -> Float64[np.ndarray, " n"]:
        """Compute |x − q| of all rows by differences in float64, for cosine of rows and query at unit length."""
        distances = np.empty(len(self.values))

        def difference(rows: slice, part: np.ndarray) -> None:
            distances[rows] = differences(part, query, metric)

        self.read(difference, raw=True)
        return distances

    def ends(
        self, queries: Vectors, k: int, metric: str = "cosine", without: Sequence[Sequence[int]] | None = None
    ) -> list[tuple[Found, Found]]:
        """Find the k nearest and the k farthest rows of each query; `without` are the rows to leave out, by query.

        Raises:
            UserError: an unknown metric; more rows than there are; a query of another width or not finite; vectors of
                length 0 where distances are cosine.
        """
        check_choice("metric", metric, METRICS)
        values = np.asarray(as_array(queries), np.float64)
        left_out = [np.array(rows, np.int64) for rows in ([[] for _ in values] if without is None else without)]
        self.check(values, k, metric, max(map(len, left_out), default=0))
        found = []
        with np.errstate(over="ignore", invalid="ignore"):  # a float64 that float32 does not hold: see `sure`
            scored = self.scores(values.astype(np.float32), metric)
        for query, scores, rows in zip(values, scored, left_out, strict=True):
            sides = []
            for sign in (1, -1):
                scores[rows] = -sign * np.inf
                sides.append(self.best(query, scores, k, sign, metric, rows))
            found.append((sides[0], sides[1]))
        return found

    def check(self, queries: Float64[np.ndarray, "queries features"], k: int, metric: str, left_out: int) -> None:
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
        zero = np.flatnonzero(self.lengths == 0)
        if metric == "cosine" and (len(zero) or not queries.any(1).all()):
            got = f"{len(zero)} rows of length 0 (the first is row {zero[0]})" if len(zero) else "a query of length 0"
            raise UserError(
                f"Expected vectors that have a direction, got {got}: leave them out or choose metric=euclidean."
            )

    def best(
        self, query: Float64[np.ndarray, " features"], scores: Float32[np.ndarray, " n"], k: int, sign: int,
        metric: str, left_out: Int64[np.ndarray, " rows"],
    ) -> Found:  # fmt: skip
        """Select the k nearest rows, or with sign −1 the k farthest, in the order of float64 distances."""
        n = len(scores)
        most = min(k + SPARE, n)
        if sign > 0:
            rows = np.argpartition(scores, n - most)[n - most :]
        else:
            rows = np.argpartition(scores, most - 1)[:most]
        last = sign * float((sign * scores[rows]).min())
        rows = np.sort(rows[np.isfinite(scores[rows])])
        distances = differences(self.values[rows], query, metric)
        order = np.argsort(sign * distances, kind="stable")[:k]
        if len(order) < k or not (most == n or self.sure(query, last, float(distances[order[-1]]), sign, metric)):
            distances = self.distances(query, metric)
            distances[left_out] = sign * np.inf
            rows, order = np.arange(n), np.argsort(sign * distances, kind="stable")[:k]
        cosine, euclidean = compare(self.values[rows[order]], query[None])
        return Found(rows[order], cosine, euclidean)

    def sure(
        self, query: Float64[np.ndarray, " features"], last: float, distance: float, sign: int, metric: str
    ) -> bool:
        """Return whether no row with a score beyond the last preselected one is nearer, or farther, than a distance.

        The bounds are those of `models.neighbours`, of distances to the centre, and of cosines times |q|.
        """
        if distance == 0 and sign > 0:
            return True
        d = len(query)
        error, tiny = (2 * d + 16) * 2.0**-24, d * 1e-37
        with np.errstate(over="ignore", invalid="ignore"):
            if metric == "cosine":
                length = np.linalg.norm(query)
                return bool(
                    sign * ((1 - distance**2 / 2) * length - last) >= length * error + tiny / self.lengths.min()
                )
            other = np.linalg.norm(query - self.centre)
            farthest = (other + distance) ** 2 if sign > 0 else float(self.spread.max())
            return bool(sign * (other**2 - np.square(distance) - last) >= error * (other**2 + farthest) + tiny)


def differences(rows: np.ndarray, query: Float64[np.ndarray, " features"], metric: str) -> Float64[np.ndarray, " rows"]:
    """Compute |x − q| in float64, for cosine of rows and query at unit length: √(2 − 2 cos)."""
    x, q = as_tensor(np.asarray(rows)), as_tensor(query)
    x, q = (unit_rows(x), unit_rows(q)) if metric == "cosine" else (x.double(), q)
    return lengths_of(x - q).numpy()
