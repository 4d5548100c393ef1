"""Difference vectors of a property, their consistency, and the ideal words of Trager et al.

Matthew Trager et al. 2023, Linear Spaces of Meanings, https://arxiv.org/abs/2302.14383. Symbols follow the paper.
"""

import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64

from models import UserError
from models.arrays import Array, as_array

__all__ = [
    "Grid",
    "IdealWords",
    "change_matrix",
    "compositionality",
    "consistency",
    "differences",
    "ideal_words",
    "mean_cosine",
    "unit",
]


class Grid(NamedTuple):
    """The embeddings u_z, at unit length, of every combination z of the properties' values.

    `single` holds the embeddings of the single words, property by property, where they are known.
    """

    values: dict[str, list[str]]
    u: Float64[np.ndarray, "*counts features"]
    names: list[str]  # of the combinations, the last property's value changing fastest
    single: dict[str, Float64[np.ndarray, "_ features"]] | None = None

    @property
    def rows(self) -> Float64[np.ndarray, "combinations features"]:
        return self.u.reshape(-1, self.u.shape[-1])

    def axis(self, name: str) -> int:
        """Return the number of a property.

        Raises:
            UserError: no property has that name.
        """
        if name not in self.values:
            raise UserError(f"Expected property= among {', '.join(self.values)}, got {name!r}.")
        return list(self.values).index(name)


def unit(rows: Float[Array, "*n features"]) -> Float64[np.ndarray, "*n features"]:
    """Scale rows to unit length, in float64.

    Raises:
        UserError: a row of length 0, NaN or infinity.

    >>> unit(np.array([[3.0, 4.0]])).tolist()
    [[0.6, 0.8]]
    """
    values = as_array(rows).astype(np.float64)
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    if (lengths == 0).any() or not np.isfinite(lengths).all():
        raise UserError("Expected embeddings with a direction, got one of length 0 or NaN: check the encoder.")
    return values / lengths


def mean_cosine(rows: Float64[np.ndarray, "n d"]) -> float:
    """Return the mean cosine of unit rows with each other, none with itself: (|Σ x|² − n) / (n (n − 1)).

    >>> mean_cosine(np.array([[1.0, 0.0], [0.0, 1.0]]))
    0.0
    """
    n = len(rows)
    return float((np.square(rows.sum(0)).sum() - n) / (n * (n - 1))) if n > 1 else float("nan")


def differences(grid: Grid, name: str) -> dict[tuple[str, str], Float64[np.ndarray, "objects features"]]:
    """Compute, for each two values of a property, the difference vectors of all combinations of the others."""
    moved = np.moveaxis(grid.u, grid.axis(name), 0)
    flat = moved.reshape(len(moved), -1, moved.shape[-1])
    values = grid.values[name]
    return {(values[a], values[b]): flat[b] - flat[a] for a, b in itertools.combinations(range(len(values)), 2)}


def consistency(grid: Grid, name: str) -> pd.DataFrame:
    """Return how consistent the difference vectors of a property are across objects.

    Columns: property, change, objects, length (mean |D|), consistency (mean cosine of two difference vectors D; 1 for
    the same direction, 0 for none in common), shared (|mean D|² / mean |D|², the share of their square that is common).
    """
    found = []
    for (a, b), changes in differences(grid, name).items():
        lengths = np.linalg.norm(changes, axis=1)
        alike = mean_cosine(unit(changes)) if lengths.all() else np.nan
        shared = np.square(changes.mean(0)).sum() / np.square(lengths).mean() if lengths.any() else np.nan
        found.append({"property": name, "change": f"{a} → {b}", "objects": len(changes), "length": lengths.mean(),
                      "consistency": alike, "shared": shared})  # fmt: skip
    return pd.DataFrame(found)


class IdealWords(NamedTuple):
    """The approximation u_z ≈ u₀ + Σ_i u(z_i): u₀ is the mean of all, u(z_i) the mean of a value's rows less u₀."""

    centre: Float64[np.ndarray, " features"]
    words: dict[str, Float64[np.ndarray, "_ features"]]

    def compose(self) -> Float64[np.ndarray, "*counts features"]:
        """Compute the approximation of every combination."""
        total = self.centre
        for i, word in enumerate(self.words.values()):
            total = total + np.expand_dims(word, [j for j in range(len(self.words)) if j != i])
        return total


def ideal_words(grid: Grid) -> IdealWords:
    """Fit one vector per value so that their sums approximate the embeddings best, in least squares."""
    axes = range(len(grid.values))
    centre = grid.u.mean(axis=tuple(axes))
    words = {name: grid.u.mean(axis=tuple(j for j in axes if j != i)) - centre for i, name in enumerate(grid.values)}
    return IdealWords(centre, words)


def compositionality(grid: Grid) -> dict[str, float]:
    """Return how well a sum of one vector per value explains the embeddings.

    - `ideal`, `real`, `average`: the scores of the paper, mean |u_z − ũ_z|² with ũ_z from ideal words, or from the mean
      of the embeddings of the single words; and the mean |u_z − u_z'|² of two combinations, to compare with.
    - `explained`: 1 − Σ|u_z − ũ_z|² / Σ|u_z − u₀|², and `explained/<property>` the part of each property; they add up.
    - `held_out`: the same with every ũ_z fitted to the other combinations alone; it can be negative.
    - `accuracy`: the share of these ũ_z that are nearest to their own u_z among all.
    """
    ideal, n = ideal_words(grid), len(grid.rows)
    counts = [len(each) for each in grid.values.values()]
    residual = (grid.u - ideal.compose()).reshape(n, -1)
    leverage = (1 + sum(count - 1 for count in counts)) / n  # of one combination on its own approximation
    held_out = residual / (1 - leverage)  # the residual of each combination under a fit without it
    total = np.square(grid.rows - ideal.centre).sum()
    nearest = (np.square(grid.rows).sum(1) - 2 * (grid.rows - held_out) @ grid.rows.T).argmin(1)  # up to |ũ_z|²
    scores = {"ideal": np.square(residual).sum(1).mean()}
    if grid.single is not None:
        real = IdealWords(np.zeros(grid.u.shape[-1]), grid.single).compose() / len(counts)
        scores["real"] = np.square(grid.u - real).sum(-1).mean()
    scores["average"] = 2 * total / (n - 1)  # Σ|u_z − u_z'|² over pairs is n Σ|u_z − u₀|²
    scores["explained"] = 1 - np.square(residual).sum() / total
    for name, word in ideal.words.items():
        scores[f"explained/{name}"] = np.square(word).sum() * n / len(word) / total
    scores["held_out"] = 1 - np.square(held_out).sum() / total
    scores["accuracy"] = (nearest == np.arange(n)).mean()
    return {key: float(value) for key, value in scores.items()}


def change_matrix(grid: Grid, name: str) -> pd.DataFrame:
    """Compute the cosines of the difference vectors between a property's first two values, object by object."""
    changes = next(iter(differences(grid, name).values()))
    others = [each for other, each in grid.values.items() if other != name]
    objects = [" ".join(each) for each in itertools.product(*others)]
    directions = changes / np.maximum(np.linalg.norm(changes, axis=1, keepdims=True), 1e-30)
    return pd.DataFrame(directions @ directions.T, objects, objects)
