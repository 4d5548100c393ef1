"""The final pictures of edits, as a user gets them, and what is measured of them against the photographs."""

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
    "Seen",
    "Space",
    "as_pictures",
    "final_numbers",
    "final_pictures",
    "identity_space",
    "latent_space",
    "look",
    "look_all",
    "shares_of",
]

BATCH = 256
EXTRAS = 64  # at most so many images for what costs much each: face embeddings, and on photographs strength scans
REAL = 500  # real photographs that are embedded at most, and how many of each value there should be at least
LEAST_REAL = 100
FEWEST = 2  # embeddings that have a covariance


class Seen(NamedTuple):
    """Read pictures by every member of a judge, on the CPU; a single judge is a committee of one."""

    members: Float[Tensor, "members n factors"]
    vote: Float[Tensor, "n factors"]


@dataclass(frozen=True)
class Space:
    """A fixed embedding of pictures and what they are edits of, and real photographs in it.

    `of_faces` where it is the identity model's, which may look for the face in the original.
    """

    embed: Callable[[Float[Tensor, "batch 3 size size"], Float[Tensor, "batch 3 size size"]], Float[Tensor, "batch d"]]
    rows: Int64[Tensor, " real"]  # numbers in the data
    real: Float[Tensor, "real d"]
    labels: Float[Tensor, "real factors"]
    of_faces: bool


@dataclass(frozen=True)
class Photographs:
    """The reference of final pictures: held-out photographs x, their D(z), and the judge's readings of them."""

    data: ImageData
    rows: Int64[Tensor, " n"]
    labels: FactorTable
    reconstructions: Float[Tensor, "n 3 size size"]  # on the CPU
    seen: Seen
    statistics: Statistics
    judge: ImageJudge
    how: str  # of the composition
    space: Space
    fid: Callable[[UInt8[Tensor, "n 3 size size"]], Float[Tensor, "n features"]] | None = None  # FID's features

    @cached_property
    def real_features(self) -> Float[Tensor, "real features"]:
        """FID's features of the space's real photographs."""
        assert self.fid is not None
        parts = [self.fid(some.expand(-1, 3, -1, -1)) for some in self.data.images[self.space.rows].split(BATCH)]
        return torch.cat(parts)

    def pictures(self, places: Int64[Tensor, " some"]) -> Float[Tensor, "some 3 height width"]:
        """The photographs at these places among the held-out rows, in [0, 1]."""
        return as_pictures(self.data.images[self.rows[places]])

    def finals(
        self, places: Int64[Tensor, " some"], edited: Float[Tensor, "some 3 size size"]
    ) -> Float[Tensor, "some 3 height width"]:
        """The final pictures of decoded edits, on the CPU."""
        return final_pictures(self.pictures(places), self.reconstructions[places], edited.cpu(), self.how)

    def starting(self, i: int, target: Float[Tensor, " n"]) -> Bool[Tensor, "members n"]:
        """On which photographs each member sees the label, their target being another value; the vote comes last."""
        reads = torch.cat([self.seen.members[:, :, i], self.seen.vote[None, :, i]])
        labels, factor = self.labels.values[:, i], self.labels.factors[i]
        median = self.statistics.median[i].item()
        return torch.stack([read_as_labelled(read, labels, target, factor, median) for read in reads])


@dataclass
class FinalTally:
    """Sums over the final pictures of one editor and one factor, accumulated batch by batch."""

    seen: list[Seen] = field(default_factory=list)
    embedded: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)  # uint8, for FID
    left: float = 0.0  # Σ|out − x'|

    def all_seen(self) -> Seen:
        members = torch.cat([part.members for part in self.seen], 1)
        return Seen(members, torch.cat([part.vote for part in self.seen]))

    def add(
        self,
        photographs: Photographs,
        originals: Float[Tensor, "some 3 height width"],
        final: Float[Tensor, "some 3 height width"],
        truth: Float[Tensor, "some 3 height width"] | None,
        chosen: Bool[Tensor, " some"],
        begins: Bool[Tensor, " some"] | None = None,
    ) -> None:
        """Judge a batch; embed those that are `chosen`, and keep those that begin, if any are to be kept."""
        self.seen.append(look(photographs.judge, final))
        if truth is not None:
            self.left += absolute_error(final, truth)
        if chosen.any():
            self.embedded.append(photographs.space.embed(final[chosen], originals[chosen]).cpu())
        if begins is not None:
            self.kept.append((final[begins] * 255).round().to(torch.uint8))


def look(judge: ImageJudge, images: Float[Tensor, "n 3 height width"]) -> Seen:
    """The readings of a judge, or of each member of a committee, and their vote."""
    if not isinstance(judge, JudgeCommittee):
        vote = judge.read(images).cpu()
        return Seen(vote[None], vote)
    members = judge.read_members(images)
    vote = judge.vote(members) if hasattr(judge, "vote") else judge.read(images)
    return Seen(members.cpu(), vote.cpu())


def look_all(judge: ImageJudge, images: UInt8[Tensor, "n channels height width"]) -> Seen:
    parts = [look(judge, as_pictures(some)) for some in images.split(BATCH)]
    return Seen(torch.cat([part.members for part in parts], 1), torch.cat([part.vote for part in parts]))


def as_pictures(images: UInt8[Tensor, "n channels height width"]) -> Float[Tensor, "n 3 height width"]:
    return images.expand(-1, 3, -1, -1).float() / 255


def final_pictures(
    photographs: Float[Tensor, "n 3 height width"],
    reconstructions: Float[Tensor, "n 3 size size"],
    edited: Float[Tensor, "n 3 size size"],
    how: str,
) -> Float[Tensor, "n 3 height width"]:
    """Edits composed into their photographs and rounded to whole numbers of 1/255, as a file has them."""
    return (compose(photographs, reconstructions, edited, how) * 255).round() / 255


