"""Read names and labels of vectors from tables, by row or by name, or from columns of the vectors' own files.

Words are classes, however many there are, and so are whole numbers with at most 20 different values, or a fifth of the
number of rows. Other numbers are continuous; two values become 0 and 1. See `label_kinds` for missing labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from datamodules.factors import FactorTable, check_kinds
from datamodules.headers import first_row
from datamodules.label_kinds import Labels, infer_labels
from datamodules.table_files import Table, named, nfc, read_table, spelled
from datamodules.tables import ID_COLUMNS
from datamodules.vector_files import VectorFile
from models import UserError, near_names
from models.labels import Factor

__all__ = ["column_of", "label_columns", "label_table", "row_ids"]

TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet", ".npy", ".npz")


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
    """Return the path of the table that a setting names, after no column of that name was found.

    Raises:
        UserError: it does not name a table either.
    """
    path = Path(value).expanduser()
    if path.is_file() and path.suffix.lower() in TABLES:
        return path
    columns = list(files[0].columns)
    if path.suffix.lower() in TABLES:
        raise UserError(f"Expected a table for {setting} at {path}, got no such file: check the path.")
    known = f"a column of {files[0].path} ({', '.join(columns)})" if columns else "the path of one"
    raise UserError(
        f"Expected {setting} to be a table or {known}, got {str(value)!r}.{near_names(str(value), columns)}"
    )


def read_rows(path: Path, n: int, header: bool | None, separator: str | None) -> Table:
    """Read a table; empty lines at the end are omitted, except for those that may be the unknown labels of n rows.

    Raises:
        UserError: the file cannot be read, or it is ambiguous whether its last, empty line is an unknown label.
    """
    table = read_table(path, separator=separator, empty_rows=True)
    cells = table.cells.map(lambda cell: cell.strip() if isinstance(cell, str) else cell)
    if table.header is not None:
        return replace(table, cells=cells)
    total, filled = len(cells), int(np.flatnonzero((cells != "").any(axis=1)).max(initial=-1)) + 1
    guess = {"header": True, "row": False}.get(str(first_row(cells))) if cells.shape[1] > 1 else None
    known = guess if header is None else header
    if filled == n < total and known is None:
        raise UserError(
            f"Expected {n} values in {path}, got an empty line after line {n}, one too many or an unknown value below "
            "a header: remove it, or write nan there."
        )
    wanted = [n + int(known)] if known is not None else [total] * (total in (n, n + 1))
    kept = next((count for count in wanted if filled <= count <= total), filled)
    return replace(table, cells=cells.iloc[:kept], lines=table.lines[:kept])


def rare_first(cells: pd.DataFrame) -> bool:
    """Tell whether a first cell never occurs again in a column in which the others do."""
    columns = [cells[column].iloc[1:] for column in cells]
    return any(
        first not in set(rest) and 2 * rest.nunique() <= len(rest)
        for first, rest in zip(cells.iloc[0], columns, strict=True)
    )


def by_row(table: Table, n: int, header: bool | None) -> Table:
    """Return a table with a line per row; one more line is a header.

    Raises:
        UserError: the table has another number of lines, or its first line may be a header or not.
    """
    count = len(table.cells)
    known = table.header if table.header is not None else header
    lines = count if table.header is not None or not known else count - 1
    if (known is None and count not in (n, n + 1)) or (known is not None and lines != n):
        raise UserError(
            f"Expected {n} lines in {table.name}, one per vector, or {n + 1} with a header, got {count}: give a line "
            "for every vector."
        )
    if known is None:
        guess, first = first_row(table.cells), ", ".join(map(str, table.cells.iloc[0]))
        if count == n + 1 and guess == "row":
            raise UserError(
                f"Expected {n} lines in {table.name}, one per vector, or {n + 1} with a header, got {count} whose "
                f"first, {first!r}, is like those below it: remove one, or set data.header=true if it is a header."
            )
        if count == n and (guess == "header" or (guess is None and rare_first(table.cells))):
            raise UserError(
                f"Expected {n} lines in {table.name}, one per vector, or {n + 1} with a header, got {count} whose "
                f"first, {first!r}, seems to be a header: add the missing line, or set data.header=false if it is none."
            )
    return with_names(table, count == n + 1 if known is None else known)


def with_names(table: Table, header: bool) -> Table:
    """Name the columns; one without a name, as pandas' index, is omitted."""
    table = named(table, header)
    return replace(table, cells=table.cells.loc[:, [name != "" for name in table.cells]])


def by_id(table: Table, ids: Sequence[str], header: bool | None) -> tuple[pd.DataFrame, str] | None:
    """Return the lines of a table in the order of the ids, NaN for missing ones, or None if no column has ids.

    In a table with a line per row, at least half of the lines need an id of their own; otherwise it is read by row.
    The second value describes the column of ids.

    Raises:
        UserError: an id occurs twice.
    """
    known = {nfc(name) for name in ids}
    columns = [table.cells[column].map(lambda cell: nfc(str(cell))) for column in table.cells]
    is_id = [column.isin(known) for column in columns]
    place = max(range(len(columns)), key=lambda column: int(is_id[column].sum()))
    key, matches = columns[place], columns[place][is_id[place]]
    if len(key) in (len(ids), len(ids) + 1) and matches.nunique() < max(len(matches), len(key) / 2):
        return None
    if matches.duplicated().any():
        twice = matches[matches.duplicated()].iloc[0]
        raise UserError(f"Expected every id once in {table.name}, got {twice!r} again: remove the repeated lines.")
    if not len(matches):
        return None
    first = not is_id[place].iloc[0] and first_row(table.cells) != "row" if header is None else header
    rest = replace(table, cells=table.cells.drop(columns=[table.cells.columns[place]]))
    labels = with_names(rest, first)
    place_name = str(table.cells.columns[place]) if table.header is not None or not first else str(key.iloc[0])
    labelled = labels.cells.set_axis(key.iloc[len(key) - len(labels.cells) :], axis=0)
    labelled = labelled[~labelled.index.duplicated() | labelled.index.isin(known)]
    line = f"ids in column {place_name!r}, {len(matches)} of {len(labels.cells)} match a vector"
    return labelled.reindex([nfc(name) for name in ids]), line


