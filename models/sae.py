"""Sparse auto-encoders of frozen embeddings, which write a row as a sum of few of many learned directions (concepts).

TopK, and the auxiliary loss that revives dead units: Gao et al. 2024, "Scaling and evaluating sparse autoencoders",
https://arxiv.org/abs/2406.04093. Matryoshka, the losses of several k at once: Zaigrajew, Baniecki, Biecek 2025,
https://arxiv.org/abs/2502.20578. Symbols: x a row, centred and scaled; W_e and W_d encoder and decoder;
z = TopK(ReLU(W_e (x − b) + b_e)), x̂ = W_d z + b, e = x − x̂; a unit's direction is its column of W_d, of length 1.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float, Int64
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, linear, normalize

from models import Count, Positive, UserError, check_choice, check_whole
from models.batches import inputs_of

__all__ = ["SAE", "Codes", "auxiliary_loss", "combination", "matryoshka_loss", "top_units"]

CHUNK = 4096  # rows that are encoded at a time
AUXILIARY_WEIGHT = 1 / 32  # Gao et al., appendix A.2


class Codes(NamedTuple):
    """Sparse codes of rows: the values and indices of their active units, the largest value first.

    A row with fewer than k active units is padded with values of 0.
    """

    values: Float[Tensor, "n k"]
    units: Int64[Tensor, "n k"]

    def first(self, k: int) -> "Codes":
        """Keep the k largest units of each row."""
        return Codes(self.values[:, :k], self.units[:, :k])

    def rows(self, rows: Tensor | slice) -> "Codes":
        """Select rows."""
        return Codes(self.values[rows], self.units[rows])

    def dense(self, width: int) -> Float[Tensor, "n width"]:
        """Return the codes as a matrix with a column for each unit."""
        return self.values.new_zeros(len(self.values), width).scatter_add_(1, self.units, self.values)


def top_units(activations: Float[Tensor, "n width"], k: int) -> Codes:
    """Return the k largest positive activations of each row.

    >>> top_units(torch.tensor([[0.5, -1.0, 2.0]]), 2).dense(3)
    tensor([[0.5000, 0.0000, 2.0000]])
    """
    return Codes(*activations.relu().topk(k, 1))


def combination(codes: Codes, directions: Float[Tensor, "width d"]) -> Float[Tensor, "n d"]:
    """Return Σ_j z_j direction_j of each row, which reads only the directions of active units.

    >>> combination(Codes(torch.tensor([[2.0, 1.0]]), torch.tensor([[1, 0]])), torch.eye(2))
    tensor([[1., 2.]])
    """
    return embedding_bag(codes.units, directions, per_sample_weights=codes.values, mode="sum")


def matryoshka_loss(rows: Float[Tensor, "n d"], reconstructions: Sequence[Float[Tensor, "n d"]],
                    weights: Sequence[float]) -> Float[Tensor, ""]:  # fmt: skip
    """Return Σ_i α_i MSE(x, x̂_i) / Σ_i α_i over reconstructions x̂_i from few to many units.

    >>> matryoshka_loss(torch.ones(1, 2), [torch.zeros(1, 2), torch.ones(1, 2)], [1.0, 1.0])
    tensor(0.5000)
    """
    losses = [weight * (rows - each).square().mean() for weight, each in zip(weights, reconstructions, strict=True)]
    return torch.stack(losses).sum() / sum(weights)


def auxiliary_loss(error: Float[Tensor, "n d"], activations: Float[Tensor, "n width"],
                   directions: Float[Tensor, "width d"], dead: Bool[Tensor, " width"],
                   k: int) -> Float[Tensor, ""]:  # fmt: skip
    """Return MSE(e, ê) / MSE(e, 0), with ê the reconstruction of the error e from its k largest dead units.

    It is 1 if these units explain nothing of the error.

    >>> auxiliary_loss(torch.ones(1, 2), torch.tensor([[1.0, 0.0]]), torch.eye(2), torch.tensor([True, True]), k=1)
    tensor(0.5000)
    """
    codes = top_units(activations.masked_fill(~dead, 0), min(k, len(dead)))
    return (error - combination(codes, directions)).square().mean() / error.square().mean().clamp_min(1e-12)


class SAE(pl.LightningModule):
    """The sparse auto-encoder, trained on batches {"features": (b, d)}; call `start` with the training rows first.

    Codes are in the features' own units: x ≈ offset + Σ_j z_j direction_j.

    Arguments:
        features: dimension of the rows.
        expansion: number of units per feature.
        active: active units per row; for a list (Matryoshka) the loss covers all, and `encode` uses the largest.
        weighting: weights α_i of this list: uniform, or reverse, which gives fewer units more weight (the paper's RW).
        dead_after: a unit is dead if so many rows in sequence have not used it.
        learning_rate: initial learning rate of Adam, which falls to 0 by a half cosine.

    Raises:
        UserError: the weighting is unknown, or the number of active units is below 1 or above the number of units.
    """

    mean: Tensor
    scale: Tensor
    unused: Tensor

    def __init__(
        self,
        features: int,
        expansion: Count = 8,
        active: Count | list[Count] = 16,
        weighting: Literal["uniform", "reverse"] = "uniform",
        dead_after: Count = 100_000,
        learning_rate: Positive = 1e-3,
    ) -> None:
        super().__init__()
        check_choice("sae.weighting", weighting, ("uniform", "reverse"))
        check_whole("sae.expansion", expansion, 1)
        check_whole("sae.dead_after", dead_after, 1)
        width, active = expansion * features, sorted([active] if isinstance(active, int) else active)
        if not active or active[0] < 1 or active[-1] > width:
            raise UserError(f"Expected sae.active from 1 to {width}, the units there are, got {active}: choose others.")
        self.save_hyperparameters()
        self.active = active
        self.weights = [float(i) for i in range(len(active), 0, -1)] if weighting == "reverse" else [1.0] * len(active)
        self.decoder = nn.Parameter(normalize(torch.randn(width, features), dim=1))
        self.encoder = nn.Parameter(self.decoder.detach().clone())  # the transpose, so that no unit is dead at first
        self.encoder_bias, self.bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("unused", torch.zeros(width, dtype=torch.int64))  # rows since a unit's last use

    @torch.no_grad()
    def start(self, rows: Float[Tensor, "n features"]) -> None:
        """Set the mean and the scale of the rows, so that predicting the mean has a loss of 1.

        Raises:
            UserError: rows are not finite, or all equal.
        """
        self.mean.copy_(rows.mean(0, dtype=torch.float64))
        deviation = float((rows - self.mean.to(rows.device)).square().mean(dtype=torch.float64)) ** 0.5
        if not 0 < deviation < float("inf"):
            raise UserError(f"Expected finite rows that differ, got a deviation of {deviation}: look at the data.")
        self.scale.fill_(1 / deviation)

    @property
    def directions(self) -> Float[Tensor, "width features"]:
        # Normalised here, so that the gradient does not change their length.
        return normalize(self.decoder, dim=1)

    def activations(self, scaled: Float[Tensor, "n features"]) -> Float[Tensor, "n width"]:
        return linear(scaled - self.bias, self.encoder, self.encoder_bias)

    @torch.no_grad()
    def encode(self, rows: Float[Tensor, "n features"], active: int | None = None) -> Codes:
        """Encode any number of rows on any device with `active` units, by default the largest; codes are on the CPU.

        Raises:
            UserError: `active` is below 1 or above the number of units.
        """
        k = self.active[-1] if active is None else active
        if not 1 <= k <= len(self.decoder):
            raise UserError(f"Expected active= from 1 to {len(self.decoder)}, the units there are, got {k}.")
        parts = [(part.to(self.device) - self.mean) * self.scale for part in rows.split(CHUNK)]
        codes = [top_units(self.activations(part), k) for part in parts]
        values = torch.cat([each.values for each in codes]) / self.scale
        return Codes(values.cpu(), torch.cat([each.units for each in codes]).cpu())

    @torch.no_grad()
    def decode(self, codes: Codes) -> Float[Tensor, "n features"]:
        """Reconstruct rows from codes, on the CPU."""
        offset, directions = self.mean + self.bias / self.scale, self.directions
        parts = zip(codes.values.split(CHUNK), codes.units.split(CHUNK), strict=True)
        rows = [combination(Codes(*(each.to(self.device) for each in part)), directions) for part in parts]
        return (torch.cat(rows) + offset).cpu()

    def terms(self, rows: Float[Tensor, "n features"]) -> tuple[dict[str, Float[Tensor, ""]], Codes]:
        """Return the terms of the loss of a batch, and its codes."""
        scaled, directions = (rows - self.mean) * self.scale, self.directions
        activations = self.activations(scaled)
        codes = top_units(activations, self.active[-1])
        reconstructions = [combination(codes.first(k), directions) + self.bias for k in self.active]
        terms = {"unexplained": matryoshka_loss(scaled, reconstructions, self.weights)}
        dead = self.unused >= self.hparams["dead_after"]
        if bool(dead.any()):
            k = max(1, scaled.shape[1] // 2)
            error = (scaled - reconstructions[-1]).detach()
            terms["auxiliary"] = AUXILIARY_WEIGHT * auxiliary_loss(error, activations, directions, dead, k)
        return terms, codes

    def training_step(self, batch: Any, _: int) -> Tensor:
        terms, codes = self.terms(inputs_of(batch, "features"))
        self.unused += len(codes.values)
        self.unused[codes.units[codes.values > 0]] = 0
        dead = (self.unused >= self.hparams["dead_after"]).float().mean()
        self.log_dict({"sae/unused_share": dead, **{f"sae/{name}": term for name, term in terms.items()}})
        return torch.stack(list(terms.values())).sum()

    @torch.no_grad()
    def on_train_batch_end(self, *_: object) -> None:
        self.decoder.copy_(self.directions)  # orthogonal steps make it longer, which would make the next ones smaller

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.parameters(), self.hparams["learning_rate"])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
