"""Write metrics.json, which has finite numbers alone, and report the others instead of dropping them.

A number that is not finite is named in measurements.json under `not_finite`, in the report and in the last lines.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.files import read_json, write_json
from training.run_files import damaged, read_metrics

__all__ = ["add_metrics", "known_metrics", "not_finite", "not_finite_line", "read_not_finite", "write_metrics"]

MEASUREMENTS = "measurements.json"


def not_finite(metrics: Mapping[str, float]) -> dict[str, str]:
    """Return the metrics that are NaN or infinite, as words, because JSON has no such numbers.

    >>> not_finite({"kl": 1.0, "reconstruction/mse": float("nan")})
    {'reconstruction/mse': 'nan'}
    """
    return {key: str(float(value)) for key, value in metrics.items() if not math.isfinite(value)}


def not_finite_line(found: Mapping[str, str]) -> str:
    """Return the line about metrics that are not finite; empty if there are none.

    >>> not_finite_line({"reconstruction/mse": "nan"})
    'NOT FINITE, so not in metrics.json: reconstruction/mse (nan).'
    """
    listed = ", ".join(f"{key} ({value})" for key, value in found.items())
    return f"NOT FINITE, so not in metrics.json: {listed}." if listed else ""


def read_not_finite(folder: Path) -> dict[str, str]:
    """Return the metrics of a run that are not finite, as words.

    Raises:
        UserError: measurements.json is damaged.
    """
    found = read_json(folder / MEASUREMENTS).get("not_finite", {})
    if not isinstance(found, dict) or not all(value in ("nan", "inf", "-inf") for value in found.values()):
        raise damaged(folder / MEASUREMENTS, "nan, inf or -inf by metric as not_finite", repr(found))
    return found


def known_metrics(folder: Path) -> dict[str, float]:
    """Return all metrics of a run, also those that are not finite.

    Raises:
        UserError: a file is damaged.
    """
    return {key: float(value) for key, value in read_not_finite(folder).items()} | read_metrics(folder)


def write_metrics(folder: Path, metrics: Mapping[str, float], measurements: Mapping[str, Any] | None = None) -> None:
    """Write `metrics.json`, and `measurements.json` with the given content or that which it has already."""
    wrong = not_finite(metrics)
    write_json(folder / "metrics.json", {key: value for key, value in metrics.items() if key not in wrong})
    before = read_json(folder / MEASUREMENTS)
    content = {**(measurements or before), "not_finite": wrong}
    if not wrong:
        del content["not_finite"]
    if content != before:
        write_json(folder / MEASUREMENTS, content)


def add_metrics(folder: Path, numbers: Mapping[str, float]) -> None:
    """Add metrics to those of a run; a line says which are not finite."""
    write_metrics(folder, {**known_metrics(folder), **numbers})
    if line := not_finite_line(not_finite(numbers)):
        print(line)
