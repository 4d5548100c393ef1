"""Retrieval tasks of reductions: cross-modal retrieval of pairs, nearest neighbours and k-NN labels of other rows.

The queries are the same for every reduction, so that methods can be compared query by query.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from datamodules.captions import PairData
from datamodules.features import FeatureData
from datamodules.splits import TEST
from evaluation.clustering.pipeline import scored
from evaluation.reduction.metrics import hits, overlap, ranks, votes
from models import UserError
from models.neighbours import nearest
from models.reduction import Metric
from training.reducers import metric_of
from training.settings import Settings

__all__ = ["Hits", "KS", "Reduce", "RetrievalTask", "pair_retrieval", "row_retrieval"]

KS = (1, 5, 10)
MOST = KS[-1]
Reduce = Callable[[Tensor, int], Tensor]  # maps rows of a kind to codes
Hits = Float[Tensor, "queries 3"]


@dataclass(frozen=True)
class RetrievalTask:
    """The rows that reductions are fitted on, and the queries.

    Attributes:
        x, y, image: arguments of `ReducerFits`.
        groups: the image or row of each query, by direction.
        hits: a function of a reduction that returns the hits of every query at 1, 5 and 10, 0 to 1, by direction.
    """

    x: Float[Tensor, "n d"]
    y: Float[Tensor, "n d"] | None
    image: Int64[Tensor, " n"] | None
    groups: Mapping[str, Tensor]
    hits: Callable[[Reduce, Metric], dict[str, Hits]]


def rows_of(split: Tensor, fit_on: str) -> tuple[Int64[Tensor, " fitted"], Int64[Tensor, " queries"]]:
    """Select the rows that reductions are fitted on, and the queries."""
    rows = torch.arange(len(split))
    return (rows, rows) if fit_on == "all" else (rows[split != TEST], rows[split == TEST])


def check_enough(fitted: int, candidates: int, queries: int) -> None:
    """Check that there are rows to fit on, queries, and more than 10 candidates.

    Raises:
        UserError: too few of them.
    """
    if fitted < 2 or candidates <= MOST or not queries:
        raise UserError(
            f"Expected rows to fit on, queries, and more than {MOST} candidates, got {fitted}, {queries} and "
            f"{candidates}: give more data, or set fit_on=all to fit on all rows and query the same."
        )


def pair_retrieval(data: PairData, config: Settings, device: torch.device) -> RetrievalTask:
    """Build the task of retrieving images by texts and texts by images, among the held-out pairs."""
    assert isinstance(data.texts, FeatureData) and isinstance(data.images, FeatureData)
    fitted, queries = rows_of(data.texts.split, config.fit_on)
    shown = rows_of(data.images.split, config.fit_on)[1]
    check_enough(len(fitted), len(shown), len(queries))
    texts, images = data.texts.values.to(device), data.images.values.to(device)
    of_text, of_image = data.image_of[queries].to(device), shown.to(device)

    def hits_of(reduce: Reduce, metric: Metric) -> dict[str, Hits]:
        text, image = reduce(texts[queries], 0), reduce(images[shown], 1)
        return {"text_to_image": hits(ranks(text, image, of_text, of_image, metric), KS),
                "image_to_text": hits(ranks(image, text, of_image, of_text, metric), KS)}  # fmt: skip

    image_of = data.image_of[fitted]
    groups = {"text_to_image": data.image_of[queries], "image_to_text": shown}
    return RetrievalTask(texts[fitted], images[image_of], image_of.to(device), groups, hits_of)


def row_retrieval(data: FeatureData, config: Settings, device: torch.device) -> RetrievalTask:
    """Build the task of finding the nearest fitted rows of each query, and of k-NN classification by each label.

    Raises:
        UserError: an unknown label, or one without classes; too few rows, or too few of that label.
    """
    fitted, held_out = rows_of(data.split, config.fit_on)
    check_enough(len(fitted), len(fitted), len(held_out))
    values, labels = data.values.to(device), {}
    rows = {"neighbours": (fitted, held_out)}
    for factor in scored(config, data.factors):
        name, labelled = f"label/{data.factors.factors[factor].name}", ~data.factors.values[:, factor].isnan()
        if config.label is not None:
            check_enough(int(labelled[fitted].sum()), int(labelled[fitted].sum()), int(labelled[held_out].sum()))
        if labelled[fitted].sum() > MOST and labelled[held_out].any():
            rows[name] = (fitted[labelled[fitted]], held_out[labelled[held_out]])
            labels[name] = data.factors.values[:, factor].nan_to_num().long().to(device)

    def near(name: str, reduce: Reduce, metric: Metric) -> Int64[Tensor, "queries k"]:
        """Find the row numbers of the nearest candidates of each query."""
        candidates, queries = rows[name]
        codes = [reduce(values[part], 0) for part in (queries, candidates)]
        own = torch.arange(len(queries)) if config.fit_on == "all" else None  # queries and candidates are the same rows
        return candidates.to(device)[nearest(codes[0], codes[1], MOST, metric, own).rows]

    full = near("neighbours", lambda part, _: part, metric_of(config, 1))

    def hits_of(reduce: Reduce, metric: Metric) -> dict[str, Hits]:
        found = {"neighbours": overlap(near("neighbours", reduce, metric), full, KS)}
        for name, of in labels.items():
            found[name] = votes(of[near(name, reduce, metric)], of[rows[name][1].to(device)], KS)
        return found

    return RetrievalTask(values[fitted], None, None, {name: part[1] for name, part in rows.items()}, hits_of)