def latent_space(
    encoder: ImageEncoder, latents: Float[Tensor, "n d"], labels: FactorTable, rows: Int64[Tensor, " n"]
) -> Space:
    """The frozen encoder's posterior means, where there is no identity model; the real photographs are the held-out."""

    def embed(
        pictures: Float[Tensor, "batch 3 height width"], _: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch d"]:
        pixels = as_read((pictures * 255).round().to(torch.uint8), encoder.size)
        return encoder.encode(pixels.to(latents.device))[0].cpu()

    return Space(embed, rows[:REAL], latents[:REAL].cpu(), labels.values[:REAL], False)


def identity_space(data: ImageData, rows: Int64[Tensor, " n"], embed: FaceEmbedder) -> Space:
    """The identity model's embedding of up to 500 of the held-out photographs.

    A value that fewer than 100 of them have is filled up from the other photographs, in their order, so that there is
    something to compare a rare value with.
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
    """Labels of the factors that have classes."""
    return [data.factors.values[:, i] for i, factor in enumerate(data.factors.factors) if factor.kind != "continuous"]


def classes_of(values: Float[Tensor, " n"], factor: Factor, median: float) -> Float[Tensor, " n"]:
    """Values that are told apart: of a continuous factor the side of its training median."""
    return torch.where(values.isnan(), values, (values > median).float()) if factor.kind == "continuous" else values


def embedded_numbers(
    photographs: Photographs, i: int, places: Int64[Tensor, " some"], target: Float[Tensor, " some"],
    edited: Float[Tensor, "some d"],
) -> dict[str, float]:  # fmt: skip
    """Minimality; with an identity model also the distance of identity and the Fréchet distance to real photographs."""
    space, factor, median = photographs.space, photographs.labels.factors[i], photographs.statistics.median[i].item()
    own = photographs.rows[places]
    real_rows = space.rows.tolist()
    originals = space.real[[real_rows.index(row) for row in own.tolist()]]
    values, wanted = (classes_of(part, factor, median) for part in (space.labels[:, i], target))
    labels = classes_of(photographs.labels.values[places, i], factor, median)
    others = own[:, None] != space.rows
    of_target, of_label = ((values == part[:, None]) & others for part in (wanted, labels))
    numbers: dict[str, float | None] = {
        "minimality": minimality(originals, edited.float(), space.real, of_target, of_label)
    }
    if space.of_faces:
        numbers["identity_distance"] = identity_distance(originals, edited)
        if photographs.data.counterfactual is None:
            numbers["identity"] = identity(originals, edited.float())
        numbers["frechet_identity"] = realism(edited, wanted, space.real, values)
    return {name: number for name, number in numbers.items() if number is not None}


def realism(
    edited: Float[Tensor, "n d"], target: Float[Tensor, " n"], real: Float[Tensor, "real d"],
    values: Float[Tensor, " real"],
) -> float | None:  # fmt: skip
    """Fréchet distance of features between edits and real photographs that have the target value, as often as edits.

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
    """The numbers of one editor's final pictures of one factor, `rows` being the places of those that were edited.

    `change` is Σ|x − x'| where the true pictures are known, else 0.
    """
    numbers: dict[str, Any] = {}
    if photographs.data.counterfactual is not None and change > 0:
        numbers["counterfactual_image"] = counterfactual_from_errors(tally.left, change)
    if not tally.seen:
        return numbers
    reached, leaked, by_member = shares_of(photographs, i, rows, target, tally.all_seen())
    names = photographs.judge.names if isinstance(photographs.judge, JudgeCommittee) else ()
    numbers |= {"effectiveness": reached, "final_leakage": leaked}
    numbers["by_member"] = {name: share for name, share in zip(names, by_member, strict=bool(names))
                            if share is not None}  # fmt: skip
    if tally.embedded:
        places = chosen.nonzero().flatten()
        numbers |= embedded_numbers(photographs, i, places, target[places], torch.cat(tally.embedded))
    if tally.kept and photographs.fid is not None:
        numbers["fid"] = fid(photographs, i, photographs.starting(i, target)[-1], target, torch.cat(tally.kept))
    return numbers


def shares_of(
    photographs: Photographs, i: int, rows: Int64[Tensor, " some"], target: Float[Tensor, " n"], seen: Seen
) -> tuple[float | None, float | None, Sequence[float | None]]:
    """Effectiveness as the members' mean, leakage by their vote, and each member's effectiveness."""
    factor, median = photographs.labels.factors[i], photographs.statistics.median[i].item()
    before, labels = photographs.seen.members[:, rows, i], photographs.labels.values[rows, i]
    by_member = effectiveness(before, seen.members[:, :, i], labels, target[rows], factor, median)
    begins = read_as_labelled(photographs.seen.vote[rows, i], labels, target[rows], factor, median)
    leaked = leakage(
        photographs.seen.vote[rows][begins], seen.vote[begins], i, photographs.labels.factors,
        photographs.statistics.deviation,
    ).mean  # fmt: skip
    return mean_known(by_member), leaked if begins.any() else None, by_member


def fid(
    photographs: Photographs, i: int, begins: Bool[Tensor, " n"], target: Float[Tensor, " n"],
    finals: UInt8[Tensor, "some 3 height width"],
) -> float | None:  # fmt: skip
    """FID between final pictures and the real photographs with their targets' values."""
    assert photographs.fid is not None
    factor, median = photographs.labels.factors[i], photographs.statistics.median[i].item()
    wanted = classes_of(target[begins], factor, median)
    values = classes_of(photographs.space.labels[:, i], factor, median)
    return realism(photographs.fid(finals), wanted, photographs.real_features, values)
