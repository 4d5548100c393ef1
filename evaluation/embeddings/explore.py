"""Answers to questions on embeddings: nearest rows, pairs, classes, heatmaps, sub-clusters, the graph, exports."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.drawing.heatmap import heatmap
from evaluation.embeddings.answer import Answer
from evaluation.embeddings.rows import (
    MOST_NAMES,
    SOME_NAMES,
    MapSettings,
    Selection,
    class_column,
    column,
    draw_map,
    map_among,
    some_rows,
    telling_column,
)
from evaluation.embeddings.search import compare
from evaluation.embeddings.similarity import class_matrix, class_similarity, neighbour_graph, similarity_matrix
from evaluation.embeddings.source import Source
from models import UserError
from training.files import write_file

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
    """See the text of `evaluation.explore`."""

    query: Any = None
    k: int = 10
    pairs: Any = None
    classes: str | None = None
    sample: int = 2000
    heatmap: Any = None
    cluster: int | None = None
    graph: int | None = None
    export: str | None = None
    metric: str = "cosine"
    map: str | None = None
    n: int = 2000
    perplexity: float = 30.0
    neighbours: int = 15
    dimensions: int | None = None
    colour: str | None = None
    seed: int = 0
    out: str | None = None
    json: bool = False


def texts(value: Any) -> list[str]:
    """One name or several, as the command line gives them.

    Raises:
        UserError: none.
    """
    found = [str(each) for each in (value if isinstance(value, list | tuple) else [value])]
    if not found or not all(found):
        raise UserError("Expected at least one name, got none or an empty one: name a row, a text or an image file.")
    return found


def nearest(source: Source, queries: str | Sequence[str], k: int = 10, metric: str = "cosine") -> pd.DataFrame:
    """The k nearest and k farthest rows of each query, without the query's own: query, side, name, cosine, euclidean.

    Raises:
        UserError: an unknown name that cannot be embedded; k larger than the number of other rows.
    """
    asked = list(dict.fromkeys(texts(queries)))
    vectors, own = source.embed(asked)
    parts, names = [], source.names
    for query, ends in zip(asked, source.index.ends(vectors, k, metric, own), strict=True):
        for side, found in zip(("nearest", "farthest"), ends, strict=True):
            columns = {"name": [names[row] for row in found.rows], "cosine": found.cosine, "euclidean": found.euclidean}
            parts.append(pd.DataFrame({"query": query, "side": side, **columns, "row": found.rows}))
    return pd.concat(parts, ignore_index=True)


def pairs(source: Source, chosen: Any) -> pd.DataFrame:
    """Compare the two rows of each pair: first, second, cosine, euclidean.

    Raises:
        UserError: what is no pair; an unknown name that cannot be embedded.
    """
    several = isinstance(chosen, list | tuple) and any(isinstance(each, list | tuple) for each in chosen)
    couples = list(chosen) if several else [chosen]
    for couple in couples:
        if not isinstance(couple, list | tuple) or len(couple) != 2:
            raise UserError(f"Expected pairs=[a,b] or pairs=[[a,b],[c,d]], got {couple!r} for a pair.")
    names = [texts(couple) for couple in couples]
    (first, _), (second, _) = (source.embed([pair[i] for pair in names]) for i in (0, 1))
    cosine, euclidean = compare(first.numpy(), second.numpy())
    table = pd.DataFrame(names, columns=["first", "second"])
    return table.assign(cosine=cosine, euclidean=euclidean)


def sub_cluster(source: Source, query: str, n: int = 30, metric: str = "cosine") -> Selection:
    """A query, its n nearest and its n farthest rows: id, side, cosine, euclidean, and what is known of the rows.

    Raises:
        UserError: as `nearest`; so many that a row would be among both.
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
    """`pairs` with their distance on a map, `on_map`, beside that in the space itself."""
    names = list(dict.fromkeys([*table["first"], *table["second"]]))
    vectors, own = source.embed(names)
    shown = Selection(pd.DataFrame({"id": names}), vectors.numpy(), [row for rows in own for row in rows[:1]])
    points = np.asarray(map_among(source, shown, settings).coordinates)
    first, second = (points[[names.index(name) for name in table[side]]] for side in ("first", "second"))
    return table.assign(on_map=compare(first, second)[1])


def frame(source: Source) -> pd.DataFrame:
    """All embeddings with what is known of their rows, indexed by name."""
    values = source.vectors.values.float().numpy()
    numbers = pd.DataFrame(values, columns=[f"embedding_{i}" for i in range(values.shape[1])])
    return source.table.join(numbers).set_index(pd.Index(source.names, name="name"))


