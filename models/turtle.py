"""TURTLE: search for the labelling of frozen features that a linear classifier learns most easily.

Gadetsky, Jiang, Brbić, "Let Go of Your Labels with Unsupervised Transfer" (ICML 2024),
https://arxiv.org/abs/2406.07236, implemented from the paper, with one feature space. Symbols: τ(x) the soft labels, w
the linear classifier that is fitted to them in a few steps, γ the weight of the entropy.

Several heads, each with its own labelling, are trained in parallel. The head that is used is chosen without ground
truth: it is the one whose labels a linear classifier predicts best on held-out rows.
"""

from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from models import Count, NotNegative, Positive, UserError, check_whole
from models.batches import inputs_of

__all__ = ["TURTLE", "cross_entropy", "fit_linear", "generalization_score", "mean_entropy", "standardisation"]

CHUNK = 16_384  # rows that are processed at a time
SAMPLE = 8192  # rows on which the heads are compared
FOLDS, FOLD_STEPS, FOLD_REACH = 5, 30, 1.0  # for that comparison


def standardisation(
    features: Float[Tensor, "n features"], clusters: int
) -> tuple[Float[Tensor, " features"], Float[Tensor, ""]]:
    """Return the mean of the rows and the root mean squared distance to it.

    (features − mean) / distance has a mean squared norm of 1. All features share one scale, which keeps their
    proportions: it suits unit-norm embeddings, principal components and mostly black pixels alike, and does not
    amplify features with little variance.

    Raises:
        UserError: there are fewer than 2 clusters or more than rows, or the features are not finite or constant.

    >>> standardisation(torch.tensor([[1.0], [3.0]]), 2)
    (tensor([2.]), tensor(1.))
    """
    if not 2 <= clusters <= len(features):
        raise UserError(f"Expected from 2 to {len(features)} clusters, one per row at most, got {clusters}.")
    mean = features.mean(0)
    parts = [(part - mean).square().sum() for part in features.split(CHUNK)]
    distance = (torch.stack(parts).sum() / len(features)).sqrt()
    if not distance.isfinite():
        raise UserError("Expected finite features, got NaN or infinities: leave those rows out.")
    if distance <= 1e-6 * mean.norm():
        raise UserError("Expected features that differ between rows, got the same in every row: use other features.")
    return mean, distance


def with_ones(features: Float[Tensor, "n features"]) -> Float[Tensor, "n features+1"]:
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)


def cross_entropy(
    logits: Float[Tensor, "heads clusters n"], labels: Float[Tensor, "heads clusters n"]
) -> Float[Tensor, " heads"]:
    """Return −Σ_c τ_c(x) log softmax(logits)_c, averaged over rows, in nats.

    Rows are the last axis, here and below, because a softmax over a short last axis is many times slower.

    >>> cross_entropy(torch.zeros(1, 2, 3), torch.full((1, 2, 3), 0.5))
    tensor([0.6931])
    """
    return -(labels * logits.log_softmax(1)).sum(1).mean(1)


def mean_entropy(labels: Float[Tensor, "heads clusters n"]) -> Float[Tensor, " heads"]:
    """Return −Σ_c τ̄_c log τ̄_c of the mean labels τ̄ over rows, in nats: log k for k clusters of equal size.

    >>> mean_entropy(torch.eye(2)[None])
    tensor([0.6931])
    """
    return torch.special.entr(labels.mean(2)).sum(1)


@torch.no_grad()
def fit_linear(
    features: Float[Tensor, "n features"], labels: Float[Tensor, "heads clusters n"], steps: int, reach: float
) -> Float[Tensor, "heads clusters features+1"]:
    """Fit a linear classifier to each head's labels, by Adam on `cross_entropy`; return its weights and bias.

    It starts at zero, which is the paper's cold start without random numbers or state from an earlier fit. Few steps
    give a large margin. A step of Adam changes a weight by about its rate, reach / √features, and the logits of a row
    of norm 1 by at most about `reach`, for any number of features.

    >>> rows, labels = torch.tensor([[-1.0], [1.0]]), torch.eye(2)[None]
    >>> fit_linear(rows, labels, steps=1, reach=0.5)[0, :, 0].round(decimals=2)
    tensor([-0.5000,  0.5000])
    """
    rows = with_ones(features)
    columns, targets = rows.T.contiguous(), labels.flatten(0, 1)
    weights = rows.new_zeros(len(targets), rows.shape[1])
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    rate = reach / features.shape[1] ** 0.5
    for step in range(1, steps + 1):
        fitted = (weights @ columns).unflatten(0, labels.shape[:2]).softmax(1).flatten(0, 1)
        gradient = (fitted - targets) @ rows / len(rows)
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        weights -= rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return weights.unflatten(0, labels.shape[:2])


def linear_logits(
    features: Float[Tensor, "n features"], weights: Float[Tensor, "heads clusters features+1"]
) -> Float[Tensor, "heads clusters n"]:
    """Return the logits of linear classifiers."""
    return (weights.flatten(0, 1) @ with_ones(features).T).unflatten(0, weights.shape[:2])


