"""TEMI: clustering heads on frozen features that assign nearest neighbours to the same cluster.

Adaloglou, Michels, Kalisch, Kollmann, "Exploring the Limits of Deep Image Clustering using Pretrained Models" (BMVC
2023), https://arxiv.org/abs/2303.17896, implemented from the paper. Symbols: x and x′ a row and one of its nearest
neighbours, q_s and q_t the cluster probabilities of the student and of the teacher, which is its moving average, and
p̃ the teacher's mean probability of each cluster.

Several heads are trained in parallel. The one with the lowest loss is used, so choosing it needs no labels.
"""

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from models import Count, Fraction, Natural, Positive, check_whole
from models.neighbours import nearest
from models.turtle import standardisation

__all__ = ["TEMI", "Heads", "agreement", "pair_loss", "pair_weight"]

CHUNK = 16_384  # rows that are assigned at a time
SHARE_MOMENTUM, LOSS_MOMENTUM = 0.9, 0.99


def agreement(
    log_student: Float[Tensor, "heads clusters n"],
    log_teacher: Float[Tensor, "heads clusters n"],
    shares: Float[Tensor, "heads clusters"],
    beta: float,
) -> Float[Tensor, "heads n"]:
    """Return log Σ_c (q_s(c|x) q_t(c|x′))^β / p̃(c), for β = 1 the pointwise mutual information of x and x′, in nats.

    β < 1 avoids empty clusters. It is computed from log-probabilities, because a probability that underflows would have
    no useful gradient for β < 1.

    >>> same = torch.tensor([[[1.0], [0.0]]]).log()
    >>> agreement(same, same, torch.full((1, 2), 0.5), beta=1.0)
    tensor([[0.6931]])
    """
    prior = shares.clamp(min=1e-12).log()[:, :, None]
    return (beta * (log_student + log_teacher) - prior).logsumexp(1)


def pair_weight(
    teacher: Float[Tensor, "heads clusters n"], teacher_of_partner: Float[Tensor, "heads clusters n"]
) -> Float[Tensor, " n"]:
    """Return Σ_c q_t(c|x) q_t(c|x′), averaged over heads: the probability that a pair is in the same cluster.

    >>> pair_weight(torch.full((1, 2, 1), 0.5), torch.full((1, 2, 1), 0.5))
    tensor([0.5000])
    """
    return (teacher * teacher_of_partner).sum(1).mean(0)


def pair_loss(
    log_student: Float[Tensor, "heads clusters rows"],
    log_teacher: Float[Tensor, "heads clusters rows"],
    shares: Float[Tensor, "heads clusters"],
    beta: float,
) -> Float[Tensor, " heads"]:
    """Return the mean of −w(x, x′) (`agreement` of x, x′ + `agreement` of x′, x) / 2 over pairs.

    The first half of the rows are x, the second half their partners x′.

    >>> rows = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]).clamp(min=1e-30).log()
    >>> pair_loss(rows, rows, torch.full((1, 2), 0.5), beta=1.0)
    tensor([-0.6931])
    """
    student, student_of_partner = log_student.chunk(2, 2)
    teacher, teacher_of_partner = log_teacher.chunk(2, 2)
    weight = pair_weight(teacher.exp(), teacher_of_partner.exp())
    there = agreement(student, teacher_of_partner, shares, beta)
    back = agreement(student_of_partner, teacher, shares, beta)
    return -(weight * (there + back) / 2).mean(1)


