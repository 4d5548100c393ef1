"""A linear map whose first k numbers, for every k of a list, are a good embedding by themselves.

Kusupati et al. 2022, "Matryoshka Representation Learning", https://arxiv.org/abs/2205.13147. With pairs the loss at
every k is that of CLIP, InfoNCE in both directions (Radford et al. 2021, https://arxiv.org/abs/2103.00020). Of rows
without partners it is KL(P ‖ Q) of who is near whom, P of the full embeddings and Q of the first k numbers (Hinton and
Roweis 2002, stochastic neighbour embedding); no label is read.
"""

from collections.abc import Sequence
from typing import Literal

import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, normalize

from models import UserError, check_choice
from models.reduction import METRICS, half_cosine, mean_of, moment, squared_distances

__all__ = ["Matryoshka", "info_nce", "neighbour_divergence"]

NEVER = -1e4  # a logit whose probability is 0 and whose gradient is none


def logits(x: Float[Tensor, "n k"], y: Float[Tensor, "m k"], temperature: float) -> Float[Tensor, "n m"]:
    """−|x − y|² / 2T; of unit vectors (cos − 1) / T, whose softmax is that of cos / T."""
    return squared_distances(x, y) / (-2 * temperature)


def info_nce(x: Float[Tensor, "n k"], y: Float[Tensor, "n k"], temperature: float,
             same: Bool[Tensor, "n n"] | None = None) -> Float[Tensor, ""]:  # fmt: skip
    """−log softmax of each row's own partner, the mean of both directions, in nats: log n for no relation.

    `same` says which other rows are captions of the same image, and so no counter-examples.
    """
    found = logits(x, y, temperature)
    own = torch.arange(len(x), device=x.device)
    if same is not None:
        found = found.masked_fill(same & (own[:, None] != own), NEVER)
    return (cross_entropy(found, own) + cross_entropy(found.T, own)) / 2


def neighbour_divergence(full: Float[Tensor, "n d"], reduced: Float[Tensor, "n k"],
                         temperature: float) -> Float[Tensor, ""]:  # fmt: skip
    """KL(P ‖ Q) of the softmax of each row's logits with the others, the mean over rows, in nats."""

    def log_near(rows: Tensor) -> Tensor:
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        return logits(rows, rows, temperature).masked_fill(itself, NEVER).log_softmax(1)

    return kl_div(log_near(reduced), log_near(full).detach(), log_target=True, reduction="batchmean")


class Matryoshka(pl.LightningModule):
    """One linear map for each of one or two kinds of rows.

    Call `start` with the training rows before training on batches {"x": (b, d)} or, of two kinds, {"x", "y": (b, d),
    "image": (b,)}, the number of the image, which several captions may share.

    Arguments:
        features: of a row.
        widths: the k that the loss is the mean over; the largest is the width of the map.
        kinds: 1, or 2 for texts and images.
        metric: how rows are compared: cosine, or euclidean in units of the rows' deviation from their mean.
        temperature: T.
        learning_rate: of Adam, falling to 0 by a half cosine.

    Raises:
        UserError: no width, or one that the rows do not have; an unknown metric.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, widths: Sequence[int], kinds: int = 1,
                 metric: Literal["cosine", "euclidean"] = "cosine", temperature: float = 0.05,
                 learning_rate: float = 1e-3) -> None:  # fmt: skip
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
        """Take the mean of each kind, their rows' deviation from it, and the first map.

        That is where partners vary together most, the singular vectors of Σ_i x_i y_iᵀ: the principal axes of one kind.
        From those of both kinds training would hardly find what is small and shared, as its gradient there is 0.
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
        """The codes, whose first k numbers are those of every smaller width."""
        return self.linear[kind](rows - self.mean[kind])

    def compared(self, rows: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        return normalize(rows, dim=1) if self.metric == "cosine" else rows / self.deviation

    def terms(self, batch: dict[str, Tensor]) -> Float[Tensor, " widths"]:
        """The loss of each width."""
        x = self(batch["x"])
        if "y" in batch:
            y, image = self(batch["y"], 1), batch["image"]
            same = image[:, None] == image
            losses = [info_nce(self.compared(x[:, :k]), self.compared(y[:, :k]), self.temperature, same)
                      for k in self.widths]  # fmt: skip
        else:
            full = self.compared(batch["x"] - self.mean[0])
            losses = [neighbour_divergence(full, self.compared(x[:, :k]), self.temperature) for k in self.widths]
        return torch.stack(losses)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss = self.terms(batch).mean()
        self.log("matryoshka/loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = int(self.trainer.estimated_stepping_batches)
        return half_cosine(self.parameters(), self.hparams["learning_rate"], steps)
