"""Loss terms of the invertible interpretation network (`models/iin.py`): for pairs, labels and the residual."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from models.arrays import Array, as_tensor

__all__ = ["bits_per_dim", "label_loss", "pair_loss", "residual_nll"]


def pair_loss(
    codes_a: Float[Tensor, "batch d"],
    codes_b: Float[Tensor, "batch d"],
    log_det_a: Float[Tensor, " batch"],
    log_det_b: Float[Tensor, " batch"],
    shared: Float[Tensor, "*batch d"],
    correlation: float | Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Return −log p(z_a, z_b) of each pair that shares a factor, in nats up to a constant.

    ½‖T(z_a)‖² − log|T'(z_a)| + Σ_k ½ (T(z_b)_k − m_k ρ T(z_a)_k)² / (1 − m_k ρ²) − log|T'(z_b)|,

    with the mask m (`shared`) of the factor's dimensions, (d,) or (batch, d), and one ρ for all pairs or one per pair.
    The factor ½ of every square is in the authors' code but missing in the paper; without it log|T'| would have half
    the weight that it has in a Gaussian's log-density.

    >>> pair_loss(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1), torch.zeros(1), torch.zeros(2), 0.5)
    tensor([2.])
    """
    rho = torch.as_tensor(correlation, dtype=codes_a.dtype, device=codes_a.device).reshape(-1, 1)
    first = 0.5 * codes_a.square().sum(1) - log_det_a
    deviation = (codes_b - shared * rho * codes_a).square() / (1 - shared * rho.square())
    return first + 0.5 * deviation.sum(1) - log_det_b


def label_loss(
    codes: Float[Tensor, "batch label"],
    labels: Float[Tensor, "batch label"],
    known: Float[Tensor, "batch label"],
    deviation: float,
) -> Float[Tensor, " batch"]:
    """Return −log p(codes | labels) of each row, in nats up to a constant.

    p is N(label, deviation²) where the label is known, else N(0, 1). `known` is 0 for unknown labels, and the weight of
    the others, usually 1.

    >>> label_loss(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), 0.5)
    tensor([2.5000])
    """
    return 0.5 * torch.where(known > 0, known * ((codes - labels) / deviation).square(), codes.square()).sum(1)


def residual_nll(
    residual: Float[Tensor, "batch residual"], log_det: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Return ½‖residual‖² − log|T'| of each row, the residual's negative log-likelihood in nats up to a constant.

    >>> residual_nll(torch.ones(1, 2), torch.zeros(1))
    tensor([1.])
    """
    return 0.5 * residual.square().sum(1) - log_det


def bits_per_dim(codes: Float[Array, "batch d"], log_det: Float[Array, " batch"]) -> Float[Tensor, " batch"]:
    """Return −log₂ p(z) / d of each row, by the change of variables, for latents whose codes T(z) are N(0, I).

    >>> bits_per_dim(torch.zeros(1, 2), torch.zeros(1))
    tensor([1.3257])
    """
    d = codes.shape[1]
    return (residual_nll(as_tensor(codes), as_tensor(log_det)) / d + 0.5 * math.log(2 * math.pi)) / math.log(2)
