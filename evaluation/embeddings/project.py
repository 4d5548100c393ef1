"""Map embeddings, place new ones on the same map, and write a page, a picture, the points and the reducer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from evaluation.command import option
from evaluation.embeddings.rows import MOST_NAMES, SOME_NAMES, Selection, column, default_colour
from evaluation.embeddings.source import Source
from evaluation.maps.export import write_points, write_projector
from evaluation.maps.neighbours import Neighbours, draw_rows, nearest_rows
from evaluation.maps.page import write_page
from evaluation.maps.placement import Reducer, check_placing, fitted
from evaluation.maps.projection import project
from evaluation.maps.quality import NEIGHBOURS, measured
from evaluation.maps.scatter import Map, draw_scatter
from models import UserError

__all__ = ["MAP_OPTIONS", "Options", "Placed", "colour_of", "fit_map", "place_rows", "write_map"]

MAP_OPTIONS = ("method", "dimensions", "metric", "perplexity", "neighbours")  # fixed by a saved map


@dataclass
class Options:
    """Options, given as key=value."""

    method: str = option("tsne", "method of the map: tsne, umap or pca")
    dimensions: int = option(2, "dimensions of the map: 2 or 3")
    metric: str = option("cosine", "distance between rows: cosine or euclidean")
    seed: int = option(0, "seed of the map and of the rows that are drawn")
    n: int | None = option(None, "rows on the map, drawn at random (default: as many as the method can take)")
    perplexity: float = option(30.0, "perplexity of t-SNE")
    neighbours: int = option(15, "neighbours of UMAP")
    prompts: Any = option(None, "new texts or image files to place on the map", text=True)
    reducer: str | None = option(None, "saved map, reducer.npz, on which the rows of the data are placed")
    colour: str | None = option(
        None, "column that colours the map: split, or a label (default: the kind of the new points, or the first label)"
    )
    out: str | None = option(None, "folder for the files (default: figures of the run, or embeddings/project)")
    json: bool = option(False, "print one JSON object: the files, the new points, the quality of the map")


class Placed(NamedTuple):
    """A map with the table of its points; the last `new` points were placed on it after it was fitted."""

    table: pd.DataFrame
    map: Map
    reducer: Reducer
    new: int
    values: Float32[np.ndarray, "n features"] | None  # the vectors of the points, which a saved map does not have
    images: UInt8[Tensor, "n channels size size"] | None
    quality: dict[str, float]

    @property
    def places(self) -> pd.DataFrame:
        """The coordinates of the new points: name, x, y (, z)."""
        points = np.asarray(self.map.coordinates)[len(self.table) - self.new :]
        axes = {axis: points[:, i] for i, axis in enumerate("xyz"[: points.shape[1]])}
        return pd.DataFrame({"name": self.table["id"].tolist()[len(self.table) - self.new :], **axes})


def point_names(table: pd.DataFrame, new: int) -> Sequence[str]:
    """Choose the names drawn on the map: all of a few points; of many the new ones, or some where no label colours."""
    names = table["id"].tolist()
    first = len(names) - new
    if len(names) <= MOST_NAMES:
        return names
    if 0 < new <= MOST_NAMES:
        return [*[""] * first, *names[first:]]
    if new or default_colour(table):
        return ()
    chosen = set(draw_rows(len(names), SOME_NAMES, 0).tolist())
    return [name if row in chosen else "" for row, name in enumerate(names)]


def joint_table(old: Sequence[str] | pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Join the tables of old and new points; where there are both, a column `kind` says which is which.

    Raises:
        UserError: a label that is called `kind`.
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
    """Select the images of rows, and add white ones for points without an image."""
    if images is None:
        return None
    own = images[torch.tensor(rows)]
    return torch.cat([own, torch.full((new, *own.shape[1:]), 255, dtype=torch.uint8)])


def fit_map(source: Source, options: Options) -> Placed:
    """Fit a map on the rows of a source, and place the prompts on it.

    Raises:
        UserError: see `project`; prompts that cannot be embedded or placed.
    """
    given = options.prompts if isinstance(options.prompts, list) else [options.prompts]
    prompts = list(dict.fromkeys(str(prompt) for prompt in given if prompt is not None))
    if prompts:
        check_placing(options.method)
    values = source.index.values
    vectors = source.embed(prompts)[0].numpy() if prompts else np.empty((0, values.shape[1]), np.float32)
    projection = project(values, options.method, options.dimensions, options.seed, options.perplexity, options.metric,
                         options.n, options.neighbours)  # fmt: skip
    reducer = fitted(values, projection, source.names)
    quality = measured(torch.from_numpy(np.asarray(values, np.float32)), projection, options.metric)
    rows = projection.rows.tolist()
    known = source.table.iloc[rows].reset_index(drop=True).assign(id=reducer.names)
    table = joint_table(known, pd.DataFrame({"id": prompts}))
    points = projection.coordinates
    points = np.concatenate([points, reducer.transform(vectors)]) if prompts else points
    scores = f"trustworthiness {quality['trustworthiness']:.3f}, k-NN recall {quality['knn_recall']:.3f}"
    fitted_map = Map(points, f"{scores}; {projection.caption}", point_names(table, len(prompts)))
    shown = np.concatenate([values[rows].astype(np.float32), vectors])
    images = with_blanks(source.vectors.images, rows, len(prompts))
    return Placed(table, fitted_map, reducer, len(prompts), shown, images, quality)


def place_rows(reducer: Reducer, shown: Selection) -> Placed:
    """Place rows on a saved map.

    Raises:
        UserError: rows of another width; the package of the method is not installed.
    """
    points = np.concatenate([reducer.coordinates, reducer.transform(shown.values)])
    table = joint_table(reducer.names, shown.table)
    caption = f"a saved map: {reducer.settings['method']}, {reducer.settings['metric']} distances"
    saved_map = Map(points, caption, point_names(table, len(shown.values)))
    return Placed(table, saved_map, reducer, len(shown.values), None, None, {})


def colour_of(placed: Placed, options: Options) -> str | None:
    """Choose the column that colours the map: that of the options, else `kind` where points are new, else a label."""
    if options.colour is not None:
        column(placed.table, options.colour)
        return options.colour
    return "kind" if placed.new else default_colour(placed.table)


def write_map(folder: Path, placed: Placed, colour: str | None, title: str) -> dict[str, str]:
    """Write the page, the picture, the points, the projector and the reducer of a map; return their names."""
    settings = placed.reducer.settings
    dimensions = placed.reducer.coordinates.shape[1]
    kind = "placed" if placed.values is None else "map"  # beside the files of a saved map, which stay
    name = f"{kind}_{str(settings['method']).lower().replace('-', '')}{'' if dimensions == 2 else '_3d'}"
    page, picture, points = (
        folder / f"{name}.html",
        folder / f"{name}.png",
        folder / ("points.parquet" if kind == "map" else "placed.parquet"),
    )
    table = placed.table[list(dict.fromkeys(["id", *([] if colour is None else [colour]), *placed.table.columns]))]
    maps = {str(settings["method"]): placed.map}
    write_page(page, maps, table, placed.images, title=title, coloured=colour is not None)
    draw_scatter(picture, maps, {} if colour is None else {colour: table[colour]})
    near: Neighbours | None = None
    files = {"page": page, "figure": picture, "points": points}
    if placed.values is not None:
        near = nearest_rows(placed.values, min(NEIGHBOURS, len(table) - 1), str(settings["metric"]))
        files |= {"projector": folder / "projector", "reducer": folder / "reducer.npz"}
        for note in write_projector(files["projector"], placed.values, table, placed.images):
            print(note)
        placed.reducer.save(files["reducer"])
    write_points(points, table, placed.map.coordinates, near, placed.images)
    return {key: str(file) for key, file in files.items()}
