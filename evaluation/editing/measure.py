"""Measure editors on held-out images: decode their edits, read them by the judge, and compute the metrics."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from datamodules.factors import FactorTable, ImageData
from datamodules.progress import with_progress
from datamodules.splits import TRAIN
from evaluation.editing.final_pictures import (
    EXTRAS,
    REAL,
    FinalTally,
    Photographs,
    as_pictures,
    final_numbers,
    identity_space,
    latent_space,
    read_all_by_judge,
)
from evaluation.editing.held_out import BATCH, HeldOut, decode_all, read_all, shares
from evaluation.editing.measurement import FactorMeasurement, Measurement
from evaluation.editing.metrics import absolute_error, counterfactual_from_errors, cycle_error, identity
from evaluation.editing.strengths import STRENGTHS, leakage_at_equal, scan
from models.factor_classifier import reached
from models.interfaces import Editor, FaceEmbedder, ImageEncoder, ImageJudge
from models.labels import Statistics, factor_statistics
from training.oracle import other_class

__all__ = ["edit_targets", "measure"]


@dataclass
class Tally:
    """Readings and sums over the edits of one editor and one factor, accumulated batch by batch."""

    judged: list[Tensor] = field(default_factory=list)
    embedded: list[Tensor] = field(default_factory=list)
    left: float = 0.0  # Σ|D(edit) − D(E(x'))|
    cycle: float | None = None
    final: FinalTally = field(default_factory=FinalTally)


@dataclass
class Shared:
    """Quantities of a factor that all editors share: embedded reconstructions, Σ|D(E(x)) − D(E(x'))|, Σ|x − x'|."""

    embedded: list[Tensor] = field(default_factory=list)
    change: float = 0.0
    change_of_pictures: float = 0.0


def edit_targets(
    labels: FactorTable, train: FactorTable, statistics: Statistics, generator: torch.Generator
) -> Float[Tensor, "n factors"]:
    """Choose the target value of each image and factor; NaN where the label is unknown or training has one value only.

    Binary: the opposite value. Categorical: another class of the training images, at random. Continuous: the .15 or .85
    quantile of the training labels, whichever is on the other side of their median.
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
    """Select images whose reconstruction the judge reads as labelled, and whose target is another value."""
    factor, median = held.labels.factors[i], held.statistics.median[i].item()
    labels = held.labels.values[:, i]
    as_labelled = reached(held.judged[:, i], labels, factor, median) & ~labels.isnan()
    return as_labelled & ~target.isnan() & ~reached(target, labels, factor, median)


def round_trip_error(editor: Editor, latents: Float[Tensor, "batch features"]) -> float | None:
    """Return the largest |T⁻¹(T(z)) − z| of an editor that has `inverse`, or whose `flow` has; None for others."""
    candidates: tuple[Any, ...] = (getattr(editor, "flow", None), editor)
    for transform in candidates:
        if hasattr(transform, "inverse"):
            codes = transform.forward(latents)
            return cycle_error(latents, transform.inverse(codes[0] if isinstance(codes, tuple) else codes))
    return None


def edit_all(
    editors: Mapping[str, Editor],
    held: HeldOut,
    i: int,
    rows: Int64[Tensor, " some"],
    target: Float[Tensor, " n"],
    chosen: Bool[Tensor, " n"],
    cycle: bool,
) -> tuple[dict[str, Tally], Shared]:
    """Edit one factor at strength 1 by every editor, decode each edit once, and embed the `chosen` final pictures.

    Quantities that the editors share are computed once, and only images for FID are kept.
    """
    tallies, shared = {name: Tally() for name in editors}, Shared()
    name, device = held.labels.factors[i].name, held.latents.device
    starts = held.photographs.starting(i, target)[-1]
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
            kept = starts[some] if number == 0 and held.photographs.fid is not None else None
            originals, final = held.photographs.pictures(some), held.photographs.finals(some, image)
            tally.final.add(held.photographs, originals, final, drawn, chosen[some], kept)
            most = len(z) if held.drawn else EXTRAS  # on photographs a round trip through the flow is slow
            errors = [round_trip_error(editor, latents[:most]) for latents in (z, edited)] if cycle else []
            tally.cycle = max([e for e in (*errors, tally.cycle) if e is not None], default=None)
    return tallies, shared


def first(chosen: Bool[Tensor, " n"], most: int) -> Bool[Tensor, " n"]:
    """Keep the first `most` of the chosen images that are among the embedded photographs."""
    kept = chosen & (chosen.cumsum(0) <= most)
    kept[REAL:] = False
    return kept


def measure_factor(
    editors: Mapping[str, Editor],
    held: HeldOut,
    i: int,
    target: Float[Tensor, " n"],
    strengths: Sequence[float],
    scanned: Collection[str],
    cycle: bool,
) -> dict[str, FactorMeasurement]:
    """Measure every editor on one factor; see `measure`."""
    starts = starting(held, i, target)
    photograph_starts = held.photographs.starting(i, target)
    # The counterfactual scores do not use the judge, so they are of all images that have a label.
    edited = ~target.isnan() if held.drawn else starts | photograph_starts.any(0)
    rows, chosen = edited.nonzero().flatten(), first(photograph_starts[-1], EXTRAS)
    if not len(rows):  # no test image has a label of this factor, or none that the judge reads as labelled
        return {name: FactorMeasurement(0) for name in editors}
    tallies, shared = edit_all(editors, held, i, rows, target, chosen, cycle)
    count, within, results = int(starts.sum()), starts[rows], {}
    for name, tally in tallies.items():
        numbers: dict[str, Any] = {"cycle_error": tally.cycle, "photographs": int(photograph_starts[-1].sum())}
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
    embed: FaceEmbedder | None = None,
    seed: int = 0,
    how: str = "threshold",
    reconstructions: Float[Tensor, "n 3 size size"] | None = None,
    fid: Callable[[UInt8[Tensor, "n 3 size size"]], Float[Tensor, "n features"]] | None = None,
) -> dict[str, Measurement]:
    """Edit every factor of held-out images with every editor, and measure the decoded edits and the final pictures.

    `latents` and `labels` are those of the rows `rows` of the data; editors, encoder and judge are on the device of the
    latents. Success and leakage are measured on images whose reconstruction the judge reads as labelled, so that each
    starts from another value than its target (see `edit_targets`); a continuous value is read as labelled on the same
    side of the training median. The counterfactual score, where scenes can be redrawn, is of all labelled images. The
    strength that reaches a success of .9 is searched among `strengths` and 1, on the same images, for the editors named
    in `scanned` (default: all); on photographs on the first 64 of these images.

    Final pictures, composed by the composition `how`, are compared with the photographs on which the judge sees the
    label, see `evaluation.editing.final_pictures`. The first 64 are embedded, by `embed` or else by the encoder.
    `reconstructions` are the decoded latents if the caller has them; `fid` computes FID features if its weights are
    available.
    """
    train = data.factors[data.rows(TRAIN)]
    statistics = factor_statistics(train.values)
    generator = torch.Generator().manual_seed(seed)
    labels = FactorTable(labels.factors, labels.values.cpu())
    targets = edit_targets(labels, train, statistics, generator)
    reconstructions = decode_all(latents, encoder) if reconstructions is None else reconstructions
    space = latent_space(encoder, latents, labels, rows) if embed is None else identity_space(data, rows, embed)
    read = read_all_by_judge(judge, data.images[rows])
    photographs = Photographs(data, rows, labels, reconstructions, read, statistics, judge, how, space, fid)
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
