"""Metrics of edits: pure functions of a judge's readings before and after, of images, latents and embeddings.

A reading is in the unit of the factor table: 0 or 1 of a binary factor, the class number of a categorical one, the
user's unit of a continuous one. The definitions are the project's own, see docs/architecture.md.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.arrays import Array, Values, as_tensor
from models.factor_classifier import reached
from models.labels import Factor

__all__ = [
    "Leakage",
    "absolute_error",
    "counterfactual",
    "counterfactual_from_errors",
    "cycle_error",
    "flipped",
    "identity",
    "leakage",
    "leakage_at",
    "success",
]


class Leakage(NamedTuple):
    """`mean`: share of (image, other factor) pairs that flipped; `row`: share per factor, NaN at the edited one."""

    mean: float
    row: Float[Tensor, " factors"]


def flipped(before: Values, after: Values, factor: Factor, deviation: float) -> Bool[Tensor, " n"]:
    """Tell whether the judged value changed; a continuous one, by more than half its training deviation.

    >>> hat = Factor("hat", "binary", ("without", "with"))
    >>> flipped(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]), hat, deviation=0.5)
    tensor([ True, False])
    """
    before, after = as_tensor(before), as_tensor(after)
    if factor.kind == "continuous":
        return (after - before).abs() > deviation / 2
    return after != before


def success(judged: Values, target: Values, factor: Factor, median: float) -> float:
    """Return the share of edited images for which the judge sees the target value; NaN without images.

    >>> glasses = Factor("glasses", "binary", ("without", "with"))
    >>> success(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]), glasses, median=0.5)
    0.5
    """
    return reached(judged, target, factor, median).double().mean().item()


def leakage(
    before: Float[Array, "n factors"],
    after: Float[Array, "n factors"],
    edited: int,
    factors: Sequence[Factor],
    deviations: Float[Array, " factors"] | Sequence[float],
) -> Leakage:
    """Measure how often an edit of factor number `edited` flipped the other factors.

    `before` are the readings of the judge on unedited reconstructions, so that losses of the auto-encoder do not count
    as leakage. The mean is NaN without other factors or without images.

    >>> factors = [Factor("hat", "binary", ("no", "yes")), Factor("smile", "binary", ("no", "yes"))]
    >>> before, after = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> leakage(before, after, 0, factors, [0.5, 0.5]).mean
    0.5
    """
    row = torch.full((len(factors),), torch.nan, dtype=torch.float64)
    for i, factor in enumerate(factors):
        if i != edited:
            row[i] = flipped(before[:, i], after[:, i], factor, float(deviations[i])).double().mean()
    others = row[torch.arange(len(factors)) != edited]
    return Leakage(others.mean().item(), row.float())


def leakage_at(
    strengths: Sequence[float], successes: Sequence[float], leakages: Sequence[float], level: float = 0.9
) -> float | None:
    """Return the leakage at the smallest strength whose success reaches the level; None where none does.

    `strengths` ascend. Success and leakage are interpolated linearly between measured strengths; where the first one
    already reaches the level, the leakage is that of the first.

    >>> leakage_at([0.5, 1.0], [0.5, 1.0], [0.0, 0.5], level=0.75)
    0.25
    """
    for i, reached_share in enumerate(successes):
        if reached_share < level:
            continue
        if i == 0:
            return leakages[0]
        part = (level - successes[i - 1]) / (reached_share - successes[i - 1])
        return leakages[i - 1] + part * (leakages[i] - leakages[i - 1])
    return None


def absolute_error(images: Float[Array, "n *image"], others: Float[Array, "n *image"]) -> float:
    """Sum |a − b| over all elements, in float64.

    >>> absolute_error(torch.zeros(2), torch.tensor([1.0, -2.0]))
    3.0
    """
    return (as_tensor(images) - as_tensor(others)).abs().sum(dtype=torch.float64).item()


def counterfactual_from_errors(left: float, change: float) -> float:
    """Compute 1 − left / change from two summed errors, Σ|D(edit) − D(E(x'))| and Σ|D(E(x)) − D(E(x'))|.

    NaN without a change.

    >>> counterfactual_from_errors(1.0, 4.0)
    0.75
    """
    return 1 - left / change if change > 0 else float("nan")


def counterfactual(
    edited: Float[Array, "n *image"], original: Float[Array, "n *image"], truth: Float[Array, "n *image"]
) -> float:
    """Score edits against ground-truth counterfactuals: 1 − Σ|D(edit) − D(E(x'))| / Σ|D(E(x)) − D(E(x'))|.

    The images are decoded reconstructions; x' is the same scene with only the edited factor changed. 1 is the exact
    edit, 0 no edit, below 0 worse than none.

    >>> counterfactual(torch.ones(1, 4), torch.zeros(1, 4), truth=torch.ones(1, 4))
    1.0
    """
    return counterfactual_from_errors(absolute_error(edited, truth), absolute_error(original, truth))


def cycle_error(latents: Float[Array, "n features"], returned: Float[Array, "n features"]) -> float:
    """Return the largest |T⁻¹(T(z)) − z|, in the unit of the latents.

    >>> cycle_error(torch.zeros(1, 2), torch.tensor([[0.0, -0.5]]))
    0.5
    """
    return (as_tensor(returned) - as_tensor(latents)).abs().max().item()


def identity(original_embeddings: Float[Array, "n embedding"], edited_embeddings: Float[Array, "n embedding"]) -> float:
    """Average the cosine between the face embeddings of edits and of reconstructions.

    >>> identity(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    0.0
    """
    before, after = as_tensor(original_embeddings), as_tensor(edited_embeddings)
    return torch.cosine_similarity(before, after, dim=1).double().mean().item()
