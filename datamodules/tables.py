"""Join tables of labels to the images that they describe."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int64

from datamodules.headers import first_row
from datamodules.separators import ID_NAMES
from datamodules.table_files import Table, named, nfc, parse_table, read_table, spelled
from models import UserError, near_names

__all__ = ["ID_COLUMNS", "Attributes", "from_frame", "join_tables", "label_table_of", "match_ids", "read_tables",
           "rows_of"]  # fmt: skip

ID_COLUMNS = ID_NAMES
WHOLE, BY_NAME, BY_STEM = 0, 1, 2  # forms in which an id matches


class Attributes(NamedTuple):
    """The tables' columns for n images: one row per image, NaN where unknown, and the source of each column.

    `notes` say how each table was read.
    """

    table: pd.DataFrame
    sources: dict[str, str]
    notes: list[str]


class Matches(NamedTuple):
    """The table's row of each image, −1 if there is none, and the form in which the ids match."""

    rows: Int64[np.ndarray, " n"]
    forms: Int64[np.ndarray, " n"]

    @property
    def strict(self) -> int:
        """Number of images whose id matches with its extension."""
        return int(((self.rows >= 0) & (self.forms < BY_STEM)).sum())

    @property
    def total(self) -> int:
        return int((self.rows >= 0).sum())


def label_table_of(name: str, content: bytes, separator: str | None = None) -> Table:
    """Parse a table of labels from the bytes of a file."""
    return parse_table(name, content, separator, spaces=True, row_names=True)


def read_tables(
    paths: str | Path | Sequence[str | Path] | None, root: Path, separator: str | None = None
) -> dict[str, Table]:
    """Read one table, several or none, as {file name: table}; paths are relative to the working directory or to `root`.

    Raises:
        UserError: a file is missing or cannot be parsed.
    """
    if paths is None:
        return {}
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    files = [path if path.exists() else root / path for path in (Path(p).expanduser() for p in paths)]
    missing = [str(path) for path, file in zip(paths, files, strict=True) if not file.exists()]
    if missing:
        raise UserError(
            f"Expected a table of labels at {missing[0]}, got no such file there nor below {root}: give the path of a "
            "csv, tsv, txt, jsonl or parquet file."
        )
    return {
        str(file): read_table(file, "a table of labels", separator=separator, spaces=True, row_names=True)
        for file in files
    }


def from_frame(name: str, frame: pd.DataFrame) -> Table:
    """Return a table of a data frame that is indexed by image id."""
    cells = frame.map(spelled, na_action="ignore").astype(object)
    cells = cells.where(cells.notna(), None).set_axis([nfc(str(column).strip()) for column in frame], axis=1)
    cells.insert(0, "image_id", [str(name) for name in frame.index])
    return Table(name, cells.reset_index(drop=True), range(1, len(cells) + 1), True)


def rows_of(table: Table) -> int:
    """Return the number of rows, without a header."""
    return len(table.cells) - int(table.header is None and first_row(table.cells) != "row")


def normal_id(cell: object) -> str:
    """Return an id in the form in which ids are compared."""
    name = nfc(str(cell).strip().replace("\\", "/")) if isinstance(cell, str) else ""
    return re.sub(r"^(\./)+", "", name)


def same(name: str) -> str:
    return name


def without_extension(name: str) -> str:
    return re.sub(r"\.[A-Za-z]{3,4}$", "", name)