def export(source: Source, path: Path) -> Path:
    """`frame` as a file.

    Raises:
        UserError: neither .csv nor .parquet; a folder that cannot be written.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"Expected export= to be a .csv or a .parquet file, got {path}.")
    table = frame(source)
    write_file(path, table.to_csv() if path.suffix == ".csv" else table.to_parquet())
    return path


def map_settings(asked: Options, dimensions: int) -> MapSettings:
    dimensions = dimensions if asked.dimensions is None else asked.dimensions
    return MapSettings(
        asked.map or "tsne", dimensions, asked.metric, asked.perplexity, asked.neighbours, asked.n, asked.seed
    )


def answer_query(source: Source, asked: Options, answer: Answer) -> None:
    table = nearest(source, asked.query, asked.k, asked.metric)
    found = {}
    for query, part in table.groupby("query", sort=False):
        sides = {side: rows[["name", "cosine", "euclidean"]].reset_index(drop=True)
                 for side, rows in part.groupby("side", sort=False)}  # fmt: skip
        found[query] = {side: rows.to_dict("records") for side, rows in sides.items()}
        answer.printed.append(f"{query}\n{pd.concat(sides, axis='columns').to_string(index=False)}")
    answer.content.update(next(iter(found.values())) if len(found) == 1 else {"queries": found})


def answer_tables(source: Source, asked: Options, answer: Answer) -> None:
    """Pairs, classes, heatmap."""
    folder = source.folder
    if asked.pairs is not None:
        table = pairs(source, asked.pairs)
        table = map_distances(source, table, map_settings(asked, 3)) if asked.map else table
        answer.content["pairs"] = table.to_dict("records")
        answer.printed.append(table.to_string(index=False))
    if asked.classes is not None:
        labels = class_column(source.table, asked.classes, "classes")
        table = class_similarity(source.index.values, labels, asked.metric, asked.sample, asked.seed)
        answer.content["classes"] = table.to_dict("records")
        answer.printed.append(table.to_string(index=False))
        answer.sheet(folder, "classes", table)
        title = f"Mean {asked.metric} between classes of {asked.classes}"
        answer.picture(folder, "classes", heatmap(class_matrix(table), title, asked.metric))
    if asked.heatmap is not None:
        if isinstance(asked.heatmap, int | float):
            if type(asked.heatmap) is not int or asked.heatmap < 2:
                raise UserError(f"Expected heatmap= to be a list of names or a number from 2, got {asked.heatmap}.")
            shown = some_rows(source, asked.heatmap, asked.seed)
            names, values = shown.names, shown.values
        else:
            names = texts(asked.heatmap)
            values = source.embed(names)[0].numpy()
        matrix = similarity_matrix(values, names, asked.metric)
        answer.content["heatmap"] = {"names": names, "values": matrix.to_numpy()}
        answer.printed.append(matrix.round(3).to_string())
        answer.sheet(folder, "heatmap", matrix, index=True)
        answer.picture(folder, "heatmap", heatmap(matrix, label=asked.metric))


def answer_maps(source: Source, asked: Options, answer: Answer) -> None:
    """The sub-cluster and the graph."""
    queries = texts(asked.query) if asked.query is not None else []
    if asked.cluster is not None and len(queries) != 1:
        raise UserError(f"Expected cluster= with one query=, got {len(queries)}: add query=cat, for instance.")
    if asked.colour not in (None, "side", "edges"):
        column(source.table, str(asked.colour))  # before a long search for a map
    shown = sub_cluster(source, queries[0], asked.cluster, asked.metric) if asked.cluster is not None else None
    if shown is not None:
        one, name = map_among(source, shown, map_settings(asked, 3)), f"cluster {queries[0]}"
        answer.files.extend(
            draw_map(source.folder, name, one, shown.table, asked.colour or "side", f"Neighbourhood of {queries[0]}")
        )
        answer.content["cluster"] = shown.table[["id", "side", "cosine", "euclidean"]].assign(
            place=np.asarray(one.coordinates).tolist()
        ).to_dict("records")  # fmt: skip
    if asked.graph is not None:
        drawn = shown or some_rows(source, asked.n, asked.seed)
        edges = neighbour_graph(drawn.values, drawn.names, asked.graph, asked.metric)
        degree = np.bincount(np.concatenate(edges["rows"]), minlength=len(drawn.values))
        table = pd.DataFrame({"edges": degree.astype(float), **drawn.table})
        if asked.colour is None and shown is None:
            asked = replace(asked, colour=telling_column(drawn.table) or "edges")
        one = map_among(source, drawn, map_settings(asked, 2))._replace(lines=edges["rows"].tolist())
        if shown is None:  # those that are joined to most are named first, and of many rows no others
            most = SOME_NAMES if len(degree) > MOST_NAMES else len(degree)
            named = set(np.argsort(-degree, kind="stable")[:most].tolist())
            names = [name if row in named else "" for row, name in enumerate(drawn.names)]
            one = one._replace(names=names, weights=degree.tolist())
        answer.files.extend(
            draw_map(source.folder, "graph", one, table, asked.colour or "side", f"{asked.graph}-NN graph")
        )
        table = edges.drop(columns="rows")
        answer.sheet(source.folder, "edges", table)
        answer.content["graph"] = table.to_dict("records")
