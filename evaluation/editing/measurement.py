"""Measurements of an editor, and their keys in metrics.json."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.report.tables import editor_title
from models.labels import Factor

__all__ = ["FactorMeasurement", "Measurement", "count_keys", "keys", "matrix_keys", "measurements"]

NUMBERS = (
    "success", "leakage", "leakage_at_90", "cycle_error", "counterfactual", "identity",
    "effectiveness", "final_leakage", "leakage_at_equal", "identity_distance", "minimality", "counterfactual_image",
    "frechet_identity", "fid",
)  # fmt: skip


@dataclass(frozen=True)
class FactorMeasurement:
    """The metrics of one editor's edits of one factor. None: not applicable, or no image to measure it on.

    `images` is the number of images that success and leakage are shares of. `leakage_row` is the share of flips per
    other factor. `curve` holds (strength, success, leakage) of the scan for leakage_at_90. From `effectiveness` on, the
    metrics compare final pictures with photographs; `photographs` is the number on which the judge sees the label, and
    `by_member` the effectiveness by each member of a committee.
    """

    images: int
    success: float | None = None
    leakage: float | None = None
    leakage_row: Float[Tensor, " factors"] | None = None
    leakage_at_90: float | None = None
    cycle_error: float | None = None
    counterfactual: float | None = None
    identity: float | None = None
    curve: tuple[tuple[float, float, float], ...] = ()
    effectiveness: float | None = None
    final_leakage: float | None = None
    leakage_at_equal: float | None = None
    identity_distance: float | None = None
    minimality: float | None = None
    counterfactual_image: float | None = None
    frechet_identity: float | None = None
    fid: float | None = None
    photographs: int = 0
    by_member: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """The metrics of one editor's edits of each factor."""

    factors: tuple[Factor, ...]
    results: tuple[FactorMeasurement, ...]

    @property
    def matrix(self) -> Float[Tensor, "edited judged"]:
        """The share of images in which editing one factor (row) flipped another (column); NaN where there is none."""
        nothing = torch.full((len(self.factors),), torch.nan)
        return torch.stack([nothing if r.leakage_row is None else r.leakage_row for r in self.results])


def keys(measurement: Measurement, prefix: str) -> dict[str, float]:
    """Flatten a measurement into keys of metrics.json, `<prefix>/<factor>/<metric>`, leaving out unknown ones."""
    table: dict[str, float | None] = {}
    for factor, result in zip(measurement.factors, measurement.results, strict=True):
        own = {number: getattr(result, number) for number in NUMBERS}
        own |= {f"effectiveness_{member}": share for member, share in result.by_member.items()}
        table |= {f"{prefix}/{factor.name}/{number}": value for number, value in own.items()}
    return {key: value for key, value in table.items() if value is not None}


def count_keys(measurement: Measurement, prefix: str) -> dict[str, float]:
    """Return the numbers of images and photographs that success and effectiveness are shares of, by their keys."""
    return {
        f"{prefix}/{factor.name}/{count}": float(getattr(result, count))
        for factor, result in zip(measurement.factors, measurement.results, strict=True)
        for count in ("images", "photographs")
    }


def matrix_keys(measurement: Measurement, prefix: str) -> dict[str, float]:
    """Flatten the leakage matrix into keys of metrics.json, `<prefix>/<edited factor>/leakage_on/<other factor>`."""
    names = [factor.name for factor in measurement.factors]
    return {
        f"{prefix}/{names[i]}/leakage_on/{names[j]}": value
        for i, row in enumerate(measurement.matrix.tolist())
        for j, value in enumerate(row)
        if math.isfinite(value)
    }


def measurements(measured: Mapping[str, Measurement]) -> dict[str, Any]:
    """Collect the content of `measurements.json`: the leakage matrix and the curves of each editor.

    {"factors": names, "leakage": {editor: matrix}, "curves": {editor: {factor: {strength, success, leakage}}}}
    """
    names = [factor.name for result in measured.values() for factor in result.factors]
    content: dict[str, Any] = {"factors": list(dict.fromkeys(names)), "leakage": {}, "curves": {}}
    for key, result in measured.items():
        editor = editor_title(key)
        content["leakage"][editor] = result.matrix.tolist()
        content["curves"][editor] = {
            factor.name: dict(zip(("strength", "success", "leakage"), zip(*one.curve, strict=True), strict=True))
            for factor, one in zip(result.factors, result.results, strict=True)
            if one.curve
        }
    return content
