"""Load texts (words, captions, queries), with or without labels, and embed them with a frozen text encoder.

A .txt file has a text per line; .csv, .tsv, .jsonl and .parquet files have a column of texts. Features are cached like
those of images. Without a split of their own, rows are split 80/10/10 by a hash of the text.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from datamodules.cache import cache_errors, code_digest, fingerprint, write_whole
from datamodules.factors import FactorTable
from datamodules.feature_cache import Shards
from datamodules.features import FeatureData
from datamodules.headers import first_row
from datamodules.progress import with_progress
from datamodules.splits import SPLITS, hash_split, split_numbers
from datamodules.table_files import SUFFIXES, Table, named, nfc, read_table
from datamodules.vector_labels import described, label_table
from models import Count, UserError, near_names
from models.interfaces import TextEncoder
from models.text_length import cut_note

__all__ = ["TextData", "USUAL", "extract_texts", "one_text_per_row", "read_texts", "text_column", "texts"]

TEXT, SPLIT, LINE = ".text", ".split", ".line"  # columns beside those of the file
USUAL = ("text", "caption", "sentence", "word", "query", "title", "name")


@dataclass(frozen=True)
class TextData:
    """Texts with their labels and split; ids are the texts themselves if they are all different, else row numbers."""

    name: str
    texts: list[str]
    ids: list[str]
    factors: FactorTable
    split: UInt8[Tensor, " n"]
    fingerprint: str
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def rows(self, split: int) -> Int64[Tensor, " rows"]:
        """Return the row indices of a split."""
        return torch.nonzero(self.split == split).flatten()


def read_texts(path: Path, wanted: Sequence[str] = (), header: bool | None = None,
               separator: str | None = None) -> Table:  # fmt: skip
    """Read a file as a table; a .txt file becomes a column `text`.

    The first line is a header if it has a usual name of a column of texts, or a `wanted` one.

    Raises:
        UserError: the file is missing, of another type, damaged or empty, or its first line may be a header or not.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise UserError(f"Expected a file of texts at {path}, got no such file: set data.path to one.")
    if suffix not in SUFFIXES:
        raise UserError(f"Expected texts in a .txt, .csv, .tsv, .jsonl or .parquet file, got {path}.")
    table = read_table(path, "a file of texts", separator=separator, lines=True)
    if not len(table.cells):
        raise UserError(f"Expected texts in {path}, got no row: give a file with some.")
    if suffix == ".txt" and separator is None and not header:
        return named(table, False, ["text"])
    table = named(table, has_header(table, wanted) if header is None and table.header is None else bool(header))
    if not len(table.cells):
        raise UserError(f"Expected texts in {path}, got no row: give a file with some.")
    return table


def has_header(table: Table, wanted: Sequence[str]) -> bool:
    """Tell whether the first line of a table of texts is a header.

    Raises:
        UserError: it may be one or not.
    """
    first, guess = [nfc(str(cell).strip()) for cell in table.cells.iloc[0]], first_row(table.cells)
    is_usual = any(name.lower() in USUAL for name in first)
    if any(name in wanted for name in first) or (is_usual and guess == "header"):
        return True
    if guess is not None and not is_usual:
        return guess == "header"
    got = f"{', '.join(first)}" if len(first) > 1 else repr(first[0])
    if len(first) > 1:
        raise UserError(f"Expected one column of texts in {table.name}, got {got}: name it by data.column=, or set "
                        "data.header=false if the first line is no header.")  # fmt: skip
    raise UserError(f"Expected a header such as text in {table.name}, got {got}, which may be one or a text: set "
                    "data.header=true or false, or save the texts as a .txt.")  # fmt: skip


def text_column(path: Path, table: Table, column: str | int | None) -> str:
    """Return the column of texts: the given one, one with a usual name, or the only column.

    Raises:
        UserError: there is no such column, or several are possible.
    """
    names = [str(name) for name in table.cells]
    column = None if column is None else nfc(str(column))
    if column is not None and column not in names:
        near = near_names(column, names)
        raise UserError(f"Expected data.column among {', '.join(names)} of {path}, got {column!r}.{near}")
    if column is not None:
        return column
    lower = {name.lower(): name for name in reversed(names)}
    usual = next((lower[name] for name in USUAL if name in lower), None)
    if usual is None and len(names) > 1:
        raise UserError(f"Expected one column of texts in {path}, got {', '.join(names)}: name it by data.column=.")
    return usual or names[0]


