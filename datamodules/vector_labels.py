"""Read names and labels of vectors from csv files, by row or by name, or from columns of the vectors' own files.

Words are classes, however many there are, and so are whole numbers with at most 20 different values, or a fifth of the
number of rows. Other numbers are continuous; two values become 0 and 1. Empty cells and NaN are unknown labels.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from datamodules.factors import MOST_CLASSES, FactorTable, Labels, infer_labels
from datamodules.tables import ID_COLUMNS
from datamodules.vector_files import VectorFile, readable
from models import UserError, near_names
from models.labels import Factor

__all__ = ["column_of", "label_columns", "label_table", "row_ids"]

TABLES = (".csv", ".tsv", ".txt")


def column_of(files: Sequence[VectorFile], name: str) -> pd.Series | None:
    """Return a column that all files have, or None if no file has it.

    Raises:
        UserError: only some of the files have it, or it has another length than the rows.
    """
    having = [file for file in files if name in file.columns]
    if not having:
        return None
    if len(having) < len(files):
        lacking = next(file.path for file in files if name not in file.columns)
        raise UserError(f"Expected {name} in all files, got none in {lacking}: add it there or leave it out.")
    read = [file.columns[name]() for file in files]
    for file, column in zip(files, read, strict=True):
        if len(column) != len(file.rows):
            raise UserError(
                f"Expected {len(file.rows)} values, one per row, in {name} of {file.path}, got {len(column)}."
            )
    return pd.concat(read, ignore_index=True).rename(name)


def table_file(setting: str, value: str | Path, files: Sequence[VectorFile]) -> Path:
    """Return the path of the csv file that a setting names, after no column of that name was found.

    Raises:
        UserError: it does not name a csv file either.
    """
    path = Path(value).expanduser()
    if path.is_file() and path.suffix.lower() in TABLES:
        return path
    columns = list(files[0].columns)
    if path.suffix.lower() in TABLES:
        raise UserError(f"Expected a table for {setting} at {path}, got no such file: check the path.")
    known = f"a column of {files[0].path} ({', '.join(columns)})" if columns else "the path of one"
    raise UserError(
        f"Expected {setting} to be a csv file or {known}, got {str(value)!r}.{near_names(str(value), columns)}"
    )


def read_cells(path: Path, n: int) -> pd.DataFrame:
    """Read all cells of a csv file as text, including a header; empty lines at the end are omitted.

    In a file with one column an empty line is an unknown label.

    Raises:
        UserError: the file cannot be read, or it has one column and it is ambiguous whether its last, empty line is an
            unknown label.
    """
    with readable(path, "a csv file"):
        text = path.read_text("utf-8-sig")
        separator = max(",;\t", key=text.split("\n", 1)[0].count)
        cells = pd.read_csv(io.StringIO(text), sep=separator, header=None, dtype=str, keep_default_na=False,
                            skip_blank_lines=False).fillna("")  # fmt: skip
    cells = cells.apply(lambda column: column.str.strip())
    filled = int(np.flatnonzero((cells != "").any(axis=1)).max(initial=-1)) + 1
    if cells.shape[1] == 1 and filled == n < len(cells):
        raise UserError(
            f"Expected {n} values in {path}, got an empty line after line {n}, one too many or an unknown value below "
            "a header: remove it, or write nan there."
        )
    return cells if cells.shape[1] == 1 and len(cells) in (n, n + 1) else cells[:filled]


def with_header(path: Path, cells: pd.DataFrame, header: bool) -> pd.DataFrame:
    """Name the columns by the header, or by their number from 1; a column without a name, as pandas' index, is omitted.

    Raises:
        UserError: a name occurs twice, or no column has one.
    """
    names = [*cells.iloc[0]] if header else [str(number) for number in range(1, cells.shape[1] + 1)]
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise UserError(f"Expected different column names in {path}, got {twice[0]!r} twice: rename one.")
    if not any(names):
        raise UserError(f"Expected a column with a name in {path}, got none in its first line: write one there.")
    table = cells[int(header) :].set_axis(names, axis=1).reset_index(drop=True)
    return table.loc[:, [name != "" for name in names]]


def by_row(path: Path, cells: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return a table with a line per row; one more line is a header.

    Raises:
        UserError: the table has another number of lines.
    """
    if len(cells) not in (n, n + 1):
        raise UserError(
            f"Expected {n} lines in {path}, one per vector, or {n + 1} with a header, got {len(cells)}: give a line "
            "for every vector."
        )
    return with_header(path, cells, len(cells) == n + 1)


