"""Sparse auto-encoders of frozen embeddings: each row as a sum of a few of many learned directions, its concepts.

TopK, and the auxiliary loss that brings dead units back: Gao et al. 2024, "Scaling and evaluating sparse autoencoders",
https://arxiv.org/abs/2406.04093. Matryoshka, the sum of the k largest units for several k at once: Zaigrajew, Baniecki,
Biecek 2025, https://arxiv.org/abs/2502.20578. Symbols: x a row, centred and scaled; W_e and W_d encoder and decoder;
z = TopK(ReLU(W_e (x − b) + b_e)), x̂ = W_d z + b, e = x − x̂; a unit's direction is its column of W_d, of length 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float, Int64
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, linear, normalize

from models import UserError, check_choice

__all__ = ["SAE", "Codes", "auxiliary_loss", "combination", "matryoshka_loss", "top_units"]

CHUNK = 4096  # rows that are encoded at once
AUXILIARY_WEIGHT = 1 / 32  # Gao et al., appendix A.2


class Codes(NamedTuple):
    """Rows as sums of few units, the largest first; where a row has fewer than k of them, the rest have value 0."""

    values: Float[Tensor, "n k"]
    units: Int64[Tensor, "n k"]

    def first(self, k: int) -> "Codes":
        """The k largest of each row."""
        return Codes(self.values[:, :k], self.units[:, :k])

    def rows(self, rows: Tensor | slice) -> "Codes":
        return Codes(self.values[rows], self.units[rows])

    def dense(self, width: int) -> Float[Tensor, "n width"]:
        """With a column for each unit."""
        return self.values.new_zeros(len(self.values), width).scatter_add_(1, self.units, self.values)


def top_units(activations: Float[Tensor, "n width"], k: int) -> Codes:
    """The k largest positive activations of each row."""
    return Codes(*activations.relu().topk(k, 1))


def combination(codes: Codes, directions: Float[Tensor, "width d"]) -> Float[Tensor, "n d"]:
    """Σ_j z_j direction_j, read from the directions in use alone."""
    return embedding_bag(codes.units, directions, per_sample_weights=codes.values, mode="sum")


def matryoshka_loss(rows: Float[Tensor, "n d"], found: Sequence[Float[Tensor, "n d"]],
                    weights: Sequence[float]) -> Float[Tensor, ""]:  # fmt: skip
    """Σ_i α_i MSE(x, x̂_i) / Σ_i α_i, of the reconstructions from few units to those from many."""
    losses = [weight * (rows - one).square().mean() for weight, one in zip(weights, found, strict=True)]
    return torch.stack(losses).sum() / sum(weights)


def auxiliary_loss(error: Float[Tensor, "n d"], activations: Float[Tensor, "n width"],
                   directions: Float[Tensor, "width d"], dead: Bool[Tensor, " width"],
                   k: int) -> Float[Tensor, ""]:  # fmt: skip
    """MSE(e, ê) / MSE(e, 0), ê what the k largest dead units make of the error: 1 where they say nothing of it."""
    codes = top_units(activations.masked_fill(~dead, 0), min(k, len(dead)))
    return (error - combination(codes, directions)).square().mean() / error.square().mean().clamp_min(1e-12)


class SAE(pl.LightningModule):
    """The auto-encoder and its training on batches {"features": (b, d)}: call `start` with the training rows before.

    Codes are in the features' own units: x ≈ a mean + Σ_j z_j direction_j.

    Arguments:
        features: of a row.
        expansion: units for each feature.
        active: units of a row; of several numbers (Matryoshka) the loss is over all, and the largest is used.
        weighting: of these, α_i: uniform, or reverse, so that fewer units weigh more (the paper's RW).
        dead_after: rows after which a unit that none of them used is dead.
        learning_rate: of Adam, falling to 0 by a half cosine.

    Raises:
        UserError: an unknown weighting; fewer than one active unit, or more than there are.
    """

    mean: Tensor
    scale: Tensor
    unused: Tensor

    def __init__(
        self,
        features: int,
        expansion: int = 8,
        active: int | list[int] = 16,
        weighting: str = "uniform",
        dead_after: int = 100_000,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__()
        check_choice("sae.weighting", weighting, ("uniform", "reverse"))
        width, active = expansion * features, sorted([active] if isinstance(active, int) else active)
        if not active or active[0] < 1 or active[-1] > width:
            raise UserError(f"Expected sae.active from 1 to {width}, the units there are, got {active}: choose others.")
        self.save_hyperparameters()
        self.active = active
        self.weights = [float(i) for i in range(len(active), 0, -1)] if weighting == "reverse" else [1.0] * len(active)
        self.decoder = nn.Parameter(normalize(torch.randn(width, features), dim=1))
        self.encoder = nn.Parameter(self.decoder.detach().clone())  # its transpose, so that no unit starts dead
        self.encoder_bias, self.bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("unused", torch.zeros(width, dtype=torch.int64))  # rows since a unit's last use

    @torch.no_grad()
    def start(self, rows: Float[Tensor, "n features"]) -> None:
        """Take mean and scale, so that always giving the mean has loss 1.

        Raises:
            UserError: rows that are not finite, or all equal.
        """
        self.mean.copy_(rows.mean(0, dtype=torch.float64))
        deviation = float((rows - self.mean.to(rows.device)).square().mean(dtype=torch.float64)) ** 0.5
        if not 0 < deviation < float("inf"):
            raise UserError(f"Expected finite rows that differ, got a deviation of {deviation}: look at the data.")
        self.scale.fill_(1 / deviation)

    @property
    def directions(self) -> Float[Tensor, "width features"]:
        # Normalised here, so that no gradient goes into their length.
        return normalize(self.decoder, dim=1)

    def activations(self, scaled: Float[Tensor, "n features"]) -> Float[Tensor, "n width"]:
        return linear(scaled - self.bias, self.encoder, self.encoder_bias)

    @torch.no_grad()
    def encode(self, rows: Float[Tensor, "n features"], active: int | None = None) -> Codes:
        """Codes of any number of rows, wherever they lie, on the CPU; of fewer units than the most where asked for."""
        k = self.active[-1] if active is None else active
        if not 1 <= k <= len(self.decoder):
            raise UserError(f"Expected active= from 1 to {len(self.decoder)}, the units there are, got {k}.")
        parts = [(part.to(self.device) - self.mean) * self.scale for part in rows.split(CHUNK)]
        found = [top_units(self.activations(part), k) for part in parts]
        values = torch.cat([codes.values for codes in found]) / self.scale
        return Codes(values.cpu(), torch.cat([codes.units for codes in found]).cpu())

    @torch.no_grad()
    def decode(self, codes: Codes) -> Float[Tensor, "n features"]:
        """Rows from codes, on the CPU."""
        offset, directions = self.mean + self.bias / self.scale, self.directions
        parts = zip(codes.values.split(CHUNK), codes.units.split(CHUNK), strict=True)
        found = [combination(Codes(*(each.to(self.device) for each in part)), directions) for part in parts]
        return (torch.cat(found) + offset).cpu()

    def terms(self, rows: Float[Tensor, "n features"]) -> tuple[dict[str, Float[Tensor, ""]], Codes]:
        """The parts of the loss of a batch, and its codes."""
        scaled, directions = (rows - self.mean) * self.scale, self.directions
        activations = self.activations(scaled)
        codes = top_units(activations, self.active[-1])
        found = [combination(codes.first(k), directions) + self.bias for k in self.active]
        terms = {"unexplained": matryoshka_loss(scaled, found, self.weights)}
        dead = self.unused >= self.hparams["dead_after"]
        if bool(dead.any()):
            k = max(1, scaled.shape[1] // 2)
            error = (scaled - found[-1]).detach()
            terms["auxiliary"] = AUXILIARY_WEIGHT * auxiliary_loss(error, activations, directions, dead, k)
        return terms, codes

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        terms, codes = self.terms(batch["features"])
        self.unused += len(codes.values)
        self.unused[codes.units[codes.values > 0]] = 0
        dead = (self.unused >= self.hparams["dead_after"]).float().mean()
        self.log_dict({"sae/unused_share": dead, **{f"sae/{name}": term for name, term in terms.items()}})
        return torch.stack(list(terms.values())).sum()

    @torch.no_grad()
    def on_train_batch_end(self, *_: object) -> None:
        self.decoder.copy_(self.directions)  # steps at a right angle make it longer, and the next ones smaller

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.parameters(), self.hparams["learning_rate"])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
