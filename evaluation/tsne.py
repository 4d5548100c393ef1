"""Maps of a run's features and of what its model made of them: python -m evaluation.tsne run=RUN [method=umap].

Side by side, coloured by label and by cluster: a picture, a page with thumbnails on hover, TensorBoard's projector, and
points.parquet for Embedding Atlas. Options: method=tsne, umap or pca; dimensions=2 or 3; spaces=[features,autoencoder];
n=5000 rows (default: as many as the method can take); perplexity=30 of t-SNE; neighbours=15 of UMAP; metric=euclidean
or cosine; seed=0; json=true.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from omegaconf import MISSING
from torch import Tensor

from datamodules.factors import FactorTable, near_names
from evaluation.command import aside, command, options
from evaluation.comparison import CLUSTER_METHODS
from evaluation.files import read_json, write_json
from evaluation.neighbours import map_quality, nearest_rows
from evaluation.points import atlas_command, check_columns, write_points, write_projector
from evaluation.projection import Projection, project
from evaluation.report import write_report
from evaluation.run import LoadedRun, load
from evaluation.scatter import Map, draw_scatter
from evaluation.scatter_page import write_page
from models import UserError

__all__ = ["Options", "main", "map_run"]

SPLIT_WORDS = ("train", "validation", "test")
NEIGHBOURS = 15


@dataclass
class Options:
    run: str = MISSING
    method: str = "tsne"
    dimensions: int = 2
    spaces: list[str] | None = None
    n: int | None = None
    perplexity: float = 30.0
    neighbours: int = 15
    metric: str = "euclidean"
    seed: int = 0
    json: bool = False


def spaces_of(run: LoadedRun, chosen: Sequence[str] | None) -> dict[str, Float[Tensor, "n _"]]:
    """The features, and every space that the run's models map them to.

    Raises:
        UserError: a space that the run does not have.
    """
    made: dict[str, Any] = {"features": lambda: run.vectors.values}
    if (file := run.path / "codes.npy").is_file():
        made["autoencoder"] = lambda: torch.from_numpy(np.load(file))
    if run.config.model.name in ("dec", "idec") and (run.path / "checkpoints" / "last.ckpt").is_file():
        made[run.config.model.name] = lambda: run.clusterer.autoencoder.embed(run.vectors.values).cpu()
    if run.config.model.name == "iin":
        made["iin"] = lambda: run.iin.encode(run.vectors.values.to(run.device)).detach().cpu()
    for name in chosen or ():
        if name not in made:
            near = near_names(name, made)
            raise UserError(f"Expected spaces= among {', '.join(made)}, as the run has them, got {name!r}.{near}")
    return {name: made[name]() for name in chosen or made}


def words(table: FactorTable) -> dict[str, np.ndarray]:
    """Labels as words, numbers of continuous factors; unknown ones are missing."""
    columns: dict[str, np.ndarray] = {}
    for factor, column in zip(table.factors, table.values.unbind(1), strict=True):
        values = column.numpy()
        if factor.kind != "continuous":
            values = np.array([None if np.isnan(v) else factor.values[int(v)] for v in values], dtype=object)
        columns[factor.name] = values
    return columns


def described(run: LoadedRun) -> pd.DataFrame:
    """id, split, labels and clusters of every row."""
    data = run.vectors
    table = pd.DataFrame({"id": data.ids, "split": [SPLIT_WORDS[part] for part in data.split.tolist()]})
    table = table.assign(**words(data.factors))
    if (file := run.path / "assignments.parquet").is_file():
        found = pd.read_parquet(file)
        methods = [name for name in CLUSTER_METHODS if name in found]
        table = table.assign(**{f"{name} cluster": found[name].astype(str).to_numpy() for name in methods})
    return table


def colours(run: LoadedRun, table: pd.DataFrame) -> dict[str, pd.Series]:
    """What the picture shows: the first factor that has classes, and the clusters of the run's own method."""
    labels = [factor.name for factor in run.vectors.factors.factors if factor.kind != "continuous"]
    chosen = [*labels[:1], f"{run.config.model.name} cluster"]
    shown = {name: table[name] for name in chosen if name in table and table[name].notna().any()}
    return shown or {"split": table["split"]}


def measured(space: Tensor, one: Projection, metric: str) -> dict[str, float]:
    """How far the map can be trusted, at 15 neighbours or as many as a few rows allow."""
    k = min(NEIGHBOURS, (len(one.rows) - 1) // 2)
    return map_quality(space[torch.from_numpy(one.rows)].numpy(), one.coordinates, k, metric)


def map_run(run: LoadedRun, asked: Options) -> dict[str, Any]:
    """Draw and write all maps; the files and the numbers.

    Raises:
        UserError: a space that the run does not have; whatever `project` refuses.
    """
    table = described(run)
    check_columns(table)
    spaces = spaces_of(run, asked.spaces)
    maps: dict[str, Map] = {}
    numbers: dict[str, float] = {}
    rows = np.arange(0)
    for name, space in spaces.items():
        one = project(
            space.numpy(), asked.method, asked.dimensions, asked.seed, asked.perplexity, asked.metric, asked.n,
            asked.neighbours,
        )  # fmt: skip
        quality = measured(space, one, asked.metric)
        numbers |= {f"map/{asked.method}/{name}/{key}": value for key, value in quality.items()}
        told = f"trustworthiness {quality['trustworthiness']:.3f}, k-NN recall {quality['knn_recall']:.3f}"
        maps[name], rows = Map(one.coordinates, f"{told}; {one.caption}"), one.rows
        print(f"{name}: {told}")
    images = None if run.vectors.images is None else run.vectors.images[torch.from_numpy(rows)]
    shown = table.iloc[rows].reset_index(drop=True)
    name = asked.method if asked.dimensions == 2 else f"{asked.method}_{asked.dimensions}d"
    figure, page = run.path / "figures" / f"map_{name}.png", run.path / f"map_{name}.html"
    draw_scatter(figure, maps, colours(run, shown))
    write_page(page, maps, shown, images, title=f"{run.vectors.name}: {name}")
    last = next(reversed(spaces))
    near = nearest_rows(spaces[last][torch.from_numpy(rows)].numpy(), min(NEIGHBOURS, len(rows) - 1), asked.metric)
    write_points(run.path / "points.parquet", shown, maps[last].coordinates, near, images)
    for note in write_projector(run.path / "tensorboard" / "projector", spaces[last], table, run.vectors.images):
        print(note)
    write_json(run.path / "metrics.json", read_json(run.path / "metrics.json") | numbers)
    write_report(run.path)
    return {"figure": str(figure), "page": str(page), "points": str(run.path / "points.parquet"), **numbers}


def main(arguments: Sequence[str]) -> None:
    asked = options(Options, arguments)
    run = load(asked.run)
    with aside(asked.json):
        result = map_run(run, asked)
    if asked.json:
        print(json.dumps(result))
        return
    print(f"Open: {result['page']}\n      {result['figure']}\n      tensorboard --logdir {run.path / 'tensorboard'}")
    print(f"      {atlas_command(Path(result['points']))}")


if __name__ == "__main__":
    command(main)
