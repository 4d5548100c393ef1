"""Mean ± sd over finished runs, as Markdown: python -m evaluation.table runs=[RUN,RUN,...] [json=true].

Prints the comparison of the editors per factor with the judge's accuracy, or that of the clusterings, and every
timing. Clusterings: of one run, over the seeds that it has, or over several runs of one seed each.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evaluation.command import command, options
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
    runs: list[str] = field(default_factory=list)
    json: bool = False


def summarise(runs: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """(mean, sd) of every metric that all runs have; sd is that of the sample, 0 of a single run."""
    shared = set.intersection(*(set(run) for run in runs))
    columns = {key: [run[key] for run in runs] for key in sorted(shared)}
    return {key: (statistics.mean(v), statistics.stdev(v) if len(v) > 1 else 0.0) for key, v in columns.items()}


def cell(summary: Mapping[str, tuple[float, float]], key: str) -> str:
    return f"{summary[key][0]:.3f} ± {summary[key][1]:.3f}" if key in summary else ""


def edit_table(summary: Mapping[str, tuple[float, float]]) -> str:
    """One row per factor and editor."""
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
    """One row per factor, rows that are scored, and method; empty where the runs are no clusterings.

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
    asked = options(Options, arguments)
    if not asked.runs:
        raise UserError("Expected runs=[RUN,RUN,...], got none.")
    runs = [read_json(find_run(run) / "metrics.json") for run in asked.runs]
    summary = summarise(runs)
    if asked.json:
        print(json.dumps({key: {"mean": mean, "sd": sd} for key, (mean, sd) in summary.items()}))
        return
    print(clustering_table(runs) or edit_table(summary))
    rest = [
        key
        for key in summary
        if key.split("/")[0] in ("reconstruction", "kl", "active_units", "flow", "time", "waiting", "memory")
    ]
    print("\n| number | mean ± sd |\n|---|---|")
    print("\n".join(f"| {key} | {cell(summary, key)} |" for key in rest))


if __name__ == "__main__":
    command(main)
