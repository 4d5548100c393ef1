"""What reductions are asked: which image a text is of and the reverse, which rows are near, and what their label is.

The same questions after every map, so that methods can be compared query by query.
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

__all__ = ["Hits", "KS", "Questions", "Reduce", "pair_questions", "row_questions"]

KS = (1, 5, 10)
MOST = KS[-1]
Reduce = Callable[[Tensor, int], Tensor]  # rows of a kind to codes
Hits = Float[Tensor, "queries 3"]


@dataclass(frozen=True)
class Questions:
    """The rows that reductions are fitted on, and the queries.

    Attributes:
        x, y, image: as `ReducerFits` takes them.
        groups: of each direction, which image or row a query is of.
        answers: of each direction the hits of every query at 1, 5 and 10, 0 to 1.
    """

    x: Float[Tensor, "n d"]
    y: Float[Tensor, "n d"] | None
    image: Int64[Tensor, " n"] | None
    groups: Mapping[str, Tensor]
    answers: Callable[[Reduce, Metric], dict[str, Hits]]


def rows_of(split: Tensor, fit_on: str) -> tuple[Int64[Tensor, " known"], Int64[Tensor, " asked"]]:
    """The rows that are fitted on, and those that are asked about."""
    rows = torch.arange(len(split))
    return (rows, rows) if fit_on == "all" else (rows[split != TEST], rows[split == TEST])


def check_enough(known: int, candidates: int, asked: int) -> None:
    """Raises UserError where a rank of 10 says nothing, or nothing is left to fit on or to ask about."""
    if known < 2 or candidates <= MOST or not asked:
        raise UserError(
            f"Expected rows to fit on, to ask about, and more than {MOST} to choose among, got {known}, {asked} and "
            f"{candidates}: give more data, or set fit_on=all to fit on all and ask about the same."
        )


def pair_questions(data: PairData, config: Settings, device: torch.device) -> Questions:
    """Text → image and image → text, among the pairs that are asked about."""
    assert isinstance(data.texts, FeatureData) and isinstance(data.images, FeatureData)
    known, asked = rows_of(data.texts.split, config.fit_on)
    shown = rows_of(data.images.split, config.fit_on)[1]
    check_enough(len(known), len(shown), len(asked))
    texts, images = data.texts.values.to(device), data.images.values.to(device)
    of_text, of_image = data.image_of[asked].to(device), shown.to(device)

    def answers(reduce: Reduce, metric: Metric) -> dict[str, Hits]:
        text, image = reduce(texts[asked], 0), reduce(images[shown], 1)
        return {"text_to_image": hits(ranks(text, image, of_text, of_image, metric), KS),
                "image_to_text": hits(ranks(image, text, of_image, of_text, metric), KS)}  # fmt: skip

    image_of = data.image_of[known]
    groups = {"text_to_image": data.image_of[asked], "image_to_text": shown}
    return Questions(texts[known], images[image_of], image_of.to(device), groups, answers)


def row_questions(data: FeatureData, config: Settings, device: torch.device) -> Questions:
    """Which rows that were fitted on are the nearest, and what these say of each label that has classes.

    Raises:
        UserError: an unknown label, or one without classes; too few rows, or too few of that label.
    """
    known, asked = rows_of(data.split, config.fit_on)
    check_enough(len(known), len(known), len(asked))
    values, labels = data.values.to(device), {}
    rows = {"neighbours": (known, asked)}
    for factor in scored(config, data.factors):
        name, there = f"label/{data.factors.factors[factor].name}", ~data.factors.values[:, factor].isnan()
        if config.label is not None:
            check_enough(int(there[known].sum()), int(there[known].sum()), int(there[asked].sum()))
        if there[known].sum() > MOST and there[asked].any():
            rows[name] = (known[there[known]], asked[there[asked]])
            labels[name] = data.factors.values[:, factor].nan_to_num().long().to(device)

    def near(name: str, reduce: Reduce, metric: Metric) -> Int64[Tensor, "queries k"]:
        """Row numbers of the nearest of those that are known."""
        candidates, queries = rows[name]
        codes = [reduce(values[part], 0) for part in (queries, candidates)]
        own = torch.arange(len(queries)) if config.fit_on == "all" else None  # queries and candidates are the same rows
        return candidates.to(device)[nearest(codes[0], codes[1], MOST, metric, own).rows]

    full = near("neighbours", lambda part, _: part, metric_of(config, 1))

    def answers(reduce: Reduce, metric: Metric) -> dict[str, Hits]:
        found = {"neighbours": overlap(near("neighbours", reduce, metric), full, KS)}
        for name, of in labels.items():
            found[name] = votes(of[near(name, reduce, metric)], of[rows[name][1].to(device)], KS)
        return found

    return Questions(values[known], None, None, {name: part[1] for name, part in rows.items()}, answers)
