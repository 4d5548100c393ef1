"""Decompose rows into sparse concepts: reconstruction metrics, names of concepts, and their top rows.

A concept is a direction: a unit of a sparse auto-encoder, or a text of the vocabulary of SpLiCE. The codes of a row are
its activations of a few concepts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from datamodules.features import FeatureData
from datamodules.splits import TEST
from models.arrays import Array, as_tensor
from models.neighbours import nearest
from models.reduction import pca
from models.sae import SAE, Codes
from models.splice import SpLiCE, penalty_at

__all__ = [
    "Decomposition",
    "concept_table",
    "explained_variance",
    "nearest_texts",
    "of_sae",
    "of_texts",
    "report_card",
    "row_table",
]

CHUNK = 4096
SAMPLE = 500  # rows that the penalty of SpLiCE is chosen on
PCA_ROWS = 20_000  # rows that principal components are computed from


def explained_variance(rows: Float[Array, "n d"], decoded: Float[Array, "n d"]) -> float:
    """Compute 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²: 1 for a perfect reconstruction, 0 for reconstructing the mean.

    >>> explained_variance(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [2.0]]))
    0.0
    """
    rows, decoded = as_tensor(rows), as_tensor(decoded)
    mean = rows.mean(0, dtype=torch.float64)
    parts = zip(rows.split(CHUNK), decoded.split(CHUNK), strict=True)
    sums = [((part - one).double().square().sum(), (part - mean).square().sum()) for part, one in parts]
    error, spread = (float(torch.stack(each).sum()) for each in zip(*sums, strict=True))
    return 1 - error / spread if spread > 0 else float("nan")


def report_card(rows: Float[Array, "n d"], decoded: Float[Array, "n d"], codes: Codes) -> dict[str, float]:
    """Compute `l0`, the mean number of active concepts; the mean `cosine` of reconstructions; `explained_variance`."""
    return {
        "l0": float((codes.values > 0).sum(1).double().mean()),
        "cosine": float(cosine_similarity(as_tensor(rows), as_tensor(decoded), dim=1).double().mean()),
        "explained_variance": explained_variance(rows, decoded),
    }


def nearest_texts(directions: Float[Tensor, "width d"], vocabulary: Float[Tensor, "m d"],
                  k: int) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Find the k nearest texts to each direction, the texts centred: their cosines and their numbers."""
    units = normalize(vocabulary.float(), dim=1)
    found = nearest(directions, units - units.mean(0), min(k, len(units)), "cosine")
    return found.similarity.numpy(), found.rows.numpy()


def activations(codes: Codes) -> pd.DataFrame:
    """Tabulate each positive activation: concept, row, value; by concept, the largest first."""
    row, place = torch.nonzero(codes.values > 0, as_tuple=True)
    concept, value = codes.units[row, place], codes.values[row, place]
    table = pd.DataFrame({"concept": concept.numpy(), "row": row.numpy(), "value": value.numpy()})
    return table.sort_values(["concept", "value", "row"], ascending=[True, False, True], ignore_index=True)


def concept_table(codes: Codes, titles: Sequence[str], names: Sequence[str], k: int = 5,
                  cosines: Sequence[float] = ()) -> pd.DataFrame:  # fmt: skip
    """Tabulate the concepts, the most frequent first: share of rows, mean activation, and the k top rows.

    `titles` are the names of the concepts, `cosines` those of the names with the directions, `names` those of the rows.
    """
    table, numbers = activations(codes), range(len(titles))
    groups = table.groupby("concept")["value"]
    lines = pd.DataFrame({"concept": numbers, "name": titles})
    if len(cosines):
        lines["name_cosine"] = cosines
    lines["share"] = groups.size().reindex(numbers, fill_value=0) / max(1, len(codes.values))
    lines["value"] = groups.mean().reindex(numbers)
    tops = table.groupby("concept").head(k).groupby("concept")["row"].agg(list)
    lines["rows"] = [[names[row] for row in tops.get(number, [])] for number in numbers]
    return lines.sort_values(["share", "value", "concept"], ascending=[False, False, True], ignore_index=True)


