"""Read tables of any format as text, cell by cell: csv, tsv, txt, jsonl, json, parquet, npy and npz.

It is the one reader of attributes, labels, names, texts, captions and vocabularies. A cell keeps its spelling until the
kind of its column is known. Rows of different lengths, bytes that are no UTF-8 and unclosed quotation marks are refused
with their line. Where a file can be read in two ways, the error names the option that decides.
"""

import codecs
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn
from unicodedata import normalize

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.readable import readable
from datamodules.separators import Grid, SeparatorError, split_cells, split_lines
from models import UserError

__all__ = ["SUFFIXES", "Table", "decoded", "named", "nfc", "parse_table", "read_table", "spelled"]

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
ARRAYS = (".npy", ".npz")
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True)
class Table:
    """A table of text: one row per line or record, and one column per name.

    Cells are text, None where a format with types has no value, or lists of texts. Columns are named by the header, or
    by their numbers from 1 as long as it is unknown (`header` is None) whether the first row is one.
    """

    name: str
    cells: pd.DataFrame
    lines: Sequence[int]  # line of each row in the file, from 1; the number of the row in a binary format
    header: bool | None
    separator: str | None = None  # in words, of a text format with several columns


def nfc(text: str) -> str:
    r"""Return text in Unicode's composed form, in which equal characters have equal codes.

    >>> nfc("e\u0301") == "\u00e9"
    True
    """
    return text if text.isascii() else normalize("NFC", text)


def refuse_line(name: str, line: int, expected: str, got: str, advice: str) -> NoReturn:
    raise UserError(f"Expected {expected} in {name}, got {got} in line {line}: {advice}.")