def listed(cell: Any) -> list[str | None] | None:
    """Return the texts of a list, or of a list as Python or json writes it; None of any other cell."""
    if isinstance(cell, str) and cell.strip().startswith("[") and cell.strip().endswith("]"):
        try:
            cell = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    if not isinstance(cell, list) or not all(item is None or isinstance(item, str) for item in cell):
        return None
    return cell


def one_text_per_row(table: Table, column: str) -> Table:
    """Repeat the rows whose cell in a column is a list of texts, once for each text.

    Raises:
        UserError: some cells are lists and others texts, or objects.
    """
    cells = table.cells[column]
    lists = cells.map(listed)
    filled = cells.map(lambda cell: cell is not None and cell != "")
    single = filled & lists.isna()
    objects = cells.map(lambda cell: isinstance(cell, list | dict)) & single
    if objects.any() or (single.any() and 2 * int(single.sum()) < int(filled.sum())):
        row = int((objects if objects.any() else single).to_numpy().argmax())
        raise UserError(
            f"Expected a text in every cell of column {column!r} of {table.name}, or a list of texts in every one, got "
            f"{str(cells.iloc[row])[:40]!r} in line {table.lines[row]}: write all cells alike."
        )
    if not lists.notna().any() or single.any():
        return table
    spread = table.cells.copy()
    spread[column] = lists.where(lists.notna(), None)
    spread[LINE] = list(table.lines)
    spread = spread.explode(column, ignore_index=True)
    spread[column] = spread[column].where(spread[column].notna(), None)
    return replace(table, cells=spread.drop(columns=LINE), lines=spread[LINE].tolist())


def texts(path: str | Path | Sequence[str | Path], column: str | int | None = None,
          labels: str | Sequence[str] | None = None, split: str | Sequence[str | int] | None = None,
          most: Count | None = None, kinds: Mapping[str, str] | None = None, header: bool | None = None,
          separator: str | None = None) -> TextData:  # fmt: skip
    """Load the texts of one or several files, a text per row.

    `labels` are columns, and `kinds` declares their kinds. `split` is a split name for all files, one for each, or a
    column. At most the first `most` rows of each file are taken. Rows without text are omitted, with a note. `header`
    and `separator` say how tables are to be read.

    Raises:
        UserError: a file or column is missing or damaged, there is no text, or a split is unknown.
    """
    paths = [Path(p).expanduser() for p in ([path] if isinstance(path, str | Path) else path)]
    if not paths:
        raise UserError("Expected a file of texts, got an empty list: set data.path.")
    if most is not None and most < 1:
        raise UserError(f"Expected data.most of at least 1, got {most}: choose more, or null for all.")
    own = [nfc(name) for name in ([labels] if isinstance(labels, str) else labels or ())]
    splits = [split] * len(paths) if isinstance(split, str) else [nfc(str(name)) for name in split or ()]
    columns_of_splits = [name for name in splits if name.lower() not in SPLITS]
    wanted = [*own, *columns_of_splits, *([] if column is None else [nfc(str(column))])]
    tables = [read_texts(p, wanted, header, separator) for p in paths]
    tables = [replace(table, cells=table.cells[:most], lines=table.lines[:most]) for table in tables]
    columns = [text_column(p, table, column) for p, table in zip(paths, tables, strict=True)]
    for name in own:
        if lacking := [p for p, table in zip(paths, tables, strict=True) if name not in table.cells]:
            near = near_names(name, map(str, tables[0].cells))
            raise UserError(f"Expected data.labels to be columns of {lacking[0]}, got {name!r}.{near}")
    if splits and (len(splits) != len(paths) or not all(s.lower() in SPLITS or s in tables[0].cells for s in splits)):
        raise UserError(f"Expected data.split to be train, valid or test for each of {len(paths)} files, or a column, "
                        f"got {split}.")  # fmt: skip
    tables = [one_text_per_row(table, name) for table, name in zip(tables, columns, strict=True)]
    parts = [pd.DataFrame({TEXT: table.cells[name].astype(object), **{label_key(k): table.cells[k] for k in own},
                           SPLIT: pd.Series(dtype=object) if not splits else
                           (table.cells[splits[i]] if splits[i] in table.cells else splits[i])})
             for i, (table, name) in enumerate(zip(tables, columns, strict=True))]  # fmt: skip
    notes = [reading_note(p, table, name, [*own, *columns_of_splits])
             for p, table, name in zip(paths, tables, columns, strict=True)]  # fmt: skip
    rows = pd.concat(parts, ignore_index=True)
    return text_data(rows, own, splits[0] if splits else None, paths[0], kinds, notes)


