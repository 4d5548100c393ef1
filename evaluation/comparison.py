"""The flow against the baselines, factor by factor, from a run's flat metrics."""

import math
from collections.abc import Mapping

from rich.table import Table

from evaluation.judge import UNFIT_BELOW

__all__ = [
    "METRICS", "PREFIXES", "SHOWN", "Comparison", "best", "edit_rows", "edit_table", "editor_title", "metric_table",
    "unjudged",
]  # fmt: skip

Comparison = dict[str, dict[str, dict[str, float]]]  # factor -> editor -> metric -> number

PREFIXES = ("edit", "baseline/mean_difference", "baseline/linear_svm", "oracle")
METRICS = {  # heading, and whether higher is better
    "success": ("success", True),
    "leakage": ("leakage", False),
    "leakage_at_90": ("leakage at 90 %", False),
    "counterfactual": ("counterfactual", True),
    "identity": ("identity", True),
    "cycle_error": ("cycle error", False),
}
TITLES = {"edit": "flow", "linear_svm": "linear SVM"}
SHOWN = ("success", "leakage", "leakage_at_90", "counterfactual")
OTHER = ("time/", "throughput/", "memory/")


def editor_title(key: str) -> str:
    """An editor as people read it, from its key in code or in metrics.json."""
    key = key.rpartition("/")[2]
    return TITLES.get(key, key.replace("_", " "))


def edit_rows(metrics: Mapping[str, float]) -> Comparison:
    """The metrics of edits, factors in the order they come."""
    rows: Comparison = {}
    for key, value in metrics.items():
        for prefix in PREFIXES:
            name, _, metric = key.removeprefix(prefix + "/").rpartition("/")
            if key.startswith(prefix + "/") and name and metric in METRICS:
                rows.setdefault(name, {}).setdefault(editor_title(prefix), {})[metric] = value
    order = [editor_title(prefix) for prefix in PREFIXES]
    return {name: {editor: of[editor] for editor in order if editor in of} for name, of in rows.items()}


def best(editors: Mapping[str, Mapping[str, float]], metric: str) -> list[str]:
    """The editors with the best number, several where they are equal as printed; none where one stands alone.

    The oracle has seen the answers and does not compete.
    """
    numbers = {
        editor: round(values[metric], 3)
        for editor, values in editors.items()
        if editor != "oracle" and math.isfinite(values.get(metric, math.nan))
    }
    if len(numbers) < 2:
        return []
    wanted = max(numbers.values()) if METRICS[metric][1] else min(numbers.values())
    return [editor for editor, number in numbers.items() if number == wanted]


def unjudged(metrics: Mapping[str, float], factor: str) -> bool:
    """Whether the judge is too weak on this factor to say anything about its edits."""
    return metrics.get(f"judge/{factor}/balanced_accuracy", 1.0) < UNFIT_BELOW


def edit_table(metrics: Mapping[str, float]) -> Table:
    """For the terminal: the flow and, dimmed, what it is measured against."""
    table = Table("factor", "editor", box=None, pad_edge=False, header_style="bold")
    for metric in SHOWN:
        table.add_column(METRICS[metric][0], justify="right")
    for name, editors in edit_rows(metrics).items():
        title = f"{name} (cannot be judged)" if unjudged(metrics, name) else name
        for editor, values in editors.items():
            numbers = [values.get(metric) for metric in SHOWN]
            cells = ["" if number is None else f"{number:.3f}" for number in numbers]
            table.add_row(title, editor, *cells, style=None if editor == "flow" else "dim")
            title = ""
    return table


def metric_table(metrics: Mapping[str, float]) -> Table:
    """For the terminal, of a run without edits: every number but times and memory."""
    table = Table("metric", box=None, pad_edge=False, header_style="bold")
    table.add_column("value", justify="right")
    for key, value in metrics.items():
        if not key.startswith(OTHER) and math.isfinite(value):
            table.add_row(key, f"{value:.4g}")
    return table
