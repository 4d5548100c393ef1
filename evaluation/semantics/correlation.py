"""Correlate components with attributes, compare images with texts, and measure the modality gap; pure functions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64, Int64

from datamodules.factors import FactorTable
from evaluation.embeddings.ideal_words import mean_cosine, unit
from models import UserError, check_choice
from models.arrays import Array, as_array

__all__ = ["MEASURES", "attributes", "chance_level", "correlations", "cosine_table", "modality_gap", "top_components"]

MEASURES = ("pearson", "spearman", "mutual_information")
NEIGHBOURS = 3  # of the estimate of mutual information, as in Kraskov et al. 2004
FEWEST = 5  # rows that a correlation needs


def cosine_table(captions: Float[Array, "captions d"], images: Float[Array, "images d"],
                 texts: Sequence[str], names: Sequence[str]) -> pd.DataFrame:  # fmt: skip
    """Compute the cosines of captions (rows) with images (columns).

    >>> cosine_table(np.eye(2), np.eye(2)[:1], ["a cat", "a dog"], ["cat.jpg"])["cat.jpg"].tolist()
    [1.0, 0.0]
    """
    return pd.DataFrame(unit(captions) @ unit(images).T, list(texts), list(names))


def attributes(table: FactorTable) -> pd.DataFrame:
    """Convert labels to numbers, with a column of 0 and 1 for each class of a categorical factor; NaN where unknown."""
    columns: dict[str, np.ndarray] = {}
    for factor, column in zip(table.factors, table.values.double().unbind(1), strict=True):
        values = column.numpy()
        if factor.kind != "categorical":
            columns[factor.name] = values
            continue
        for number, word in enumerate(factor.values):
            columns[f"{factor.name}={word}"] = np.where(np.isnan(values), np.nan, values == number)
    return pd.DataFrame(columns)


def pearson(values: Float64[np.ndarray, "n d"], scores: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " d"]:
    """Compute the Pearson correlation of each component with a score; NaN for a constant component.

    >>> pearson(np.array([[1.0], [2.0], [3.0]]), np.array([3.0, 2.0, 1.0])).round(6).tolist()
    [-1.0]
    """
    centred, other = values - values.mean(0), scores - scores.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        return (centred * other[:, None]).sum(0) / np.sqrt(np.square(centred).sum(0) * np.square(other).sum())


def spearman(values: Float64[np.ndarray, "n d"], scores: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " d"]:
    """Compute the Spearman correlation: Pearson correlation of the ranks, averaged over equal values.

    >>> spearman(np.array([[1.0], [2.0], [9.0]]), np.array([1.0, 2.0, 3.0])).round(6)
    array([1.])
    """
    from scipy.stats import rankdata

    return pearson(rankdata(values, axis=0), rankdata(scores))


def mutual_information(
    values: Float64[np.ndarray, "n d"], scores: Float64[np.ndarray, " n"], seed: int = 0
) -> Float64[np.ndarray, " d"]:
    """Estimate mutual information in nats from k-NN distances: Kraskov et al. 2004, for two classes Ross 2014."""
    from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

    settings = {"discrete_features": False, "n_neighbors": NEIGHBOURS, "random_state": seed}
    if len(np.unique(scores)) == 2:
        found = mutual_info_classif(values, scores > scores.mean(), **settings)
    else:
        found = mutual_info_regression(values, scores, **settings)
    return np.asarray(found, np.float64)  # of nothing but zeros scikit-learn makes integers


def known_rows(values: Float[Array, "n d"], scores: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Select the rows that have a score.

    Raises:
        UserError: too few of them, or one value only; components that are not finite.
    """
    column = scores.to_numpy(dtype=float)
    there = ~np.isnan(column)
    if there.sum() < FEWEST or len(np.unique(column[there])) < 2:
        got = "one value only" if there.sum() >= FEWEST else f"{int(there.sum())}"
        raise UserError(
            f"Expected {FEWEST} or more rows with different values of {scores.name}, got {got}: leave it out."
        )
    chosen = as_array(values)[there].astype(np.float64)
    if not np.isfinite(chosen).all():
        raise UserError("Expected finite components, got NaN or infinity: check the embeddings.")
    return chosen, column[there]


def correlations(
    values: Float[Array, "n d"], scores: pd.DataFrame, measure: str = "pearson", seed: int = 0
) -> pd.DataFrame:
    """Correlate each component (rows) with each attribute or score (columns), over the rows where it is known.

    Raises:
        UserError: an unknown measure; an attribute that does not vary; different numbers of rows.
    """
    check_choice("measure", measure, MEASURES)
    if len(values) != len(scores):
        raise UserError(f"Expected scores of the {len(values)} rows, got {len(scores)}: give both for the same rows.")
    found = {}
    for name in scores:
        chosen, column = known_rows(values, scores[name])
        if measure == "mutual_information":
            found[name] = mutual_information(chosen, column, seed)
        else:
            found[name] = {"pearson": pearson, "spearman": spearman}[measure](chosen, column)
    return pd.DataFrame(found, index=pd.RangeIndex(values.shape[1], name="component"))


def top_components(
    values: Float[Array, "n d"], scores: pd.DataFrame, table: pd.DataFrame, k: int = 10, seed: int = 0
) -> pd.DataFrame:
    """List the k components most correlated with each attribute by a table of `correlations`, with all three measures.

    Raises:
        UserError: k smaller than 1.
    """
    if not 1 <= k:
        raise UserError(f"Expected k, the components to list, to be at least 1, got {k}.")
    parts = []
    for name in table:
        order = table[name].abs().sort_values(ascending=False, kind="stable").dropna().index[:k].to_numpy()
        measured = {measure: correlations(as_array(values)[:, order], scores[[name]], measure, seed)[name].to_numpy()
                    for measure in MEASURES}  # fmt: skip
        parts.append(pd.DataFrame({"attribute": name, "component": order, **measured}))
    return pd.concat(parts, ignore_index=True)


def chance_level(rows: int, cells: int, share: float = 0.05) -> float:
    """Return the |r| that the largest of `cells` correlations exceeds by chance in a share of tables (Bonferroni).

    >>> round(chance_level(rows=100, cells=1), 2)
    0.2
    """
    from scipy.stats import t

    quantile = float(t.ppf(1 - share / cells / 2, rows - 2))
    return float(quantile / np.sqrt(rows - 2 + quantile**2))


def modality_gap(
    images: Float[Array, "images d"],
    texts: Float[Array, "texts d"],
    image_of: Int64[Array, " texts"] | None = None,
) -> dict[str, float]:
    """Measure the gap between the embeddings of images and of texts, all at unit length.

    `gap` is the distance of their means (Liang et al. 2022, https://arxiv.org/abs/2203.02053); `image_image`,
    `text_text` and `image_text` are mean cosines; `matched` that of each text with its own image, where it is known;
    `separated` is the share of rows on their own side of the plane halfway between the means.

    >>> modality_gap(np.eye(3)[:1], np.eye(3)[1:2])["image_text"]
    0.0
    """
    x, y = unit(images), unit(texts)
    a, b = x.mean(0), y.mean(0)
    direction, middle = a - b, (a + b) / 2
    own_side = np.concatenate([(x - middle) @ direction > 0, (y - middle) @ direction < 0])
    found = {
        "gap": float(np.linalg.norm(direction)), "image_image": mean_cosine(x), "text_text": mean_cosine(y),
        "image_text": float(a @ b), "separated": float(own_side.mean()),
    }  # fmt: skip
    return found if image_of is None else found | {"matched": float((x[as_array(image_of)] * y).sum(1).mean())}
