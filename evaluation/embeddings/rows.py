"""Rows of a source that are looked at: drawn by chance or chosen, placed on a map among others, and drawn."""

import re
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
from training.files import write_file

__all__ = [
    "MOST_NAMES",
    "MapSettings",
    "SOME_NAMES",
    "Selection",
    "class_column",
    "column",
    "draw_map",
    "map_among",
    "some_rows",
    "telling_column",
]

MOST_NAMES, SOME_NAMES = 100, 40  # points whose names all stand beside them; of more points, so many names


class Selection(NamedTuple):
    """Rows that are drawn, queries that are no rows of the data perhaps among them."""

    table: pd.DataFrame  # id, and what is known of each
    values: Float32[np.ndarray, "n features"]
    rows: list[int]  # of the data, as far as they are

    @property
    def names(self) -> list[str]:
        return self.table["id"].tolist()


class MapSettings(NamedTuple):
    method: str = "tsne"
    dimensions: int = 2
    metric: str = "cosine"
    perplexity: float = 30.0
    neighbours: int = 15
    n: int = 2000  # rows on the map, those that are not shown among them
    seed: int = 0


def some_rows(source: Source, n: int | None, seed: int = 0) -> Selection:
    """Rows drawn at random, or all."""
    names = source.names
    rows = draw_rows(len(names), n, seed)
    table = source.table.iloc[rows].reset_index(drop=True).assign(id=[names[row] for row in rows])
    return Selection(table, source.index.values[rows].astype(np.float32), rows.tolist())


def map_among(source: Source, shown: Selection, settings: MapSettings) -> Map:
    """Where rows are on a map that others, drawn at random, are on as well, so that it has something to place them by.

    Raises:
        UserError: a method, a number of dimensions or a perplexity that does not fit.
    """
    others, spare = np.setdiff1d(np.arange(len(source.names)), shown.rows), settings.n - len(shown.values)
    others = others[draw_rows(len(others), spare, settings.seed)] if spare > 0 else others[:0]
    values = np.concatenate([shown.values, source.index.values[others].astype(np.float32)])
    made = project(
        values, settings.method, settings.dimensions, settings.seed, settings.perplexity, settings.metric, len(values),
        settings.neighbours,
    )  # fmt: skip
    names = shown.names if len(shown.values) <= MOST_NAMES else ()
    return Map(made.coordinates[: len(shown.values)], f"{made.caption}, fitted on {len(values):,} rows", names)


def column(table: pd.DataFrame, name: str, option: str = "colour") -> pd.Series:
    """A column to colour or to compare by.

    Raises:
        UserError: there is none of that name.
    """
    known = [str(each) for each in table.columns if each != "id"]
    if name not in known:
        raise UserError(
            f"Expected {option}= to be one of {', '.join(known)}, got {name!r}: data.labels= names more columns."
            f"{near_names(name, known)}"
        )
    return table[name]


def class_column(table: pd.DataFrame, name: str, option: str) -> pd.Series:
    """A column of classes.

    Raises:
        UserError: there is none of that name; its values are numbers of a scale.
    """
    found = column(table, name, option)
    if pd.api.types.is_float_dtype(found):
        raise UserError(f"Expected {option}= to be labels with classes, got {name!r}, which has numbers of a scale.")
    return found


def telling_column(table: pd.DataFrame) -> str | None:
    """The label to colour by where nobody says: the first one with classes, else the first. The split is none."""
    labels = [str(name) for name in table if name not in ("id", "split") and table[name].notna().any()]
    classes = [name for name in labels if not pd.api.types.is_float_dtype(table[name])]
    return next(iter([*classes, *labels]), None)


def draw_map(folder: Path, name: str, one: Map, table: pd.DataFrame, colour: str | None,
             title: str = "") -> list[Path]:  # fmt: skip
    """Write a map as a page, a figure and a table of coordinates, in files of that name.

    Raises:
        UserError: no such column to colour by; the folder cannot be written.
    """
    if colour is not None:
        column(table, colour)
        table = table[list(dict.fromkeys(["id", colour, *table.columns]))]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:80]
    page, picture, places = (folder / f"{stem}.{suffix}" for suffix in ("html", "png", "csv"))
    write_page(page, {title or name: one}, table, title=title or name, coloured=colour is not None)
    draw_scatter(picture, {title or name: one}, {} if colour is None else {colour: table[colour]})
    points = np.asarray(one.coordinates)
    axes = {axis: points[:, i] for i, axis in enumerate("xyz"[: points.shape[1]])}
    write_file(places, table.assign(**axes).to_csv(index=False))
    return [page, picture, places]
