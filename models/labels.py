"""Factors, and embeddings of their labels that a network can be conditioned on."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional

from models import UserError

__all__ = ["Factor", "LabelEmbedding", "Statistics", "factor_statistics", "dependent_factor", "factor_value", "simplex"]


class Factor(NamedTuple):
    """A factor of variation that the user names.

    `values` are the names of its values: of 0 and 1 for a binary factor, of each class for a categorical one, of the
    low and the high end for a continuous one. `source` describes where the labels come from.
    """

    name: str
    kind: Literal["binary", "categorical", "continuous"]
    values: tuple[str, ...]
    source: str = ""


def simplex(classes: int) -> Float[Tensor, "classes dim"]:
    """Return the corners of a regular simplex in classes − 1 dimensions, at distance 2 from each other, with mean 0.

    >>> simplex(2)
    tensor([[-1.],
            [ 1.]])
    """
    centred = math.sqrt(2) * (torch.eye(classes) - 1 / classes)
    if classes == 2:
        return torch.tensor([[-1.0], [1.0]])
    basis = torch.linalg.svd(centred)[2][: classes - 1]
    return centred @ basis.T


COLLINEAR = 1e-5  # the share of a label's deviation that is not taken for rounding
HEAVIEST = 10.0  # largest weight of a rare class, so that few rows do not dominate the gradient


class LabelEmbedding(nn.Module):
    """Embeds label values (batch, factors), NaN where unknown, as vectors (batch, dim).

    Binary: −1 or 1. Categorical: a corner of the regular simplex. Continuous: standardised. Unknown: zeros, the mean.

    Arguments:
        factors: (name, kind, values) of each factor, as plain lists, so that checkpoints hold only plain types.
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
            # Used in training only, which starts with `fit`, so checkpoints need not hold them.
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
        """Compute the statistics of the factors from training labels.

        They are the mean, the standard deviation and the 2 % and 98 % quantiles of a continuous factor, and the class
        weights of the others, which balance the classes and are at most 10.
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
        """Embed the values of one factor, in that factor's own dimensions."""
        corners: Tensor = getattr(self, f"corners{factor}")
        if not len(corners):
            return ((values - self.mean[factor]) / self.sd[factor]).nan_to_num()[:, None]
        embedded = corners[values.nan_to_num().long()]
        return torch.where(values.isnan()[:, None], torch.zeros_like(embedded), embedded)

    def longest(self, factor: int) -> Tensor:
        """Return the largest norm of the embeddings of a factor's labels."""
        corners: Tensor = getattr(self, f"corners{factor}")
        if len(corners):
            return corners[0].norm()  # all corners have the same norm
        ends = torch.stack([self.low[factor], self.high[factor]])
        return self.embed(factor, ends).abs().amax()

    def readings(self, values: Float[Tensor, "batch factors"]) -> list[Float[Tensor, "batch _"]]:
        """Return the targets of a classifier for each factor.

        They are the probability of 1, (batch, 1), for a binary factor, one-hot vectors, (batch, classes), for a
        categorical one, and the standardised value, (batch, 1), for a continuous one.
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
        """Return 1 in the dimensions of known labels and 0 in the others."""
        return self.spread((~values.isnan()).float())

    def spread(self, numbers: Float[Tensor, "batch factors"]) -> Float[Tensor, "batch dim"]:
        """Repeat a number per factor in each of the factor's dimensions."""
        sizes = [block.stop - block.start for block in self.blocks]
        return numbers.repeat_interleave(torch.tensor(sizes, dtype=torch.long, device=numbers.device), dim=1)

    def balanced(self, values: Float[Tensor, "batch factors"]) -> Float[Tensor, "batch dim"]:
        """Return `known` times the class weights, which balance the classes of each factor."""
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
        """Change one factor per row at random: to another class, or to any value of the continuous range."""
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


LOW, HIGH = 0.15, 0.85  # the quantiles that a continuous factor is edited to


class Statistics(NamedTuple):
    """Statistics of each factor's known labels, in the factor's unit; NaN for a factor without any.

    `low` and `high` are the .15 and .85 quantiles, `deviation` is the population standard deviation.
    """

    mean: Float[Tensor, " factors"]
    deviation: Float[Tensor, " factors"]
    median: Float[Tensor, " factors"]
    low: Float[Tensor, " factors"]
    high: Float[Tensor, " factors"]


