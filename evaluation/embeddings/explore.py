"""Compare embeddings: nearest rows, pairs, classes, similarity matrices, sub-clusters, the k-NN graph, exports."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.command import option
from evaluation.drawing.heatmap import heatmap
from evaluation.embeddings.answer import Answer
from evaluation.embeddings.rows import (
    MOST_NAMES,
    SOME_NAMES,
    MapSettings,
    Selection,
    class_column,
    column,
    default_colour,
    draw_map,
    map_among,
    sample_rows,
)
from evaluation.embeddings.search import compare
from evaluation.embeddings.similarity import class_matrix, class_similarity, neighbour_graph, similarity_matrix
from evaluation.embeddings.source import Source
from models import UserError
from training.command_line import row_count
from training.files import csv_text, write_file

__all__ = [
    "Options",
    "answer_maps",
    "answer_query",
    "answer_tables",
    "export",
    "frame",
    "map_distances",
    "nearest",
    "pairs",
    "sub_cluster",
]


@dataclass
class Options:
    """Options, given as key=value."""

    query: Any = option(None, "name, or list of names, whose nearest and farthest rows are printed", text=True)
    k: int = option(10, "number of nearest and of farthest rows of a query")
    pairs: Any = option(
        None, "pair of names, or list of pairs, to compare; with map= also by their distance on a map", text=True
    )
    classes: str | None = option(None, "label whose classes are compared: mean and sd of the similarity of two rows")
    sample: int = option(2000, "largest number of pairs of rows per pair of classes")
    heatmap: Any = option(None, "names of a similarity matrix, or a number of rows drawn at random", text=True)
    cluster: int | None = option(None, "number of nearest and of farthest rows of the one query= on a 3-D map")
    graph: int | None = option(None, "neighbours of each row in a k-NN graph, of all rows or of those of cluster=")
    export: str | None = option(None, "file, .csv or .parquet, for all rows: name, split, labels and embedding")
    metric: str = option("cosine", "similarity: cosine or euclidean")
    map: str | None = option(None, "method of the maps: tsne, umap or pca (default: tsne, and no map of pairs=)")
    n: int = option(2000, "rows on a map: those shown, filled up with others drawn at random")
    perplexity: float = option(30.0, "perplexity of t-SNE")
    neighbours: int = option(15, "neighbours of UMAP")
    dimensions: int | None = option(None, "dimensions of the maps: 2 or 3 (default: 2 of a graph, else 3)")
    colour: str | None = option(
        None,
        "column that colours a map: split, a label, side or edges (default: the side of a sub-cluster, the first label "
        "of a graph or the number of its edges)",
    )
    seed: int = option(0, "seed of the rows that are drawn and of the maps")
    out: str | None = option(None, "folder for the files (default: figures of the run, or embeddings/explore)")
    json: bool = option(False, "print one JSON object")


def names_of(value: Any) -> list[str]:
    """List the names of an option that takes one or several.

    Raises:
        UserError: no name, or an empty one.
    """
    names = [str(each) for each in (value if isinstance(value, list | tuple) else [value])]
    if not names or not all(names):
        raise UserError("Expected at least one name, got none or an empty one: name a row, a text or an image file.")
    return names


def nearest(source: Source, queries: str | Sequence[str], k: int = 10, metric: str = "cosine") -> pd.DataFrame:
    """Tabulate the k nearest and k farthest rows of each query, without its own: query, side, name, cosine, euclidean.

    Raises:
        UserError: an unknown name that cannot be embedded; k larger than the number of other rows.
    """
    unique = list(dict.fromkeys(names_of(queries)))
    vectors, own = source.embed(unique)
    parts, names = [], source.names
    for query, ends in zip(unique, source.index.ends(vectors, k, metric, own), strict=True):
        for side, found in zip(("nearest", "farthest"), ends, strict=True):
            columns = {"name": [names[row] for row in found.rows], "cosine": found.cosine, "euclidean": found.euclidean}
            parts.append(pd.DataFrame({"query": query, "side": side, **columns, "row": found.rows}))
    return pd.concat(parts, ignore_index=True)


def pairs(source: Source, chosen: Any) -> pd.DataFrame:
    """Compare the two embeddings of each pair: first, second, cosine, euclidean.

    Raises:
        UserError: not a pair; an unknown name that cannot be embedded.
    """
    several = isinstance(chosen, list | tuple) and any(isinstance(each, list | tuple) for each in chosen)
    couples = list(chosen) if several else [chosen]
    for couple in couples:
        if not isinstance(couple, list | tuple) or len(couple) != 2:
            raise UserError(f"Expected pairs=[a,b] or pairs=[[a,b],[c,d]], got {couple!r} for a pair.")
    names = [names_of(couple) for couple in couples]
    (first, _), (second, _) = (source.embed([pair[i] for pair in names]) for i in (0, 1))
    cosine, euclidean = compare(first.numpy(), second.numpy())
    table = pd.DataFrame(names, columns=["first", "second"])
    return table.assign(cosine=cosine, euclidean=euclidean)


def sub_cluster(source: Source, query: str, n: int = 30, metric: str = "cosine") -> Selection:
    """Select a query, its n nearest and its n farthest rows, with id, side, cosine, euclidean and their labels.

    Raises:
        UserError: see `nearest`; so many that a row would be on both sides.
    """
    vectors, own = source.embed([query])
    if n > (most := (len(source.names) - len(own[0])) // 2):
        raise UserError(f"Expected cluster= up to {most}, half of the other rows, got {n}: choose fewer.")
    found = nearest(source, query, n, metric)
    rows = found["row"].tolist()
    table = pd.DataFrame({
        "id": [query, *found["name"]], "side": ["query", *found["side"]],
        "cosine": [1.0, *found["cosine"]], "euclidean": [0.0, *found["euclidean"]],
    })  # fmt: skip
    known = source.table.drop(columns=list(table), errors="ignore").reindex([*(own[0][:1] or [-1]), *rows])
    values = np.concatenate([vectors.numpy(), source.index.values[rows].astype(np.float32)])
    return Selection(table.join(known.reset_index(drop=True)), values, [*own[0][:1], *rows])


def map_distances(source: Source, table: pd.DataFrame, settings: MapSettings) -> pd.DataFrame:
    """Add to the table of `pairs` the distance on a map, `on_map`, to compare with that in the space itself."""
    names = list(dict.fromkeys([*table["first"], *table["second"]]))
    vectors, own = source.embed(names)
    shown = Selection(pd.DataFrame({"id": names}), vectors.numpy(), [row for rows in own for row in rows[:1]])
    points = np.asarray(map_among(source, shown, settings).coordinates)
    first, second = (points[[names.index(name) for name in table[side]]] for side in ("first", "second"))
    return table.assign(on_map=compare(first, second)[1])


def frame(source: Source) -> pd.DataFrame:
    """Tabulate all embeddings with their split and labels, indexed by name."""
    values = source.vectors.values.float().numpy()
    numbers = pd.DataFrame(values, columns=[f"embedding_{i}" for i in range(values.shape[1])])
    return source.table.join(numbers).set_index(pd.Index(source.names, name="name"))


def export(source: Source, path: Path) -> Path:
    """Write `frame` to a file.

    Raises:
        UserError: neither .csv nor .parquet; a folder that cannot be written.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"Expected export= to be a .csv or a .parquet file, got {path}.")
    table = frame(source)
    write_file(path, csv_text(table, index=True) if path.suffix == ".csv" else table.to_parquet())
    return path