class Heads(torch.nn.Module):
    """Parallel networks with one hidden layer each; rows are the last axis, because the softmax is faster then."""

    def __init__(self, heads: int, features: int, hidden: int, clusters: int) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.zeros(heads, hidden, features))
        self.first_offset = torch.nn.Parameter(torch.zeros(heads, hidden, 1))
        self.second = torch.nn.Parameter(torch.zeros(heads, clusters, hidden))
        self.second_offset = torch.nn.Parameter(torch.zeros(heads, clusters, 1))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Initialise the weights so that layers keep the variance."""
        for weights in (self.first, self.second):
            weights.copy_(torch.randn(weights.shape, generator=generator) / weights.shape[2] ** 0.5)

    def forward(
        self, rows: Float[Tensor, "n features"], heads: slice = slice(None)
    ) -> Float[Tensor, "some clusters n"]:
        """Return the log-probabilities of the given heads."""
        first = self.first[heads]
        hidden = (first.flatten(0, 1) @ rows.T).unflatten(0, first.shape[:2]) + self.first_offset[heads]
        return torch.baddbmm(self.second_offset[heads], self.second[heads], hidden.relu()).log_softmax(1)


class TEMI(pl.LightningModule):
    """The heads and their teacher; call `start` with all rows before training.

    Arguments:
        features: dimension of the features.
        clusters: number of clusters.
        heads: number of networks trained in parallel.
        hidden: hidden units of each.
        neighbours: nearest neighbours of a row, from which its partner is drawn.
        beta: β of `agreement`.
        momentum: momentum of the teacher, per step. The paper has .996 and ten times as many rows and steps.
        learning_rate, warmup: learning rate of AdamW, and the number of steps of its linear warm-up.
    """

    mean: Tensor
    scale: Tensor
    shares: Tensor
    losses: Tensor
    features: Tensor
    neighbours: Tensor

    def __init__(
        self,
        features: int,
        clusters: int,
        heads: Count = 8,
        hidden: Count = 128,
        neighbours: Count = 50,
        beta: Positive = 0.6,
        momentum: Fraction = 0.98,
        learning_rate: Positive = 3e-3,
        warmup: Natural = 100,
    ) -> None:
        super().__init__()
        for name, value in (("heads", heads), ("hidden", hidden), ("neighbours", neighbours)):
            check_whole(f"temi.{name}", value, 1)
        self.save_hyperparameters()
        self.student = Heads(heads, features, hidden, clusters)
        self.teacher = Heads(heads, features, hidden, clusters).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shares", torch.full((heads, clusters), 1 / clusters))
        self.register_buffer("losses", torch.zeros(heads))
        self.register_buffer("features", torch.zeros(0, features), persistent=False)
        self.register_buffer("neighbours", torch.zeros(0, neighbours, dtype=torch.int64), persistent=False)

    def start(self, features: Float[Tensor, "n features"], seed: int) -> None:
        """Compute the standardisation and the neighbours of the features, and initialise the heads.

        A batch's `row` is an index into these features. Checkpoints do not hold the neighbours, so call this before
        resuming a training, too.

        Raises:
            UserError: see `models.turtle.standardisation`.
        """
        mean, distance = standardisation(features, self.hparams["clusters"])
        self.mean.copy_(mean)
        self.scale.copy_(distance / features.shape[1] ** 0.5)
        count = min(self.hparams["neighbours"], len(features) - 1)
        self.features = features
        self.neighbours = nearest(features, features, count, "cosine", own=torch.arange(len(features))).rows
        self.student.draw(torch.Generator().manual_seed(seed))
        self.teacher.load_state_dict(self.student.state_dict())

    @property
    def best(self) -> int:
        """Index of the head with the lowest loss."""
        return int(self.losses.argmin())

    def standardised(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n features"]:
        return (features - self.mean) / self.scale

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        assert len(self.features), "call `start` before training"
        row = batch["row"]
        choice = torch.randint(self.neighbours.shape[1], row.shape, device=row.device)
        partners = self.features[self.neighbours[row, choice]]
        rows = self.standardised(torch.cat([batch["features"], partners]))
        with torch.no_grad():
            teacher = self.teacher(rows)
            self.shares.lerp_(teacher.exp().mean(2), 1 - SHARE_MOMENTUM)
        losses = pair_loss(self.student(rows), teacher, self.shares, self.hparams["beta"])
        self.losses.lerp_(losses.detach(), max(1 - LOSS_MOMENTUM, 1 / (self.global_step + 1)))
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it by setattr
        if (self.global_step + 1) % every == 0:  # logging costs a tenth of a small step
            entropy = torch.special.entr(self.shares).sum(1)
            self.log_dict({"temi/loss": losses.mean(), "temi/entropy": entropy.mean()})
        return losses.sum()  # the heads are independent, except for the weights of the pairs

    @torch.no_grad()
    def on_train_batch_end(self, *_: object) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.hparams["momentum"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        rate, warmup = self.hparams["learning_rate"], self.hparams["warmup"]
        optimizer = torch.optim.AdamW(self.student.parameters(), rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @torch.no_grad()
    def assign(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n clusters"]:
        """Return the teacher's cluster probabilities for the best head, on the features' device."""
        head = slice(self.best, self.best + 1)
        parts = [self.standardised(part.to(self.mean.device)) for part in features.split(CHUNK)]
        return torch.cat([self.teacher(part, head)[0].T for part in parts]).exp().to(features.device)
