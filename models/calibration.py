"""Codes of a factor's value and of a component's value (`models/iin.py`), estimated from codes of training data."""

import torch
from jaxtyping import Float
from torch import Tensor

from models.labels import LabelEmbedding

__all__ = [
    "KNOTS",
    "MOST_ENCODED",
    "QUANTILES",
    "check_calibrated",
    "component_at",
    "component_quantiles",
    "design",
    "drawn_codes",
    "fitted_normal",
    "fitted_targets",
    "value_knots",
]

QUANTILES = 257  # stored per component, including the minimum and the maximum
KNOTS = 9  # of the piecewise linear path that codes follow as a continuous value grows
MOST_ENCODED = 2048  # training rows from which a diffusion flow is calibrated: it encodes slowly


def check_calibrated(quantiles: Float[Tensor, "quantiles codes"]) -> None:
    """Check that the quantiles of the components have been computed.

    Raises:
        RuntimeError: all of them are zero.
    """
    if not bool(quantiles.any()):
        raise RuntimeError("Expected a calibrated network, got one that is not: call calibrate(latents, labels) first.")


def component_quantiles(codes: Float[Tensor, "n codes"]) -> Float[Tensor, "quantiles codes"]:
    """Return each component's quantiles at `QUANTILES` even steps, from its smallest to its largest code.

    >>> component_quantiles(torch.arange(5.0)[:, None])[[0, 128, 256]].flatten()
    tensor([0., 2., 4.])
    """
    steps = torch.linspace(0, 1, QUANTILES, dtype=codes.dtype, device=codes.device)
    return torch.quantile(codes[:100_000], steps, dim=0)


def component_at(quantiles: Float[Tensor, " quantiles"], value: float) -> Float[Tensor, ""]:
    """Return the quantile Φ(value) of a component, for a value in standard deviations of a normal distribution.

    So −3 and +2 mean the same for every component, whatever its distribution.

    >>> component_at(torch.linspace(0, 1, QUANTILES), 0.0)
    tensor(0.5000)
    """
    position = torch.special.ndtr(torch.tensor(float(value), dtype=quantiles.dtype)) * (QUANTILES - 1)
    low = int(position.floor().clamp(max=QUANTILES - 2))
    return torch.lerp(quantiles[low], quantiles[low + 1], position.to(quantiles) - low)


def fitted_normal(
    residual: Float[Tensor, "n residual"],
) -> tuple[Float[Tensor, " residual"], Float[Tensor, "residual residual"]]:
    """Fit the prior N(m, L Lᵀ) to residual codes; return m and the Cholesky factor L, in float64.

    With a small weight of the likelihood these codes are correlated and narrower than the standard normal.

    >>> fitted_normal(torch.tensor([[0.0], [2.0]]))[0]
    tensor([1.], dtype=torch.float64)
    """
    residual = residual.double()
    centred = residual - residual.mean(0)
    covariance = centred.T @ centred / len(residual)
    ridge = 1e-6 * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
    return residual.mean(0), torch.linalg.cholesky(covariance + ridge)


def drawn_codes(
    n: int,
    quantiles: Float[Tensor, "quantiles codes"],
    mean: Float[Tensor, " residual"],
    factor: Float[Tensor, "residual residual"],
    generator: torch.Generator | None,
) -> Float[Tensor, "n codes"]:
    """Sample n codes: each component of a factor from its own quantiles, the residual from N(m, L Lᵀ)."""
    components = quantiles.shape[1] - len(mean)
    noise = torch.randn(n, len(mean), generator=generator).to(quantiles)
    row = torch.randint(QUANTILES, (n, components), generator=generator).to(quantiles.device)
    return torch.cat([quantiles[:, :components].gather(0, row), mean + noise @ factor.T], 1)


def value_knots(values: Float[Tensor, " n"]) -> Float[Tensor, " knots"]:
    """Return `KNOTS` quantiles of a factor's values at even steps, from the smallest to the largest value.

    >>> value_knots(torch.arange(9.0))
    tensor([0., 1., 2., 3., 4., 5., 6., 7., 8.])
    """
    steps = torch.linspace(0, 1, QUANTILES, dtype=values.dtype, device=values.device)
    return torch.quantile(values[:1_000_000], steps[:: (QUANTILES - 1) // (KNOTS - 1)])


def design(
    labels: LabelEmbedding, factor: int, value: Float[Tensor, " batch"], knots: Float[Tensor, " knots"]
) -> Float[Tensor, "batch columns"]:
    """Return the design matrix that `fitted_targets` regresses codes on.

    A row is the label's embedding and 1; for a continuous factor it holds the weights of linear interpolation between
    the two knots around the value.

    >>> binary = LabelEmbedding([("hat", "binary", ["without", "with"])])
    >>> design(binary, 0, torch.tensor([0.0, 1.0]), torch.empty(0))
    tensor([[-1.,  1.],
            [ 1.,  1.]])
    """
    if labels.factors[factor].kind != "continuous":
        embedded = labels.embed(factor, value)
        return torch.cat([embedded, torch.ones_like(embedded[:, :1])], 1)
    upper = torch.searchsorted(knots, value.contiguous()).clamp(1, KNOTS - 1)[:, None]
    below, above = knots[upper - 1], knots[upper]
    position = ((value[:, None] - below) / (above - below).clamp(min=1e-12)).clamp(0, 1)
    return value.new_zeros(len(value), KNOTS).scatter(1, upper, position).scatter(1, upper - 1, 1 - position)


def fitted_targets(
    design: Float[Tensor, "n columns"], codes: Float[Tensor, "n block"]
) -> Float[Tensor, "columns block"]:
    """Return the least squares solution A of design A = codes.

    design A are a factor's class-conditional means of the codes; for a continuous factor they are a piecewise linear
    path through the conditional means.

    >>> fitted_targets(torch.tensor([[-1.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0], [3.0]])).round(decimals=4)
    tensor([[1.],
            [2.]])
    """
    x = design.double()
    ridge = 1e-9 * len(x) * torch.eye(x.shape[1]).to(x)  # for a knot that no row is close to
    return torch.linalg.solve(x.T @ x + ridge, x.T @ codes.double()).to(codes.dtype)
