"""Write clusterings: the cluster of every row, contingency tables, and contact sheets of the images."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from datamodules.checksums import write_recorded
from datamodules.features import FeatureData
from evaluation.clustering.scores import contingency
from evaluation.drawing.figures import INK, Column, figure, strip
from models.labels import Factor
from training.clusterers import ClustererFits, Fitted
from training.files import csv_text, file_name, write_file
from training.run_files import read_run_table

__all__ = [
    "contact_sheets",
    "contingency_table",
    "draw_clusters",
    "draw_contingency",
    "matched",
    "rgb",
    "write_results",
]

ACROSS = 7  # most certain and least certain images of a cluster in a contact sheet
PER_SHEET = 12  # clusters of a contact sheet
MOST_LETTERED = 40  # classes or clusters up to which the numbers are legible


def assignments(data: FeatureData, found: Mapping[str, Sequence[Fitted]]) -> pd.DataFrame:
    """Tabulate id, split, labels, and for each method the cluster of the first seed and its certainty."""
    table: dict[str, Any] = {"id": data.ids, "split": data.split.numpy()}
    for i, factor in enumerate(data.factors.factors):
        table[f"label/{factor.name}"] = data.factors.values[:, i].numpy()
    for method, fits in found.items():
        table |= {method: fits[0].clusters.numpy(), f"{method}/certainty": fits[0].certainty.numpy()}
    return pd.DataFrame(table)


def write_results(data: FeatureData, found: Mapping[str, Sequence[Fitted]], first: ClustererFits,
                  factors: Sequence[int]) -> None:  # fmt: skip
    """Write the assignments of the first seed, beside those of other methods, contingency tables and codes.

    For the run's own model also write `labels.csv` and the figures.
    """
    folder, main, file = first.run.path, first.config.model.name, first.run.path / "assignments.parquet"
    table = assignments(data, found)
    if file.is_file():
        earlier = read_run_table(file, [], len(table))
        table = pd.concat([table, earlier[[name for name in earlier if name not in table]]], axis="columns")
    write_recorded(folder, file.name, table.to_parquet())
    write_contingencies(folder, data, found, first.rows, factors)
    if "codes" in vars(first):
        codes = io.BytesIO()
        np.save(codes, first.codes.cpu().numpy())
        write_recorded(folder, "codes.npy", codes.getvalue())
    if main in found:
        own = table[["id", "split", main, f"{main}/certainty"]]
        own = own.set_axis(["id", "split", "cluster", "certainty"], axis="columns")
        write_file(folder / "labels.csv", csv_text(own))
        draw_clusters(folder / "figures", data, found[main][0], first.rows, first.k, factors)


def write_contingencies(folder: Path, data: FeatureData, found: Mapping[str, Sequence[Fitted]],
                        rows: Int64[Tensor, " rows"], factors: Sequence[int]) -> None:  # fmt: skip
    """Write `contingency_<method>_<factor>.csv` of the rows that were fitted on."""
    for i in factors:
        factor, labels = data.factors.factors[i], data.factors.values[rows, i]
        if not labels.isnan().all():
            for method, fits in found.items():
                table = contingency_table(factor, labels, fits[0].clusters[rows])
                write_file(folder / f"contingency_{method}_{file_name(factor.name)}.csv", csv_text(table, index=True))


def contingency_table(factor: Factor, labels: Float[Tensor, " n"], clusters: Int64[Tensor, " n"]) -> pd.DataFrame:
    """Count the rows of each class (rows) in each cluster (columns), leaving out those of unknown label."""
    known = ~labels.isnan()
    classes = [factor.values[int(value)] for value in labels[known].unique().tolist()]
    columns = clusters[known].unique().tolist()
    return pd.DataFrame(contingency(labels[known], clusters[known]), pd.Index(classes, name=factor.name), columns)


def matched(table: Int64[np.ndarray, "classes clusters"]) -> Int64[np.ndarray, " clusters"]:
    """Order the clusters so that the one matched to each class is on the diagonal; unmatched clusters come last.

    >>> matched(np.array([[0, 9], [8, 1]])).tolist()
    [1, 0]
    """
    from scipy.optimize import linear_sum_assignment

    own = linear_sum_assignment(table, maximize=True)[1]
    rest = [cluster for cluster in range(table.shape[1]) if cluster not in set(own.tolist())]
    return np.array([*own.tolist(), *rest], dtype=np.int64)


def draw_contingency(path: Path, factor: Factor, labels: Float[Tensor, " n"], clusters: Int64[Tensor, " n"]) -> None:
    """Draw the share of each class (row) in each cluster (column), the clusters in the order of their classes."""
    counts = contingency_table(factor, labels, clusters)
    table, names, classes = counts.to_numpy(), counts.columns, list(counts.index)
    order = matched(table)
    shares = table[:, order] / table.sum(1, keepdims=True).clip(1)
    height, width = (1.3 + 0.3 * min(count, 2 * MOST_LETTERED) for count in shares.shape)
    with figure(path, max(width, 4.0), max(height, 2.5)) as drawing:
        axes = drawing.add_subplot()
        axes.grid(False)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set(title=f"{factor.name}: share of each class in each cluster", xlabel="cluster")
        if max(shares.shape) <= MOST_LETTERED:
            axes.set_xticks(range(len(order)), [str(names[i]) for i in order])
            axes.set_yticks(range(len(classes)), classes)
            for i, j in np.argwhere(shares >= 0.005):
                colour = "white" if shares[i, j] > 0.6 else INK
                axes.text(j, i, f"{shares[i, j]:.2f}"[1:] if shares[i, j] < 0.995 else "1", ha="center", va="center",
                          color=colour, size=7)  # fmt: skip
        drawing.tight_layout()


def rgb(images: UInt8[Tensor, "n channels size size"]) -> UInt8[Tensor, "n 3 size size"]:
    """Convert grey images to RGB."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def contact_sheets(folder: Path, data: FeatureData, fitted: Fitted, rows: Int64[Tensor, " rows"],
                   words: Sequence[str]) -> None:  # fmt: skip
    """Draw `clusters.png`, `clusters_2.png`, ...: the most certain and the least certain images of each cluster."""
    assert data.images is not None
    used = [c for c in range(len(words)) if (fitted.clusters[rows] == c).any()]
    for number, start in enumerate(range(0, len(used), PER_SHEET)):
        typical, doubtful = [], []
        for cluster in used[start : start + PER_SHEET]:
            own = rows[fitted.clusters[rows] == cluster]
            order = own[fitted.certainty[own].argsort(descending=True, stable=True)]
            padded = torch.cat([order, order[-1:].expand(ACROSS)])  # a cluster of fewer images repeats its last
            typical.append(rgb(data.images[padded[:ACROSS]]))
            doubtful.append(rgb(data.images[torch.cat([order[:1].expand(ACROSS), order])[-ACROSS:].flip(0)]))
        columns = [
            Column("most certain" if i == 0 else "", torch.stack([row[i] for row in typical])) for i in range(ACROSS)
        ]
        columns += [
            Column("least certain" if i == 0 else "", torch.stack([row[i] for row in doubtful]), i == 0)
            for i in range(ACROSS)
        ]
        name = "clusters" if number == 0 else f"clusters_{number + 1}"
        strip(folder / f"{name}.png", columns, [words[c] for c in used[start : start + PER_SHEET]])


