"""Metrics of edits: pure functions of what a judge read before and after, of images, latents and embeddings.

A judged value is in the factor table's unit: binary 0 or 1, categorical the class number, continuous the user's
unit. The definitions are the project's own, see docs/architecture.md.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datamodules.factors import Factor, FactorTable

__all__ = [
    "Leakage", "Statistics", "absolute_error", "counterfactual", "counterfactual_from_errors", "cycle_error",
    "factor_statistics", "flipped", "identity", "leakage", "leakage_at", "reached", "reading_quality", "success",
]  # fmt: skip

LOW, HIGH = 0.15, 0.85  # the quantiles that a continuous factor is edited to


class Statistics(NamedTuple):
    """Of each factor's known labels, in the factor's unit; NaN for a factor without any.

    `low` and `high` are the .15 and .85 quantiles, `deviation` is the standard deviation (population).
    """

    mean: Float[Tensor, " factors"]
    deviation: Float[Tensor, " factors"]
    median: Float[Tensor, " factors"]
    low: Float[Tensor, " factors"]
    high: Float[Tensor, " factors"]


class Leakage(NamedTuple):
    """`mean`: share of (image, other factor) pairs that flipped; `row`: share per factor, NaN at the edited one."""

    mean: float
    row: Float[Tensor, " factors"]


def factor_statistics(values: Float[Tensor, "n factors"]) -> Statistics:
    """Statistics of labels with NaN where unknown, meant for the training split's."""
    columns = []
    for column in values.unbind(1):
        known = column[~column.isnan()].double()
        if not len(known):
            columns.append(torch.full((5,), torch.nan, dtype=torch.float64))
            continue
        ordered = known.sort().values  # torch.quantile refuses more than 16 million values, and this needs no more
        places = torch.tensor([0.5, LOW, HIGH], dtype=torch.float64) * (len(known) - 1)
        below, above = ordered[places.floor().long()], ordered[places.ceil().long()]
        quantiles = torch.lerp(below, above, places - places.floor())
        columns.append(torch.cat([known.mean()[None], known.std(correction=0)[None], quantiles.cpu()]))
    if not columns:  # no factor at all
        return Statistics(*values.new_zeros(len(Statistics._fields), 0))
    return Statistics(*torch.stack(columns, dim=1).to(values.dtype).to(values.device).unbind(0))


def flipped(
    before: Float[Tensor, " n"], after: Float[Tensor, " n"], factor: Factor, deviation: float
) -> Bool[Tensor, " n"]:
    """Whether the judged value changed; a continuous one, whether it moved by more than half its training deviation."""
    if factor.kind == "continuous":
        return (after - before).abs() > deviation / 2
    return after != before


def reached(
    judged: Float[Tensor, " n"], target: Float[Tensor, " n"], factor: Factor, median: float
) -> Bool[Tensor, " n"]:
    """Whether the judged value is the target; a continuous one, whether it is on its side of the training median."""
    if factor.kind == "continuous":
        return (judged > median) == (target > median)
    return judged == target


def success(judged: Float[Tensor, " n"], target: Float[Tensor, " n"], factor: Factor, median: float) -> float:
    """Share of the edited images for which the judge sees the target value; NaN of no images."""
    return reached(judged, target, factor, median).double().mean().item()


def leakage(
    before: Float[Tensor, "n factors"],
    after: Float[Tensor, "n factors"],
    edited: int,
    factors: Sequence[Factor],
    deviations: Float[Tensor, " factors"],
) -> Leakage:
    """Which other factors an edit of factor number `edited` changed.

    `before` is what the judge reads from the unedited reconstructions, so what the autoencoder loses is no leakage.
    The mean is NaN where there is no other factor or no image.
    """
    row = torch.full((len(factors),), torch.nan, dtype=torch.float64)
    for i, factor in enumerate(factors):
        if i != edited:
            row[i] = flipped(before[:, i], after[:, i], factor, deviations[i].item()).double().mean()
    others = row[torch.arange(len(factors)) != edited]
    return Leakage(others.mean().item(), row.float())


def leakage_at(
    strengths: Sequence[float], successes: Sequence[float], leakages: Sequence[float], level: float = 0.9
) -> float | None:
    """Leakage at the smallest strength whose success reaches the level; None where none does.

    `strengths` ascend. Success and leakage are taken as linear between two measured strengths; a level that the first
    one already reaches gives the leakage there.
    """
    for i, reached_share in enumerate(successes):
        if reached_share < level:
            continue
        if i == 0:
            return leakages[0]
        part = (level - successes[i - 1]) / (reached_share - successes[i - 1])
        return leakages[i - 1] + part * (leakages[i] - leakages[i - 1])
    return None


def absolute_error(images: Float[Tensor, "n *image"], others: Float[Tensor, "n *image"]) -> float:
    """Σ|a − b| over everything, summed in float64."""
    return (images - others).abs().sum(dtype=torch.float64).item()


def counterfactual_from_errors(left: float, change: float) -> float:
    """1 − left / change of two summed errors, Σ|D(edit) − D(E(x'))| and Σ|D(E(x)) − D(E(x'))|; NaN of no change."""
    return 1 - left / change if change > 0 else float("nan")


def counterfactual(
    edited: Float[Tensor, "n *image"], original: Float[Tensor, "n *image"], truth: Float[Tensor, "n *image"]
) -> float:
    """1 − Σ|D(edit) − D(E(x'))| / Σ|D(E(x)) − D(E(x'))|, the images given being decoded reconstructions.

    x' is the same scene with only the edited factor changed. 1 is the exact edit, 0 no edit, below 0 worse than none.
    """
    return counterfactual_from_errors(absolute_error(edited, truth), absolute_error(original, truth))


def cycle_error(latents: Float[Tensor, "n features"], returned: Float[Tensor, "n features"]) -> float:
    """Largest |T⁻¹(T(z)) − z|, in the latents' unit."""
    return (returned - latents).abs().max().item()


def identity(
    original_embeddings: Float[Tensor, "n embedding"], edited_embeddings: Float[Tensor, "n embedding"]
) -> float:
    """Mean cosine of face embeddings, edited against reconstruction."""
    return torch.cosine_similarity(original_embeddings, edited_embeddings, dim=1).double().mean().item()


def class_recalls(right: Bool[Tensor, " n"], classes: Tensor) -> Float[Tensor, " classes"]:
    """Share of right answers in each class that occurs."""
    return torch.stack([right[classes == c].double().mean() for c in classes.unique()])


def reading_quality(
    judged: Float[Tensor, "n factors"], labels: FactorTable, medians: Float[Tensor, " factors"]
) -> dict[str, dict[str, float]]:
    """How well judged values agree with the known labels, per factor.

    `accuracy` and `balanced_accuracy` (mean recall of the classes that occur); a continuous factor has two classes,
    the sides of its training median, and also `r2`, 1 − Σ(judged − label)² / Σ(label − mean)². A factor without
    known labels is left out.
    """
    table: dict[str, dict[str, float]] = {}
    for i, factor in enumerate(labels.factors):
        known = ~labels.values[:, i].isnan()
        read, label, median = judged[known, i], labels.values[known, i], medians[i].item()
        if not len(label):
            continue
        right = reached(read, label, factor, median)
        classes = label > median if factor.kind == "continuous" else label
        table[factor.name] = {
            "accuracy": right.double().mean().item(),
            "balanced_accuracy": class_recalls(right, classes).mean().item(),
        }
        spread = (label - label.mean()).square().sum().item()
        if factor.kind == "continuous" and spread > 0:
            table[factor.name]["r2"] = 1 - (read - label).square().sum().item() / spread
    return table
