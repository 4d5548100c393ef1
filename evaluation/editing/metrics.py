"""Metrics of edits: pure functions of what a judge read before and after, of images, latents and embeddings.

A judged value is in the factor table's unit: binary 0 or 1, categorical the class number, continuous the user's
unit. The definitions are the project's own, see docs/architecture.md.
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
    """Tell whether the judged value changed; a continuous one, by more than half its training deviation."""
    before, after = as_tensor(before), as_tensor(after)
    if factor.kind == "continuous":
        return (after - before).abs() > deviation / 2
    return after != before


def success(judged: Values, target: Values, factor: Factor, median: float) -> float:
    """Share of the edited images for which the judge sees the target value; NaN of no images."""
    return reached(judged, target, factor, median).double().mean().item()


def leakage(
    before: Float[Array, "n factors"],
    after: Float[Array, "n factors"],
    edited: int,
    factors: Sequence[Factor],
    deviations: Float[Array, " factors"] | Sequence[float],
) -> Leakage:
    """Which other factors an edit of factor number `edited` changed.

    `before` is what the judge reads from the unedited reconstructions, so what the autoencoder loses is no leakage.
    The mean is NaN where there is no other factor or no image.
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


def absolute_error(images: Float[Array, "n *image"], others: Float[Array, "n *image"]) -> float:
    """Σ|a − b| over everything, summed in float64."""
    return (as_tensor(images) - as_tensor(others)).abs().sum(dtype=torch.float64).item()


def counterfactual_from_errors(left: float, change: float) -> float:
    """1 − left / change of two summed errors, Σ|D(edit) − D(E(x'))| and Σ|D(E(x)) − D(E(x'))|; NaN of no change."""
    return 1 - left / change if change > 0 else float("nan")


def counterfactual(
    edited: Float[Array, "n *image"], original: Float[Array, "n *image"], truth: Float[Array, "n *image"]
) -> float:
    """1 − Σ|D(edit) − D(E(x'))| / Σ|D(E(x)) − D(E(x'))|, the images given being decoded reconstructions.

    x' is the same scene with only the edited factor changed. 1 is the exact edit, 0 no edit, below 0 worse than none.
    """
    return counterfactual_from_errors(absolute_error(edited, truth), absolute_error(original, truth))


def cycle_error(latents: Float[Array, "n features"], returned: Float[Array, "n features"]) -> float:
    """Largest |T⁻¹(T(z)) − z|, in the latents' unit."""
    return (as_tensor(returned) - as_tensor(latents)).abs().max().item()


def identity(original_embeddings: Float[Array, "n embedding"], edited_embeddings: Float[Array, "n embedding"]) -> float:
    """Mean cosine of face embeddings, edited against reconstruction."""
    before, after = as_tensor(original_embeddings), as_tensor(edited_embeddings)
    return torch.cosine_similarity(before, after, dim=1).double().mean().item()