def generalization_score(
    features: Float[Tensor, "n features"], assignment: Float[Tensor, "n clusters"], folds: int, seed: int
) -> float:
    """Return how well a linear classifier predicts the hard labels of held-out rows, in nats.

    It is the entropy of the cluster sizes minus the held-out cross-entropy, over `folds` folds: about log k for k
    clusters of equal size that are linearly separable, 0 for a single cluster, negative for random labels. The paper
    uses the accuracy instead, which is highest for a single cluster.

    >>> rows = torch.tensor([[-1.0], [1.0]]).repeat(50, 1)
    >>> generalization_score(rows, torch.eye(2).repeat(50, 1), folds=5, seed=0) > 0.5
    True
    """
    mean, distance = standardisation(features, 2)
    rows, clusters = (features - mean) / distance, assignment.shape[1]
    labels = one_hot(assignment.argmax(1), clusters).to(rows).T[None]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).to(rows.device)
    total, folds = 0.0, min(folds, len(rows))
    for fold in range(folds):
        held_out = torch.arange(len(rows), device=rows.device) % folds == fold
        fitted, test = order[~held_out], order[held_out]
        weights = fit_linear(rows[fitted], labels[..., fitted], FOLD_STEPS, FOLD_REACH)
        total += float(cross_entropy(linear_logits(rows[test], weights), labels[..., test])) * len(test)
    return float(mean_entropy(labels)) - total / len(rows)


class TURTLE(pl.LightningModule):
    """Linear heads on frozen features; call `start` with all rows before training.

    Arguments:
        features: dimension of the features.
        clusters: number of clusters.
        heads: number of labellings trained in parallel.
        gamma: γ, weight of the entropy of the cluster sizes; large values make clusters of equal size.
        inner_steps, inner_reach: `steps` and `reach` of the classifier, see `fit_linear`.
        learning_rate: learning rate of Adam for the heads.
    """

    mean: Tensor
    distance: Tensor
    scores: Tensor
    sample: Tensor

    def __init__(
        self,
        features: int,
        clusters: int,
        heads: Count = 8,
        gamma: NotNegative = 10.0,
        inner_steps: Count = 10,
        inner_reach: Positive = 1.0,
        learning_rate: Positive = 1e-2,
    ) -> None:
        super().__init__()
        check_whole("turtle.heads", heads, 1)
        self.save_hyperparameters()
        self.direction = torch.nn.Parameter(torch.zeros(heads, clusters, features))
        self.gain = torch.nn.Parameter(torch.ones(heads, clusters, 1))
        self.offset = torch.nn.Parameter(torch.zeros(heads, clusters, 1))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("distance", torch.ones(()))
        self.register_buffer("scores", torch.zeros(heads))
        self.register_buffer("sample", torch.zeros(0, features), persistent=False)

    @torch.no_grad()
    def start(self, features: Float[Tensor, "n features"], seed: int) -> None:
        """Set the standardisation of the features, and draw the heads and the rows on which they are compared.

        Raises:
            UserError: see `standardisation`.
        """
        mean, distance = standardisation(features, self.hparams["clusters"])
        self.mean.copy_(mean)
        self.distance.copy_(distance)
        generator = torch.Generator().manual_seed(seed)
        self.direction.copy_(torch.randn(self.direction.shape, generator=generator))
        rows = torch.randperm(len(features), generator=generator)[:SAMPLE]
        self.sample = features[rows.to(features.device)]

    @property
    def best(self) -> int:
        """Index of the head with the highest score."""
        return int(self.scores.argmax())

    def labels(
        self, features: Float[Tensor, "n features"], heads: slice = slice(None)
    ) -> Float[Tensor, "some clusters n"]:
        """Return τ(x) of some heads: softmax of linear functions, each a unit direction times a gain (weight norm)."""
        rows = (features - self.mean) / self.distance
        weights = torch.cat([normalize(self.direction, dim=2) * self.gain, self.offset], 2)
        return linear_logits(rows, weights[heads]).softmax(1)

    def terms(self, features: Float[Tensor, "n features"]) -> tuple[Float[Tensor, " heads"], Float[Tensor, " heads"]]:
        """Return each head's cross-entropy of the classifier, without gradient through its fit, and its entropy."""
        rows, labels = (features - self.mean) / self.distance, self.labels(features)
        weights = fit_linear(rows, labels, self.hparams["inner_steps"], self.hparams["inner_reach"])
        return cross_entropy(linear_logits(rows, weights), labels), mean_entropy(labels)

    def training_step(self, batch: Any, _: int) -> Tensor:
        fit, entropy = self.terms(inputs_of(batch, "features"))
        loss = (fit - self.hparams["gamma"] * entropy).sum()  # the heads are independent
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it by setattr
        if (self.global_step + 1) % every == 0:  # logging costs a tenth of a small step
            self.log_dict({"turtle/loss": loss, "turtle/cross_entropy": fit.mean(), "turtle/entropy": entropy.mean()})
        return loss

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Compute the score of each head on the sample, by which the best one is chosen."""
        assert len(self.sample), "call `start` before training"
        labels = self.labels(self.sample)
        scores = [generalization_score(self.sample, head.T, FOLDS, 0) for head in labels]
        self.scores.copy_(torch.tensor(scores))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.parameters(), self.hparams["learning_rate"])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @torch.no_grad()
    def assign(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n clusters"]:
        """Return the best head's soft labels, on the features' device."""
        head = slice(self.best, self.best + 1)
        parts = [self.labels(part.to(self.mean.device), head)[0].T for part in features.split(CHUNK)]
        return torch.cat(parts).to(features.device)
