"""Compose edits into their photographs, the final pictures that a user gets, and measure them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from datamodules.factors import FactorTable, ImageData
from datamodules.features import as_read
from evaluation.editing.counterfactual_metrics import (
    effectiveness,
    frechet_distance,
    identity_distance,
    mean_known,
    minimality,
    moments,
    read_as_labelled,
    value_weights,
)
from evaluation.editing.metrics import absolute_error, counterfactual_from_errors, identity, leakage
from models.composition import compose
from models.face_identity import embed_edited
from models.interfaces import FaceEmbedder, ImageEncoder, ImageJudge, JudgeCommittee
from models.labels import Factor, Statistics

__all__ = [
    "EXTRAS",
    "FinalTally",
    "Photographs",
    "REAL",
    "Readings",
    "Space",
    "as_pictures",
    "final_numbers",
    "final_pictures",
    "identity_space",
    "latent_space",
    "read_by_judge",
    "read_all_by_judge",
    "shares_of",
]

BATCH = 256
EXTRAS = 64  # largest number of images for expensive metrics: face embeddings, and on photographs strength scans
REAL = 500  # largest number of real photographs that are embedded
LEAST_REAL = 100  # of each value, if there are as many
FEWEST = 2  # embeddings that have a covariance


class Readings(NamedTuple):
    """The readings of pictures by every member of a judge, on the CPU; a single judge is a committee of one."""

    members: Float[Tensor, "members n factors"]
    vote: Float[Tensor, "n factors"]


@dataclass(frozen=True)
class Space:
    """A fixed embedding of final pictures, given their originals, and real photographs in it.

    `of_faces` is true for the identity model, which may detect the face in the original.
    """

    embed: Callable[[Float[Tensor, "batch 3 size size"], Float[Tensor, "batch 3 size size"]], Float[Tensor, "batch d"]]
    rows: Int64[Tensor, " real"]  # numbers in the data
    real: Float[Tensor, "real d"]
    labels: Float[Tensor, "real factors"]
    of_faces: bool


@dataclass(frozen=True)
class Photographs:
    """The reference of final pictures: held-out photographs x, their reconstructions, and the judge's readings of x."""

    data: ImageData
    rows: Int64[Tensor, " n"]
    labels: FactorTable
    reconstructions: Float[Tensor, "n 3 size size"]  # on the CPU
    readings: Readings
    statistics: Statistics
    judge: ImageJudge
    how: str  # of the composition
    space: Space
    fid: Callable[[UInt8[Tensor, "n 3 size size"]], Float[Tensor, "n features"]] | None = None  # FID's features

    @cached_property
    def real_features(self) -> Float[Tensor, "real features"]:
        """The FID features of the real photographs of the space."""
        assert self.fid is not None
        parts = [self.fid(some.expand(-1, 3, -1, -1)) for some in self.data.images[self.space.rows].split(BATCH)]
        return torch.cat(parts)

    def pictures(self, places: Int64[Tensor, " some"]) -> Float[Tensor, "some 3 height width"]:
        """Return the photographs at these positions among the held-out rows, in [0, 1]."""
        return as_pictures(self.data.images[self.rows[places]])

    def finals(
        self, places: Int64[Tensor, " some"], edited: Float[Tensor, "some 3 size size"]
    ) -> Float[Tensor, "some 3 height width"]:
        """Compose decoded edits into their photographs, on the CPU."""
        return final_pictures(self.pictures(places), self.reconstructions[places], edited.cpu(), self.how)

    def starting(self, i: int, target: Float[Tensor, " n"]) -> Bool[Tensor, "members n"]:
        """Tell on which photographs each member, and last the vote, sees the label, the target being another value."""
        reads = torch.cat([self.readings.members[:, :, i], self.readings.vote[None, :, i]])
        labels, factor = self.labels.values[:, i], self.labels.factors[i]
        median = self.statistics.median[i].item()
        return torch.stack([read_as_labelled(read, labels, target, factor, median) for read in reads])


