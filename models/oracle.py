"""An editor that is trained on true counterfactual pairs: an upper bound for editors of the same latents."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from models.labels import Factor, Statistics
from models.networks import mlp

__all__ = ["Oracle"]


class Oracle(nn.Module):
    """Edits latents to z + strength · deviation · f(z, factor, target value), f an MLP on standardised latents.

    Arguments:
        factors, labels: the table's factors and the statistics of their training labels.
        mean, deviation: mean and standard deviation of the training latents.
        width, depth: hidden units and layers of the MLP.
    """

    mean: Tensor
    deviation: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        factors: Sequence[Factor],
        labels: Statistics,
        mean: Float[Tensor, " features"],
        deviation: Float[Tensor, " features"],
        width: int = 512,
        depth: int = 3,
    ) -> None:
        super().__init__()
        self.factors = tuple(factors)
        categorical = torch.tensor([f.kind == "categorical" for f in self.factors])
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        # A categorical value is encoded one-hot, any other value is standardised.
        self.register_buffer("centre", torch.where(categorical, 0.0, labels.mean.nan_to_num(0.0)))
        self.register_buffer("spread", torch.where(categorical, 1.0, labels.deviation.nan_to_num(1.0).clamp(min=1e-6)))
        self.columns = [len(f.values) if f.kind == "categorical" else 1 for f in self.factors]
        self.network = mlp(len(mean) + len(self.factors) + sum(self.columns), len(mean), width, depth)

    def forward(
        self, z: Float[Tensor, "batch features"], factor: Int64[Tensor, " batch"], value: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch features"]:
        """Predict the change of standardised latents that sets each row's factor to its target value."""
        chosen = functional.one_hot(factor, len(self.factors)).float()
        parts = [z, chosen]
        for i, (f, columns) in enumerate(zip(self.factors, self.columns, strict=True)):
            if f.kind == "categorical":
                target = functional.one_hot(value.long().clamp(0, columns - 1), columns).float()
            else:
                target = ((value - self.centre[i]) / self.spread[i])[:, None]
            parts.append(target * chosen[:, i : i + 1])
        return self.network(torch.cat(parts, dim=1))

    @torch.no_grad()
    def edit(
        self,
        latents: Float[Tensor, "batch features"],
        factor: int,
        value: Float[Tensor, " batch"],
        strength: float = 1.0,
    ) -> Float[Tensor, "batch features"]:
        """Edit a factor of latents to a value in the table's unit; see docs/architecture.md."""
        factors = torch.full((len(latents),), factor, device=latents.device)
        change = self((latents - self.mean) / self.deviation, factors, value.to(latents.device))
        return latents + strength * change * self.deviation
