"""A linear map whose first k dimensions are a good embedding by themselves, for every k of a list.

Kusupati et al. 2022, "Matryoshka Representation Learning", https://arxiv.org/abs/2205.13147. For paired rows the loss
at every k is that of CLIP, InfoNCE in both directions (Radford et al. 2021, https://arxiv.org/abs/2103.00020). For
unpaired rows it is KL(P ‖ Q) of neighbour probabilities, P from the full embeddings and Q from the first k dimensions
(Hinton and Roweis 2002, stochastic neighbour embedding). Labels are not used.
"""

from collections.abc import Sequence
from typing import Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, normalize

from models import Positive, UserError, check_choice
from models.reduction import METRICS, half_cosine, mean_of, moment, squared_distances

__all__ = ["Matryoshka", "info_nce", "neighbour_divergence"]

NEVER = -1e4  # a logit whose probability and gradient are 0


def logits(x: Float[Tensor, "n k"], y: Float[Tensor, "m k"], temperature: float) -> Float[Tensor, "n m"]:
    """Return −|x − y|² / 2T; for unit vectors it is (cos − 1) / T, whose softmax is that of cos / T."""
    return squared_distances(x, y) / (-2 * temperature)


def info_nce(x: Float[Tensor, "n k"], y: Float[Tensor, "n k"], temperature: float,
             same: Bool[Tensor, "n n"] | None = None) -> Float[Tensor, ""]:  # fmt: skip
    """Return the mean −log softmax of each row's partner over both directions, in nats.

    It is log n if x and y are unrelated. `same` marks rows that are captions of the same image; they are not used as
    negatives.

    >>> info_nce(torch.ones(2, 3), torch.ones(2, 3), temperature=0.1)
    tensor(0.6931)
    """
    scores = logits(x, y, temperature)
    own = torch.arange(len(x), device=x.device)
    if same is not None:
        scores = scores.masked_fill(same & (own[:, None] != own), NEVER)
    return (cross_entropy(scores, own) + cross_entropy(scores.T, own)) / 2


def neighbour_divergence(full: Float[Tensor, "n d"], reduced: Float[Tensor, "n k"],
                         temperature: float) -> Float[Tensor, ""]:  # fmt: skip
    """Return the mean KL(P ‖ Q) over rows, in nats, of the softmax of each row's logits with the other rows.

    >>> neighbour_divergence(torch.eye(3), torch.eye(3), temperature=0.1)
    tensor(0.)
    """

    def log_near(rows: Tensor) -> Tensor:
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        return logits(rows, rows, temperature).masked_fill(itself, NEVER).log_softmax(1)

    return kl_div(log_near(reduced), log_near(full).detach(), log_target=True, reduction="batchmean")


class Matryoshka(pl.LightningModule):
    """A linear map for one kind of rows, or one for each of two kinds.

    Call `start` with the training rows before training. Batches are {"x": (b, d)}, or for two kinds {"x": (b, d),
    "y": (b, d), "image": (b,)} with the index of the image, which several captions may share.

    Arguments:
        features: dimension of the rows.
        widths: list of k whose losses are averaged; the largest is the width of the map.
        kinds: 1, or 2 for texts and images.
        metric: similarity of rows: cosine, or euclidean in units of their root mean squared distance to the mean.
        temperature: T.
        learning_rate: initial learning rate of Adam, which falls to 0 by a half cosine.

    Raises:
        UserError: there is no width, a width is not between 1 and `features`, or the metric is unknown.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, widths: Sequence[int], kinds: int = 1,
                 metric: Literal["cosine", "euclidean"] = "cosine", temperature: Positive = 0.05,
                 learning_rate: Positive = 1e-3) -> None:  # fmt: skip
        super().__init__()
        check_choice("metric", metric, METRICS)
        widths = sorted(widths)
        if not widths or widths[0] < 1 or widths[-1] > features:
            raise UserError(f"Expected widths from 1 to {features}, as the rows have, got {widths}: choose other ones.")
        self.save_hyperparameters()
        self.widths, self.metric, self.temperature = widths, metric, temperature
        self.linear = nn.ModuleList(nn.Linear(features, widths[-1], bias=False) for _ in range(kinds))
        self.register_buffer("mean", torch.zeros(kinds, features))
        self.register_buffer("deviation", torch.ones(()))

    @torch.no_grad()
    def start(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n d"] | None = None) -> None:
        """Set the mean of each kind, the standard deviation of the rows, and the initial maps.

        The initial maps are the singular vectors of Σ_i x_i y_iᵀ, along which partners covary most; for one kind of
        rows they are the principal axes. From the principal axes of each kind, training would hardly find small
        directions that both kinds share, because their gradient is 0 there.
        """
        sides = [x] if y is None else [x, y]
        means = [mean_of(rows) for rows in sides]
        self.mean.copy_(torch.stack(means))
        squares = [moment(rows, rows, mean, mean).trace() / len(rows) for rows, mean in zip(sides, means, strict=True)]
        self.deviation.copy_(torch.stack(squares).mean().sqrt())
        u, _, vh = torch.linalg.svd(moment(sides[0], sides[-1], means[0], means[-1]))
        for linear, axes in zip(self.linear, (u.T, vh), strict=False):
            linear.weight.copy_(axes[: self.widths[-1]])  # type: ignore[operator]  # a Linear

    def forward(self, rows: Float[Tensor, "n d"], kind: int = 0) -> Float[Tensor, "n width"]:
        """Return the codes; their first k dimensions are the code of width k."""
        return self.linear[kind](rows - self.mean[kind])

    def normalised(self, rows: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        return normalize(rows, dim=1) if self.metric == "cosine" else rows / self.deviation

    def terms(self, batch: dict[str, Tensor]) -> Float[Tensor, " widths"]:
        """Return the loss of each width."""
        x = self(batch["x"])
        if "y" in batch:
            y, image = self(batch["y"], 1), batch["image"]
            same = image[:, None] == image
            losses = [info_nce(self.normalised(x[:, :k]), self.normalised(y[:, :k]), self.temperature, same)
                      for k in self.widths]  # fmt: skip
        else:
            full = self.normalised(batch["x"] - self.mean[0])
            losses = [neighbour_divergence(full, self.normalised(x[:, :k]), self.temperature) for k in self.widths]
        return torch.stack(losses)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss = self.terms(batch).mean()
        self.log("matryoshka/loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = int(self.trainer.estimated_stepping_batches)
        return half_cosine(self.parameters(), self.hparams["learning_rate"], steps)
