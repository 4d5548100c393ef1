"""Tabulate mean ± sd over finished runs, as Markdown: python -m evaluation.table runs=[RUN,RUN,...] [json=true].

The command prints the comparison of the editors per factor with the accuracy of the judge, or that of the clusterings,
and every timing. Clusterings are compared over the seeds of one run, or over several runs of one seed each.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

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
from training.run_files import read_metrics
from training.run_folder import find_run
from training.settings import differences, shortened
from training.stored_settings import read_settings

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


def check_comparable(folders: Sequence[Path]) -> list[str]:
    """Check that runs repeat one experiment, and return notes about what differs beside the seed.

    Raises:
        UserError: a run is named twice; runs of different models or data.
    """
    resolved = [folder.resolve() for folder in folders]
    twice = [folder for i, folder in enumerate(resolved) if folder in resolved[:i]]
    if twice:
        raise UserError(f"Expected different runs, got {twice[0]} twice: name each once.")
    settings = [read_settings(folder / "config.yaml") for folder in folders]
    for key in ("model.name", "data._target_"):
        values = [OmegaConf.select(each, key) for each in settings]
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise UserError(
                f"Expected runs of one {key.split('.')[0]}, got {key}={values[0]} in {folders[0]} and {values[other]} "
                f"in {folders[other]}: tabulate them separately."
            )
    changed = {key for each in settings[1:] for key in differences(settings[0], each)}
    notes = []
    if changed - {"seed"}:
        notes.append(f"These runs differ in {', '.join(sorted(changed - {'seed'}))}, so the sd is not that of seeds.")
    elif len(folders) > 1 and "seed" not in changed:
        notes.append("These runs have the same seed and settings, so the sd is not that of seeds.")
    return notes + sorted({warning for each in settings if (warning := shortened(each))})


def main(arguments: Sequence[str]) -> None:
    """Print the tables of the runs."""
    options = parse_options(Options, arguments)
    if not options.runs:
        raise UserError("Expected runs=[RUN,RUN,...], got none: name one or more run folders.")
    folders = [find_run(run) for run in options.runs]
    notes = check_comparable(folders)
    runs = [read_metrics(folder) for folder in folders]
    summary = summarise(runs)
    left_out = len(set().union(*runs)) - len(summary)
    notes += [f"{left_out} metrics that only some of the runs have are left out."] * (left_out > 0)
    print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
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