def described(path: Path, rows: int, table: Table, how: str, columns: Sequence[str]) -> str:
    """Return a line on how a table was read."""
    split = f", separated by {table.separator}" if table.separator else ""
    header = "with" if table.header else "without"
    return f"{path.name}: {rows} rows{split}, {header} a header; {how}; columns: {', '.join(columns)}."


def row_ids(names: str | Path | None, column: str | int | None, files: Sequence[VectorFile], n: int,
            header: bool | None = None, separator: str | None = None) -> tuple[list[str], list[str]]:  # fmt: skip
    """Return an id for each row, from a table or a column of the files, and notes; by default its number.

    Raises:
        UserError: there is no such file or column, the number of names differs, or a name is empty or occurs twice.
    """
    if names is None:
        return [f"{row:06d}" for row in range(n)], []
    own, notes = column_of(files, str(names)), []
    if own is None:
        path = table_file("data.names", names, files)
        table = by_row(read_rows(path, n, header, separator), n, header)
        known = [str(name) for name in table.cells]
        lower = {name.lower(): name for name in reversed(known)}
        usual = next((lower[name] for name in ("id", "name", *ID_COLUMNS) if name in lower), known[0])
        name = usual if column is None else nfc(str(column))
        if name not in known:
            raise UserError(
                f"Expected data.names_column among {', '.join(known)} of {path}, got {name!r}.{near_names(name, known)}"
            )
        own = table.cells[name]
        notes = [described(path, n, table, f"names in column {name!r}", known)]
    ids = own.astype(object).map(lambda cell: spelled(cell) or "")
    if (ids == "").any():
        raise UserError(f"Expected a name for every vector in {names}, got none for row {int(ids.eq('').argmax())}.")
    ids = ids.map(str)
    if ids.duplicated().any():
        twice = ids[ids.duplicated()].iloc[0]
        raise UserError(f"Expected different names in {names}, got {twice!r} more than once: make them unique.")
    return ids.tolist(), notes


def unusable(labels: Labels) -> str | None:
    """Return why a column cannot be a label of groups, or None if it can."""
    if len(labels.values) < 2:
        return "one value only" if labels.values else "no value at all"
    known = int((~labels.numbers.isnan()).sum())
    return "another value in every row" if labels.kind == "categorical" and len(labels.values) == known else None


def label_columns(labels: str | Path | Sequence[str], files: Sequence[VectorFile], ids: list[str], named_rows: bool,
                  header: bool | None = None, separator: str | None = None
                  ) -> tuple[dict[str, tuple[pd.Series, str]], list[str]]:  # fmt: skip
    """Read label columns from tables or columns of the files, as {name: (a value per row, its source)}, and notes.

    Raises:
        UserError: there is no such file or column, the number of labels differs from that of the rows, or two tables
            have a column of the same name.
    """
    columns: dict[str, tuple[pd.Series, str]] = {}
    notes = []
    for value in [labels] if isinstance(labels, str | Path) else labels:
        own = column_of(files, str(value))
        if own is not None:
            columns[str(value)] = own, f"{value} of {files[0].path.name}"
            continue
        path = table_file("data.labels", value, files)
        read = read_rows(path, len(ids), header, separator)
        found = by_id(read, ids, header) if named_rows and read.cells.shape[1] > 1 else None
        if found is None:
            table = by_row(read, len(ids), header)
            cells, how = table.cells, "a row per vector"
        else:
            cells, how = found
            table = replace(read, header=bool(read.header or list(map(str, read.cells)) != [*cells]))
        keys = ["label" if cells.shape[1] == 1 and name == "1" else str(name) for name in cells]
        notes.append(
            described(path, len(read.cells) - int(bool(table.header) and read.header is None), table, how, keys)
        )
        for key, name in zip(keys, cells, strict=True):
            if key in columns:
                raise UserError(f"Expected different columns in data.labels, got {key!r} in {path} and as "
                                f"{columns[key][1]}: rename one.")  # fmt: skip
            columns[key] = cells[name].reset_index(drop=True), f"{key} of {path.name}"
    return columns, notes


def label_table(columns: dict[str, tuple[pd.Series, str]], n: int, kinds: Mapping[str, str] | None = None
                ) -> tuple[FactorTable, list[str]]:  # fmt: skip
    """Build the table of factors, with notes about columns that cannot be used and about missing labels.

    Raises:
        UserError: the only column can be read in two ways.
    """
    chosen, values, notes = [], torch.empty(n, 0), []
    declared = check_kinds(kinds, list(columns))
    for name, (column, source) in columns.items():
        try:
            labels = infer_labels(column.rename(name), declared.get(name), many=True)
        except UserError as error:
            if len(columns) == 1 or name in declared:
                raise
            notes.append(f"{name} is not used as a label. {error}")
            continue
        missing = int(labels.numbers.isnan().sum())
        if why := unusable(labels):
            notes.append(f"{name} is not used as a label: it has {why}.")
            continue
        notes += [f"{name}: {note}" for note in labels.notes]
        notes += [f"{name}: {missing} of {n} rows have no label."] * (missing > 0)
        chosen.append(Factor(name, labels.kind, labels.values, source))
        values = torch.cat([values, labels.numbers[:, None]], dim=1)
    return FactorTable(tuple(chosen), values), notes