def endings(path: str) -> list[str]:
    """Return a path, the path without its first folder, and so on.

    >>> endings("set/a/1.png")
    ['set/a/1.png', 'a/1.png', '1.png']
    """
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def places(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        if name:
            found.setdefault(name, []).append(place)
    return found


def match_ids(ids: Sequence[str], names: Sequence[str]) -> Matches:
    """Match image ids with the ids of a table.

    They match as whole paths; else if one path is the end of the other, as `20.jpg` is of `val/20.jpg`; else so without
    extensions. `train/20.jpg` and `val/20.jpg` never match. Each has to be unambiguous on both sides.

    >>> match_ids(["val/20.jpg", "val/21.jpg"], ["train/20.jpg", "21.jpg"]).rows.tolist()
    [-1, 1]
    """
    ids, names = [normal_id(name) for name in ids], [normal_id(name) for name in names]
    rows, forms = np.full(len(ids), -1), np.zeros(len(ids), dtype=np.int64)
    whole = places(names)
    for place, name in enumerate(ids):
        if len(same_names := whole.get(name, [])) == 1:
            rows[place] = same_names[0]
    for form, shortened in ((BY_NAME, same), (BY_STEM, without_extension)):
        if (rows >= 0).all():
            break
        match_endings(rows, forms, form, [shortened(name) for name in ids], [shortened(name) for name in names])
    return Matches(rows, forms)


def match_endings(
    rows: Int64[np.ndarray, " n"], forms: Int64[np.ndarray, " n"], form: int, ids: list[str], names: list[str]
) -> None:
    """Match the ids that have no row yet, in place, if one path is the end of the other."""
    of_names, of_ids = places(names), places(ids)
    id_counts, name_counts = np.zeros(len(ids), dtype=int), np.zeros(len(names), dtype=int)
    candidates = np.full(len(ids), -1)
    pairs = [(place, found) for place, name in enumerate(ids) if name for end in endings(name)
             if (found := of_names.get(end))]  # fmt: skip
    for place, found in pairs:
        id_counts[place] += len(found)
        candidates[place] = found[0]
        if len(found) == 1:
            name_counts[found[0]] += 1
    for row, name in enumerate(names):
        for end in endings(name)[1:]:
            found = of_ids.get(end, [])
            name_counts[row] += len(found)
            if len(found) == 1:
                id_counts[found[0]] += 1
                candidates[found[0]] = row
    used = set(rows[rows >= 0].tolist())
    for place in np.flatnonzero((rows < 0) & (id_counts == 1)).tolist():
        row = int(candidates[place])
        if name_counts[row] == 1 and row not in used:
            rows[place], forms[place] = row, form


def is_counter(cells: pd.Series) -> bool:
    """Tell whether a column counts the rows, whatever its first cell, which may be a header."""
    text = [str(cell).strip() for cell in cells[1:]]
    return all(cell.isascii() and cell.isdigit() for cell in text) and all(
        int(b) - int(a) == 1 for a, b in zip(text, text[1:], strict=False)
    )


def id_column(table: Table, ids: Sequence[str], given: str | None) -> tuple[str, Matches]:
    """Return the column whose cells are the images' ids, and their matches.

    Raises:
        UserError: there is no such column, no id is an image's, or several columns have ids.
    """
    cells = table.cells
    names = {column: str(column) for column in cells}
    if table.header is None and len(cells):
        names = {column: nfc(str(cells[column].iloc[0]).strip()) for column in cells}
    chosen = [column for column, name in names.items() if given is not None and given in (name, column)]
    if given is not None and not chosen:
        raise UserError(f"Expected data.id_column among {', '.join(filter(None, names.values()))} of {table.name}, got "
                        f"{given!r}.{near_names(given, names.values())}")  # fmt: skip
    usual = [column for column, name in names.items() if name.lower() in ID_COLUMNS]
    usual = sorted(usual, key=lambda column: ID_COLUMNS.index(names[column].lower()))[:1]
    single = [column for column in cells if table.separator or not has_lists(cells[column])]
    columns = chosen or [column for column in single if column in usual or 2 * cells[column].nunique() >= len(cells)]
    columns = columns or list(cells)[:1]
    found = {column: match_ids(ids, cells[column].tolist()) for column in columns}
    best = max(columns, key=lambda column: (found[column].strict, found[column].total, column in usual))
    if not found[best].total:
        shown = cells[(usual or columns)[0]]
        first = shown.iloc[min(len(shown) - 1, int(table.header is None and first_row(cells) != "row"))]
        raise UserError(
            f"Expected {table.name} to describe these images, got no common id (the table has {first!r}, the images "
            f"{ids[0]!r}): make the table's ids the images' file names."
        )
    check_unambiguous(table, names, found, best, usual)
    return best, found[best]


def check_unambiguous(table: Table, names: Mapping[str, str], found: Mapping[str, Matches], best: str,
                      usual: Sequence[str]) -> None:  # fmt: skip
    """Refuse a table in which another column may have the ids.

    Raises:
        UserError: it may.
    """
    own = found[best]
    alike = [
        column for column, other in found.items()
        if (other.strict, other.total) == (own.strict, own.total) and not np.array_equal(other.rows, own.rows)
    ] if best not in usual else []  # fmt: skip
    if own.strict == 0 and own.total < min(len(own.rows), len(table.cells) - 1) and is_counter(table.cells[best]):
        texts = {column: [str(cell) for cell in table.cells[column].iloc[1:]] for column in found if column != best}
        alike += [
            column for column, words in texts.items()
            if len(set(words)) == len(words) and not all(re.fullmatch(r"[-+.eE0-9]*", word) for word in words)
        ]  # fmt: skip
    if alike:
        listed = " or ".join(repr(names[column] or column) for column in (best, alike[0]))
        raise UserError(
            f"Expected one column of image ids in {table.name}, got {listed}: name it by data.id_column=, "
            "by its header or its number from 1."
        )


def headed(table: Table, key: str, matches: Matches, given: bool | None) -> Table:
    """Decide whether the first row is a header: it is none if it has an image's id or is like the rows below it."""
    if table.header is not None:
        return table
    has_id = bool((matches.rows == 0).any())
    header = given if given is not None else not has_id and first_row(table.cells) != "row"
    stem, width = Path(table.name).stem, table.cells.shape[1]
    others = iter([stem] if width == 2 else [f"{stem}_{i}" for i in range(1, width)])
    return named(table, header, [key if str(column) == key else next(others) for column in table.cells])


def described(table: Table, key: str, count: int, columns: Sequence[str]) -> str:
    """Return a line on how a table was read."""
    n = len(table.cells)
    split = f"separated by {table.separator}, " if table.separator else ""
    header = "with" if table.header else "without"
    shown = ", ".join(columns[:8]) + (f" and {len(columns) - 8} more" if len(columns) > 8 else "")
    return (
        f"{Path(table.name).name}: {n} rows, {split}{header} a header; {count} of {n} ids in column {key!r} match an "
        f"image; columns: {shown}."
    )


def has_lists(column: pd.Series) -> bool:
    return bool(column.map(lambda cell: isinstance(cell, list | dict)).any())


def by_image(table: Table, ids: Sequence[str], given: str | None, header: bool | None
             ) -> tuple[pd.DataFrame, str]:  # fmt: skip
    """Return a table's columns in the order of the images, missing where unknown, and a line on how it was read.

    Raises:
        UserError: it has no rows, no columns besides the ids, an id twice, or describes none of the images.
    """
    empty = f"Expected a column of image ids and one or more of labels in {table.name}, got"
    if not len(table.cells):
        raise UserError(f"{empty} 0 columns of labels in 0 rows: correct the table.")
    key, matches = id_column(table, ids, given)
    position = list(table.cells).index(key)
    before = table
    table = headed(table, key, matches, header)
    if before.header is None and table.header:
        first = [nfc(str(cell).strip()) for cell in before.cells.iloc[0]]
        key = first[position]
        matches = Matches(np.where(matches.rows > 0, matches.rows - 1, -1), matches.forms)
    own = before.cells.iloc[len(before.cells) - len(table.cells) :, position].reset_index(drop=True)
    columns = [str(name) for name in table.cells if name not in (key, "") and not has_lists(table.cells[name])]
    if not columns or not len(table.cells):
        raise UserError(f"{empty} {len(columns)} columns of labels in {len(table.cells)} rows: correct the table.")
    filled = own.map(normal_id)
    twice = filled[(filled != "") & filled.duplicated()]
    if len(twice):
        raise UserError(
            f"Expected every image once in {table.name}, got {len(twice)} repeated rows, the first for "
            f"{twice.iloc[0]!r} in line {table.lines[int(twice.index[0])]}: remove them."
        )
    joined = table.cells[columns].reindex(matches.rows).set_axis(list(ids), axis=0)
    return joined.where(joined.notna(), None), described(table, key or "1", matches.total, columns)


def join_tables(ids: Sequence[str], tables: Mapping[str, Table], more: Mapping[str, Table] | None = None,
                given: str | int | None = None, header: bool | None = None) -> Attributes:  # fmt: skip
    """Join the tables (name -> table) to images by id.

    For `more` tables, the user's own, `given` is the column of ids and `header` says whether they have one; by default
    what the tables show. Of two columns with the same name the later one is used, and the earlier one for the images
    that the later one does not label.

    Raises:
        UserError: a table describes none of the images, or can be read in two ways.
    """
    columns: dict[str, pd.Series] = {}
    sources: dict[str, str] = {}
    notes: list[str] = []
    key = None if given is None else nfc(str(given))
    own = [(name, table, None, None) for name, table in tables.items()]
    extra = [(name, table, key, header) for name, table in (more or {}).items()]
    for name, table, column_of_ids, first in [*own, *extra]:
        joined, line = by_image(replace(table, name=name), ids, column_of_ids, first)
        notes.append(line)
        for column in joined:
            values, source = joined[column], f"{column} of {Path(name).name}"
            known = values.notna() & (values != "")
            if column in columns:
                earlier = columns[column]
                both = known & earlier.notna() & (earlier != "")
                if different := int((both & (values != earlier)).sum()):
                    notes.append(f"{column}: {Path(name).name} has other values than {sources[column]} for {different} "
                                 "images, and is used for them.")  # fmt: skip
                if (earlier.notna() & (earlier != "") & ~known).any():
                    source = f"{sources[column]} and {Path(name).name}"
                values = values.where(known, earlier)
            columns[column], sources[column] = values, source
    return Attributes(pd.DataFrame(columns, index=list(ids)), sources, notes)
