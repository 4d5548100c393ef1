"""Measures editors on held-out images: decodes their edits and has them judged."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from datamodules.factors import TRAIN, FactorTable, ImageData
from datamodules.features import ImageEncoder
from datamodules.images import with_progress
from evaluation.baselines import AtStrength
from evaluation.final_pictures import (
    EXTRAS,
    REAL,
    FinalTally,
    Photographs,
    as_pictures,
    final_numbers,
    identity_space,
    latent_space,
    look,
    look_all,
    shares_of,
)
from evaluation.interfaces import Editor, Embed, ImageJudge
from evaluation.measurement import FactorMeasurement, Measurement
from evaluation.metrics import (
    Statistics,
    absolute_error,
    counterfactual_from_errors,
    cycle_error,
    factor_statistics,
    identity,
    leakage,
    leakage_at,
    reached,
    success,
)
from evaluation.oracle import other_class

__all__ = ["LEVEL", "STRENGTHS", "edit_targets", "measure", "read_reconstructions"]

STRENGTHS = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0)
LEVEL = 0.9  # the success at which leakage_at_90 compares editors
BATCH = 256


@dataclass(frozen=True)
class HeldOut:
    """What every editor is measured on: latents, their labels, and what the judge reads from their reconstructions."""

    latents: Float[Tensor, "n features"]
    labels: FactorTable
    rows: Int64[Tensor, " n"]
    judged: Float[Tensor, "n factors"]
    statistics: Statistics
    encoder: ImageEncoder
    judge: ImageJudge
    data: ImageData
    embed: Embed | None
    photographs: Photographs

    @property
    def drawn(self) -> bool:
        return self.data.counterfactual is not None


@dataclass
class Tally:
    """What one editor's edits of one factor add up to, each decoded once, batch by batch."""

    judged: list[Tensor] = field(default_factory=list)
    embedded: list[Tensor] = field(default_factory=list)
    left: float = 0.0  # Σ|D(edit) − D(E(x'))|
    cycle: float | None = None
    final: FinalTally = field(default_factory=FinalTally)


@dataclass
class Shared:
    """What the editors share of one factor: embedded reconstructions, Σ|D(E(x)) − D(E(x'))| and Σ|x − x'|."""

    embedded: list[Tensor] = field(default_factory=list)
    change: float = 0.0
    change_of_pictures: float = 0.0


def read_reconstructions(
    latents: Float[Tensor, "n features"], encoder: ImageEncoder, judge: ImageJudge
) -> Float[Tensor, "n factors"]:
    """What the judge reads from decoded latents, on the CPU."""
    return read_all(judge, decode_all(latents, encoder))


def decode_all(latents: Float[Tensor, "n features"], encoder: ImageEncoder) -> Float[Tensor, "n 3 size size"]:
    """Decoded latents, on the CPU."""
    with torch.inference_mode():
        images = torch.cat([encoder.decode(some).cpu() for some in latents.split(BATCH)])
    return images.clone()  # out here: a tensor of inference mode could not be changed


def read_all(judge: ImageJudge, images: Float[Tensor, "n 3 size size"]) -> Float[Tensor, "n factors"]:
    with torch.inference_mode():
        judged = torch.cat([judge.read(some).cpu() for some in images.split(BATCH)])
    return judged.clone()


def edit_targets(
    labels: FactorTable, train: FactorTable, statistics: Statistics, generator: torch.Generator
) -> Float[Tensor, "n factors"]:
    """The value each image's factor is edited to; NaN where its label is unknown or training knows one value only.

    Binary: the opposite. Categorical: another class of the training images, at random. Continuous: the training
    labels' .15 or .85 quantile, whichever is across their median from the label.
    """
    targets = torch.full_like(labels.values, torch.nan)
    for i, factor in enumerate(labels.factors):
        known = ~labels.values[:, i].isnan()
        values, classes = labels.values[known, i], train.values[:, i]
        classes = classes[~classes.isnan()].unique()
        if len(classes) < 2:
            continue
        if factor.kind == "continuous":
            targets[known, i] = torch.where(values > statistics.median[i], statistics.low[i], statistics.high[i])
        else:
            targets[known, i] = other_class(values, classes, generator)
    return targets