def map_settings(options: Options, dimensions: int) -> MapSettings:
    """Choose the settings of a map; `dimensions` where the options do not say."""
    dimensions = dimensions if options.dimensions is None else options.dimensions
    return MapSettings(
        options.map or "tsne",
        dimensions,
        options.metric,
        options.perplexity,
        options.neighbours,
        options.n,
        options.seed,
    )


def answer_query(source: Source, options: Options, answer: Answer) -> None:
    """Add the nearest and farthest rows of the queries to the answer."""
    table = nearest(source, options.query, options.k, options.metric)
    neighbours = {}
    for query, part in table.groupby("query", sort=False):
        sides = {side: rows[["name", "cosine", "euclidean"]].reset_index(drop=True)
                 for side, rows in part.groupby("side", sort=False)}  # fmt: skip
        neighbours[query] = {side: rows.to_dict("records") for side, rows in sides.items()}
        answer.printed.append(f"{query}\n{pd.concat(sides, axis='columns').to_string(index=False)}")
    answer.content.update(next(iter(neighbours.values())) if len(neighbours) == 1 else {"queries": neighbours})


def answer_tables(source: Source, options: Options, answer: Answer) -> None:
    """Add the tables of pairs, classes and the similarity matrix to the answer."""
    folder = source.folder
    if options.pairs is not None:
        table = pairs(source, options.pairs)
        table = map_distances(source, table, map_settings(options, 3)) if options.map else table
        answer.content["pairs"] = table.to_dict("records")
        answer.printed.append(table.to_string(index=False))
    if options.classes is not None:
        labels = class_column(source.table, options.classes, "classes")
        table = class_similarity(source.index.values, labels, options.metric, options.sample, options.seed)
        answer.content["classes"] = table.to_dict("records")
        answer.printed.append(table.to_string(index=False))
        answer.write_table(folder, "classes", table)
        title = f"Mean {options.metric} between classes of {options.classes}"
        answer.write_picture(folder, "classes", heatmap(class_matrix(table), title, options.metric))
    if options.heatmap is not None:
        count = row_count(options.heatmap)
        if count is not None:
            if count < 2:
                raise UserError(
                    f"Expected heatmap= to be a list of names or a number of rows of at least 2, got {options.heatmap}."
                )
            shown = sample_rows(source, count, options.seed)
            names, values = shown.names, shown.values
        else:
            names = names_of(options.heatmap)
            values = source.embed(names)[0].numpy()
        matrix = similarity_matrix(values, names, options.metric)
        answer.content["heatmap"] = {"names": names, "values": matrix.to_numpy()}
        answer.printed.append(matrix.round(3).to_string())
        answer.write_table(folder, "heatmap", matrix, index=True)
        answer.write_picture(folder, "heatmap", heatmap(matrix, label=options.metric))