def words_of(fitted: Fitted, rows: Int64[Tensor, " rows"], k: int, factor: Factor | None,
             labels: Float[Tensor, " rows"] | None) -> list[str]:  # fmt: skip
    """Describe each cluster by its number, its size, and the most frequent class of its labelled rows."""
    words = []
    for cluster in range(k):
        own = fitted.clusters[rows] == cluster
        text = f"{cluster}: {int(own.sum()):,}"
        known = labels[own] if labels is not None else torch.empty(0)
        known = known[~known.isnan()]
        if factor is not None and len(known):
            value = known.long().bincount().argmax()
            text += f", {float((known == value).float().mean()):.0%} {factor.values[int(value)]}"
        words.append(text)
    return words


def draw_clusters(folder: Path, data: FeatureData, fitted: Fitted, rows: Int64[Tensor, " rows"], k: int,
                  factors: Sequence[int]) -> None:  # fmt: skip
    """Draw the figures of one method on the rows that it was fitted on."""
    for i in factors:
        labels = data.factors.values[rows, i]
        if not labels.isnan().all():
            name = f"contingency_{file_name(data.factors.factors[i].name)}"
            draw_contingency(folder / f"{name}.png", data.factors.factors[i], labels, fitted.clusters[rows])
    if data.images is not None:
        one = factors[0] if len(factors) == 1 else None
        factor = None if one is None else data.factors.factors[one]
        known = None if one is None else data.factors.values[rows, one]
        contact_sheets(folder, data, fitted, rows, words_of(fitted, rows, k, factor, known))