def starting(held: HeldOut, i: int, target: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Images whose reconstruction the judge reads as labelled, and whose target is another value."""
    factor, median = held.labels.factors[i], held.statistics.median[i].item()
    labels = held.labels.values[:, i]
    as_labelled = reached(held.judged[:, i], labels, factor, median) & ~labels.isnan()
    return as_labelled & ~target.isnan() & ~reached(target, labels, factor, median)


def round_trip_error(editor: Editor, latents: Float[Tensor, "batch features"]) -> float | None:
    """Largest |T⁻¹(T(z)) − z| of an invertible editor: one that has `inverse`, or whose `flow` has; None of others."""
    candidates: tuple[Any, ...] = (getattr(editor, "flow", None), editor)
    for transform in candidates:
        if hasattr(transform, "inverse"):
            codes = transform.forward(latents)
            return cycle_error(latents, transform.inverse(codes[0] if isinstance(codes, tuple) else codes))
    return None


def shares(
    held: HeldOut,
    i: int,
    rows: Int64[Tensor, " some"],
    after: Float[Tensor, "some factors"],
    target: Float[Tensor, " n"],
) -> tuple[float, float, Float[Tensor, " factors"]]:
    """Success, leakage and its row of these edited images."""
    factors, statistics = held.labels.factors, held.statistics
    succeeded = success(after[:, i], target[rows], factors[i], statistics.median[i].item())
    leaked = leakage(held.judged[rows], after, i, factors, statistics.deviation)
    return succeeded, leaked.mean, leaked.row


def read_edits(
    editor: Editor, held: HeldOut, i: int, rows: Int64[Tensor, " some"], target: Float[Tensor, " n"], strength: float
) -> Float[Tensor, "some factors"]:
    """What the judge reads from decoded edits of one strength, on the CPU."""
    judged, device = [], held.latents.device
    for some in rows.split(BATCH):
        edited = editor.edit(held.latents[some.to(device)], i, target[some].to(device), strength)
        judged.append(held.judge.read(held.encoder.decode(edited)).cpu())
    return torch.cat(judged)


def final_shares(
    editor: Editor, held: HeldOut, i: int, rows: Int64[Tensor, " some"], target: Float[Tensor, " n"], strength: float
) -> tuple[float, float]:
    """Effectiveness and leakage of the final pictures of one strength."""
    tally, device = FinalTally(), held.latents.device
    for some in rows.split(BATCH):
        edited = editor.edit(held.latents[some.to(device)], i, target[some].to(device), strength)
        final = held.photographs.finals(some, held.encoder.decode(edited))
        tally.seen.append(look(held.judge, final))
    reached_share, leaked, _ = shares_of(held.photographs, i, rows, target, tally.all_seen())
    return reached_share or 0.0, leaked or 0.0


def search(
    known: dict[float, tuple[float, float]],
    strengths: Sequence[float],
    level: float,
    read: Callable[[float], tuple[float, float]],
) -> tuple[tuple[float, float, float], ...]:
    """(strength, success, leakage), from weak to strong, of the strengths that were needed to find the level.

    Success rises with the strength, so the smallest strength that reaches the level is found by bisection: it and the
    one below it are always among the points, which is what `leakage_at` needs. `known` has (success, leakage) of
    strengths that are not to be decoded again: 0, the unedited picture, and 1.
    """
    known = dict(known)
    ascending = sorted({*strengths, *known})
    below, reaching = 0, len(ascending)  # places of a strength that fails and of one that does not, perhaps none
    while reaching - below > 1:
        one = ascending.index(1.0)
        middle = one if below < one < reaching else (below + reaching) // 2
        strength = ascending[middle]
        if strength not in known:
            known[strength] = read(strength)
        below, reaching = (below, middle) if known[strength][0] >= level else (middle, reaching)
    return tuple((strength, *known[strength]) for strength in sorted(known))


def edit_all(
    editors: Mapping[str, Editor],
    held: HeldOut,
    i: int,
    rows: Int64[Tensor, " some"],
    target: Float[Tensor, " n"],
    chosen: Bool[Tensor, " n"],
    cycle: bool,
) -> tuple[dict[str, Tally], Shared]:
    """Full-strength edits of one factor by every editor, each decoded once; `chosen` final pictures are embedded.

    What the editors share is computed once for all of them, and no image is kept, but those that FID is measured on.
    """
    tallies, shared = {name: Tally() for name in editors}, Shared()
    name, device = held.labels.factors[i].name, held.latents.device
    begins = held.photographs.starting(i, target)[-1]
    for some in rows.split(BATCH):
        z, value = held.latents[some.to(device)], target[some].to(device)
        truth = drawn = None
        if held.data.counterfactual is not None:
            redrawn = held.data.counterfactual(held.rows[some], name, target[some])
            truth, drawn = held.encoder.decode(held.encoder.encode(redrawn.to(device))[0]).cpu(), as_pictures(redrawn)
            shared.change += absolute_error(held.photographs.reconstructions[some], truth)
            shared.change_of_pictures += absolute_error(held.photographs.pictures(some), drawn)
            if held.embed is not None:
                shared.embedded.append(held.embed(held.photographs.reconstructions[some]).cpu())
        for number, (editor_name, editor) in enumerate(editors.items()):
            tally, edited = tallies[editor_name], editor.edit(z, i, value)
            image = held.encoder.decode(edited).cpu()
            tally.judged.append(held.judge.read(image).cpu())
            if truth is not None:
                tally.left += absolute_error(image, truth)
                if held.embed is not None:
                    tally.embedded.append(held.embed(image).cpu())
            kept = begins[some] if number == 0 and held.photographs.fid is not None else None
            originals, final = held.photographs.pictures(some), held.photographs.finals(some, image)
            tally.final.add(held.photographs, originals, final, drawn, chosen[some], kept)
            most = len(z) if held.drawn else EXTRAS  # of photographs a way there and back takes long
            errors = [round_trip_error(editor, latents[:most]) for latents in (z, edited)] if cycle else []
            tally.cycle = max([e for e in (*errors, tally.cycle) if e is not None], default=None)
    return tallies, shared


def scan(
    editor: Editor, held: HeldOut, i: int, rows: Int64[Tensor, " some"], target: Float[Tensor, " n"],
    after: Float[Tensor, "some factors"], strengths: Sequence[float],
) -> dict[str, Any]:  # fmt: skip
    """The curve over strengths and leakage_at_90 of decoded edits; `after` is what is read at strength 1."""
    if not held.drawn:
        rows, after = rows[:EXTRAS], after[:EXTRAS]
    known = {0.0: (0.0, 0.0), 1.0: shares(held, i, rows, after, target)[:2]}
    curve = search(
        known, strengths, LEVEL,
        lambda strength: shares(held, i, rows, read_edits(editor, held, i, rows, target, strength), target)[:2],
    )  # fmt: skip
    searched, successes, leakages = zip(*curve, strict=True)
    return {"curve": curve, "leakage_at_90": leakage_at(searched, successes, leakages, LEVEL)}


def leakage_at_equal(
    editors: Mapping[str, Editor], held: HeldOut, i: int, rows: Int64[Tensor, " some"], target: Float[Tensor, " n"],
    results: Mapping[str, FactorMeasurement],
) -> dict[str, float]:  # fmt: skip
    """Leakage of final pictures where an editor's effectiveness equals that of the run's own, the first, at strength 1.

    Of the run's own that is its leakage; of others that were measured at several strengths it is searched between
    those, with one more strength halfway at most. Left out are editors that never get there or were
    measured at one strength alone, and all where the run's own never succeeds.
    """
    own = results[next(iter(editors))]
    if not own.effectiveness or own.final_leakage is None:
        return {}
    found = {next(iter(editors)): own.final_leakage}
    for name, editor in editors.items():
        known = {1.0: results[name]} | {
            other.strength: results[at] for at, other in editors.items()
            if isinstance(other, AtStrength) and other.editor is editor
        }  # fmt: skip
        if len(known) == 1:
            continue
        points = {0.0: (0.0, 0.0)} | {s: (r.effectiveness or 0.0, r.final_leakage or 0.0) for s, r in known.items()}
        ends = sorted(points)
        halfway = [(a + b) / 2 for a, b in zip(ends, ends[1:], strict=False)]
        read = partial(final_shares, editor, held, i, rows, target)
        searched, reaching, leakages = zip(*search(points, halfway, own.effectiveness, read), strict=True)
        leaked = leakage_at(searched, reaching, leakages, own.effectiveness)
        if leaked is not None:
            found[name] = leaked
    return found


def measure_factor(
    editors: Mapping[str, Editor],
    held: HeldOut,
    i: int,
    target: Float[Tensor, " n"],
    strengths: Sequence[float],
    scanned: Collection[str],
    cycle: bool,
) -> dict[str, FactorMeasurement]:
    """Every editor's measurement of one factor; see `measure`."""
    starts = starting(held, i, target)
    begins = held.photographs.starting(i, target)
    # The counterfactual scores do not ask the judge, so they are of all images that have a label.
    edited = ~target.isnan() if held.drawn else starts | begins.any(0)
    rows, chosen = edited.nonzero().flatten(), first(begins[-1], EXTRAS)
    tallies, shared = edit_all(editors, held, i, rows, target, chosen, cycle)
    count, within, results = int(starts.sum()), starts[rows], {}
    for name, tally in tallies.items():
        numbers: dict[str, Any] = {"cycle_error": tally.cycle, "photographs": int(begins[-1].sum())}
        numbers |= final_numbers(held.photographs, i, rows, target, chosen, tally.final, shared.change_of_pictures)
        if held.drawn and shared.change > 0:
            numbers["counterfactual"] = counterfactual_from_errors(tally.left, shared.change)
        if count:
            after = torch.cat(tally.judged)[within]
            succeeded, leaked, row = shares(held, i, rows[within], after, target)
            numbers |= {"success": succeeded, "leakage": leaked, "leakage_row": row}
            if tally.embedded:
                numbers["identity"] = identity(torch.cat(shared.embedded)[within], torch.cat(tally.embedded)[within])
            if name in scanned:
                numbers |= scan(editors[name], held, i, rows[within], target, after, strengths)
        results[name] = FactorMeasurement(count, **numbers)
    equal = leakage_at_equal(editors, held, i, rows, target, results)
    return {name: replace(result, leakage_at_equal=equal.get(name)) for name, result in results.items()}


def first(chosen: Bool[Tensor, " n"], most: int) -> Bool[Tensor, " n"]:
    """The first of the chosen, among the photographs that are embedded."""
    kept = chosen & (chosen.cumsum(0) <= most)
    kept[REAL:] = False
    return kept


def measure(
    editors: Mapping[str, Editor],
    latents: Float[Tensor, "n features"],
    labels: FactorTable,
    encoder: ImageEncoder,
    judge: ImageJudge,
    data: ImageData,
    rows: Int64[Tensor, " n"],
    strengths: Sequence[float] = STRENGTHS,
    cycle: bool = True,
    scanned: Collection[str] | None = None,
    embed: Embed | None = None,
    seed: int = 0,
    how: str = "threshold",
    reconstructions: Float[Tensor, "n 3 size size"] | None = None,
    fid: Callable[[UInt8[Tensor, "n 3 size size"]], Float[Tensor, "n features"]] | None = None,
) -> dict[str, Measurement]:
    """Edit every factor of held-out images with every editor, side by side, and score the decoded results.

    `latents` and `labels` are those of the data's rows `rows`; editors, encoder and judge are on the latents'
    device. Success and leakage are of images whose reconstruction the judge reads as its label, so each starts from
    another value than its target (see `edit_targets`); a continuous value is read as labelled on the same side of
    the training median. The counterfactual score, where scenes can be redrawn, is of all labelled images. The
    strength that reaches success .9 is searched among `strengths` and 1, on the same images as success, for the
    editors named in `scanned` (default: all); on photographs on the first 64 of these images.

    Final pictures, composed as `how` says, are measured against the photographs in `evaluation.final_pictures`: those
    on which the judge sees the label. Embedded are the first 64 of them, by `embed` or else by the encoder.
    `reconstructions` are the decoded latents where the caller has them, `fid` gives FID's features where its weights
    are at hand.
    """
    train = data.factors[data.rows(TRAIN)]
    statistics = factor_statistics(train.values)
    generator = torch.Generator().manual_seed(seed)
    labels = FactorTable(labels.factors, labels.values.cpu())
    targets = edit_targets(labels, train, statistics, generator)
    reconstructions = decode_all(latents, encoder) if reconstructions is None else reconstructions
    space = latent_space(encoder, latents, labels, rows) if embed is None else identity_space(data, rows, embed)
    photographs = Photographs(
        data, rows, labels, reconstructions, look_all(judge, data.images[rows]), statistics, judge, how, space, fid
    )
    judged = read_all(judge, reconstructions)
    held = HeldOut(latents, labels, rows, judged, statistics, encoder, judge, data, embed, photographs)
    results: dict[str, list[FactorMeasurement]] = {name: [] for name in editors}
    names = set(editors) if scanned is None else scanned
    count, n = len(labels.factors), max(len(rows), 1)
    with torch.inference_mode():
        for i in with_progress(range(count), count * n, "Editing images, factor by factor", each=n):
            measured = measure_factor(editors, held, i, targets[:, i], strengths, names, cycle)
            for name, result in measured.items():
                results[name].append(result)
    return {name: Measurement(labels.factors, tuple(of_factors)) for name, of_factors in results.items()}