def decoded(name: str, content: bytes) -> str:
    r"""Decode text in UTF-8, or in UTF-16 if it starts with a byte order mark.

    Raises:
        UserError: other bytes, with the line of the first.

    >>> decoded("a.csv", b"caf\xc3\xa9")
    'café'
    """
    encoding = next((encoding for mark, encoding in BOMS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"the byte 0x{content[error.start]:02x}"
        refuse_line(name, line, "text in UTF-8", byte, "save the file as UTF-8, or correct the line")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        refuse_line(name, line, "text", "a null character", "save the file as UTF-8, or correct the line")
    return text


def spelled(value: Any) -> Any:
    """Return a value of a format with types as text, None for a missing one; lists keep their items as texts.

    >>> spelled(2.0), spelled(True), spelled(None), spelled(float("nan"))
    ('2', 'true', None, None)
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, list | tuple | np.ndarray):
        return [spelled(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float | np.floating):
        number = float(value)
        if math.isnan(number):
            return None
        return f"{number:.0f}" if number.is_integer() and abs(number) < 1e15 else str(value)
    return value if isinstance(value, dict) else None if value is pd.NaT else str(value)


def from_records(name: str, records: Iterable[tuple[int, Any]]) -> Table:
    """Build a table of json objects, each with its line.

    Raises:
        UserError: a record is no object, or has a character that no file can store.
    """
    rows, lines = [], []
    for line, record in records:
        if not isinstance(record, dict):
            refuse_line(name, line, "an object {name: value}", type(record).__name__, "write one in every line")
        for value in (*record, *record.values()):
            if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
                refuse_line(name, line, "characters of Unicode", f"half a surrogate pair, {value!r},", "correct it")
        rows.append({nfc(key.strip()): spelled(value) for key, value in record.items()})
        lines.append(line)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = pd.DataFrame({key: pd.Series([row.get(key) for row in rows], dtype=object) for key in columns})
    return Table(name, cells, lines, True)


def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of its pairs.

    Raises:
        ValueError: a name occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} twice")
    return found


def parsed_json(name: str, text: str, line: int) -> Any:
    """Parse json; numbers keep their spelling, except those that are no numbers.

    Raises:
        UserError: it is damaged.
    """
    try:
        return json.loads(
            text, parse_int=str, parse_float=str, parse_constant=lambda _: None, object_pairs_hook=unrepeated
        )
    except (ValueError, RecursionError) as error:
        at = line + (getattr(error, "lineno", 1) - 1)
        refuse_line(name, at, "json", str(error).split("\n")[0].rstrip("."), "repair or replace the file")


def json_lines(name: str, text: str) -> Table:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return from_records(name, ((number, parsed_json(name, line, number)) for number, line in lines))


def json_list(name: str, text: str) -> Table:
    """Read json that is a list of objects."""
    records = parsed_json(name, text, 1)
    if not isinstance(records, list):
        raise UserError(f"Expected a list of objects in {name}, got {type(records).__name__}: choose another file.")
    return from_records(name, enumerate(records, 1))


def is_readable(kind: pa.DataType) -> bool:
    """Tell whether a parquet column has texts, numbers or lists of texts, and not pixels or vectors."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def parquet_table(name: str, content: Any) -> Table:
    """Read the columns of texts, numbers and lists of texts, and the path of images that have one."""
    with pq.ParquetFile(content) as file:
        schema, columns = file.schema_arrow, []
        for field in schema:
            has_path = pa.types.is_struct(field.type) and field.type.get_field_index("path") >= 0
            columns += [field.name] if is_readable(field.type) else [f"{field.name}.path"] if has_path else []
        table = file.read(columns=columns)
    cells = {}
    for field in table.schema:
        column, key = table[field.name], nfc(field.name.strip())
        values = column.to_pylist()
        if pa.types.is_struct(field.type):
            values = [value and value["path"] for value in values]
        elif pa.types.is_float32(field.type):
            values = [None if value is None else np.float32(value) for value in values]
        key = "" if key == "__index_level_0__" else key
        if key in cells:
            raise UserError(f"Expected different column names in {name}, got {key!r} twice: rename one.")
        cells[key] = pd.Series([spelled(value) for value in values], dtype=object)
    return Table(name, pd.DataFrame(cells), range(1, len(table) + 1), True)


def array_table(name: str, content: Any) -> Table:
    """Read an array with a value or several per row, a structured array, or the lists of an archive, as columns."""
    loaded = np.load(content, allow_pickle=False)
    arrays = {"label": loaded}
    if isinstance(loaded, np.lib.npyio.NpzFile):
        arrays = {key: array for key, array in loaded.items() if array.ndim == 1 or array.shape[1:] == (1,)}
    if (single := arrays.get("label")) is not None and single.dtype.names:
        arrays = {key: single[key] for key in single.dtype.names}
    columns: dict[str, np.ndarray] = {}
    for key, array in arrays.items():
        if array.ndim == 2 and array.shape[1] > 1:
            columns |= {f"{key}_{i}": column for i, column in enumerate(array.T, 1)}
        elif array.ndim in (1, 2):
            columns[key] = array.reshape(-1)
        else:
            raise UserError(f"Expected a value per row in {key} of {name}, got an array of shape {array.shape}.")
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{length} in {key}" for key, length in lengths.items())
        raise UserError(f"Expected arrays of one length in {name}, got {listed}: save the labels alone.")
    cells = {key: pd.Series([spelled(value) for value in array], dtype=object) for key, array in columns.items()}
    return Table(name, pd.DataFrame(cells), range(1, max(lengths.values(), default=0) + 1), True)


def from_grid(name: str, grid: Grid) -> Table:
    width = max((len(row) for row in grid.rows), default=0)
    seen: dict[str, str] = {}  # equal cells are one object: CelebA's table has eight million of three values
    columns = {
        str(i + 1): pd.Series([seen.setdefault(row[i], row[i]) for row in grid.rows], dtype=object)
        for i in range(width)
    }
    table = Table(name, pd.DataFrame(columns), grid.lines, None, grid.separator)
    return named(table, True) if grid.header else table


def named(table: Table, header: bool, names: Sequence[str] | None = None) -> Table:
    """Return a table whose first row is known to be a header or not; columns without a name are omitted.

    Raises:
        UserError: a name occurs twice, or no column has one.
    """
    if table.header is not None:
        return table
    cells = table.cells
    own = [nfc(str(cell).strip()) for cell in cells.iloc[0]] if header and len(cells) else [*map(str, cells.columns)]
    own = list(names) if names is not None and not header else own
    twice = [name for name in own if name and own.count(name) > 1]
    if twice:
        raise UserError(
            f"Expected different column names in {table.name}, got {twice[0]!r} twice: rename one, or set "
            "data.header=false if the first line is no header."
        )
    if not any(own):
        raise UserError(f"Expected a column with a name in {table.name}, got none in its first line: write one there.")
    rest = cells.iloc[int(header) :].set_axis(own, axis=1).reset_index(drop=True)
    return replace(table, cells=rest, lines=table.lines[int(header) :], header=header)


Reader = Callable[[str, Any], Table]
TYPED: dict[str, Reader] = {".parquet": parquet_table, ".npy": array_table, ".npz": array_table}


def parse_table(
    name: str, content: bytes, separator: str | None = None, lines: bool = False, spaces: bool = False,
    short: bool = False, row_names: bool = False, empty_rows: bool = False,
) -> Table:  # fmt: skip
    r"""Parse a table from the bytes of a file, whose name tells its format.

    `separator` is one of `,`, `;`, `tab`, `|`, `space` and `none`; by default the one with which all rows have as many
    cells. `lines` reads a .txt as one column of whole lines, `spaces` allows cells of a .txt separated by white space,
    `short` allows rows with fewer cells than the first if bars separate them, `row_names` rows with one cell more than
    the header, as R writes them. `empty_rows` keeps rows without any text at the end.

    Raises:
        UserError: it cannot be read, or in more than one way.

    >>> parse_table("race.csv", b"image_id;race\n1.png;a\n").cells.values.tolist()
    [['image_id', 'race'], ['1.png', 'a']]
    """
    suffix = Path(name).suffix.lower()
    if suffix in TYPED:
        with readable(Path(name), f"a {suffix} file"):
            return TYPED[suffix](name, pa.BufferReader(content) if suffix == ".parquet" else io.BytesIO(content))
    text = decoded(name, content)
    if suffix in (".jsonl", ".ndjson"):
        return json_lines(name, text)
    if suffix == ".json":
        return json_list(name, text)
    if lines and suffix == ".txt" and separator is None:
        return from_grid(name, split_lines(text))
    try:
        grid = split_cells(text, suffix, separator, spaces, short, row_names)
    except SeparatorError as error:
        raise UserError(f"Expected a table in {name}, got {error}") from error
    while not empty_rows and grid.width > 1 and not any(cell.strip() for cell in grid.rows[-1]) and len(grid.rows) > 1:
        grid.rows.pop()
        grid.lines.pop()
    return from_grid(name, grid)


def read_table(path: str | Path, expected: str = "a table", **options: Any) -> Table:
    """Read a table from a file, see `parse_table`.

    Raises:
        UserError: there is no such file, or it cannot be parsed.
    """
    path = Path(path).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"Expected {expected} at {path}, got {error.strerror or error}: give the path of one of "
            f"{', '.join(SUFFIXES)}."
        ) from error
    return parse_table(str(path), content, **options)
