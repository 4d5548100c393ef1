"""Draw pairs of rows that share the value of one factor.

The IIN authors draw the partner from all images with the same label. If labels are correlated (glasses with age, beards
with sex), such pairs share more than the label, and the factor's codes learn that too. Here anchor and partner are
drawn, by default, from data that are reweighted so that the labelled factors are independent of each other.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from datamodules.batches import Batches, shuffled
from datamodules.factors import FactorTable
from datamodules.features import Latents
from models import UserError

__all__ = ["PairSampler", "decorrelating_weights", "discretise", "edit_batches", "pair_batches"]


def discretise(table: FactorTable, bins: int = 10) -> Int64[Tensor, "n factors"]:
    """Discretise labels: class indices stay, continuous values are binned by quantiles, unknown labels are −1.

    >>> from models.labels import Factor
    >>> table = FactorTable((Factor("hat", "binary", ("no", "yes")),), torch.tensor([[1.0], [0.0], [torch.nan]]))
    >>> discretise(table).flatten()
    tensor([ 1,  0, -1])
    """
    columns = []
    for factor, values in zip(table.factors, table.values.unbind(1), strict=True):
        known = ~values.isnan()
        column = values.nan_to_num().long()
        if factor.kind == "continuous":
            edges = torch.quantile(values[known], torch.linspace(0, 1, bins + 1, device=values.device)[1:-1])
            column = torch.bucketize(values.nan_to_num(), edges)
        columns.append(torch.where(known, column, -1))
    return torch.stack(columns, 1)


def decorrelating_weights(bins: Int64[Tensor, "n factors"], cap: float = 20.0) -> Float[Tensor, " n"]:
    """Return weights w = Π_j p(y_j) / p(y_1, ..., y_k) of the rows, under which the factors are independent.

    Their mean is 1. Before this normalisation they are clamped to `cap`, which bounds the weight of a rare combination.

    >>> decorrelating_weights(torch.tensor([[0, 0], [0, 0], [0, 1], [1, 0], [1, 1], [1, 1]]))
    tensor([0.7500, 0.7500, 1.5000, 1.5000, 0.7500, 0.7500])
    """
    _, cell, counts = torch.unique(bins, dim=0, return_inverse=True, return_counts=True)
    joint = counts[cell].float() / len(bins)
    marginal = torch.ones_like(joint)
    for column in bins.unbind(1):
        _, value, counts = torch.unique(column, return_inverse=True, return_counts=True)
        marginal *= counts[value].float() / len(bins)
    weights = (marginal / joint).clamp(max=cap)
    return weights / weights.mean()


class Group(NamedTuple):
    """The rows with a known label of one factor, sorted by bin, and their cumulative weights."""

    rows: Int64[Tensor, " known"]
    cumulative: Float[Tensor, " known"]
    starts: Int64[Tensor, " bins"]  # positions in `rows` where each bin starts
    ends: Int64[Tensor, " bins"]


class PairSampler:
    """Draws (anchor, partner, factor): two rows that share the bin of a factor, which is chosen uniformly.

    Everything stays on the table's device; drawing n pairs needs no loop over rows.

    Arguments:
        table: labels; rows whose label of a factor is unknown are in no pair of that factor.
        decorrelate: draw anchor and partner from the reweighted data, see `decorrelating_weights`.
        bins: number of quantile bins; continuous values in the same bin count as equal.
    """

    def __init__(self, table: FactorTable, decorrelate: bool = True, bins: int = 10) -> None:
        if not table.factors:
            raise UserError("Expected at least one factor to pair images by, got none; name some with data.factors=.")
        self.bins = discretise(table, bins)
        self.weights = decorrelating_weights(self.bins) if decorrelate else torch.ones(len(self.bins))
        self.weights = self.weights.to(self.bins.device)
        self.groups = [self.group(column) for column in self.bins.unbind(1)]

    def group(self, column: Int64[Tensor, " n"]) -> Group:
        rows = torch.argsort(column, stable=True)
        rows = rows[column[rows] >= 0]
        values, counts = torch.unique_consecutive(column[rows], return_counts=True)
        ends = torch.zeros(int(column.max()) + 1, dtype=torch.long, device=column.device)
        starts = ends.clone()
        ends[values] = counts.cumsum(0)
        starts[values] = counts.cumsum(0) - counts
        # In float64, because a float32 cumulative sum over 10^5 rows would make some rows unreachable.
        return Group(rows, self.weights[rows].double().cumsum(0), starts, ends)

    def draw(self, n: int, factor: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n anchors and partners, (n,) each, that share the given factor's bin."""
        group = self.groups[factor]
        # Drawn on the CPU, so that a seed gives the same pairs on every device.
        uniform = torch.rand(2, n, dtype=torch.float64, generator=generator).to(group.rows.device)
        anchors = self.pick(group, uniform[0] * group.cumulative[-1])
        value = self.bins[anchors, factor]
        padded = torch.cat([group.cumulative.new_zeros(1), group.cumulative])
        low, high = padded[group.starts[value]], padded[group.ends[value]]
        return anchors, self.pick(group, low + uniform[1] * (high - low))

    @staticmethod
    def pick(group: Group, mass: Tensor) -> Int64[Tensor, " n"]:
        return group.rows[torch.searchsorted(group.cumulative, mass, right=True).clamp(max=len(group.rows) - 1)]

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Draw n anchors, partners and the factors that they share, (n,) each, with equally many of every factor."""
        factors = torch.arange(n) % len(self.groups)  # balanced in every batch, too
        drawn = [self.draw(int((factors == f).sum()), f, generator) for f in range(len(self.groups))]
        order = torch.argsort(factors.argsort(stable=True)).to(drawn[0][0].device)
        anchors, partners = (torch.cat(rows)[order] for rows in zip(*drawn, strict=True))
        return anchors, partners, factors.to(anchors.device)


def pair_batches(sampler: PairSampler | None, latents: Latents, labels: FactorTable, batch_size: int, seed: int,
                 steps: int, partners: bool) -> Batches:  # fmt: skip
    """Return batches of latents with labels, the factor to edit or to share, and, for the pair loss, partners.

    Everything is drawn on the latents' device. Without a sampler (no factors) rows are drawn uniformly.
    """
    device = latents.mean.device
    values = labels.values.to(device)

    def draw(epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        count = steps * batch_size  # all at once, because drawing one batch takes as long as drawing many
        if sampler is not None:
            return sampler.sample(count, generator)
        rows = torch.randint(len(values), (count,), generator=generator)
        return rows, rows, torch.zeros_like(rows)

    def take(anchors: Tensor, others: Tensor, factor: Tensor) -> dict[str, Tensor]:
        anchors, others = anchors.to(device), others.to(device)
        batch = {"mean": latents.mean[anchors], "logvar": latents.logvar[anchors], "labels": values[anchors],
                 "factor": factor.to(device)}  # fmt: skip
        if partners:
            batch |= {"partner_mean": latents.mean[others], "partner_logvar": latents.logvar[others]}
        return batch

    return Batches(draw, take, batch_size, steps)


def edit_batches(latents: Latents, labels: FactorTable, rows: Int64[Tensor, " rows"],
                 after: Float[Tensor, "rows factors factors"], targets: Float[Tensor, "rows factors features"],
                 batch_size: int, seed: int, steps: int) -> Batches:  # fmt: skip
    """Return batches of latents with the labels after an edit of one factor, and the guide's edited latents.

    `rows` are the indices of the latents that were edited, `after` the labels after the edit of each factor, `targets`
    the edited latents, in half precision because there are many.
    """
    device, count = latents.mean.device, len(labels.factors)
    values, rows, after, targets = (each.to(device) for each in (labels.values, rows, after, targets))

    def take(edit: Tensor) -> dict[str, Tensor]:
        edit = edit.to(device)
        position, factor = edit // count, edit % count
        row = rows[position]
        return {"mean": latents.mean[row], "logvar": latents.logvar[row], "labels": values[row], "factor": factor,
                "after": after[position, factor], "target": targets[position, factor].float()}  # fmt: skip

    return Batches(shuffled(torch.arange(len(rows) * count), seed, batch_size * steps), take, batch_size, steps)
