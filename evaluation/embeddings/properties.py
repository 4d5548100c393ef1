"""Embed every combination of properties, from texts or from labelled rows, and draw the changes of one property."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

import numpy as np
import pandas as pd

from evaluation.command import option
from evaluation.drawing.figures import write_figure
from evaluation.drawing.heatmap import heatmap
from evaluation.embeddings.ideal_words import Grid, change_matrix, unit
from evaluation.embeddings.rows import class_column, draw_map
from evaluation.embeddings.source import Source
from evaluation.maps.projection import FEWEST_ROWS, project
from evaluation.maps.scatter import Map
from models import UserError

__all__ = ["Options", "draw", "from_rows", "from_texts", "grid_of"]

MOST_OBJECTS = 60  # in the heatmap


@dataclass
class Options:
    """Options, given as key=value."""

    template: str | None = option(None, "text with a field for each property, such as 'a {colour} {object}'")
    values: dict[str, list[str]] | None = option(
        None, "values of each property, such as {colour:[red,blue],object:[car,cup]}", text=True
    )
    words: list[str] | None = option(
        None,
        "text around a single value of each property, such as ['a {} thing','a {}'], for the score `real` (default: "
        "the value alone)",
        text=True,
    )
    factors: list[str] | None = option(
        None, "labels of the rows, such as [colour,object]; rows of equal labels are averaged"
    )
    property: str | None = option(None, "property whose changes are drawn (default: the first)")
    seed: int = option(0, "seed of the map")
    out: str | None = option(None, "folder for the files (default: figures of the run, or embeddings/properties)")
    json: bool = option(False, "print one JSON object: changes, compositionality and files")


def check_values(values: Mapping[str, Sequence[str]]) -> None:
    """Check that there are two or more properties of two or more different values each.

    Raises:
        UserError: fewer properties or values; an empty value or a repeated one.
    """
    if len(values) < 2:
        raise UserError(f"Expected two or more properties, got {', '.join(values) or 'none'}: name another.")
    for name, each in values.items():
        if len(each) < 2 or len(set(each)) < len(each) or not all(str(value).strip() for value in each):
            got = ", ".join(map(str, each)) or "none"
            raise UserError(f"Expected two or more different values of {name}, none of them empty, got {got}.")


def from_texts(source: Source, template: str, values: Mapping[str, Sequence[str]],
               words: Sequence[str] | None = None) -> Grid:  # fmt: skip
    """Embed a template filled in with every combination of the values.

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
    phrases = list(words) if words is not None else ["{}"] * len(chosen)
    if len(phrases) != len(chosen) or not all("{}" in phrase for phrase in phrases):
        raise UserError(f"Expected words= to be a text with {{}} for each of {', '.join(chosen)}, got {phrases}.")
    combinations = [dict(zip(chosen, each, strict=True)) for each in itertools.product(*chosen.values())]
    sentences = [template.format(**each) for each in combinations]
    u = unit(source.embed_text(sentences).numpy())
    single = {name: unit(source.embed_text([phrase.replace("{}", value) for value in each]).numpy())
              for (name, each), phrase in zip(chosen.items(), phrases, strict=True)}  # fmt: skip
    return Grid(chosen, u.reshape(*map(len, chosen.values()), -1), sentences, single)


def from_rows(source: Source, factors: Sequence[str]) -> Grid:
    """Average the rows, at unit length, that have the same labels.

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
            missing = ", ".join(f"{name}={value}" for name, value in zip(factors, each, strict=True))
            raise UserError(f"Expected rows of every combination, got none with {missing}: choose other factors.")
        means.append(unit(source.index.values[rows[each].to_numpy()]).mean(0))
        names.append(" ".join(each))
    return Grid(values, unit(np.stack(means)).reshape(*map(len, values.values()), -1), names)


def draw(folder: Path, grid: Grid, name: str, seed: int = 0) -> list[Path]:
    """Draw the combinations by PCA, joining those that differ in the property alone, and a heatmap of its changes."""
    files: list[Path] = []
    if len(grid.rows) >= FEWEST_ROWS:
        places = np.arange(len(grid.rows)).reshape(grid.u.shape[:-1])
        lines = np.moveaxis(places, grid.axis(name), -1).reshape(-1, len(grid.values[name])).tolist()
        projection = project(grid.rows.astype(np.float32), "pca", 2, seed)
        combinations = list(itertools.product(*grid.values.values()))
        labels = {key: [each[i] for each in combinations] for i, key in enumerate(grid.values)}
        changes = Map(projection.coordinates, projection.caption, grid.names, lines)
        table, title = pd.DataFrame({"id": grid.names, **labels}), f"Combinations that differ in {name} only"
        files += draw_map(folder, f"changes_of_{name}", changes, table, name, title)
    else:
        print(f"No map: it takes {FEWEST_ROWS} combinations, and there are {len(grid.rows)}.")
    matrix = change_matrix(grid, name)
    if len(matrix) <= MOST_OBJECTS:
        first, second, *_ = grid.values[name]
        files.append(folder / "consistency.png")
        write_figure(files[-1], heatmap(matrix, f"Cosine of the difference vectors {first} → {second}"))
    return files


def grid_of(source: Source, options: Options) -> Grid:
    """Embed the combinations that the options choose, from texts or from rows.

    Raises:
        UserError: neither texts nor rows, or both; see `from_texts` and `from_rows`.
    """
    by_text = options.template is not None and options.values is not None
    if by_text == (options.factors is not None):
        raise UserError(
            "Expected template= with values=, or factors=, labels of the rows, got "
            f"{'both' if by_text else 'neither'}: --help shows an example of each."
        )
    if options.factors is not None:
        return from_rows(source, options.factors)
    return from_texts(source, options.template or "", options.values or {}, options.words)
