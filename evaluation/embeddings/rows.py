"""Select rows of a source, map them among others, and draw the maps."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float32

from evaluation.embeddings.source import Source
from evaluation.maps.neighbours import draw_rows
from evaluation.maps.page import write_page
from evaluation.maps.projection import project
from evaluation.maps.scatter import Map, draw_scatter
from models import UserError, near_names
from training.files import csv_text, file_name, write_file

__all__ = [
    "MOST_NAMES",
    "MapSettings",
    "SOME_NAMES",
    "Selection",
    "class_column",
    "column",
    "default_colour",
    "draw_map",
    "map_among",
    "sample_rows",
]

MOST_NAMES, SOME_NAMES = 100, 40  # up to 100 points are all named on a map; of more points, 40


class Selection(NamedTuple):
    """Rows of a source, and queries that may be no rows of it."""

    table: pd.DataFrame  # id, split and labels
    values: Float32[np.ndarray, "n features"]
    rows: list[int]  # row numbers of those that are rows of the source

    @property
    def names(self) -> list[str]:
        return self.table["id"].tolist()


class MapSettings(NamedTuple):
    """How a map of rows is fitted."""

    method: str = "tsne"
    dimensions: int = 2
    metric: str = "cosine"
    perplexity: float = 30.0
    neighbours: int = 15
    n: int = 2000  # rows that the map is fitted on, with those that are not shown
    seed: int = 0


def sample_rows(source: Source, n: int | None, seed: int = 0) -> Selection:
    """Draw n rows of a source at random; all where n is None."""
    names = source.names
    rows = draw_rows(len(names), n, seed)
    table = source.table.iloc[rows].reset_index(drop=True).assign(id=[names[row] for row in rows])
    return Selection(table, source.index.values[rows].astype(np.float32), rows.tolist())


def map_among(source: Source, shown: Selection, settings: MapSettings) -> Map:
    """Map the rows shown together with others, drawn at random, that give the map its structure.

    Raises:
        UserError: a method, a number of dimensions or a perplexity that does not fit.
    """
    others, spare = np.setdiff1d(np.arange(len(source.names)), shown.rows), settings.n - len(shown.values)
    others = others[draw_rows(len(others), spare, settings.seed)] if spare > 0 else others[:0]
    values = np.concatenate([shown.values, source.index.values[others].astype(np.float32)])
    projection = project(
        values, settings.method, settings.dimensions, settings.seed, settings.perplexity, settings.metric, len(values),
        settings.neighbours,
    )  # fmt: skip
    names = shown.names if len(shown.values) <= MOST_NAMES else ()
    caption = f"{projection.caption}, fitted on {len(values):,} rows"
    return Map(projection.coordinates[: len(shown.values)], caption, names)


def column(table: pd.DataFrame, name: str, option: str = "colour") -> pd.Series:
    """Return the column of a table that an option names.

    Raises:
        UserError: no column has that name.
    """
    known = [str(each) for each in table.columns if each != "id"]
    if name not in known:
        raise UserError(
            f"Expected {option}= to be one of {', '.join(known)}, got {name!r}: data.labels= names more columns."
            f"{near_names(name, known)}"
        )
    return table[name]


def class_column(table: pd.DataFrame, name: str, option: str) -> pd.Series:
    """Return the column of classes that an option names.

    Raises:
        UserError: no column has that name; its values are continuous.
    """
    found = column(table, name, option)
    if pd.api.types.is_float_dtype(found):
        raise UserError(f"Expected {option}= to be labels with classes, got {name!r}, which is continuous.")
    return found


def default_colour(table: pd.DataFrame) -> str | None:
    """Choose the label that colours a map by default: the first with classes, else the first; None without labels."""
    labels = [str(name) for name in table if name not in ("id", "split") and table[name].notna().any()]
    classes = [name for name in labels if not pd.api.types.is_float_dtype(table[name])]
    return next(iter([*classes, *labels]), None)


def draw_map(folder: Path, name: str, drawn: Map, table: pd.DataFrame, colour: str | None,
             title: str = "") -> list[Path]:  # fmt: skip
    """Write a map as a page, a figure and a table of coordinates, in files of that name.

    Raises:
        UserError: no such column; the folder cannot be written.
    """
    if colour is not None:
        column(table, colour)
        table = table[list(dict.fromkeys(["id", colour, *table.columns]))]
    stem = file_name(name)
    page, picture, coordinates = (folder / f"{stem}.{suffix}" for suffix in ("html", "png", "csv"))
    write_page(page, {title or name: drawn}, table, title=title or name, coloured=colour is not None)
    draw_scatter(picture, {title or name: drawn}, {} if colour is None else {colour: table[colour]})
    points = np.asarray(drawn.coordinates)
    axes = {axis: points[:, i] for i, axis in enumerate("xyz"[: points.shape[1]])}
    write_file(coordinates, csv_text(table.assign(**axes)))
    return [page, picture, coordinates]
