"""Labels as numbers that a network can be conditioned on."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Factor", "LabelEmbedding", "simplex"]


class Factor(NamedTuple):
    """What a person names.

    `values` names its values: of a binary factor 0 and 1, of a categorical one each class, of a continuous one the
    low and the high end. `source` says where the labels come from, in the user's words.
    """

    name: str
    kind: Literal["binary", "categorical", "continuous"]
    values: tuple[str, ...]
    source: str = ""


def simplex(classes: int) -> Float[Tensor, "classes dim"]:
    """Points in classes − 1 dimensions, all at distance 2 from each other, with mean zero; −1 and 1 for two classes."""
    centred = math.sqrt(2) * (torch.eye(classes) - 1 / classes)
    if classes == 2:
        return torch.tensor([[-1.0], [1.0]])
    basis = torch.linalg.svd(centred)[2][: classes - 1]
    return centred @ basis.T


HEAVIEST = 10.0  # weight of a rare class: a handful of rows must not rule the gradient


class LabelEmbedding(nn.Module):
    """Label values (batch, factors), NaN where unknown, as vectors (batch, dim).

    Binary: −1 or 1. Categorical: a corner of the regular simplex. Continuous: standardised. Unknown: zeros, the mean.

    Arguments:
        factors: (name, kind, values) of each factor; plain lists do, so that a checkpoint holds nothing else.
    """

    mean: Tensor
    sd: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, factors: Sequence[Sequence[Any]]) -> None:
        super().__init__()
        self.factors = tuple(Factor(name, kind, tuple(values)) for name, kind, values in factors)
        self.blocks: list[slice] = []
        start = 0
        for i, factor in enumerate(self.factors):
            corners = torch.zeros(0, 1) if factor.kind == "continuous" else simplex(len(factor.values))
            self.register_buffer(f"corners{i}", corners)
            # Of training alone, which begins with `fit`; so checkpoints need not hold it.
            self.register_buffer(f"weights{i}", torch.ones(max(1, len(corners))), persistent=False)
            self.blocks.append(slice(start, start + corners.shape[1]))
            start += corners.shape[1]
        self.dim = start
        count = len(self.factors)
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("sd", torch.ones(count))
        self.register_buffer("low", torch.zeros(count))
        self.register_buffer("high", torch.ones(count))

    def fit(self, values: Float[Tensor, "n factors"]) -> None:
        """Take each continuous factor's mean, standard deviation and 2 % and 98 % quantiles from training labels.

        And of one with classes by how much each has to weigh for all to weigh the same, at most ten times its share.
        """
        for i, factor in enumerate(self.factors):
            known = values[:, i][~values[:, i].isnan()]
            if factor.kind != "continuous":
                counts = torch.bincount(known.long(), minlength=len(factor.values)).to(values.dtype)
                weights: Tensor = getattr(self, f"weights{i}")
                weights.copy_((len(known) / (len(counts) * counts.clamp(min=1))).clamp(max=HEAVIEST))
            if factor.kind == "continuous" and len(known):
                self.mean[i], self.sd[i] = known.mean(), known.std().clamp(min=1e-12)
                self.low[i], self.high[i] = torch.quantile(known[:1_000_000], torch.tensor([0.02, 0.98]).to(known))

    def forward(self, values: Float[Tensor, "batch factors"]) -> Float[Tensor, "batch dim"]:
        empty = values.new_zeros(len(values), 0)  # there may be no factor at all
        return torch.cat([empty, *(self.embed(i, column) for i, column in enumerate(values.unbind(1)))], 1)

    def embed(self, factor: int, values: Float[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
        """Values of one factor in that factor's own dimensions."""
        corners: Tensor = getattr(self, f"corners{factor}")
        if not len(corners):
            return ((values - self.mean[factor]) / self.sd[factor]).nan_to_num()[:, None]
        embedded = corners[values.nan_to_num().long()]
        return torch.where(values.isnan()[:, None], torch.zeros_like(embedded), embedded)

    def longest(self, factor: int) -> Tensor:
        """The length of the longest embedding that a factor's labels have."""
        corners: Tensor = getattr(self, f"corners{factor}")
        if len(corners):
            return corners[0].norm()  # all corners are equally far from the centre
        ends = torch.stack([self.low[factor], self.high[factor]])
        return self.embed(factor, ends).abs().amax()

    def readings(self, values: Float[Tensor, "batch factors"]) -> list[Float[Tensor, "batch _"]]:
        """Per factor what a classifier should say of labels: (batch, 1) the probability of a binary one being 1,
        (batch, classes) one-hot of a categorical one, (batch, 1) the standardised value of a continuous one.
        """
        readings = []
        for i, factor in enumerate(self.factors):
            column = values[:, i].nan_to_num()
            if factor.kind == "continuous":
                readings.append(self.embed(i, values[:, i]))
            elif factor.kind == "binary":
                readings.append(column[:, None])
            else:
                readings.append(functional.one_hot(column.long(), len(factor.values)).float())
        return readings

    def known(self, values: Float[Tensor, "batch factors"]) -> Float[Tensor, "batch dim"]:
        """1 in the dimensions of known labels, 0 in the others."""
        return self.spread((~values.isnan()).float())

    def spread(self, numbers: Float[Tensor, "batch factors"]) -> Float[Tensor, "batch dim"]:
        """A number per factor, repeated in each of its dimensions."""
        sizes = [block.stop - block.start for block in self.blocks]
        return numbers.repeat_interleave(torch.tensor(sizes, dtype=torch.long, device=numbers.device), dim=1)

    def balanced(self, values: Float[Tensor, "batch factors"]) -> Float[Tensor, "batch dim"]:
        """`known`, times the weight that makes all classes of a factor weigh the same."""
        columns = []
        for i, factor in enumerate(self.factors):
            weights: Tensor = getattr(self, f"weights{i}")
            label = (
                values[:, i].nan_to_num().long()
                if factor.kind != "continuous"
                else torch.zeros_like(values[:, i]).long()
            )
            columns.append(weights[label])
        return self.known(values) * self.spread(torch.stack(columns, 1))

    def change(
        self, values: Float[Tensor, "batch factors"], factor: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch factors"]:
        """The labels with one factor per row at another value: another class, or anywhere in the continuous range."""
        changed = values.clone()
        for i, kind in enumerate(f.kind for f in self.factors):
            rows = torch.nonzero(factor == i).flatten()
            uniform = torch.rand(len(rows), device=values.device)
            if kind == "continuous":
                changed[rows, i] = self.low[i] + uniform * (self.high[i] - self.low[i])
            else:
                classes = len(self.factors[i].values)
                step = 1 + (uniform * (classes - 1)).long().clamp(max=classes - 2)
                changed[rows, i] = (values[rows, i].nan_to_num() + step) % classes
        return changed