@dataclass
class FinalTally:
    """Sums over the final pictures of one editor and one factor, accumulated batch by batch."""

    readings: list[Readings] = field(default_factory=list)
    embedded: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)  # uint8, for FID
    left: float = 0.0  # Σ|out − x'|

    def all_readings(self) -> Readings:
        """Concatenate the readings of all batches."""
        members = torch.cat([part.members for part in self.readings], 1)
        return Readings(members, torch.cat([part.vote for part in self.readings]))

    def add(
        self,
        photographs: Photographs,
        originals: Float[Tensor, "some 3 height width"],
        final: Float[Tensor, "some 3 height width"],
        truth: Float[Tensor, "some 3 height width"] | None,
        chosen: Bool[Tensor, " some"],
        starts: Bool[Tensor, " some"] | None = None,
    ) -> None:
        """Judge a batch of final pictures, embed the `chosen` ones, and keep those of `starts` for FID."""
        self.readings.append(read_by_judge(photographs.judge, final))
        if truth is not None:
            self.left += absolute_error(final, truth)
        if chosen.any():
            self.embedded.append(photographs.space.embed(final[chosen], originals[chosen]).cpu())
        if starts is not None:
            self.kept.append((final[starts] * 255).round().to(torch.uint8))


def read_by_judge(judge: ImageJudge, images: Float[Tensor, "n 3 height width"]) -> Readings:
    """Read images by a judge, or by each member of a committee with their vote."""
    if not isinstance(judge, JudgeCommittee):
        vote = judge.read(images).cpu()
        return Readings(vote[None], vote)
    members = judge.read_members(images)
    vote = judge.vote(members) if hasattr(judge, "vote") else judge.read(images)
    return Readings(members.cpu(), vote.cpu())


def read_all_by_judge(judge: ImageJudge, images: UInt8[Tensor, "n channels height width"]) -> Readings:
    """Read 8-bit images by a judge in batches."""
    parts = [read_by_judge(judge, as_pictures(some)) for some in images.split(BATCH)]
    return Readings(torch.cat([part.members for part in parts], 1), torch.cat([part.vote for part in parts]))


def as_pictures(images: UInt8[Tensor, "n channels height width"]) -> Float[Tensor, "n 3 height width"]:
    """Convert 8-bit images, grey or in colour, to RGB in [0, 1]."""
    return images.expand(-1, 3, -1, -1).float() / 255


def final_pictures(
    photographs: Float[Tensor, "n 3 height width"],
    reconstructions: Float[Tensor, "n 3 size size"],
    edited: Float[Tensor, "n 3 size size"],
    how: str,
) -> Float[Tensor, "n 3 height width"]:
    """Compose edits into their photographs, and round to 8 bits a channel."""
    return (compose(photographs, reconstructions, edited, how) * 255).round() / 255


