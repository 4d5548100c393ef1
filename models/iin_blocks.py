"""Blocks of the codes of the invertible interpretation network (`models/iin.py`): one for each factor."""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models import UserError
from models.labels import LabelEmbedding

__all__ = ["block_masks", "block_sizes_from_pairs", "blocks_of", "check_blocks", "correlations"]


def block_sizes_from_pairs(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], factor: Int64[Tensor, " n"], count: int
) -> list[int]:
    """Estimate how many dimensions each factor needs, as the authors do (their `iterators/base.py`).

    s_F = Σ_i Cov(a_i, b_i | F) / Σ_i Var(z_i) over pairs that share F, and s = 1 for the residual. Each factor gets its
    softmax share of the d dimensions, rounded down but at least 1; the residual gets the rest. As |s| ≤ 1, shares
    differ by a factor of at most e².

    >>> rows = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    >>> block_sizes_from_pairs(rows, rows, torch.tensor([0, 0, 0, 0]), count=1)
    [1]
    """
    total = torch.cat([a, b]).var(0).sum()
    scores = []
    for f in range(count):
        x, y = a[factor == f], b[factor == f]
        scores.append(((x - x.mean(0)) * (y - y.mean(0))).mean(0).sum() / total)
    shares = torch.softmax(torch.stack([*scores, torch.ones_like(total)]), 0)[:-1]
    return [max(1, int(share * a.shape[1])) for share in shares]


def blocks_of(sizes: list[int] | Literal["auto"]) -> list[slice]:
    """Return consecutive blocks of the given sizes.

    Raises:
        UserError: "auto", which only a run can estimate, from its pairs.

    >>> blocks_of([2, 1])
    [slice(0, 2, None), slice(2, 3, None)]
    """
    if sizes == "auto":
        raise UserError("Expected iin.block_sizes as numbers, got auto: estimate them by block_sizes_from_pairs.")
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    return [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def block_masks(blocks: list[slice], codes: int) -> Float[Tensor, "factors codes"]:
    """Return a row per factor: 1 for the codes of its block, 0 for the others.

    >>> block_masks([slice(0, 2), slice(2, 3)], 4)
    tensor([[1., 1., 0., 0.],
            [0., 0., 1., 0.]])
    """
    masks = torch.zeros(len(blocks), codes)
    for i, block in enumerate(blocks):
        masks[i, block] = 1.0
    return masks


def check_blocks(blocks: list[slice], labels: LabelEmbedding, features: int, by_label: bool) -> None:
    """Check that blocks fit the latents and the factors.

    With `by_label` every component has to be one dimension of the labels' embedding.

    Raises:
        ValueError: no latent is left for the residual, there is not one block per factor, or the sizes differ from
            the labels'.
    """
    sizes, residual = [block.stop - block.start for block in blocks], blocks[-1].stop if blocks else 0
    if residual >= features:
        raise ValueError(
            f"Expected fewer factor dimensions than the {features} latents, got {residual} in blocks {sizes}; "
            "use smaller iin.block_sizes or a larger latent."
        )
    if len(blocks) != len(labels.factors):
        raise ValueError(f"Expected one block size per factor ({len(labels.factors)}), got {len(blocks)}.")
    if by_label and blocks != labels.blocks:
        expected = [block.stop - block.start for block in labels.blocks]
        raise ValueError(
            f"Expected block sizes {expected}, one component per label dimension, got {sizes}; "
            "only iin.objective=likelihood iin.head=pairs takes others."
        )


def correlations(correlation: float | list[float], count: int) -> Float[Tensor, " factors"]:
    """Return ρ of each of `count` factors, given one number for all or one per factor.

    Raises:
        ValueError: a number is outside of [0, 1), or there are not `count` of them.

    >>> correlations(0.5, 2)
    tensor([0.5000, 0.5000])
    """
    values = [correlation] if isinstance(correlation, (int, float)) else list(correlation)
    if not all(0 <= value < 1 for value in values) or len(values) not in (1, count):
        raise ValueError(f"Expected iin.correlation in [0, 1), one number or one per factor, got {correlation}.")
    rho = [correlation] * count if isinstance(correlation, (int, float)) else values
    return torch.tensor(rho, dtype=torch.float32)
