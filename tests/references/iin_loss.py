"""The IIN authors' loss for pairs, retyped with loops from their code, for comparison only.

Source: https://github.com/CompVis/iin at commit fa0d2d1 (MIT), iin/losses/iin.py, lines 39-73; formula only, one pair
at a time, ρ = .975 there. nll(u) = ½ Σ u²; the sum over factors k includes the residual.
"""

import math


def pair_loss(
    codes_a: list[list[float]],
    codes_b: list[list[float]],
    log_det_a: float,
    log_det_b: float,
    shared_factor: int,
    rho: float,
) -> float:
    """One pair; codes as lists of blocks, block number `shared_factor` is what the pair shares."""
    loss = 0.5 * sum(u**2 for block in codes_a for u in block) - log_det_a
    for k, (block_a, block_b) in enumerate(zip(codes_a, codes_b, strict=True)):
        m = 1 if k == shared_factor else 0
        nll = 0.5 * sum((v - m * rho * u) ** 2 for u, v in zip(block_a, block_b, strict=True))
        loss += nll / (1 - m * rho**2)
    return loss - log_det_b


def gaussian_pair_nll(a: float, b: float, rho: float) -> float:
    """−log density of a bivariate normal with unit variances and correlation ρ: what the loss is, plus constants."""
    quadratic = (a * a - 2 * rho * a * b + b * b) / (2 * (1 - rho**2))
    return quadratic + math.log(2 * math.pi) + 0.5 * math.log(1 - rho**2)