def latent_space(
    encoder: ImageEncoder, latents: Float[Tensor, "n d"], labels: FactorTable, rows: Int64[Tensor, " n"]
) -> Space:
    """Build the space of the encoder's posterior means, for runs without an identity model, of held-out photographs."""

    def embed(
        pictures: Float[Tensor, "batch 3 height width"], _: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch d"]:
        pixels = as_read((pictures * 255).round().to(torch.uint8), encoder.size)
        return encoder.encode(pixels.to(latents.device))[0].cpu()

    return Space(embed, rows[:REAL], latents[:REAL].cpu(), labels.values[:REAL], False)


def identity_space(data: ImageData, rows: Int64[Tensor, " n"], embed: FaceEmbedder) -> Space:
    """Build the space of the identity model, of up to 500 held-out photographs.

    Where fewer than 100 of them have a value, other photographs with it are added in their order, so that rare values
    can be compared with real photographs.
    """
    chosen = rows[:REAL]
    for column in value_columns(data):
        for value in column[~column.isnan()].unique():
            missing = LEAST_REAL - int((column[chosen] == value).sum())
            others = (column == value).nonzero().flatten()
            others = others[~torch.isin(others, rows) & ~torch.isin(others, chosen)]
            chosen = torch.cat([chosen, others[: max(missing, 0)]])
    real = torch.cat([embed(as_pictures(data.images[some])).cpu() for some in chosen.split(BATCH)])
    return Space(partial(embed_edited, embed), chosen, real.float(), data.factors.values[chosen], True)


def value_columns(data: ImageData) -> list[Float[Tensor, " n"]]:
    """Return the labels of the factors that have classes."""
    return [data.factors.values[:, i] for i, factor in enumerate(data.factors.factors) if factor.kind != "continuous"]


def classes_of(values: Float[Tensor, " n"], factor: Factor, median: float) -> Float[Tensor, " n"]:
    """Return the class of each value: of a continuous factor the side of its training median."""
    return torch.where(values.isnan(), values, (values > median).float()) if factor.kind == "continuous" else values


def embedded_numbers(
    photographs: Photographs, i: int, places: Int64[Tensor, " some"], target: Float[Tensor, " some"],
    edited: Float[Tensor, "some d"],
) -> dict[str, float]:  # fmt: skip
    """Compute minimality, and with an identity model identity distance and Fréchet distance to real photographs."""
    space, factor, median = photographs.space, photographs.labels.factors[i], photographs.statistics.median[i].item()
    own = photographs.rows[places]
    real_rows = space.rows.tolist()
    originals = space.real[[real_rows.index(row) for row in own.tolist()]]
    values, targets = (classes_of(part, factor, median) for part in (space.labels[:, i], target))
    labels = classes_of(photographs.labels.values[places, i], factor, median)
    others = own[:, None] != space.rows
    of_target, of_label = ((values == part[:, None]) & others for part in (targets, labels))
    numbers: dict[str, float | None] = {
        "minimality": minimality(originals, edited.float(), space.real, of_target, of_label)
    }
    if space.of_faces:
        numbers["identity_distance"] = identity_distance(originals, edited)
        if photographs.data.counterfactual is None:
            numbers["identity"] = identity(originals, edited.float())
        numbers["frechet_identity"] = realism(edited, targets, space.real, values)
    return {name: number for name, number in numbers.items() if number is not None}


def realism(
    edited: Float[Tensor, "n d"], target: Float[Tensor, " n"], real: Float[Tensor, "real d"],
    values: Float[Tensor, " real"],
) -> float | None:  # fmt: skip
    """Compute the Fréchet distance of features between edits and real photographs with the same frequencies of values.

    None where fewer than two edits have a target that a real photograph has.
    """
    kept, weights = value_weights(target, values)
    having = weights > 0
    if kept.sum() < FEWEST or having.sum() < FEWEST:
        return None
    return frechet_distance(moments(edited[kept]), moments(real[having], weights[having]))


def final_numbers(
    photographs: Photographs,
    i: int,
    rows: Int64[Tensor, " some"],
    target: Float[Tensor, " n"],
    chosen: Bool[Tensor, " n"],
    tally: FinalTally,
    change: float,
) -> dict[str, Any]:
    """Compute the metrics of one editor's final pictures of one factor; `rows` are the positions of the edited images.

    `change` is Σ|x − x'| where ground-truth counterfactuals are known, else 0.
    """
    numbers: dict[str, Any] = {}
    if photographs.data.counterfactual is not None and change > 0:
        numbers["counterfactual_image"] = counterfactual_from_errors(tally.left, change)
    if not tally.readings:
        return numbers
    succeeded, leaked, by_member = shares_of(photographs, i, rows, target, tally.all_readings())
    names = photographs.judge.names if isinstance(photographs.judge, JudgeCommittee) else ()
    numbers |= {"effectiveness": succeeded, "final_leakage": leaked}
    numbers["by_member"] = {name: share for name, share in zip(names, by_member, strict=bool(names))
                            if share is not None}  # fmt: skip
    if tally.embedded:
        places = chosen.nonzero().flatten()
        numbers |= embedded_numbers(photographs, i, places, target[places], torch.cat(tally.embedded))
    if tally.kept and photographs.fid is not None:
        numbers["fid"] = fid(photographs, i, photographs.starting(i, target)[-1], target, torch.cat(tally.kept))
    return numbers


def shares_of(
    photographs: Photographs, i: int, rows: Int64[Tensor, " some"], target: Float[Tensor, " n"], readings: Readings
) -> tuple[float | None, float | None, Sequence[float | None]]:
    """Compute effectiveness as the mean over members, leakage by their vote, and the effectiveness by each member."""
    factor, median = photographs.labels.factors[i], photographs.statistics.median[i].item()
    before, labels = photographs.readings.members[:, rows, i], photographs.labels.values[rows, i]
    by_member = effectiveness(before, readings.members[:, :, i], labels, target[rows], factor, median)
    starts = read_as_labelled(photographs.readings.vote[rows, i], labels, target[rows], factor, median)
    leaked = leakage(
        photographs.readings.vote[rows][starts], readings.vote[starts], i, photographs.labels.factors,
        photographs.statistics.deviation,
    ).mean  # fmt: skip
    return mean_known(by_member), leaked if starts.any() else None, by_member


def fid(
    photographs: Photographs, i: int, starts: Bool[Tensor, " n"], target: Float[Tensor, " n"],
    finals: UInt8[Tensor, "some 3 height width"],
) -> float | None:  # fmt: skip
    """Compute the FID between final pictures and real photographs with the values of their targets."""
    assert photographs.fid is not None
    factor, median = photographs.labels.factors[i], photographs.statistics.median[i].item()
    targets = classes_of(target[starts], factor, median)
    values = classes_of(photographs.space.labels[:, i], factor, median)
    return realism(photographs.fid(finals), targets, photographs.real_features, values)
