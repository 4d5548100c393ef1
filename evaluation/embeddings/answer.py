"""Answers of commands, as JSON or as text, with the files that were written."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from evaluation.drawing.figures import write_figure
from training.files import jsonable, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Answer"]


class Answer(NamedTuple):
    """`content` is printed as JSON, `printed` as text."""

    content: dict[str, Any]
    printed: list[str]
    files: list[Path]

    def sheet(self, folder: Path, name: str, table: pd.DataFrame, index: bool = False) -> None:
        self.files.append(folder / f"{name}.csv")
        write_file(self.files[-1], table.to_csv(index=index))

    def picture(self, folder: Path, name: str, drawing: "Figure") -> None:
        self.files.append(folder / f"{name}.png")
        write_figure(self.files[-1], drawing)

    def show(self, as_json: bool) -> None:
        """Print it: one JSON object, with `files` where there are any, or the text and what to open."""
        if as_json:
            files = {"files": [str(file) for file in self.files]} if self.files else {}
            print(json.dumps(jsonable(self.content | files)))
            return
        if self.printed:
            print("\n\n".join(self.printed))
        for file in self.files:
            print(f"Open: {file}")
