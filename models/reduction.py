"""Closed-form dimension reductions of embeddings, for one kind of rows or for pairs such as texts and their images.

Every reduction is an affine map for each kind of rows, (x − mean) weight, fitted on training rows at its full width.
Its columns are ordered, so the first k of them are the reduction to k dimensions. Symbols: X and Y are the rows of the
two kinds, (n, d), paired row by row; for one kind X = Y.

Cross-modal SVD: with the second moments M_x = XᵀX, M_y = YᵀY and M_x^½ M_y^½ = U S Vᵀ, the maps A = M_x^-½ U S^½ and
B = M_y^-½ V S^½, truncated to k columns, give the scores X A Bᵀ Yᵀ. These are the truncated SVD of X Yᵀ, the best
approximation of rank k in the Frobenius norm (Eckart and Young 1936, https://doi.org/10.1007/BF02288367).
"""

import math
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Float64
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from models import UserError, check_choice

__all__ = [
    "CLOSED_FORM", "METRICS", "Metric", "Reduction", "fit_reduction", "half_cosine", "lengths_of", "mean_of", "moment",
    "pca", "similarity", "squared_distances", "unit_rows",
]  # fmt: skip

Metric: TypeAlias = Literal["cosine", "euclidean", "dot"]
METRICS = ("cosine", "euclidean")
CHUNK = 16_384  # rows that are converted to float64 at a time


def squared_distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return |x − y|², of rows that are centred first; rounding may make it slightly negative.

    >>> squared_distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[25.]])
    """
    middle = y.detach().mean(0)  # far from the origin, the squares would lose the digits of small distances
    x, y = x - middle, y - middle
    return torch.addmm(y.square().sum(1), x, y.T, alpha=-2) + x.square().sum(1, keepdim=True)


def lengths_of(rows: Float[Tensor, "*rows d"]) -> Float64[Tensor, "*rows"]:
    """Return the lengths of rows in float64; no square of a short or long row underflows or overflows.

    >>> lengths_of(torch.tensor([[3e-30, 4e-30]])).mul(1e30).round(decimals=4)
    tensor([5.], dtype=torch.float64)
    """
    values = rows.double()
    largest = values.abs().amax(-1, keepdim=True)
    return (values / torch.where(largest > 0, largest, 1)).norm(dim=-1) * largest[..., 0]


def unit_rows(rows: Float[Tensor, "*rows d"]) -> Float64[Tensor, "*rows d"]:
    """Scale rows to unit length, in float64; rows of zeros stay.

    >>> unit_rows(torch.tensor([[3e-30, 4e-30], [0.0, 0.0]])).round(decimals=4).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    lengths = lengths_of(rows)[..., None]
    return rows.double() / torch.where(lengths > 0, lengths, 1)


def similarity(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], metric: Metric) -> Float[Tensor, "n m"]:
    """Return the similarity of rows: their cosine, their dot product, or −|x − y|² for `euclidean`.

    >>> similarity(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]]), "cosine")
    tensor([[1., 0.]])
    """
    if metric == "euclidean":
        return -squared_distances(x, y)
    return x @ y.T if metric == "dot" else unit_rows(x).to(x.dtype) @ unit_rows(y).to(y.dtype).T


def mean_of(rows: Float[Tensor, "n d"]) -> Float64[Tensor, " d"]:
    """Return the mean row, in float64.

    >>> mean_of(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    tensor([1., 2.], dtype=torch.float64)
    """
    return torch.stack([part.double().sum(0) for part in rows.split(CHUNK)]).sum(0) / len(rows)


def moment(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"], mean_x: Float64[Tensor, " d"],
           mean_y: Float64[Tensor, " e"]) -> Float64[Tensor, "d e"]:  # fmt: skip
    """Return (X − mean_x)ᵀ (Y − mean_y), in float64.

    >>> x, mean = torch.tensor([[0.0], [2.0]]), torch.ones(1, dtype=torch.float64)
    >>> moment(x, x, mean, mean)
    tensor([[2.]], dtype=torch.float64)
    """
    total = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, device=x.device)
    for a, b in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        total += (a.double() - mean_x).T @ (b.double() - mean_y)
    return total


def half_cosine(parameters: Iterable[nn.Parameter], rate: float, steps: int) -> OptimizerLRScheduler:
    """Return Adam with a learning rate that falls to 0 by a half cosine."""
    optimizer = torch.optim.Adam(parameters, rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * min(step / steps, 1))) / 2
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Reduction(pl.LightningModule):
    """An affine map for each of one or two kinds of rows, as `fit_reduction` fits it; zero before.

    Arguments:
        features: dimension of the rows.
        kinds: 1, or 2 for texts and images.
        metric: similarity that the reduced rows are meant for.
    """

    mean: Tensor
    weight: Tensor

    def __init__(self, features: int, kinds: int = 1, metric: Metric = "cosine") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.metric = metric
        self.register_buffer("mean", torch.zeros(kinds, features))
        self.register_buffer("weight", torch.zeros(kinds, features, features))

    def forward(self, rows: Float[Tensor, "n d"], kind: int = 0) -> Float[Tensor, "n d"]:
        """Reduce rows of a kind, 0 or 1."""
        return (rows - self.mean[kind]) @ self.weight[kind]


