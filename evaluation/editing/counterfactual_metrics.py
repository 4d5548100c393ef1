"""Metrics of final pictures against photographs, as pure functions.

The names are those of Monteiro et al., "Measuring axiomatic soundness of counterfactual image models" (ICLR 2023,
https://arxiv.org/abs/2303.01274), and of Melistas et al., "Benchmarking Counterfactual Image Generation" (NeurIPS 2024,
https://arxiv.org/abs/2403.20287). A final picture is an edit composed into its photograph, see `models.composition`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from evaluation.editing.metrics import absolute_error, counterfactual_from_errors
from models.arrays import Array, Values, as_tensor
from models.factor_classifier import reached
from models.labels import Factor

__all__ = [
    "Moments",
    "counterfactual_image",
    "effectiveness",
    "frechet_distance",
    "identity_distance",
    "mean_absolute_difference",
    "mean_known",
    "minimality",
    "moments",
    "read_as_labelled",
    "value_weights",
]

W1, W2 = 0.8, 0.2  # weights of the two probabilities of minimality in arXiv 2403.20287


class Moments(NamedTuple):
    """Mean and covariance (divided by n, or by the sum of the weights)."""

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]


def read_as_labelled(read: Values, labels: Values, target: Values, factor: Factor, median: float) -> Bool[Tensor, " n"]:
    """Select the photographs that an edit can start from: the judge reads the label, the target is another value.

    >>> hat = Factor("hat", "binary", ("without", "with"))
    >>> read_as_labelled(torch.tensor([0.0, 1.0]), torch.zeros(2), torch.ones(2), hat, median=0.5)
    tensor([ True, False])
    """
    read, labels, target = map(as_tensor, (read, labels, target))
    known = ~(read.isnan() | labels.isnan() | target.isnan())
    return known & reached(read, labels, factor, median) & ~reached(target, labels, factor, median)


def effectiveness(
    before: Float[Array, "members n"],
    after: Float[Array, "members n"],
    labels: Values,
    target: Values,
    factor: Factor,
    median: float,
) -> list[float | None]:
    """Return for each member of a committee the share of final pictures on which it sees the target.

    `before` is what each member reads from the photographs, `after` from the final pictures. A member is counted on the
    photographs on which it sees the label, so that no edit scores 0; None where there is none.

    >>> hat = Factor("hat", "binary", ("without", "with"))
    >>> before, after = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    >>> effectiveness(before, after, torch.zeros(2), torch.ones(2), hat, median=0.5)
    [0.5]
    """
    before, after, labels, target = map(as_tensor, (before, after, labels, target))
    shares: list[float | None] = []
    for read, seen in zip(before, after, strict=True):
        starts = read_as_labelled(read, labels, target, factor, median)
        succeeded = reached(seen[starts], target[starts], factor, median) & ~seen[starts].isnan()
        shares.append(succeeded.double().mean().item() if starts.any() else None)
    return shares


def mean_absolute_difference(pictures: Shaped[Array, "n *image"], others: Shaped[Array, "n *image"]) -> float:
    """Average |a − b| over all pictures, channels and pixels; uint8 pictures are divided by 255.

    >>> mean_absolute_difference(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    0.5
    """
    pictures, others = as_tensor(pictures), as_tensor(others)
    scale = 255 if pictures.dtype == torch.uint8 else 1
    return absolute_error(pictures.double(), others.double()) / scale / max(pictures.numel(), 1)


def identity_distance(originals: Float[Array, "n d"], edited: Float[Array, "n d"]) -> float:
    """Average the Euclidean distance between the face embeddings of final pictures and of their photographs.

    >>> identity_distance(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    5.0
    """
    return (as_tensor(edited) - as_tensor(originals)).norm(dim=1).double().mean().item()


def minimality(
    originals: Float[Array, "n d"],
    edited: Float[Array, "n d"],
    real: Float[Array, "real d"],
    of_target: Bool[Array, "n real"],
    of_label: Bool[Array, "n real"],
) -> float:
    """Compute the counterfactual latent divergence of arXiv 2403.20287, mean log(w₁ exp p₁ + w₂ exp p₂).

    Lower is better.

    div is the distance of a final picture from its photograph. p₁ = P(S_x* ≤ div) is the share of the real photographs
    with the target value that are no farther from the photograph than that, p₂ = P(S_x ≥ div) the share of those with
    the photograph's own value that are no nearer. An edit that moves as little as the nearest person with the target
    value has p₁ near 0; one that moves less than people of one value differ has p₂ near 1. No change at all gives
    log(.8 + .2 e) = .295, the farthest change log(.8 e + .2) = .865.

    Distances are Euclidean. `of_target` and `of_label` mark the real photographs with the target value and with the
    photograph's own value, except for the photograph itself. Photographs without either are left out; NaN if all are.

    >>> photograph, real = torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    >>> other, same = torch.tensor([[True, False]]), torch.tensor([[False, True]])
    >>> round(minimality(photograph, photograph, real, other, same), 3)  # nothing changed
    0.295
    """
    originals, edited, real = map(as_tensor, (originals, edited, real))
    of_target, of_label = as_tensor(of_target), as_tensor(of_label)
    kept = of_target.any(1) & of_label.any(1)
    originals, edited, of_target, of_label = originals[kept], edited[kept], of_target[kept], of_label[kept]
    moved = (edited - originals).double().norm(dim=1)[:, None]
    # Differences and norms, not cdist's products: equal rows have to be 0 apart.
    distances = torch.cdist(originals.double(), real.double(), compute_mode="donot_use_mm_for_euclid_dist")
    p1 = ((distances <= moved) & of_target).sum(1) / of_target.sum(1)
    p2 = ((distances >= moved) & of_label).sum(1) / of_label.sum(1)
    return (W1 * p1.double().exp() + W2 * p2.double().exp()).log().mean().item()


def value_weights(
    target: Float[Array, " n"] | Sequence[int | float], values: Float[Array, " real"] | Sequence[int | float]
) -> tuple[Bool[Tensor, " n"], Float[Tensor, " real"]]:
    """Weight real photographs so that each value is as frequent among them as among the targets of the edits.

    Return also which edits count: those whose target some real photograph has. The weights sum to 1, or are all 0.

    >>> value_weights(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0, 1.0]))[1]
    tensor([0.0000, 0.5000, 0.5000], dtype=torch.float64)
    """
    target, values = as_tensor(target), as_tensor(values)
    weights, kept = torch.zeros(len(values), dtype=torch.float64), torch.zeros(len(target), dtype=torch.bool)
    for value in target[~target.isnan()].unique():
        edits, having = target == value, values == value
        if having.any():
            kept |= edits
            weights[having] = edits.sum().double() / having.sum().double()
    return kept, weights / weights.sum().clamp(min=1e-12)


def moments(features: Float[Array, "n d"], weights: Values | None = None) -> Moments:
    """Compute mean and covariance in float64, of weighted rows where weights are given.

    >>> moments(torch.tensor([[0.0], [2.0]])).covariance
    tensor([[1.]], dtype=torch.float64)
    """
    features = as_tensor(features).double().cpu()
    shares = (torch.ones(len(features)) if weights is None else as_tensor(weights)).double().cpu()
    shares = shares / shares.sum()
    mean = shares @ features
    centred = features - mean
    return Moments(mean, centred.T @ (shares[:, None] * centred))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Compute the Fréchet distance of two normal distributions: |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½).

    Dowson and Landau 1982; FID is this distance in features of Inception (Heusel et al. 2017). The trace of (C₁ C₂)^½
    is the sum of the square roots of the eigenvalues of C₁^½ C₂ C₁^½, which is symmetric, so that singular covariances
    of few pictures are handled.

    >>> frechet_distance(Moments(torch.zeros(2), torch.eye(2)), Moments(torch.ones(2), torch.eye(2)))
    2.0
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    middle = root @ b.covariance @ root
    shared = torch.linalg.eigvalsh((middle + middle.T) / 2).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * shared
    return max(distance.item(), 0.0)


def counterfactual_image(
    final: Float[Array, "n *image"], photograph: Float[Array, "n *image"], truth: Float[Array, "n *image"]
) -> float:
    """Score final pictures against ground-truth counterfactuals x': 1 − Σ|out − x'| / Σ|x − x'|.

    1 is the exact edit, 0 the unchanged photograph; below 0 is worse than that.

    >>> counterfactual_image(torch.ones(1, 4), torch.zeros(1, 4), truth=torch.ones(1, 4))
    1.0
    """
    return counterfactual_from_errors(absolute_error(final, truth), absolute_error(photograph, truth))


def mean_known(numbers: Sequence[float | None]) -> float | None:
    """Average the finite numbers; None if there are none.

    >>> mean_known([1.0, None, 2.0])
    1.5
    """
    known = [number for number in numbers if number is not None and math.isfinite(number)]
    return sum(known) / len(known) if known else None
