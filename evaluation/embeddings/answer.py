"""Print the answers of commands as JSON or as text, and write their tables and pictures."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from evaluation.drawing.figures import write_figure
from training.files import csv_text, jsonable, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Answer"]


class Answer(NamedTuple):
    """The answer of a command: `content` is printed as JSON, `printed` as text; `files` were written."""

    content: dict[str, Any]
    printed: list[str]
    files: list[Path]

    def write_table(self, folder: Path, name: str, table: pd.DataFrame, index: bool = False) -> None:
        """Write a table as `<name>.csv`."""
        self.files.append(folder / f"{name}.csv")
        write_file(self.files[-1], csv_text(table, index))

    def write_picture(self, folder: Path, name: str, drawing: "Figure") -> None:
        """Write a figure as `<name>.png`."""
        self.files.append(folder / f"{name}.png")
        write_figure(self.files[-1], drawing)

    def show(self, as_json: bool) -> None:
        """Print the answer: one JSON object with the files, or the text and the files to open."""
        if as_json:
            files = {"files": [str(file) for file in self.files]} if self.files else {}
            print(json.dumps(jsonable(self.content | files)))
            return
        if self.printed:
            print("\n\n".join(self.printed))
        for file in self.files:
            print(f"Open: {file}")
