"""Tabulate mean ± sd over finished runs, as Markdown: python -m evaluation.table runs=[RUN,RUN,...] [json=true].

The command prints the comparison of the editors per factor with the accuracy of the judge, or that of the clusterings,
and every timing. Clusterings are compared over the seeds of one run, or over several runs of one seed each.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.command import command, option, parse_options
from evaluation.report.tables import (
    LABEL_FREE,
    PREFIXES,
    SCORES,
    SHOWN,
    cluster_rows,
    editor_title,
    method_title,
    score_text,
)
from models import UserError
from training.files import read_json
from training.run_folder import find_run

__all__ = ["clustering_table", "edit_table", "summarise"]


@dataclass
class Options:
    """Options, given as key=value."""

    runs: list[str] = option([], "run folders")
    json: bool = option(False, "print one JSON object: the mean and sd of every metric")


def summarise(runs: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Compute mean and sd of every metric that all runs have; the sd is that of the sample, 0 for a single run.

    >>> summarise([{"ami": 0.5}, {"ami": 0.7, "ari": 0.4}])["ami"][0]
    0.6
    """
    shared = set.intersection(*(set(run) for run in runs))
    columns = {key: [run[key] for run in runs] for key in sorted(shared)}
    return {key: (statistics.mean(v), statistics.stdev(v) if len(v) > 1 else 0.0) for key, v in columns.items()}


def cell(summary: Mapping[str, tuple[float, float]], key: str) -> str:
    """Format a metric as "mean ± sd"; empty where it is missing."""
    return f"{summary[key][0]:.3f} ± {summary[key][1]:.3f}" if key in summary else ""


def edit_table(summary: Mapping[str, tuple[float, float]]) -> str:
    """Tabulate the metrics of edits, one row per factor and editor."""
    factors = list(dict.fromkeys(key.split("/")[1] for key in summary if key.startswith("judge/")))
    lines = ["| factor (judge) | editor | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 2) + "|"]
    for factor in factors:
        for prefix in PREFIXES:
            cells = [cell(summary, f"{prefix}/{factor}/{number}") for number in SHOWN]
            if any(cells):
                first = f"{factor} ({summary[f'judge/{factor}/accuracy'][0]:.3f})" if prefix == "edit" else ""
                lines.append(f"| {first} | {editor_title(prefix)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def clustering_table(runs: Sequence[Mapping[str, float]]) -> str:
    """Tabulate the scores of clusterings, one row per factor, split and method; empty for runs without clusterings.

    Raises:
        UserError: several runs of several seeds each.
    """
    metrics = dict(runs[0])
    if len(runs) > 1:
        if any(key.removesuffix("_mean").split("/")[-1] in SCORES and key.endswith("_mean") for key in metrics):
            raise UserError("Expected one run of several seeds or several of one seed each, got several of several.")
        summary = summarise(runs)
        metrics = {
            f"{key}_{name}": number
            for key in metrics  # in this order
            if key in summary
            for name, number in zip(("mean", "sd"), summary[key], strict=True)
        }
    rows = cluster_rows(metrics)
    shown = {s: title for s, title in {**SCORES, **LABEL_FREE}.items() if any(s in row for row in rows.values())}
    lines = ["| factor | rows | method | " + " | ".join(shown.values()) + " |", "|---" * (len(shown) + 3) + "|"]
    for (factor, part, method), row in rows.items():
        cells = [factor, part, method_title(method), *(score_text(row.get(score)) for score in shown)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) if rows else ""


def main(arguments: Sequence[str]) -> None:
    """Print the tables of the runs."""
    options = parse_options(Options, arguments)
    if not options.runs:
        raise UserError("Expected runs=[RUN,RUN,...], got none: name one or more run folders.")
    runs = [read_json(find_run(run) / "metrics.json") for run in options.runs]
    summary = summarise(runs)
    if options.json:
        print(json.dumps({key: {"mean": mean, "sd": sd} for key, (mean, sd) in summary.items()}))
        return
    print(clustering_table(runs) or edit_table(summary))
    other_metrics = [
        key
        for key in summary
        if key.split("/")[0] in ("reconstruction", "kl", "active_units", "flow", "time", "waiting", "memory")
    ]
    print("\n| number | mean ± sd |\n|---|---|")
    print("\n".join(f"| {key} | {cell(summary, key)} |" for key in other_metrics))


if __name__ == "__main__":
    command(main, Options)
