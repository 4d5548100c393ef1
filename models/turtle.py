"""TURTLE: the labels of frozen features that linear classifiers learn most easily.

Gadetsky, Jiang, Brbić, "Let Go of Your Labels with Unsupervised Transfer" (ICML 2024),
https://arxiv.org/abs/2406.07236, written from the paper, with one feature space. Symbols: τ(x) the soft labels, w the
linear classifier that a few steps fit to them, γ the weight of the entropy.

Several heads, each with labels of its own, are trained side by side. The one in use is chosen without a label: it is
the one whose labels a linear classifier predicts best on rows that it was not fitted to.
"""

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from models import UserError

__all__ = ["TURTLE", "cross_entropy", "fit_linear", "generalization_score", "mean_entropy", "standardisation"]

CHUNK = 16_384  # rows taken at once
SAMPLE = 8192  # rows that heads are compared on
FOLDS, FOLD_STEPS, FOLD_REACH = 5, 30, 1.0  # of that comparison


def standardisation(
    features: Float[Tensor, "n features"], clusters: int
) -> tuple[Float[Tensor, " features"], Float[Tensor, ""]]:
    """The mean, and the root mean squared distance to it: (features − mean) / distance has a mean squared norm of 1.

    One distance for all features, so that directions keep their proportions: unit-norm embeddings, principal
    components and pixels that are mostly black come out alike, and features that hardly vary are not blown up.

    Raises:
        UserError: one cluster, or more than rows; features that are not finite, or the same in every row.
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


def with_one(features: Float[Tensor, "n features"]) -> Float[Tensor, "n features+1"]:
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)


def cross_entropy(
    logits: Float[Tensor, "heads clusters n"], labels: Float[Tensor, "heads clusters n"]
) -> Float[Tensor, " heads"]:
    """−Σ_c τ_c(x) log softmax(logits)_c, the mean over rows, in nats.

    Rows come last, here and below: a softmax over a short last axis takes many times longer.
    """
    return -(labels * logits.log_softmax(1)).sum(1).mean(1)


def mean_entropy(labels: Float[Tensor, "heads clusters n"]) -> Float[Tensor, " heads"]:
    """−Σ_c τ̄_c log τ̄_c of the mean labels τ̄ of all rows, the clusters' shares, in nats: log k where they are equal."""
    return torch.special.entr(labels.mean(2)).sum(1)


@torch.no_grad()
def fit_linear(
    features: Float[Tensor, "n features"], labels: Float[Tensor, "heads clusters n"], steps: int, reach: float
) -> Float[Tensor, "heads clusters features+1"]:
    """Weights and offset of a linear classifier of each head's labels: Adam on `cross_entropy`, from zero.

    The paper's cold start; at zero, so that nothing is drawn and nothing kept from one fit to the next. Few steps from
    there give a large margin. A step of Adam moves a weight by about its rate, reach / √features, and the logits of a
    row of norm 1 by about `reach` at most, whatever the number of features.
    """
    rows = with_one(features)
    columns, wanted = rows.T.contiguous(), labels.flatten(0, 1)
    weights = rows.new_zeros(len(wanted), rows.shape[1])
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    rate = reach / features.shape[1] ** 0.5
    for step in range(1, steps + 1):
        fitted = (weights @ columns).unflatten(0, labels.shape[:2]).softmax(1).flatten(0, 1)
        gradient = (fitted - wanted) @ rows / len(rows)
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        weights -= rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return weights.unflatten(0, labels.shape[:2])


def classified(
    features: Float[Tensor, "n features"], weights: Float[Tensor, "heads clusters features+1"]
) -> Float[Tensor, "heads clusters n"]:
    """The classifiers' logits."""
    return (weights.flatten(0, 1) @ with_one(features).T).unflatten(0, weights.shape[:2])


def generalization_score(
    features: Float[Tensor, "n features"], assignment: Float[Tensor, "n clusters"], folds: int, seed: int
) -> float:
    """What a linear classifier knows of the hard labels of rows that it was not fitted to, in nats.

    H(shares) − held-out cross-entropy, over `folds` parts of the rows: about log k for k equal clusters that it tells
    apart with certainty, 0 for a single cluster, below 0 for labels at random. The paper counts right predictions
    instead, and would so like a single cluster best.
    """
    mean, distance = standardisation(features, 2)
    rows, clusters = (features - mean) / distance, assignment.shape[1]
    labels = one_hot(assignment.argmax(1), clusters).to(rows).T[None]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).to(rows.device)
    surprise, folds = 0.0, min(folds, len(rows))
    for fold in range(folds):
        held_out = torch.arange(len(rows), device=rows.device) % folds == fold
        known, unknown = order[~held_out], order[held_out]
        weights = fit_linear(rows[known], labels[..., known], FOLD_STEPS, FOLD_REACH)
        surprise += float(cross_entropy(classified(rows[unknown], weights), labels[..., unknown])) * len(unknown)
    return float(mean_entropy(labels)) - surprise / len(rows)


class TURTLE(pl.LightningModule):
    """Linear heads on frozen features, and their training: call `start` with all rows before it.

    Arguments:
        features: width of the features.
        clusters: how many.
        heads: labellings trained side by side.
        gamma: γ, weight of the entropy of the clusters' shares; large values make clusters of equal size.
        inner_steps, inner_reach: of the classifier, see `fit_linear`.
        learning_rate: of Adam on the heads.
    """

    mean: Tensor
    distance: Tensor
    scores: Tensor
    sample: Tensor

    def __init__(
        self,
        features: int,
        clusters: int,
        heads: int = 8,
        gamma: float = 10.0,
        inner_steps: int = 10,
        inner_reach: float = 1.0,
        learning_rate: float = 1e-2,
    ) -> None:
        super().__init__()
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
        """Take the features' units, and draw the heads and the rows that they are compared on.

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
        """The head in use."""
        return int(self.scores.argmax())

    def labels(
        self, features: Float[Tensor, "n features"], heads: slice = slice(None)
    ) -> Float[Tensor, "some clusters n"]:
        """τ(x) of some heads: softmax of linear functions, each a unit direction times a gain (weight norm)."""
        rows = (features - self.mean) / self.distance
        weights = torch.cat([normalize(self.direction, dim=2) * self.gain, self.offset], 2)
        return classified(rows, weights[heads]).softmax(1)

    def terms(self, features: Float[Tensor, "n features"]) -> tuple[Float[Tensor, " heads"], Float[Tensor, " heads"]]:
        """Of each head: cross-entropy of the classifier, taken as it is, and entropy of the clusters' shares."""
        rows, labels = (features - self.mean) / self.distance, self.labels(features)
        weights = fit_linear(rows, labels, self.hparams["inner_steps"], self.hparams["inner_reach"])
        return cross_entropy(classified(rows, weights), labels), mean_entropy(labels)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        fit, entropy = self.terms(batch["features"])
        loss = (fit - self.hparams["gamma"] * entropy).sum()  # each head on its own
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # which Lightning sets by setattr
        if (self.global_step + 1) % every == 0:  # a call costs a tenth of a small step
            self.log_dict({"turtle/loss": loss, "turtle/cross_entropy": fit.mean(), "turtle/entropy": entropy.mean()})
        return loss

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Compare the heads."""
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
        """The best head's soft labels, on the features' device."""
        head = slice(self.best, self.best + 1)
        parts = [self.labels(part.to(self.mean.device), head)[0].T for part in features.split(CHUNK)]
        return torch.cat(parts).to(features.device)
