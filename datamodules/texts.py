"""Load texts (words, captions, queries), with or without labels, and embed them with a frozen text encoder.

A .txt file has a text per line; .csv, .tsv, .jsonl and .parquet files have a column of texts. Features are cached like
those of images. Without a split of their own, rows are split 80/10/10 by a hash of the text.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from datamodules.cache import cache_errors, code_digest, fingerprint, write_whole
from datamodules.factors import FactorTable, split_numbers
from datamodules.feature_cache import Shards
from datamodules.features import FeatureData
from datamodules.progress import with_progress
from datamodules.splits import SPLITS, hash_split
from datamodules.vector_files import readable
from datamodules.vector_labels import label_table
from models import Count, UserError, near_names
from models.interfaces import TextEncoder
from models.text_length import cut_note

__all__ = ["TextData", "check_cells", "extract_texts", "read_lines", "read_texts", "texts"]

TABLES = {".csv": ",", ".tsv": "\t"}
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


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file, split at line feeds only: texts may contain what str.splitlines also splits at."""
    return path.read_text("utf-8-sig").removesuffix("\n").split("\n") if path.stat().st_size else []


def check_cells(table: pd.DataFrame) -> None:
    """Check that rows are not longer than the header, because pandas would take their first cells as an index.

    Raises:
        ValueError: they are.
    """
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError("rows have more cells than the header; quote texts that have the separator in them")


def read_texts(path: Path) -> pd.DataFrame:
    """Read a file as a table; a .txt file becomes a column `text`.

    Raises:
        UserError: the file is missing, of another type, damaged or empty.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise UserError(f"Expected a file of texts at {path}, got no such file: set data.path to one.")
    if suffix not in (".txt", ".jsonl", ".parquet", *TABLES):
        raise UserError(f"Expected texts in a .txt, .csv, .tsv, .jsonl or .parquet file, got {path}.")
    with readable(path, f"a {suffix} file"):
        if suffix == ".parquet":
            table = pd.read_parquet(path)
        elif suffix == ".jsonl":
            table = pd.DataFrame([json.loads(line) for line in read_lines(path) if line.strip()])
        elif suffix == ".txt":
            table = pd.DataFrame({"text": read_lines(path)}, dtype=object)
        else:
            content = io.StringIO(path.read_text("utf-8-sig"))
            table = pd.read_csv(content, sep=TABLES[suffix], dtype=str, keep_default_na=False)
            check_cells(table)
    if not len(table):
        raise UserError(f"Expected texts in {path}, got no row: give a file with some.")
    return table.set_axis([str(name) for name in table.columns], axis=1)


def text_column(path: Path, table: pd.DataFrame, column: str | None) -> str:
    """Return the column of texts: the given one, one with a usual name, or the only column.

    Raises:
        UserError: there is no such column, or several are possible.
    """
    if column is not None and column not in table:
        near = near_names(column, table.columns)
        raise UserError(f"Expected data.column among {', '.join(table)} of {path}, got {column!r}.{near}")
    if column is not None:
        return column
    lower = {name.lower(): name for name in reversed(table.columns)}
    usual = next((lower[name] for name in USUAL if name in lower), None)
    if usual is None and table.shape[1] > 1:
        raise UserError(f"Expected one column of texts in {path}, got {', '.join(table)}: name it by data.column=.")
    return usual or str(table.columns[0])


def texts(path: str | Path | Sequence[str | Path], column: str | None = None,
          labels: str | Sequence[str] | None = None, split: str | Sequence[str | int] | None = None,
          most: Count | None = None) -> TextData:  # fmt: skip
    """Load the texts of one or several files, a text per row.

    `labels` are columns. `split` is a split name for all files, one for each, or a column. At most the first `most`
    rows of each file are taken. Rows without text are omitted, with a note.

    Raises:
        UserError: a file or column is missing or damaged, there is no text, or a split is unknown.
    """
    paths = [Path(p).expanduser() for p in ([path] if isinstance(path, str | Path) else path)]
    if not paths:
        raise UserError("Expected a file of texts, got an empty list: set data.path.")
    if most is not None and most < 1:
        raise UserError(f"Expected data.most of at least 1, got {most}: choose more, or null for all.")
    tables = [read_texts(p)[:most] for p in paths]
    columns = [text_column(p, table, column) for p, table in zip(paths, tables, strict=True)]
    columns_of_labels = [labels] if isinstance(labels, str) else list(labels or ())
    for name in columns_of_labels:
        if lacking := [p for p, table in zip(paths, tables, strict=True) if name not in table]:
            near = near_names(name, tables[0].columns)
            raise UserError(f"Expected data.labels to be columns of {lacking[0]}, got {name!r}.{near}")
    splits = [split] * len(paths) if isinstance(split, str) else [str(name) for name in split or ()]
    if splits and (len(splits) != len(paths) or not all(s.lower() in SPLITS or s in tables[0] for s in splits)):
        raise UserError(f"Expected data.split to be train, valid or test for each of {len(paths)} files, or a column, "
                        f"got {split}.")  # fmt: skip
    parts = [pd.DataFrame({"text": table[name].astype(object), **{label: table[label] for label in columns_of_labels},
                           "split": pd.Series(dtype=object) if not splits else
                           (table[splits[i]] if splits[i] in table else splits[i])})
             for i, (table, name) in enumerate(zip(tables, columns, strict=True))]  # fmt: skip
    rows = pd.concat(parts, ignore_index=True)
    return text_data(rows, columns_of_labels, bool(splits), paths[0])


def text_data(rows: pd.DataFrame, labels: Sequence[str], has_split: bool, path: Path) -> TextData:
    """Build the data set of a table with the columns `text`, `split` and the labels.

    Raises:
        UserError: all texts are empty, or a row has no split.
    """
    rows = rows.assign(text=rows["text"].map(lambda cell: "" if pd.isna(cell) else str(cell).strip()))
    empty = rows["text"] == ""
    if empty.all():
        raise UserError(f"Expected texts in {path}, got {len(rows)} empty ones: choose another data.column=.")
    notes = [f"{int(empty.sum())} of {len(rows)} rows have no text and are left out."] if empty.any() else []
    rows = rows[~empty].reset_index(drop=True)
    repeated = int(rows["text"].duplicated().sum())
    if repeated:
        notes.append(f"{repeated} of {len(rows)} texts occur more than once.")
    own = rows["text"].tolist()
    ids = [f"{i:06d}" for i in range(len(own))] if repeated else own
    parts = hash_split(own)  # equal texts are in the same split
    if has_split:
        numbers = split_numbers(rows["split"])
        if numbers.isnan().any():
            raise UserError(f"Expected train, valid or test in every row of the split of {path}, got none in some.")
        parts = numbers.to(torch.uint8)
    known = {name: (rows[name].where(rows[name] != ""), f"{name} of {path.name}") for name in labels}
    table, label_notes = label_table(known, len(own))
    key = fingerprint("texts", own, table.factors, table.values, parts)
    return TextData("texts", own, ids, table, parts, key, [*notes, *label_notes])


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