def answer_maps(source: Source, options: Options, answer: Answer) -> None:
    """Add the map of the sub-cluster and the k-NN graph to the answer."""
    queries = names_of(options.query) if options.query is not None else []
    if options.cluster is not None and len(queries) != 1:
        raise UserError(f"Expected cluster= with one query=, got {len(queries)}: add query=cat, for instance.")
    if options.colour not in (None, "side", "edges"):
        column(source.table, str(options.colour))  # before the long fit of a map
    shown = sub_cluster(source, queries[0], options.cluster, options.metric) if options.cluster is not None else None
    if shown is not None:
        cluster_map, name = map_among(source, shown, map_settings(options, 3)), f"cluster_{queries[0]}"
        colour, title = options.colour or "side", f"Neighbourhood of {queries[0]}"
        answer.files.extend(draw_map(source.folder, name, cluster_map, shown.table, colour, title))
        answer.content["cluster"] = shown.table[["id", "side", "cosine", "euclidean"]].assign(
            place=np.asarray(cluster_map.coordinates).tolist()
        ).to_dict("records")  # fmt: skip
    if options.graph is not None:
        drawn = shown or sample_rows(source, options.n, options.seed)
        edges = neighbour_graph(drawn.values, drawn.names, options.graph, options.metric)
        degree = np.bincount(np.concatenate(edges["rows"]), minlength=len(drawn.values))
        table = pd.DataFrame({"edges": degree.astype(float), **drawn.table})
        if options.colour is None and shown is None:
            options = replace(options, colour=default_colour(drawn.table) or "edges")
        graph_map = map_among(source, drawn, map_settings(options, 2))._replace(lines=edges["rows"].tolist())
        if shown is None:  # of many rows only those with the most edges are named
            most = SOME_NAMES if len(degree) > MOST_NAMES else len(degree)
            named = set(np.argsort(-degree, kind="stable")[:most].tolist())
            names = [name if row in named else "" for row, name in enumerate(drawn.names)]
            graph_map = graph_map._replace(names=names, weights=degree.tolist())
        colour, title = options.colour or "side", f"{options.graph}-NN graph"
        answer.files.extend(draw_map(source.folder, "graph", graph_map, table, colour, title))
        table = edges.drop(columns="rows")
        answer.write_table(source.folder, "edges", table)
        answer.content["graph"] = table.to_dict("records")
