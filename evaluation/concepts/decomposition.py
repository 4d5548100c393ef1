"""Rows as sums of a few concepts: how good the sums are, what concepts are called, and which rows have most of them.

A concept is a direction, a unit of a sparse auto-encoder or a text of SpLiCE's vocabulary; codes say how much of which
concepts each row has.
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
SAMPLE = 500  # rows that SpLiCE's penalty is chosen on
PCA_ROWS = 20_000  # that principal components are taken from


def explained_variance(rows: Float[Array, "n d"], decoded: Float[Array, "n d"]) -> float:
    """1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²: 1 where nothing is lost, 0 for always giving the mean."""
    rows, decoded = as_tensor(rows), as_tensor(decoded)
    mean = rows.mean(0, dtype=torch.float64)
    parts = zip(rows.split(CHUNK), decoded.split(CHUNK), strict=True)
    sums = [((part - one).double().square().sum(), (part - mean).square().sum()) for part, one in parts]
    error, spread = (float(torch.stack(each).sum()) for each in zip(*sums, strict=True))
    return 1 - error / spread if spread > 0 else float("nan")


def report_card(rows: Float[Array, "n d"], decoded: Float[Array, "n d"], codes: Codes) -> dict[str, float]:
    """`l0`, the concepts of a row; the mean `cosine` of rows and their reconstructions; `explained_variance`."""
    return {
        "l0": float((codes.values > 0).sum(1).double().mean()),
        "cosine": float(cosine_similarity(as_tensor(rows), as_tensor(decoded), dim=1).double().mean()),
        "explained_variance": explained_variance(rows, decoded),
    }


def nearest_texts(directions: Float[Tensor, "width d"], vocabulary: Float[Tensor, "m d"],
                  k: int) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Cosines and numbers of the k nearest texts to each direction, the texts around their own mean."""
    units = normalize(vocabulary.float(), dim=1)
    found = nearest(directions, units - units.mean(0), min(k, len(units)), "cosine")
    return found.similarity.numpy(), found.rows.numpy()


def used(codes: Codes) -> pd.DataFrame:
    """A line for each concept and row in use, by concept, the rows with most of it first."""
    row, place = torch.nonzero(codes.values > 0, as_tuple=True)
    concept, value = codes.units[row, place], codes.values[row, place]
    table = pd.DataFrame({"concept": concept.numpy(), "row": row.numpy(), "value": value.numpy()})
    return table.sort_values(["concept", "value", "row"], ascending=[True, False, True], ignore_index=True)


def concept_table(codes: Codes, titles: Sequence[str], names: Sequence[str], k: int = 5,
                  cosines: Sequence[float] = ()) -> pd.DataFrame:  # fmt: skip
    """A line per concept, the most used first: share of the rows, mean value there, and the k rows with most of it.

    `titles` are the concepts', `cosines` how near they are to their direction, `names` the rows'.
    """
    table, numbers = used(codes), range(len(titles))
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
    """List the concepts of each row, the largest first, in a column `features` as Embedding Atlas reads it."""
    lists = [
        [{"feature": titles[unit], "value": value} for value, unit in zip(values, units, strict=True) if value > 0]
        for values, units in zip(codes.values.tolist(), codes.units.tolist(), strict=True)
    ]
    return pd.DataFrame({"id": list(ids), "features": lists})


class Decomposition:
    """A way to take rows apart.

    Arguments:
        kind: sae or splice, what its numbers stand under.
        model: encodes rows, decodes codes, and has a direction for each concept.
        titles: what each concept is called.
        cosines: of the titles' first texts with the directions, where they were found by them.
        active: units of a row, of an SAE; None: as many as it was trained with.
    """

    def __init__(self, kind: str, model: Any, titles: list[str], cosines: Sequence[float] = (),
                 active: int | None = None) -> None:  # fmt: skip
        self.kind, self.model, self.titles, self.cosines, self.active = kind, model, titles, cosines, active

    def rows(self, values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the rows to decompose, of which SpLiCE sees directions alone."""
        return normalize(values.float(), dim=1) if self.kind == "splice" else values.float()

    def encode(self, values: Float[Tensor, "n d"]) -> Codes:
        more = () if self.active is None else (self.active,)
        return self.model.encode(self.rows(values), *more)

    def numbers(self, data: FeatureData, codes: Codes) -> dict[str, float]:
        """The report card of the rows that are not for testing and, under `heldout/`, of those that are.

        Beside it what as many principal components explain, fixed directions instead of chosen ones.
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
    """A sparse auto-encoder, its units called by the k nearest texts of a vocabulary, or by their numbers."""
    directions = sae.directions.detach().cpu()
    if vocabulary is None:
        return Decomposition("sae", sae, [f"unit {number}" for number in range(len(directions))], (), active)
    names, values = vocabulary
    cosines, texts = nearest_texts(directions, values, k)
    titles = [", ".join(names[text] for text in row) for row in texts]
    return Decomposition("sae", sae, titles, cosines[:, 0].tolist(), active)


def of_texts(data: FeatureData, vocabulary: tuple[Sequence[str], Float[Tensor, "m d"]], active: int = 8,
             penalty: float | None = None) -> Decomposition:  # fmt: skip
    """SpLiCE with this penalty, or one that leaves about `active` texts of a row."""
    names, values = vocabulary
    rows = normalize(data.values[data.split != TEST].float(), dim=1)
    splice = SpLiCE(values, rows.mean(0), 1.0 if penalty is None else penalty)
    if penalty is None:
        sample = splice.centred(rows[:: -(-len(rows) // SAMPLE)])
        splice.penalty = penalty_at(sample, splice.directions, active)
    return Decomposition("splice", splice, list(names))
