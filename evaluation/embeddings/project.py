"""Map embeddings, place new ones on the same map, and write page, picture, points and the reducer that did it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from evaluation.embeddings.rows import MOST_NAMES, SOME_NAMES, Selection, column, telling_column
from evaluation.embeddings.source import Source
from evaluation.maps.export import write_points, write_projector
from evaluation.maps.neighbours import Neighbours, draw_rows, nearest_rows
from evaluation.maps.page import write_page
from evaluation.maps.placement import Reducer, check_placing, fitted
from evaluation.maps.projection import project
from evaluation.maps.quality import NEIGHBOURS, measured
from evaluation.maps.scatter import Map, draw_scatter
from models import UserError

__all__ = ["OF_A_MAP", "Options", "Placed", "colour_of", "fit_map", "place_rows", "write_map"]

OF_A_MAP = ("method", "dimensions", "metric", "perplexity", "neighbours")  # options that a saved one has settled


@dataclass
class Options:
    """See the text of `evaluation.project`."""

    method: str = "tsne"
    dimensions: int = 2
    metric: str = "cosine"
    seed: int = 0
    n: int | None = None
    perplexity: float = 30.0
    neighbours: int = 15
    prompts: Any = None
    reducer: str | None = None
    colour: str | None = None
    out: str | None = None
    json: bool = False


class Placed(NamedTuple):
    """A map and what is known of its points; those that were placed on it later are `new`, at the end."""

    table: pd.DataFrame
    map: Map
    reducer: Reducer
    new: int
    values: Float32[np.ndarray, "n features"] | None  # the points' vectors, where a saved map does not lack them
    images: UInt8[Tensor, "n channels size size"] | None
    quality: dict[str, float]

    @property
    def places(self) -> pd.DataFrame:
        """Where the new ones are: name, x, y (, z)."""
        points = np.asarray(self.map.coordinates)[len(self.table) - self.new :]
        axes = {axis: points[:, i] for i, axis in enumerate("xyz"[: points.shape[1]])}
        return pd.DataFrame({"name": self.table["id"].tolist()[len(self.table) - self.new :], **axes})


def named(table: pd.DataFrame, new: int) -> Sequence[str]:
    """The names that stand on the map: all of a few; of many those that are new, or some where there are no labels."""
    names = table["id"].tolist()
    first = len(names) - new
    if len(names) <= MOST_NAMES:
        return names
    if 0 < new <= MOST_NAMES:
        return [*[""] * first, *names[first:]]
    if new or telling_column(table):
        return ()
    chosen = set(draw_rows(len(names), SOME_NAMES, 0).tolist())
    return [name if row in chosen else "" for row, name in enumerate(names)]


def described(old: Sequence[str] | pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """One table of both, with a column that tells them apart where there are both.

    Raises:
        UserError: a label of that column's name.
    """
    first = old if isinstance(old, pd.DataFrame) else pd.DataFrame({"id": list(old)})
    if not len(new):
        return first
    if "kind" in {*first, *new}:
        raise UserError("Expected no label 'kind' beside the map's own, got one: rename it in the table.")
    kinds = ["reference"] * len(first) + ["new"] * len(new)
    columns = {name: pd.Series([*first.get(name, [None] * len(first)), *new.get(name, [None] * len(new))])
               for name in dict.fromkeys([*first, *new])}  # fmt: skip
    return pd.DataFrame({"id": columns.pop("id"), "kind": kinds, **columns})


def with_blanks(images: Tensor | None, rows: list[int], new: int) -> UInt8[Tensor, "n channels size size"] | None:
    """Images of rows, and white ones for what has none."""
    if images is None:
        return None
    own = images[torch.tensor(rows)]
    return torch.cat([own, torch.full((new, *own.shape[1:]), 255, dtype=torch.uint8)])


def fit_map(source: Source, asked: Options) -> Placed:
    """A new map of the source's rows, with the prompts placed on it.

    Raises:
        UserError: whatever `project` refuses; prompts that cannot be embedded or placed.
    """
    given = asked.prompts if isinstance(asked.prompts, list) else [asked.prompts]
    prompts = list(dict.fromkeys(str(prompt) for prompt in given if prompt is not None))
    if prompts:
        check_placing(asked.method)
    values = source.index.values
    vectors = source.embed(prompts)[0].numpy() if prompts else np.empty((0, values.shape[1]), np.float32)
    made = project(values, asked.method, asked.dimensions, asked.seed, asked.perplexity, asked.metric, asked.n,
                   asked.neighbours)  # fmt: skip
    reducer = fitted(values, made, source.names)
    quality = measured(torch.from_numpy(np.asarray(values, np.float32)), made, asked.metric)
    rows = made.rows.tolist()
    known = source.table.iloc[rows].reset_index(drop=True).assign(id=reducer.names)
    table = described(known, pd.DataFrame({"id": prompts}))
    places = np.concatenate([made.coordinates, reducer.transform(vectors)]) if prompts else made.coordinates
    told = f"trustworthiness {quality['trustworthiness']:.3f}, k-NN recall {quality['knn_recall']:.3f}"
    one = Map(places, f"{told}; {made.caption}", named(table, len(prompts)))
    shown = np.concatenate([values[rows].astype(np.float32), vectors])
    images = with_blanks(source.vectors.images, rows, len(prompts))
    return Placed(table, one, reducer, len(prompts), shown, images, quality)


def place_rows(reducer: Reducer, shown: Selection) -> Placed:
    """Rows placed on a saved map.

    Raises:
        UserError: rows of another width; the method's package is not installed.
    """
    places = np.concatenate([reducer.coordinates, reducer.transform(shown.values)])
    table = described(reducer.names, shown.table)
    caption = f"a saved map: {reducer.settings['method']}, {reducer.settings['metric']} distances"
    one = Map(places, caption, named(table, len(shown.values)))
    return Placed(table, one, reducer, len(shown.values), None, None, {})


def colour_of(placed: Placed, asked: Options) -> str | None:
    """The column that is asked for, or else what tells new from old, or a label."""
    if asked.colour is not None:
        column(placed.table, asked.colour)
        return asked.colour
    return "kind" if placed.new else telling_column(placed.table)


def write_map(folder: Path, placed: Placed, colour: str | None, title: str) -> dict[str, str]:
    """The page, the picture, the table and what other programs open; their names."""
    made = placed.reducer.settings
    dimensions = placed.reducer.coordinates.shape[1]
    kind = "placed" if placed.values is None else "map"  # on a saved map, whose own files stay
    name = f"{kind}_{str(made['method']).lower().replace('-', '')}{'' if dimensions == 2 else '_3d'}"
    page, picture, points = (
        folder / f"{name}.html",
        folder / f"{name}.png",
        folder / ("points.parquet" if kind == "map" else "placed.parquet"),
    )
    table = placed.table[list(dict.fromkeys(["id", *([] if colour is None else [colour]), *placed.table.columns]))]
    maps = {str(made["method"]): placed.map}
    write_page(page, maps, table, placed.images, title=title, coloured=colour is not None)
    draw_scatter(picture, maps, {} if colour is None else {colour: table[colour]})
    near: Neighbours | None = None
    files = {"page": page, "figure": picture, "points": points}
    if placed.values is not None:
        near = nearest_rows(placed.values, min(NEIGHBOURS, len(table) - 1), str(made["metric"]))
        files |= {"projector": folder / "projector", "reducer": folder / "reducer.npz"}
        for note in write_projector(files["projector"], placed.values, table, placed.images):
            print(note)
        placed.reducer.save(files["reducer"])
    write_points(points, table, placed.map.coordinates, near, placed.images)
    return {key: str(file) for key, file in files.items()}
