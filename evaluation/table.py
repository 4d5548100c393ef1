"""Mean ± sd over finished runs, as Markdown: python -m evaluation.table runs=[RUN,RUN,...] [json=true].

Prints the comparison of the editors per factor, the judge's accuracy, and every timing.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evaluation.command import command, options
from evaluation.comparison import PREFIXES, SHOWN, editor_title
from evaluation.files import read_json
from evaluation.run import find_run
from models import UserError

__all__ = ["edit_table", "summarise"]


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


def main(arguments: Sequence[str]) -> None:
    asked = options(Options, arguments)
    if not asked.runs:
        raise UserError("Expected runs=[RUN,RUN,...], got none.")
    summary = summarise([read_json(find_run(run) / "metrics.json") for run in asked.runs])
    if asked.json:
        print(json.dumps({key: {"mean": mean, "sd": sd} for key, (mean, sd) in summary.items()}))
        return
    print(edit_table(summary))
    rest = [
        key
        for key in summary
        if key.split("/")[0] in ("reconstruction", "kl", "active_units", "flow", "time", "waiting", "memory")
    ]
    print("\n| number | mean ± sd |\n|---|---|")
    print("\n".join(f"| {key} | {cell(summary, key)} |" for key in rest))


if __name__ == "__main__":
    command(main)
