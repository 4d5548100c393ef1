"""Embeddings of every combination of properties, from texts or from labelled rows, and pictures of what one changes."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

import numpy as np
import pandas as pd

from evaluation.drawing.figures import write_figure
from evaluation.drawing.heatmap import heatmap
from evaluation.embeddings.ideal_words import Grid, change_matrix, unit
from evaluation.embeddings.rows import class_column, draw_map
from evaluation.embeddings.source import Source
from evaluation.maps.projection import FEWEST_ROWS, project
from evaluation.maps.scatter import Map
from models import UserError

__all__ = ["Options", "asked_grid", "draw", "from_rows", "from_texts"]

MOST_OBJECTS = 60  # in the heatmap


@dataclass
class Options:
    """See the text of `evaluation.properties`."""

    template: str | None = None
    values: dict[str, list[str]] | None = None
    words: list[str] | None = None
    factors: list[str] | None = None
    property: str | None = None
    seed: int = 0
    out: str | None = None
    json: bool = False


def check_values(values: Mapping[str, Sequence[str]]) -> None:
    """Raises UserError where there is nothing to compare."""
    if len(values) < 2:
        raise UserError(f"Expected two or more properties, got {', '.join(values) or 'none'}: name another.")
    for name, each in values.items():
        if len(each) < 2 or len(set(each)) < len(each) or not all(str(value).strip() for value in each):
            got = ", ".join(map(str, each)) or "none"
            raise UserError(f"Expected two or more different values of {name}, none of them empty, got {got}.")


def from_texts(source: Source, template: str, values: Mapping[str, Sequence[str]],
               words: Sequence[str] | None = None) -> Grid:  # fmt: skip
    """The template filled in with every combination of the values.

    Raises:
        UserError: a template that names other properties; an encoder that reads no texts.
    """
    chosen = {str(name): [str(value) for value in each] for name, each in values.items()}
    check_values(chosen)
    try:
        parts = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise UserError(f"Expected template='a {{colour}} {{object}}', got {template!r}: {error}.") from error
    if {name for name, *_ in parts} != set(chosen) or any(form or kind for _, form, kind in parts):
        raise UserError(
            f"Expected a template with {', '.join('{' + name + '}' for name in chosen)}, got {template!r}: name each "
            "property of values= and nothing else."
        )
    told = list(words) if words is not None else ["{}"] * len(chosen)
    if len(told) != len(chosen) or not all("{}" in word for word in told):
        raise UserError(f"Expected words= to be a text with {{}} for each of {', '.join(chosen)}, got {told}.")
    combinations = [dict(zip(chosen, each, strict=True)) for each in itertools.product(*chosen.values())]
    sentences = [template.format(**each) for each in combinations]
    u = unit(source.embed_text(sentences).numpy())
    single = {name: unit(source.embed_text([word.replace("{}", value) for value in each]).numpy())
              for (name, each), word in zip(chosen.items(), told, strict=True)}  # fmt: skip
    return Grid(chosen, u.reshape(*map(len, chosen.values()), -1), sentences, single)


def from_rows(source: Source, factors: Sequence[str]) -> Grid:
    """The mean of the rows, at unit length, that have the same labels.

    Raises:
        UserError: no such label; a combination that no row has.
    """
    table = source.table
    labels = pd.DataFrame({name: class_column(table, name, "factors") for name in factors}).dropna().astype(str)
    values = {name: sorted(labels[name].unique()) for name in factors}
    check_values(values)
    rows = labels.groupby(list(values)).groups
    means, names = [], []
    for each in itertools.product(*values.values()):
        if each not in rows:
            told = ", ".join(f"{name}={value}" for name, value in zip(factors, each, strict=True))
            raise UserError(f"Expected rows of every combination, got none with {told}: choose other factors.")
        means.append(unit(source.index.values[rows[each].to_numpy()]).mean(0))
        names.append(" ".join(each))
    return Grid(values, unit(np.stack(means)).reshape(*map(len, values.values()), -1), names)


def draw(folder: Path, grid: Grid, name: str, seed: int = 0) -> list[Path]:
    """The combinations on their two principal components, those that differ in the property alone joined; a heatmap."""
    files: list[Path] = []
    if len(grid.rows) >= FEWEST_ROWS:
        places = np.arange(len(grid.rows)).reshape(grid.u.shape[:-1])
        lines = np.moveaxis(places, grid.axis(name), -1).reshape(-1, len(grid.values[name])).tolist()
        made = project(grid.rows.astype(np.float32), "pca", 2, seed)
        combinations = list(itertools.product(*grid.values.values()))
        labels = {key: [each[i] for each in combinations] for i, key in enumerate(grid.values)}
        one = Map(made.coordinates, made.caption, grid.names, lines)
        table, title = pd.DataFrame({"id": grid.names, **labels}), f"Combinations that differ in {name} only"
        files += draw_map(folder, f"changes of {name}", one, table, name, title)
    else:
        print(f"No map: it takes {FEWEST_ROWS} combinations, and there are {len(grid.rows)}.")
    matrix = change_matrix(grid, name)
    if len(matrix) <= MOST_OBJECTS:
        first, second, *_ = grid.values[name]
        files.append(folder / "consistency.png")
        write_figure(files[-1], heatmap(matrix, f"Cosine of the difference vectors {first} → {second}"))
    return files


def asked_grid(source: Source, asked: Options) -> Grid:
    """Raises UserError where neither texts nor rows are asked for, or both."""
    by_text = asked.template is not None and asked.values is not None
    if by_text == (asked.factors is not None):
        raise UserError(
            "Expected template= with values=, or factors=, labels of the rows, got "
            f"{'both' if by_text else 'neither'}: --help shows an example of each."
        )
    if asked.factors is not None:
        return from_rows(source, asked.factors)
    return from_texts(source, asked.template or "", asked.values or {}, asked.words)
