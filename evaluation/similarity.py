"""How alike rows are: pairs, classes with classes, matrices and their heatmaps, and the graph of nearest rows."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from evaluation.figures import INK, figure
from evaluation.nearest import compare
from evaluation.neighbours import METRICS, Vectors, checked, nearest_rows
from evaluation.scatter import shortened
from models import UserError, check_choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["class_matrix", "class_similarity", "heatmap", "neighbour_graph", "similarity_matrix"]

CELL, NAMED_CELLS = 0.42, 30  # inches of a heatmap's cell; so many to a side have their number in them
MOST_CELLS, MOST_LETTERS = 200, 40  # to a side of a heatmap, and of a name beside it


def similarity_matrix(vectors: Vectors, names: Sequence[str], metric: str = "cosine") -> pd.DataFrame:
    """Cosines or Euclidean distances of all rows with all."""
    values = checked(vectors, metric).astype(np.float64)
    if metric == "cosine":
        return pd.DataFrame(np.clip(values @ values.T, -1, 1), list(names), list(names))
    squares = np.square(values).sum(1)
    squared = np.clip(squares[:, None] + squares - 2 * values @ values.T, 0, None)
    np.fill_diagonal(squared, 0)
    return pd.DataFrame(np.sqrt(squared), list(names), list(names))


def drawn_pairs(first: Int64[np.ndarray, " n"], second: Int64[np.ndarray, " m"], most: int,
                rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Pairs of a row of each class, all of them or `most` different ones; within a class no row with itself."""
    same = first is second
    n, m = len(first), len(second)
    total = n * (n - 1) // 2 if same else n * m
    if total <= most:
        a, b = np.triu_indices(n, 1) if same else np.divmod(np.arange(total), m)
        return first[a], second[b]
    if not same:
        a, b = np.divmod(rng.choice(total, most, replace=False), m)
        return first[a], second[b]
    # The i-th of n (n − 1) ordered pairs of different rows; half of them would do, and twice the same pair is rare.
    a, b = np.divmod(rng.choice(2 * total, most, replace=False), n - 1)
    return first[a], second[b + (b >= a)]


def class_similarity(
    vectors: Vectors, labels: pd.Series, metric: str = "cosine", pairs: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Of each two classes the mean and the deviation over pairs of different rows, at most so many, drawn at random.

    Columns: first, second, mean, sd, pairs. Rows without a label are left out.

    Raises:
        UserError: fewer than one pair to draw; no class at all, or too many to look at; vectors that have no distance.
    """
    check_choice("metric", metric, METRICS)
    if pairs < 1:
        raise UserError(f"Expected pairs to be at least 1, got {pairs}.")
    values, rng = checked(vectors, metric), np.random.default_rng(seed)
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
            x, y = (values[rows] for rows in drawn_pairs(classes[a], classes[b], pairs, rng))
            numbers = np.linalg.norm(x - y, axis=1) if metric == "euclidean" else np.einsum("nd,nd->n", x, y)
            mean = float(numbers.mean()) if len(numbers) else np.nan
            deviation = float(numbers.std(ddof=1)) if len(numbers) > 1 else np.nan
            found.append({"first": a, "second": b, "mean": mean, "sd": deviation, "pairs": len(numbers)})
    return pd.DataFrame(found)


def class_matrix(table: pd.DataFrame) -> pd.DataFrame:
    """The means of `class_similarity`, class by class."""
    half = table.pivot(index="first", columns="second", values="mean")
    names = list(dict.fromkeys([*table["first"], *table["second"]]))
    half = half.reindex(index=names, columns=names)
    return half.where(half.notna(), half.T)


def heatmap(table: pd.DataFrame, title: str = "", label: str = "cosine") -> "Figure":
    """A matrix as colours, its numbers in the cells where there is room.

    White is 0 where there are numbers on both sides of it; numbers of one sign go from light to dark.

    Raises:
        UserError: more rows or columns than can be seen.
    """
    rows, columns = table.shape
    if max(rows, columns) > MOST_CELLS:
        raise UserError(f"Expected at most {MOST_CELLS} rows for a heatmap, got {max(rows, columns)}: name fewer.")
    cell = max(0.12, min(CELL, 14 / max(rows, columns)))
    words = [[shortened(str(name), MOST_LETTERS) for name in axis] for axis in (table.index, table.columns)]
    left, foot = (0.25 + 0.085 * max(len(word) for word in axis) for axis in words)
    head = 0.5 if title else 0.15
    width, height = left + cell * columns + 1.1, foot + cell * rows + head
    values = table.to_numpy(dtype=float)
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    signed = low < 0 < high
    limits = (-max(-low, high), max(-low, high)) if signed else (low, high)
    with figure(None, width, height) as drawing:
        place = (left / width, foot / height, cell * columns / width, cell * rows / height)
        axes: Any = drawing.add_axes(place)
        kind = "coolwarm" if signed else "Blues" if high > 0 else "Blues_r"
        shown = axes.imshow(values, cmap=kind, vmin=limits[0], vmax=limits[1], aspect="auto")
        axes.set_xticks(range(columns), words[1], rotation=90, parse_math=False)
        axes.set_yticks(range(rows), words[0], parse_math=False)
        axes.tick_params(length=0, labelsize=9 if cell > 0.2 else 6, labelcolor=INK)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        if max(rows, columns) <= NAMED_CELLS:
            write_cells(axes, values, shown.to_rgba(values)[..., :3], 7.5)
        thin = 0.15 / (cell * columns)
        bar = drawing.colorbar(shown, cax=axes.inset_axes((1 + thin, 0, thin, 1)))
        bar.outline.set_visible(False)
        bar.set_label(label)
        bar.ax.grid(False)
        if title:
            drawing.text(0.1 / width, 1 - 0.12 / height, title, va="top", size=11, weight="bold", parse_math=False)
    return drawing


def write_cells(
    axes: Any, values: Float[np.ndarray, "rows columns"], colours: Float[np.ndarray, "rows columns 3"], size: float
) -> None:
    """The numbers that there are, white on what is dark."""
    light = colours @ [0.299, 0.587, 0.114] > 0.5
    for i, j in np.argwhere(np.isfinite(values)):
        number = re.sub(r"^(-?)0\.", r"\1.", f"{round(values[i, j], 2) + 0.0:.2f}")  # no −.00
        axes.text(j, i, number, ha="center", va="center", size=size, color=INK if light[i, j] else "white")


def neighbour_graph(vectors: Vectors, names: Sequence[str], k: int = 3, metric: str = "cosine") -> pd.DataFrame:
    """The edges from each row to its k nearest, each pair once: first, second, cosine, euclidean, mutual.

    `first` and `second` are names, `rows` holds their numbers.

    Raises:
        UserError: k ≥ n; vectors that have no distance.
    """
    near = nearest_rows(vectors, k, metric).rows
    n = len(near)
    ends = np.stack([np.repeat(np.arange(n), k), near.ravel()], 1)
    pairs, count = np.unique(np.sort(ends, 1), axis=0, return_counts=True)
    values = checked(vectors, "euclidean")
    cosine, euclidean = compare(values[pairs[:, 0]], values[pairs[:, 1]])
    table = pd.DataFrame({"first": [names[a] for a, _ in pairs], "second": [names[b] for _, b in pairs]})
    return table.assign(cosine=cosine, euclidean=euclidean, mutual=count > 1, rows=[(int(a), int(b)) for a, b in pairs])
