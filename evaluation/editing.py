"""Measures editors on held-out images: decodes their edits and has them judged."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from datamodules.factors import TRAIN, FactorTable, ImageData
from datamodules.features import ImageEncoder
from datamodules.images import with_progress
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
from evaluation.oracle import counterfactual_latents, other_class

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


@dataclass
class Tally:
    """What one editor's decoded edits of one factor add up to, batch by batch."""

    judged: list[Tensor] = field(default_factory=list)
    embedded: list[Tensor] = field(default_factory=list)
    left: float = 0.0  # Σ|D(edit) − D(E(x'))|
    cycle: float | None = None


def read_reconstructions(
    latents: Float[Tensor, "n features"], encoder: ImageEncoder, judge: ImageJudge
) -> Float[Tensor, "n factors"]:
    """What the judge reads from decoded latents, on the CPU."""
    with torch.inference_mode():
        judged = torch.cat([judge.read(encoder.decode(some)).cpu() for some in latents.split(BATCH)])
    return judged.clone()  # out here: a tensor of inference mode could not be changed


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


def search(
    editor: Editor,
    held: HeldOut,
    i: int,
    rows: Int64[Tensor, " some"],
    target: Float[Tensor, " n"],
    strengths: Sequence[float],
    full: tuple[float, float],
) -> tuple[tuple[float, float, float], ...]:
    """(strength, success, leakage), from weak to strong, of the strengths at which success was asked for.

    Success rises with the strength, so the smallest strength that reaches the level is found by bisection: it and the
    one below it are always among the points, which is what `leakage_at` needs. Strength 0 is the unedited
    reconstruction, so its success and leakage are 0; `full` is what strength 1 gave. Neither is decoded again.
    """
    known = {0.0: (0.0, 0.0), 1.0: full}
    ascending = sorted({*strengths, *known})
    below, reaching = 0, len(ascending)  # places of a strength that fails and of one that does not, perhaps none
    while reaching - below > 1:
        one = ascending.index(1.0)
        middle = one if below < one < reaching else (below + reaching) // 2
        strength = ascending[middle]
        if strength not in known:
            known[strength] = shares(held, i, rows, read_edits(editor, held, i, rows, target, strength), target)[:2]
        below, reaching = (below, middle) if known[strength][0] >= LEVEL else (middle, reaching)
    return tuple((strength, *known[strength]) for strength in sorted(known))


def edit_all(
    editors: Mapping[str, Editor],
    held: HeldOut,
    i: int,
    rows: Int64[Tensor, " some"],
    target: Float[Tensor, " n"],
    cycle: bool,
) -> tuple[dict[str, Tally], float, list[Tensor]]:
    """Full-strength edits of one factor by every editor, each decoded once.

    Also Σ|D(E(x)) − D(E(x'))| and the embedded reconstructions. What the editors share is computed once for all of
    them, and no image is kept.
    """
    tallies, change, embedded = {name: Tally() for name in editors}, 0.0, []
    name, device = held.labels.factors[i].name, held.latents.device
    for some in rows.split(BATCH):
        z, value = held.latents[some.to(device)], target[some].to(device)
        original = truth = None
        if held.data.counterfactual is not None or held.embed is not None:
            original = held.encoder.decode(z)
        if held.data.counterfactual is not None and original is not None:
            redrawn = counterfactual_latents(held.data, held.encoder, held.rows[some], name, target[some], device)
            truth = held.encoder.decode(redrawn)
            change += absolute_error(original, truth)
        if held.embed is not None and original is not None:
            embedded.append(held.embed(original).cpu())
        for editor_name, editor in editors.items():
            tally, edited = tallies[editor_name], editor.edit(z, i, value)
            image = held.encoder.decode(edited)
            tally.judged.append(held.judge.read(image).cpu())
            if truth is not None:
                tally.left += absolute_error(image, truth)
            if held.embed is not None:
                tally.embedded.append(held.embed(image).cpu())
            errors = [round_trip_error(editor, latents) for latents in (z, edited)] if cycle else []
            tally.cycle = max([e for e in (*errors, tally.cycle) if e is not None], default=None)
    return tallies, change, embedded


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
    # The counterfactual score does not ask the judge, so it is of all images that have a label.
    edited = ~target.isnan() if held.data.counterfactual is not None else starts
    rows = edited.nonzero().flatten()
    tallies, change, embedded = edit_all(editors, held, i, rows, target, cycle)
    count, begins, results = int(starts.sum()), starts[rows], {}
    for name, tally in tallies.items():
        numbers: dict[str, Any] = {"cycle_error": tally.cycle}
        if held.data.counterfactual is not None and change > 0:
            numbers["counterfactual"] = counterfactual_from_errors(tally.left, change)
        if count:
            after = torch.cat(tally.judged)[begins]
            succeeded, leaked, row = shares(held, i, rows[begins], after, target)
            numbers |= {"success": succeeded, "leakage": leaked, "leakage_row": row}
            if held.embed is not None:
                numbers["identity"] = identity(torch.cat(embedded)[begins], torch.cat(tally.embedded)[begins])
            if name in scanned:
                curve = search(editors[name], held, i, rows[begins], target, strengths, (succeeded, leaked))
                searched, successes, leakages = zip(*curve, strict=True)
                at_level = leakage_at(searched, successes, leakages, LEVEL)
                numbers |= {"curve": curve, "leakage_at_90": at_level}
        results[name] = FactorMeasurement(count, **numbers)
    return results


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
) -> dict[str, Measurement]:
    """Edit every factor of held-out images with every editor, side by side, and score the decoded results.

    `latents` and `labels` are those of the data's rows `rows`; editors, encoder and judge are on the latents'
    device. Success and leakage are of images whose reconstruction the judge reads as its label, so each starts from
    another value than its target (see `edit_targets`); a continuous value is read as labelled on the same side of
    the training median. The counterfactual score, where scenes can be redrawn, is of all labelled images. The
    strength that reaches success .9 is searched among `strengths` and 1, on the same images as success, for the
    editors named in `scanned` (default: all).
    """
    train = data.factors[data.rows(TRAIN)]
    statistics = factor_statistics(train.values)
    generator = torch.Generator().manual_seed(seed)
    labels = FactorTable(labels.factors, labels.values.cpu())
    targets = edit_targets(labels, train, statistics, generator)
    judged = read_reconstructions(latents, encoder, judge)
    held = HeldOut(latents, labels, rows, judged, statistics, encoder, judge, data, embed)
    results: dict[str, list[FactorMeasurement]] = {name: [] for name in editors}
    names = set(editors) if scanned is None else scanned
    count, n = len(labels.factors), max(len(rows), 1)
    with torch.inference_mode():
        for i in with_progress(range(count), count * n, "Editing images, factor by factor", each=n):
            measured = measure_factor(editors, held, i, targets[:, i], strengths, names, cycle)
            for name, result in measured.items():
                results[name].append(result)
    return {name: Measurement(labels.factors, tuple(of_factors)) for name, of_factors in results.items()}