def by_id(path: Path, cells: pd.DataFrame, ids: Sequence[str]) -> pd.DataFrame | None:
    """Return the lines of a table in the order of the ids, NaN for missing ones, or None if no column has ids.

    In a table with a line per row, at least half of the lines need an id of their own; otherwise it is read by row.

    Raises:
        UserError: an id occurs twice.
    """
    is_id = {column: cells[column].isin(set(ids)) for column in cells}
    key = max(is_id, key=lambda column: int(is_id[column].sum()))
    matches = cells[key][is_id[key]]
    if len(cells) in (len(ids), len(ids) + 1) and matches.nunique() < max(len(matches), len(cells) / 2):
        return None
    if matches.duplicated().any():
        twice = matches[matches.duplicated()].iloc[0]
        raise UserError(f"Expected every id once in {path}, got {twice!r} again: remove the repeated lines.")
    if not len(matches):
        return None
    header = not is_id[key].iloc[0]
    table = with_header(path, cells.drop(columns=[key]), header)
    return table.set_axis(cells[key][int(header) :], axis=0).reindex(list(ids))


def row_ids(names: str | Path | None, column: str | int | None, files: Sequence[VectorFile], n: int) -> list[str]:
    """Return an id for each row, from a csv file or a column of the files; by default its number.

    Raises:
        UserError: there is no such file or column, the number of names differs, or a name is empty or occurs twice.
    """
    if names is None:
        return [f"{row:06d}" for row in range(n)]
    own = column_of(files, str(names))
    if own is None:
        path = table_file("data.names", names, files)
        table = by_row(path, read_cells(path, n), n)
        lower = {name.lower(): name for name in reversed(table.columns)}
        usual = next((lower[name] for name in ("id", "name", *ID_COLUMNS) if name in lower), table.columns[0])
        name = usual if column is None else str(column)
        if name not in table:
            raise UserError(
                f"Expected data.names_column among {', '.join(table.columns)} of {path}, got {name!r}."
                f"{near_names(name, table.columns)}"
            )
        own = table[name]
    ids = own.astype(object).fillna("").astype(str)
    if (ids == "").any():
        raise UserError(f"Expected a name for every vector in {names}, got none for row {int(ids.eq('').argmax())}.")
    if ids.duplicated().any():
        twice = ids[ids.duplicated()].iloc[0]
        raise UserError(f"Expected different names in {names}, got {twice!r} more than once: make them unique.")
    return ids.tolist()


def class_labels(column: pd.Series) -> Labels:
    """Infer the kind of factor of a label column, in which whole numbers that repeat are classes, not quantities."""
    labels = infer_labels(column)
    known = ~labels.numbers.isnan()
    values, classes = labels.numbers[known].unique(return_inverse=True)
    few = len(values) <= max(MOST_CLASSES, int(known.sum()) // 5)
    if labels.kind != "continuous" or not few or bool((values != values.round()).any()):
        return labels
    numbers = labels.numbers.clone()
    numbers[known] = classes.to(numbers)
    return Labels("categorical", tuple(f"{value:.0f}" for value in values.tolist()), numbers)


def unusable(labels: Labels) -> str | None:
    """Return why a column cannot be a label of groups, or None if it can."""
    if len(labels.values) < 2:
        return "one value only" if labels.values else "no value at all"
    known = int((~labels.numbers.isnan()).sum())
    return "another value in every row" if labels.kind == "categorical" and len(labels.values) == known else None


def label_columns(labels: str | Path | Sequence[str], files: Sequence[VectorFile], ids: list[str],
                  named: bool) -> dict[str, tuple[pd.Series, str]]:  # fmt: skip
    """Read label columns from csv files or columns of the files, as {name: (a value per row, its source)}.

    Raises:
        UserError: there is no such file or column, or the number of labels differs from that of the rows.
    """
    columns: dict[str, tuple[pd.Series, str]] = {}
    for value in [labels] if isinstance(labels, str | Path) else labels:
        own = column_of(files, str(value))
        if own is not None:
            columns[str(value)] = own, f"{value} of {files[0].path.name}"
            continue
        path = table_file("data.labels", value, files)
        cells = read_cells(path, len(ids))
        table = by_id(path, cells, ids) if named and cells.shape[1] > 1 else None
        table = by_row(path, cells, len(ids)) if table is None else table
        for name in table:
            key = "label" if table.shape[1] == 1 and name == "1" else str(name)
            text = table[name].where(~table[name].isin(["", "nan", "NaN"])).reset_index(drop=True)
            columns[key] = text, f"{key} of {path.name}"
    return columns


def label_table(columns: dict[str, tuple[pd.Series, str]], n: int) -> tuple[FactorTable, list[str]]:
    """Build the table of factors, with notes about columns that cannot be used and about missing labels."""
    chosen, values, notes = [], torch.empty(n, 0), []
    for name, (column, source) in columns.items():
        labels = class_labels(column)
        missing = int(labels.numbers.isnan().sum())
        if why := unusable(labels):
            notes.append(f"{name} is not used as a label: it has {why}.")
            continue
        notes += [f"{name}: {missing} of {n} rows have no label."] * (missing > 0)
        chosen.append(Factor(name, labels.kind, labels.values, source))
        values = torch.cat([values, labels.numbers[:, None]], dim=1)
    return FactorTable(tuple(chosen), values), notes