def factor_statistics(values: Float[Tensor, "n factors"]) -> Statistics:
    """Compute the statistics of labels, usually of the training split; unknown labels are NaN.

    >>> factor_statistics(torch.tensor([[0.0], [1.0], [torch.nan], [2.0]])).median
    tensor([1.])
    """
    columns = []
    for column in values.unbind(1):
        known = column[~column.isnan()].double()
        if not len(known):
            columns.append(torch.full((5,), torch.nan, dtype=torch.float64))
            continue
        ordered = known.sort().values  # torch.quantile refuses more than 16 million values
        positions = torch.tensor([0.5, LOW, HIGH], dtype=torch.float64) * (len(known) - 1)
        below, above = ordered[positions.floor().long()], ordered[positions.ceil().long()]
        quantiles = torch.lerp(below, above, positions - positions.floor())
        columns.append(torch.cat([known.mean()[None], known.std(correction=0)[None], quantiles.cpu()]))
    if not columns:  # no factor at all
        return Statistics(*values.new_zeros(len(Statistics._fields), 0))
    return Statistics(*torch.stack(columns, dim=1).to(values.dtype).to(values.device).unbind(0))


def basis_of(columns: Float64[Tensor, "n columns"]) -> Float64[Tensor, "n rank"]:
    """Return an orthonormal basis of what the columns span."""
    vectors, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
    return vectors[:, sizes > COLLINEAR * sizes.amax().clamp(min=1e-12)]


def dependent_factor(factors: Sequence[Factor], values: Float[Tensor, "n factors"]) -> tuple[str, list[str]] | None:
    """Return the first factor whose embedded labels are linear in those of other factors, and these; None if none is.

    Equal and complementary factors are such, and binary factors for each class of one attribute. No editor can change
    one of them and keep the others.

    >>> hat, cap = (Factor(name, "binary", ("no", "yes")) for name in ("hat", "no hat"))
    >>> dependent_factor([hat, cap], torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]))
    ('no hat', ['hat'])
    """
    labels = LabelEmbedding([[factor.name, factor.kind, list(factor.values)] for factor in factors])
    labels.fit(values)
    embedded = labels(values).double()
    triangle = torch.linalg.qr(embedded - embedded.mean(0), mode="r").R  # it has the columns' inner products
    columns = [triangle[:, block] for block in labels.blocks]
    bases = [basis_of(column) for column in columns]
    for i, basis in enumerate(bases[1:], start=1):
        before = basis_of(torch.cat(columns[:i], 1))
        _, cosines, directions = torch.linalg.svd(before.T @ basis)
        if len(cosines) and float(cosines[0]) >= 1 - COLLINEAR**2:
            shared = basis @ directions[0]
            fit = torch.linalg.lstsq(torch.cat(bases[:i], 1), shared[:, None], driver="gelsd").solution.abs()
            parts = fit.split([each.shape[1] for each in bases[:i]])
            names = [factor.name for factor, part in zip(factors, parts, strict=False) if (part > 1e-3).any()]
            return factors[i].name, names
    return None


def value_index(factor: Factor, value: str | int | float) -> int | None:
    """Return the position of a value's name in a factor, or None if it names none.

    A name counts as it is spelled, or else, if only one has it so, without regard to upper and lower case; names are
    compared in Unicode's normal form C. So 5 of a factor with the values 5 and 7 is its first.
    """
    text = unicodedata.normalize("NFC", str(value)).strip()
    names = [unicodedata.normalize("NFC", name) for name in factor.values]
    if factor.kind == "continuous" and not isinstance(value, str):
        return None
    if text in names:
        return names.index(text)
    same = [number for number, name in enumerate(names) if name.casefold() == text.casefold()]
    if len(same) == 1 and isinstance(value, str):
        return same[0]
    said = {"false": 0, "true": 1}.get(text.lower())
    return said if factor.kind == "binary" and not same else None


def factor_value(factor: Factor, value: str | int | float, described: Mapping[str, Any]) -> float:
    """Convert a requested value, a number or the name of one of the factor's values, to the table's unit.

    `described` is the factor's entry in the manifest: the two names of a continuous factor mean its `low` and `high`,
    and its values have to be between `lowest` and `highest`.

    Raises:
        UserError: the factor has no such value.

    >>> factor_value(Factor("hat", "binary", ("without", "with")), "with", {})
    1.0
    >>> factor_value(Factor("shoe size", "categorical", ("38", "39", "40")), 39, {})
    1.0
    """
    number: Any = value
    index = value_index(factor, value)
    if index is not None:
        number = described.get(("low", "high")[index]) if factor.kind == "continuous" else index
    try:
        number = float(math.nan if number is None else number)
    except (TypeError, ValueError):
        number = math.nan
    if factor.kind == "continuous":
        lowest, highest = described.get("lowest", -math.inf), described.get("highest", math.inf)
        choices = f"a number between {lowest:g} ({factor.values[0]}) and {highest:g} ({factor.values[1]})"
        fits = math.isfinite(number) and lowest <= number <= highest
    else:
        choices = " or ".join(f"{index} ({name})" for index, name in enumerate(factor.values))
        fits = number in range(len(factor.values))
    if not fits:
        raise UserError(f"Expected a value of {factor.name}, {choices}, got {value!r}: choose one of these.")
    return number