Fitted: TypeAlias = tuple[Float[Tensor, "#kinds d"], Float[Tensor, "#kinds d d"]]  # means and weights


def principal_axes(kinds: list[Float[Tensor, "n d"]], means: Float64[Tensor, "kinds d"]) -> Float64[Tensor, "d d"]:
    """Return the eigenvectors of the second moment in columns, the largest eigenvalue first.

    Their signs are chosen so that the components of each sum to a positive number.
    """
    moments = [moment(rows, rows, mean, mean) for rows, mean in zip(kinds, means, strict=True)]
    axes = torch.linalg.eigh(torch.stack(moments).sum(0)).eigenvectors.flip(1)
    return torch.where(axes.sum(0) < 0, -axes, axes)


def common_axes(kinds: list[Float[Tensor, "n d"]], seed: int) -> Fitted:
    """Fit the principal components of all rows around their common mean; both kinds share the map."""
    mean = torch.stack([mean_of(rows) for rows in kinds]).mean(0, keepdim=True)  # the kinds have equally many rows
    return mean, principal_axes(kinds, mean.expand(len(kinds), -1))[None]


def centred_axes(kinds: list[Float[Tensor, "n d"]], seed: int) -> Fitted:
    """Fit the principal components around the mean of each kind, which exclude the offset between texts and images."""
    means = torch.stack([mean_of(rows) for rows in kinds])
    return means, principal_axes(kinds, means)[None]


def powers(moment: Float64[Tensor, "d d"]) -> tuple[Float64[Tensor, "d d"], Float64[Tensor, "d d"]]:
    """Return M^½ and its pseudo-inverse."""
    values, axes = torch.linalg.eigh(moment)
    roots = values.clamp_min(0).sqrt()
    inverse = torch.where(values > values.max() * 1e-12, 1 / roots, 0)
    return axes * roots @ axes.T, axes * inverse @ axes.T


def cross_modal_maps(kinds: list[Float[Tensor, "n d"]], seed: int) -> Fitted:
    """Fit the maps of the cross-modal SVD, see the top of this module."""
    zero = torch.zeros_like(kinds[0][0], dtype=torch.float64)
    (root_x, inverse_x), (root_y, inverse_y) = (
        powers(moment(rows, rows, zero, zero)) for rows in (kinds[0], kinds[-1])
    )
    u, s, vh = torch.linalg.svd(root_x @ root_y)
    weight = torch.stack([inverse_x @ u * s.sqrt(), inverse_y @ vh.T * s.sqrt()])
    return weight.new_zeros(1, len(u)), weight


def random_directions(kinds: list[Float[Tensor, "n d"]], seed: int) -> Fitted:
    """Draw directions from N(0, 1), a baseline (Johnson and Lindenstrauss 1984)."""
    d = kinds[0].shape[1]
    return torch.zeros(1, d), torch.randn(1, d, d, generator=torch.Generator().manual_seed(seed))


def random_coordinates(kinds: list[Float[Tensor, "n d"]], seed: int) -> Fitted:
    """Order the embedding's own dimensions at random, a baseline."""
    d = kinds[0].shape[1]
    order = torch.randperm(d, generator=torch.Generator().manual_seed(seed))
    return torch.zeros(1, d), torch.eye(d)[:, order][None]


CLOSED_FORM: dict[str, Callable[[list[Float[Tensor, "n d"]], int], Fitted]] = {
    "pca": common_axes, "centred_pca": centred_axes, "cross_modal_svd": cross_modal_maps,
    "gaussian_projection": random_directions, "coordinates": random_coordinates,
}  # fmt: skip


def fit_reduction(method: str, x: Float[Tensor, "n d"], y: Float[Tensor, "m e"] | None = None,
                  metric: Metric = "cosine", seed: int = 0) -> Reduction:  # fmt: skip
    """Fit a closed-form reduction, given by name; the metric of the cross-modal SVD is always the dot product.

    Raises:
        UserError: the name is unknown, rows are not finite, or the two kinds differ in shape.

    >>> fit_reduction("coordinates", torch.eye(3))(torch.eye(3)).sum(1)
    tensor([1., 1., 1.])
    """
    check_choice("method", method, tuple(CLOSED_FORM))
    if y is not None and x.shape != y.shape:
        raise UserError(f"Expected pairs, row by row, got {tuple(x.shape)} and {tuple(y.shape)}: give both sides.")
    kinds = [x] if y is None else [x, y]
    if not all(bool(mean_of(rows).isfinite().all()) for rows in kinds):  # the mean covers every number
        raise UserError("Expected finite embeddings, got NaN or infinities: leave those rows out.")
    reduction = Reduction(x.shape[1], len(kinds), "dot" if method == "cross_modal_svd" else metric)
    means, weights = CLOSED_FORM[method](kinds, seed)
    reduction.mean.copy_(means.expand_as(reduction.mean))
    reduction.weight.copy_(weights[: len(kinds)].expand_as(reduction.weight))
    return reduction


def pca(x: Float[Tensor, "n d"]) -> Reduction:
    """Fit the principal components of one kind of rows around their mean.

    >>> pca(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))(torch.tensor([[1.0, 1.0]]))[:, :1]
    tensor([[0.7071]])
    """
    return fit_reduction("pca", x)
