"""Read tables of labels and join them to the images that they describe."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int64

from models import UserError

__all__ = ["ID_COLUMNS", "Attributes", "join_tables", "parse_table", "read_table", "read_tables"]

ID_COLUMNS = ("image_id", "image", "file_name", "filename", "file", "img", "path")


class Attributes(NamedTuple):
    """The tables' columns for n images: one row per image, NaN where unknown, and the source of each column."""

    table: pd.DataFrame
    sources: dict[str, str]


def id_column(columns: Sequence[str]) -> str:
    """Return the column of image ids: one with a usual name, else the first."""
    lower = {column.strip().lower(): column for column in reversed(columns)}
    return next((lower[name] for name in ID_COLUMNS if name in lower), columns[0])


def comma_table(text: str) -> pd.DataFrame:
    """Parse a table with a header; the separator is the comma, semicolon or tab, whichever the header has most of."""
    header = text.split("\n", 1)[0]
    separator = max(",;\t", key=header.count)
    columns = pd.read_csv(io.StringIO(text), sep=separator, nrows=0).columns
    names = id_column(list(columns))
    return pd.read_csv(io.StringIO(text), sep=separator, dtype={names: str}).set_index(names)


def is_number(word: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", word) is not None


def space_table(text: str, name: str) -> pd.DataFrame:
    """Parse a table in CelebA's format: a line with the count, a header without the id (both optional), the rows."""
    lines = [line.split() for line in text.split("\n", 3)[:3]]
    skip = int(len(lines[0]) == 1 and lines[0][0].isdigit())
    first, second = (lines[skip:] + [[], []])[:2]
    if len(first) == len(second) - 1:
        columns, skip = first, skip + 1
    elif not any(is_number(word) for word in first[1:]):
        columns, skip = first[1:], skip + 1
    else:
        stem = Path(name).stem
        columns = [stem] if len(first) == 2 else [f"{stem}_{i}" for i in range(1, len(first))]
    names, types = ["image_id", *columns], {"image_id": str}
    table = pd.read_csv(
        io.StringIO(text), sep=r"\s+", header=None, skiprows=skip, names=names, dtype=types, index_col=False
    )
    return table.set_index("image_id")


def parquet_table(content: bytes) -> pd.DataFrame:
    table = pd.read_parquet(io.BytesIO(content))
    table = table if isinstance(table.index, pd.RangeIndex) else table.reset_index()
    return table.set_index(id_column([str(column) for column in table.columns]))


def by_image(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Clean the ids and column names of a table.

    Raises:
        UserError: it has no rows, no columns besides the ids, or an id twice.
    """
    table = table[table.index.notna()]
    table.index = table.index.astype(str).str.strip().str.replace("\\", "/")
    table.columns = [str(column).strip() for column in table.columns]
    table = table.loc[:, [not column.startswith("Unnamed:") for column in table.columns]]
    if table.empty:
        raise UserError(
            f"Expected a column of image ids and one or more of labels in {name}, got {table.shape[1]} columns of "
            f"labels in {len(table)} rows: correct the table."
        )
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise UserError(
            f"Expected every image once in {name}, got {len(twice)} repeated rows, the first for {twice[0]!r}: "
            "remove them."
        )
    return table


def parse_table(name: str, content: bytes) -> pd.DataFrame:
    r"""Parse a table of labels from the bytes of a parquet, csv, tsv or whitespace-separated file, indexed by image id.

    Raises:
        UserError: it cannot be read, is empty, or has an id twice.

    >>> parse_table("race.csv", b"image_id,race\n1.png,a\n2.png,b\n")["race"].tolist()
    ['a', 'b']
    """
    try:
        if name.lower().endswith(".parquet"):
            table = parquet_table(content)
        else:
            text = content.decode("utf-8-sig").lstrip().replace("\r\n", "\n")
            spaced = not any(separator in text.split("\n", 1)[0] for separator in ",;\t")
            table = space_table(text, name) if spaced and name.lower().endswith(".txt") else comma_table(text)
    except (ValueError, OSError, IndexError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"Expected a csv, txt or parquet table in {name}, got a file that cannot be read as one ({reason}): "
            "repair or replace it."
        ) from error
    return by_image(table, name)


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table of labels, indexed by image id.

    Raises:
        UserError: there is no such file, or it cannot be parsed, see `parse_table`.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"Expected a table of labels at {path}, got {error.strerror}: give the path of a csv, txt or parquet file."
        ) from error
    return parse_table(str(path), content)


def read_tables(paths: str | Path | Sequence[str | Path] | None, root: Path) -> dict[str, pd.DataFrame]:
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
            "csv, txt or parquet file."
        )
    return {str(file): read_table(file) for file in files}


def without_folder(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def without_extension(name: str) -> str:
    return re.sub(r"\.[A-Za-z]{3,4}$", "", without_folder(name))


def match_rows(ids: Sequence[str], index: pd.Index) -> Int64[np.ndarray, " n"]:
    """Return the row of each image in a table, or -1 if there is none.

    Ids are compared in full, then by file name, then by file name without extension, each as long as it is unambiguous
    on both sides.
    """
    rows = np.full(len(ids), -1)
    forms: tuple[Callable[[str], str], ...] = (str, without_folder, without_extension)
    for form in forms:
        keys, names = pd.Index([form(name) for name in index]), pd.Index([form(name) for name in ids])
        unique = np.flatnonzero(~keys.duplicated(keep=False))
        matches = keys[unique].get_indexer(names)
        new = (rows < 0) & (matches >= 0) & ~names.duplicated(keep=False)
        rows[new] = unique[matches[new]]
        if (rows >= 0).all():
            break
    return rows


def join_tables(ids: Sequence[str], tables: Mapping[str, pd.DataFrame]) -> Attributes:
    """Join the tables (name -> table) to images by id; of two columns with the same name the later one is used.

    Raises:
        UserError: a table describes none of the images.
    """
    columns: dict[str, pd.Series] = {}
    sources: dict[str, str] = {}
    for name, table in tables.items():
        rows = match_rows(ids, table.index)
        if not (rows >= 0).any():
            raise UserError(
                f"Expected {name} to describe these images, got no common id (the table has {table.index[0]!r}, the "
                f"images {ids[0]!r}): make the table's ids the images' file names."
            )
        matched = table.reset_index(drop=True).reindex(rows).set_axis(list(ids), axis=0)
        columns |= {column: matched[column] for column in matched}
        sources |= {column: f"{column} of {Path(name).name}" for column in matched}
    return Attributes(pd.DataFrame(columns, index=list(ids)), sources)
