"""Diagonal normal distributions: reparametrised samples and the Kullback-Leibler divergence."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["draw", "kl_divergence"]


def draw(mean: Float[Tensor, "batch latent"], logvar: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
    """Draw one sample per row from N(mean, exp(logvar)), by reparametrisation.

    >>> draw(torch.tensor([[1.0, 2.0]]), torch.full((1, 2), -torch.inf))
    tensor([[1., 2.]])
    """
    return mean + torch.randn_like(mean) * (logvar / 2).exp()


def kl_divergence(
    mean: Float[Tensor, "batch latent"], logvar: Float[Tensor, "batch latent"]
) -> Float[Tensor, " batch"]:
    """Return KL(N(mean, var) ‖ N(0, I)) = ½ Σ (mean² + var − 1 − log var) of each row, in nats.

    >>> kl_divergence(torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([0.])
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1)
