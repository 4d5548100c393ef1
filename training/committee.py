"""A committee of judges of photographs, which are different kinds of classifiers; an edit's success is their mean.

Optimisation against a single classifier exploits its errors first. The members differ in kind and were trained on other
people than the guide's reader, so a change that deceives one of them does not deceive the others, and their mean shows
it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from datamodules.factors import FactorTable, ImageData
from datamodules.splits import TRAIN, VALIDATION
from models.interfaces import ImageJudge
from models.labels import Factor, factor_statistics
from training.committee_members import Convolution, Gradients, Transformer, fit_linear
from training.factor_classifier import MOST_VALIDATION, reading_quality, train_judge

__all__ = ["ABLE_FROM", "Committee", "train_committee", "vote"]

ABLE_FROM = 0.6  # balanced accuracy on validation images below which a member does not vote on a factor


def vote(read: Float[Tensor, "members n factors"], factors: Sequence[Factor]) -> Float[Tensor, "n factors"]:
    """Return the majority vote of the members, or their mean for a continuous factor.

    In a tie the value for which an earlier member voted wins. NaN is no vote.

    >>> vote(torch.tensor([[[0.0]], [[1.0]], [[1.0]]]), [Factor("hat", "binary", ("without", "with"))])
    tensor([[1.]])
    """
    columns = []
    for i, factor in enumerate(factors):
        values = read[..., i]
        if factor.kind == "continuous" or len(values) == 1:
            columns.append(values.nanmean(0))
            continue
        known = values.nan_to_num(0).long()
        # Breaks ties: the first member's bonus exceeds those of all others together.
        weights = 1 + 2.0 ** -torch.arange(1, len(values) + 1, device=values.device)
        weights = torch.where(values.isnan(), 0.0, weights[:, None])
        counts = torch.zeros(int(known.max()) + 1 if known.numel() else 1, values.shape[1], device=values.device)
        columns.append(counts.scatter_add_(0, known, weights).argmax(0).float())
    return torch.stack(columns, dim=1) if columns else read.new_zeros(read.shape[1], 0)


class Committee:
    """Several judges that read the same factors; see `vote`.

    Arguments:
        members: judges by name; each predicts (n, factors) in the table's units, NaN for factors that it does not know.
        factors: the factors that they predict.
        median: medians of the training labels.
        able: whether a member votes on a factor; by default all vote on all.
    """

    def __init__(
        self,
        members: Mapping[str, ImageJudge],
        factors: Sequence[Factor],
        median: Float[Tensor, " factors"],
        able: Bool[Tensor, "members factors"] | None = None,
    ) -> None:
        self.members, self.factors, self.median = dict(members), tuple(factors), median
        self.able = torch.ones(len(self.members), len(self.factors), dtype=torch.bool) if able is None else able

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.members)

    def read_all(self, images: Shaped[Tensor, "n 3 size size"]) -> Float[Tensor, "members n factors"]:
        """Predict every factor by every member, also those on which it does not vote."""
        return torch.stack([member.read(images) for member in self.members.values()])

    def only_able(self, read: Float[Tensor, "members n factors"]) -> Float[Tensor, "members n factors"]:
        """Replace the predictions of members that do not vote on a factor by NaN."""
        return read.masked_fill(~self.able.to(read.device)[:, None], torch.nan)

    def read_members(self, images: Shaped[Tensor, "n 3 size size"]) -> Float[Tensor, "members n factors"]:
        """Predict by each member, in the factor table's units; NaN for a factor on which it does not vote."""
        return self.only_able(self.read_all(images))

    def read(self, images: Shaped[Tensor, "n 3 size size"]) -> Float[Tensor, "n factors"]:
        """Predict the factors of images, uint8 or float in [0, 1], by the vote of the committee."""
        return self.vote(self.read_members(images))

    def vote(self, members: Float[Tensor, "members n factors"]) -> Float[Tensor, "n factors"]:
        """Return the vote of predictions that the members have made already."""
        return vote(members, self.factors)

    def qualities(
        self, images: Shaped[Tensor, "n 3 size size"], labels: FactorTable
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Map member -> factor -> scores (see `reading_quality`), also for factors on which it does not vote."""
        return self.qualities_of(self.read_all(images), labels)

    def qualities_of(
        self, read: Float[Tensor, "members n factors"], labels: FactorTable
    ) -> dict[str, dict[str, dict[str, float]]]:
        """Compute `qualities` from the predictions of `read_all`."""
        found = {}
        for name, values in zip(self.names, read.cpu(), strict=True):
            quality = reading_quality(values, labels, self.median.cpu())
            unknown = [f.name for f, column in zip(self.factors, values.unbind(1), strict=True) if column.isnan().all()]
            found[name] = {factor: row for factor, row in quality.items() if factor not in unknown}
        return found

    def choose(self, images: Shaped[Tensor, "n 3 size size"], labels: FactorTable) -> list[str]:
        """Exclude each member from the vote on factors that it cannot predict on these images; return a note for each.

        If no member can predict a factor, all of them vote on it, and `factor_classifier.unfit` flags the factor.
        """
        notes = []
        read = self.read_all(images).cpu()
        able = ~read.isnan().all(1) | self.able.new_full(self.able.shape, len(images) == 0)
        for member, (name, quality) in enumerate(self.qualities_of(read, labels).items()):
            for factor, row in quality.items():
                if row["balanced_accuracy"] < ABLE_FROM:
                    able[member, labels.index(factor)] = False
                    notes.append(
                        f"The committee's member {name} cannot tell {factor} (balanced accuracy "
                        f"{row['balanced_accuracy']:.2f} < {ABLE_FROM} on validation images): it has no say about it."
                    )
        self.able = able | ~able.any(0)
        return notes


def train_committee(
    data: ImageData,
    seed: int = 0,
    rows: Int64[Tensor, " train"] | None = None,
    flip: bool = True,
    device: str | torch.device = "cpu",
    cache_dir: str | Path | None = None,
    outside: ImageJudge | None = None,
    scale: float = 1.0,
) -> Committee:
    """Train the judges of a data set on the training split or on these `rows` of it, or load them from the cache.

    Drawn images, whose exact counterfactuals are known, have a single convolutional judge. `outside` is a member from
    the user's own file, see `models/outside_judge.py`.

    Raises:
        UserError: the cache folder cannot be written.
    """
    options: dict[str, Any] = {
        "flip": flip, "device": device, "cache_dir": cache_dir, "rows": rows, "scale": scale
    }  # fmt: skip
    members: dict[str, ImageJudge] = {}
    if data.counterfactual is not None:
        members["convolution"] = train_judge(data, seed, **options)
    else:
        members["convolution"] = train_judge(data, seed, batch=64, kind=Convolution, **options)
        members["transformer"] = train_judge(
            data, seed + 1, width=96, batch=32, learning_rate=8e-3, kind=Transformer, **options
        )
        members["gradients"] = train_judge(data, seed + 2, 1, kind=Gradients, learn=fit_linear, **options)
    if outside is not None:
        members["outside"] = outside
    train = data.factors.values[data.rows(TRAIN) if rows is None else rows]
    committee = Committee(members, data.factors.factors, factor_statistics(train).median.nan_to_num(0.0))
    validation = data.rows(VALIDATION)
    validation = validation[torch.randperm(len(validation), generator=torch.Generator().manual_seed(seed))]
    validation = validation[:MOST_VALIDATION].sort().values
    if len(validation) and len(members) > 1:
        for note in committee.choose(data.images[validation].to(device), data.factors[validation]):
            print(note)
    return committee
