"""Write report.html from the files of a run folder: python -m evaluation.report run=RUN [json=true].

The report is one self-contained page with embedded images, which opens without a network and runs no scripts. Neither
the model nor the data is loaded.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import MISSING

from evaluation.command import command, option, parse_options
from evaluation.report.page import write_report
from training.places import check_links
from training.run_folder import find_run

__all__ = ["Options", "main"]


@dataclass
class Options:
    """Options, given as key=value."""

    run: str = option(MISSING, "run folder, or a folder whose newest run is taken")
    json: bool = option(False, "print one JSON object: files")


def main(arguments: Sequence[str]) -> None:
    """Write the report, and print its path."""
    options = parse_options(Options, arguments)
    check_links(find_run(options.run))
    file = write_report(options.run)
    print(json.dumps({"files": [str(file)]}) if options.json else f"Open: {file}")


if __name__ == "__main__":
    command(main, Options)
