"""Writes a run's report.html again from the files in its folder: python -m evaluation.report run=RUN
[json=true].

One self-contained page: no network, no scripts, images inside. No model and no data are needed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import MISSING

from evaluation.command import command, options
from evaluation.report.page import write_report

__all__ = ["Options", "main"]


@dataclass
class Options:
    run: str = MISSING
    json: bool = False


def main(arguments: Sequence[str]) -> None:
    asked = options(Options, arguments)
    file = write_report(asked.run)
    print(json.dumps({"files": [str(file)]}) if asked.json else f"Open: {file}")


if __name__ == "__main__":
    command(main)