def row_table(codes: Codes, ids: Sequence[str], titles: Sequence[str]) -> pd.DataFrame:
    """List the concepts of each row, the largest activation first, as the column `features` of Embedding Atlas."""
    lists = [
        [{"feature": titles[unit], "value": value} for value, unit in zip(values, units, strict=True) if value > 0]
        for values, units in zip(codes.values.tolist(), codes.units.tolist(), strict=True)
    ]
    return pd.DataFrame({"id": list(ids), "features": lists})


class Decomposition:
    """A sparse decomposition of rows.

    Arguments:
        kind: sae or splice, the prefix of its metrics.
        model: a model that encodes rows, decodes codes, and has a direction for each concept.
        titles: the names of the concepts.
        cosines: cosines of the first text of each name with the direction, where names were found by them.
        active: active units of a row, for an SAE; None: as many as it was trained with.
    """

    def __init__(self, kind: str, model: Any, titles: list[str], cosines: Sequence[float] = (),
                 active: int | None = None) -> None:  # fmt: skip
        self.kind, self.model, self.titles, self.cosines, self.active = kind, model, titles, cosines, active

    def rows(self, values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the rows to decompose, normalised for SpLiCE."""
        return normalize(values.float(), dim=1) if self.kind == "splice" else values.float()

    def encode(self, values: Float[Tensor, "n d"]) -> Codes:
        """Compute the codes of rows."""
        more = () if self.active is None else (self.active,)
        return self.model.encode(self.rows(values), *more)

    def numbers(self, data: FeatureData, codes: Codes) -> dict[str, float]:
        """Measure the reconstructions of the training and validation rows and, under `heldout/`, of the test rows.

        For comparison, `pca/explained_variance` is that of as many principal components as there are active concepts.
        """
        known = torch.nonzero(data.split != TEST).flatten()
        axes = pca(self.rows(data.values[known[:: -(-len(known) // PCA_ROWS)]]))
        numbers: dict[str, float] = {}
        for prefix, part in (("", known), ("heldout/", data.rows(TEST))):
            if len(part) > 1:
                rows, own = self.rows(data.values[part]), codes.rows(part)
                card = report_card(rows, self.model.decode(own), own)
                numbers |= {f"{prefix}{self.kind}/{key}": value for key, value in card.items()}
                components = axes.weight[0, :, : max(1, round(card["l0"]))]
                projected = (rows - axes.mean[0]) @ components @ components.T + axes.mean[0]
                numbers[f"{prefix}pca/explained_variance"] = explained_variance(rows, projected)
        own = codes.rows(known)
        dead = len(self.titles) - len(own.units[own.values > 0].unique())
        return numbers | {f"{self.kind}/dead": float(dead), f"{self.kind}/dead_share": dead / len(self.titles)}


def of_sae(sae: SAE, vocabulary: tuple[Sequence[str], Float[Tensor, "m d"]] | None = None, k: int = 3,
           active: int | None = None) -> Decomposition:  # fmt: skip
    """Decompose by a sparse auto-encoder, its units named by the k nearest texts of a vocabulary, or by numbers."""
    directions = sae.directions.detach().cpu()
    if vocabulary is None:
        return Decomposition("sae", sae, [f"unit {number}" for number in range(len(directions))], (), active)
    names, values = vocabulary
    cosines, texts = nearest_texts(directions, values, k)
    titles = [", ".join(names[text] for text in row) for row in texts]
    return Decomposition("sae", sae, titles, cosines[:, 0].tolist(), active)


def of_texts(data: FeatureData, vocabulary: tuple[Sequence[str], Float[Tensor, "m d"]], active: int = 8,
             penalty: float | None = None) -> Decomposition:  # fmt: skip
    """Decompose by SpLiCE with a penalty, or with the one that leaves about `active` texts per row."""
    names, values = vocabulary
    rows = normalize(data.values[data.split != TEST].float(), dim=1)
    splice = SpLiCE(values, rows.mean(0), 1.0 if penalty is None else penalty)
    if penalty is None:
        sample = splice.centred(rows[:: -(-len(rows) // SAMPLE)])
        splice.penalty = penalty_at(sample, splice.directions, active)
    return Decomposition("splice", splice, list(names))