def label_key(name: str) -> str:
    return f"label/{name}"  # so that a label may have any name


def reading_note(path: Path, table: Table, column: str, used: Sequence[str]) -> str:
    """Return a line on how a file was read."""
    names = [str(name) for name in table.cells]
    left = [name for name in names if name != column and name not in used]
    how = f"texts in column {column!r}" if len(names) > 1 else "a text per row"
    how += f", not used: {', '.join(left)}" if left else ""
    return described(path, len(table.cells), table, how, names)


def text_data(rows: pd.DataFrame, labels: Sequence[str], split: str | None, path: Path,
              kinds: Mapping[str, str] | None, notes: Sequence[str]) -> TextData:  # fmt: skip
    """Build the data set of a table with a column of texts, one of the split and those of the labels.

    Raises:
        UserError: all texts are empty, or a row has no split.
    """
    rows = rows.assign(**{TEXT: rows[TEXT].map(lambda cell: "" if cell is None else str(cell).strip())})
    empty = rows[TEXT] == ""
    if empty.all():
        raise UserError(f"Expected texts in {path}, got {len(rows)} empty ones: choose another data.column=.")
    left_out = [f"{int(empty.sum())} of {len(rows)} rows have no text and are left out."] if empty.any() else []
    rows = rows[~empty].reset_index(drop=True)
    repeated = int(rows[TEXT].duplicated().sum())
    if repeated:
        left_out.append(f"{repeated} of {len(rows)} texts occur more than once.")
    own = rows[TEXT].tolist()
    ids = [f"{i:06d}" for i in range(len(own))] if repeated else own
    parts = hash_split(own)  # equal texts are in the same split
    if split is not None:
        numbers = split_numbers(rows[SPLIT].rename(split))
        if numbers.isnan().any():
            raise UserError(f"Expected train, valid or test in every row of the split of {path}, got none in some.")
        parts = numbers.to(torch.uint8)
    known = {name: (rows[label_key(name)], f"{name} of {path.name}") for name in labels}
    table, label_notes = label_table(known, len(own), kinds)
    key = fingerprint("texts", own, table.factors, table.values, parts)
    return TextData("texts", own, ids, table, parts, key, [*notes, *left_out, *label_notes])


def extract_texts(data: TextData, encoder: TextEncoder, cache_dir: str | Path, device: torch.device | str = "cpu",
                  batch: int = 256) -> FeatureData:  # fmt: skip
    """Return the features of every text, memory-mapped; they are computed once and cached.

    Raises:
        UserError: the cache folder cannot be written.
    """
    kind = torch.device(device).type
    key = fingerprint(
        "text features",
        code_digest(Shards, type(encoder)),
        fingerprint(data.texts),
        sorted(encoder.identity.items()),
        kind,
    )
    folder = Path(cache_dir).expanduser() / "features" / key[:32]
    with cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    width = encoder.embed_text(data.texts[:1]).shape[1]
    shards = Shards(folder, (len(data.texts), width))
    shards.open()
    missing = shards.missing()
    of = [(number, data.texts[i : min(i + batch, shards.rows(number).stop)]) for number in missing
          for i in range(shards.rows(number).start, shards.rows(number).stop, batch)]  # fmt: skip
    pieces: list[Tensor] = []
    for number, part in with_progress(of, sum(len(part) for _, part in of), "Encoding texts", each=batch):
        pieces.append(encoder.embed_text(part).float().cpu())
        if sum(map(len, pieces)) == shards.rows(number).stop - shards.rows(number).start:
            shards.write(number, torch.cat(pieces))
            pieces = []
    identity = fingerprint(data.fingerprint, sorted(encoder.identity.items()))
    notes = [*data.notes, *cut_notes(data.texts, encoder, folder)]
    return FeatureData(data.name, torch.from_numpy(shards.values()), data.ids, data.factors, data.split, identity,
                       notes, data.skipped, texts=data.texts)  # fmt: skip


def cut_notes(texts: list[str], encoder: TextEncoder, folder: Path) -> list[str]:
    """Print and return a note about texts that are longer than the encoder reads; it is stored beside the features."""
    stored = folder / "cut.txt"
    if not stored.is_file():
        with cache_errors(folder), write_whole(stored) as temporary:
            temporary.write_text(cut_note(encoder, texts) or "", "utf-8")
    note = stored.read_text("utf-8")
    if note:
        print(note, flush=True)
    return [note] if note else []
