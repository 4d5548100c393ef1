"""Names and labels of vectors: from csv files, by row or by name, or from columns of the vectors' own files.

A label column names classes rather than quantities: words are classes, however many there are, and so are whole
numbers of which at most 20, or a fifth of the rows, differ. Other numbers are continuous; of two values one is 0, the
other 1. Empty cells and NaN are unknown labels.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from datamodules.factors import MOST_CLASSES, Factor, FactorTable, Labels, infer_labels, near_names
from datamodules.tables import ID_COLUMNS
from datamodules.vector_files import VectorFile, readable
from models import UserError

__all__ = ["column_of", "label_columns", "label_table", "row_ids"]

TABLES = (".csv", ".tsv", ".txt")


def column_of(files: Sequence[VectorFile], name: str) -> pd.Series | None:
    """A column that all files have, as long as the rows; None where no file has it.

    Raises:
        UserError: only some files have it; it is of another length.
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
    """The csv file that a setting names, as it is no column.

    Raises:
        UserError: neither.
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
    """All cells of a csv file as text, those of a header too. Empty lines at the end are left out of a table.

    Raises:
        UserError: it cannot be read; in a file of one column, where an empty line is an unknown label, the last line is
            empty and may or may not be one.
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
    """The table with its header's names, or with columns numbered from 1; a nameless one, pandas' index, left out.

    Raises:
        UserError: a name twice, or none.
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
    """A table with a line for each row; one line more is a header.

    Raises:
        UserError: another number of lines.
    """
    if len(cells) not in (n, n + 1):
        raise UserError(
            f"Expected {n} lines in {path}, one per vector, or {n + 1} with a header, got {len(cells)}: give a line "
            "for every vector."
        )
    return with_header(path, cells, len(cells) == n + 1)


def by_id(path: Path, cells: pd.DataFrame, ids: Sequence[str]) -> pd.DataFrame | None:
    """The lines of a table in the order of the ids, NaN for those it lacks; None where no column holds ids.

    In a table with a line for each row, half of the lines have to have an id of their own, or it goes by row.

    Raises:
        UserError: an id twice.
    """
    found = {column: cells[column].isin(set(ids)) for column in cells}
    key = max(found, key=lambda column: int(found[column].sum()))
    matches = cells[key][found[key]]
    if len(cells) in (len(ids), len(ids) + 1) and matches.nunique() < max(len(matches), len(cells) / 2):
        return None
    if matches.duplicated().any():
        twice = matches[matches.duplicated()].iloc[0]
        raise UserError(f"Expected every id once in {path}, got {twice!r} again: remove the repeated lines.")
    if not len(matches):
        return None
    header = not found[key].iloc[0]
    table = with_header(path, cells.drop(columns=[key]), header)
    return table.set_axis(cells[key][int(header) :], axis=0).reindex(list(ids))


def row_ids(names: str | Path | None, column: str | int | None, files: Sequence[VectorFile], n: int) -> list[str]:
    """An id for each row, from a csv file or a column of the files; the row's number without.

    Raises:
        UserError: no such file or column, another number of names, an empty one, or one twice.
    """
    if names is None:
        return [f"{row:06d}" for row in range(n)]
    found = column_of(files, str(names))
    if found is None:
        path = table_file("data.names", names, files)
        table = by_row(path, read_cells(path, n), n)
        lower = {name.lower(): name for name in reversed(table.columns)}
        usual = next((lower[name] for name in ("id", "name", *ID_COLUMNS) if name in lower), table.columns[0])
        wanted = usual if column is None else str(column)
        if wanted not in table:
            raise UserError(
                f"Expected data.names_column among {', '.join(table.columns)} of {path}, got {wanted!r}."
                f"{near_names(wanted, table.columns)}"
            )
        found = table[wanted]
    ids = found.astype(object).fillna("").astype(str)
    if (ids == "").any():
        raise UserError(f"Expected a name for every vector in {names}, got none for row {int(ids.eq('').argmax())}.")
    if ids.duplicated().any():
        twice = ids[ids.duplicated()].iloc[0]
        raise UserError(f"Expected different names in {names}, got {twice!r} more than once: make them unique.")
    return ids.tolist()


def class_labels(column: pd.Series) -> Labels:
    """What kind of factor a label column is: whole numbers that repeat are classes, not quantities."""
    labels = infer_labels(column)
    known = ~labels.numbers.isnan()
    values, places = labels.numbers[known].unique(return_inverse=True)
    few = len(values) <= max(MOST_CLASSES, int(known.sum()) // 5)
    if labels.kind != "continuous" or not few or bool((values != values.round()).any()):
        return labels
    numbers = labels.numbers.clone()
    numbers[known] = places.to(numbers)
    return Labels("categorical", tuple(f"{value:.0f}" for value in values.tolist()), numbers)


def unusable(labels: Labels) -> str | None:
    """Why a column says nothing of groups, None where it does."""
    if len(labels.values) < 2:
        return "one value only" if labels.values else "no value at all"
    known = int((~labels.numbers.isnan()).sum())
    return "another value in every row" if labels.kind == "categorical" and len(labels.values) == known else None


def label_columns(labels: str | Path | Sequence[str], files: Sequence[VectorFile], ids: list[str],
                  named: bool) -> dict[str, tuple[pd.Series, str]]:  # fmt: skip
    """Name -> (a value for each row, where it comes from).

    Raises:
        UserError: no such file or column; another number of labels.
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
    """The factors, with notes of columns that are none and of labels that are missing."""
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
