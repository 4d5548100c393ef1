"""Maps of the embedding spaces of a finished run: figure, page, points and quality."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import MISSING

from datamodules.factors import column_name
from evaluation.command import option
from evaluation.maps.export import check_columns, write_points, write_projector
from evaluation.maps.neighbours import nearest_rows
from evaluation.maps.page import write_page
from evaluation.maps.projection import project
from evaluation.maps.quality import NEIGHBOURS, measured
from evaluation.maps.scatter import Map, draw_scatter
from evaluation.report.page import write_report
from evaluation.run import LoadedRun, described, spaces_of
from training.metrics import add_metrics

__all__ = ["Options", "map_run"]


@dataclass
class Options:
    """Options, given as key=value."""

    run: str = option(MISSING, "run folder, or a folder whose newest run is taken")
    method: str = option("tsne", "method of the map: tsne, umap or pca")
    dimensions: int = option(2, "dimensions of the map: 2 or 3")
    spaces: list[str] | None = option(None, "spaces to map, such as [features,autoencoder] (default: all of the run)")
    n: int | None = option(None, "rows on the map, drawn at random (default: as many as the method can take)")
    perplexity: float = option(30.0, "perplexity of t-SNE")
    neighbours: int = option(15, "neighbours of UMAP")
    metric: str = option("euclidean", "distance between rows: euclidean or cosine")
    seed: int = option(0, "seed of the map and of the rows that are drawn")
    json: bool = option(False, "print one JSON object: the files and the quality of the maps")


def colours(run: LoadedRun, table: pd.DataFrame) -> dict[str, pd.Series]:
    """Choose the columns that colour the picture: the first factor with classes, and the run's own clusters."""
    labels = [column_name(factor.name) for factor in run.vectors.factors.factors if factor.kind != "continuous"]
    chosen = [*labels[:1], f"{run.config.model.name} cluster"]
    shown = {name: table[name] for name in chosen if name in table and table[name].notna().any()}
    return shown or {"split": table["split"]}


def map_run(run: LoadedRun, options: Options) -> dict[str, Any]:
    """Draw and write all maps, and return the names of the files and the numbers.

    Raises:
        UserError: a space that the run does not have; as `project`.
    """
    table = described(run)
    check_columns(table)
    spaces = spaces_of(run, options.spaces)
    maps: dict[str, Map] = {}
    numbers: dict[str, float] = {}
    rows = np.arange(0)
    for name, space in spaces.items():
        one = project(
            space.numpy(), options.method, options.dimensions, options.seed, options.perplexity, options.metric,
            options.n, options.neighbours,
        )  # fmt: skip
        quality = measured(space, one, options.metric)
        numbers |= {f"map/{options.method}/{name}/{key}": value for key, value in quality.items()}
        scores = f"trustworthiness {quality['trustworthiness']:.3f}, k-NN recall {quality['knn_recall']:.3f}"
        maps[name], rows = Map(one.coordinates, f"{scores}; {one.caption}"), one.rows
        print(f"{name}: {scores}")
    images = None if run.vectors.images is None else run.vectors.images[torch.from_numpy(rows)]
    shown = table.iloc[rows].reset_index(drop=True)
    name = options.method if options.dimensions == 2 else f"{options.method}_{options.dimensions}d"
    figure, page = run.path / "figures" / f"map_{name}.png", run.path / f"map_{name}.html"
    draw_scatter(figure, maps, colours(run, shown))
    write_page(page, maps, shown, images, title=f"{run.vectors.name}: {name}")
    last = next(reversed(spaces))
    near = nearest_rows(spaces[last][torch.from_numpy(rows)].numpy(), min(NEIGHBOURS, len(rows) - 1), options.metric)
    write_points(run.path / "points.parquet", shown, maps[last].coordinates, near, images)
    for note in write_projector(run.path / "tensorboard" / "projector", spaces[last], table, run.vectors.images):
        print(note)
    add_metrics(run.path, numbers)
    write_report(run.path)
    return {"figure": str(figure), "page": str(page), "points": str(run.path / "points.parquet"), **numbers}
