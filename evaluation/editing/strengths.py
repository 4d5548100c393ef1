"""Search the strength at which an editor reaches a success, and measure the leakage there."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from evaluation.editing.baselines import AtStrength
from evaluation.editing.final_pictures import EXTRAS, FinalTally, read_by_judge, shares_of
from evaluation.editing.held_out import BATCH, HeldOut, shares
from evaluation.editing.measurement import FactorMeasurement
from evaluation.editing.metrics import leakage_at
from models.interfaces import Editor

__all__ = ["STRENGTHS", "leakage_at_equal", "scan"]

STRENGTHS = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0)
LEVEL = 0.9  # the success at which leakage_at_90 compares editors


def search(
    known: dict[float, tuple[float, float]],
    strengths: Sequence[float],
    level: float,
    read: Callable[[float], tuple[float, float]],
) -> tuple[tuple[float, float, float], ...]:
    """Search the smallest strength that reaches a success level; return the measured (strength, success, leakage).

    Success rises with the strength, so the strength is found by bisection; it and the one below it are always among the
    measured points, as `leakage_at` needs them. `known` has (success, leakage) of strengths that are not decoded again:
    0, the unedited picture, and 1.
    """
    known = dict(known)
    ascending = sorted({*strengths, *known})
    below, reaching = 0, len(ascending)  # index of a strength below the level, and of one that reaches it, if any
    while reaching - below > 1:
        one = ascending.index(1.0)
        middle = one if below < one < reaching else (below + reaching) // 2
        strength = ascending[middle]
        if strength not in known:
            known[strength] = read(strength)
        below, reaching = (below, middle) if known[strength][0] >= level else (middle, reaching)
    return tuple((strength, *known[strength]) for strength in sorted(known))


def read_edits(
    editor: Editor, held: HeldOut, i: int, rows: Int64[Tensor, " some"], target: Float[Tensor, " n"], strength: float
) -> Float[Tensor, "some factors"]:
    """Decode edits of one strength and read them by the judge, on the CPU."""
    judged, device = [], held.latents.device
    for some in rows.split(BATCH):
        edited = editor.edit(held.latents[some.to(device)], i, target[some].to(device), strength)
        judged.append(held.judge.read(held.encoder.decode(edited)).cpu())
    return torch.cat(judged)


def scan(
    editor: Editor, held: HeldOut, i: int, rows: Int64[Tensor, " some"], target: Float[Tensor, " n"],
    after: Float[Tensor, "some factors"], strengths: Sequence[float],
) -> dict[str, Any]:  # fmt: skip
    """Measure the curve over strengths and leakage_at_90 of decoded edits; `after` are the readings at strength 1."""
    if not held.drawn:
        rows, after = rows[:EXTRAS], after[:EXTRAS]
    known = {0.0: (0.0, 0.0), 1.0: shares(held, i, rows, after, target)[:2]}
    curve = search(
        known, strengths, LEVEL,
        lambda strength: shares(held, i, rows, read_edits(editor, held, i, rows, target, strength), target)[:2],
    )  # fmt: skip
    searched, successes, leakages = zip(*curve, strict=True)
    return {"curve": curve, "leakage_at_90": leakage_at(searched, successes, leakages, LEVEL)}


def final_shares(
    editor: Editor, held: HeldOut, i: int, rows: Int64[Tensor, " some"], target: Float[Tensor, " n"], strength: float
) -> tuple[float, float]:
    """Measure effectiveness and leakage of the final pictures of one strength."""
    tally, device = FinalTally(), held.latents.device
    for some in rows.split(BATCH):
        edited = editor.edit(held.latents[some.to(device)], i, target[some].to(device), strength)
        final = held.photographs.finals(some, held.encoder.decode(edited))
        tally.readings.append(read_by_judge(held.judge, final))
    reached_share, leaked, _ = shares_of(held.photographs, i, rows, target, tally.all_readings())
    return reached_share or 0.0, leaked or 0.0


def leakage_at_equal(
    editors: Mapping[str, Editor], held: HeldOut, i: int, rows: Int64[Tensor, " some"], target: Float[Tensor, " n"],
    results: Mapping[str, FactorMeasurement],
) -> dict[str, float]:  # fmt: skip
    """Measure the leakage of final pictures at the strength where an editor is as effective as the first at strength 1.

    The first editor is the run's own, and its result is its leakage at strength 1. For others that were measured at
    several strengths, the strength is searched between those, with at most one more halfway between two. Editors that
    never reach that effectiveness, or were measured at one strength only, are left out; all are, where the first never
    succeeds.
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
