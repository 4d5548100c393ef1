"""Load the user's own vectors, of any encoder.

They are converted to float32 and not scaled, centred or normalised. A single .npy file of float32 is memory-mapped and
never read as a whole; other types, archives, tables and several files are held in memory as float32. Without a split of
their own, rows are split 80/10/10 by a hash of their ids.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from datamodules.cache import fingerprint
from datamodules.features import FeatureData
from datamodules.shards import expanded
from datamodules.splits import SPLITS, TRAIN, hash_split, split_numbers
from datamodules.vector_files import SUFFIXES, VectorFile, vector_file
from datamodules.vector_labels import column_of, label_columns, label_table, row_ids
from models import UserError

__all__ = ["vectors"]

CHUNK = 2**22  # numbers that are processed at a time


def float_rows(files: Sequence[VectorFile]) -> Float[np.ndarray, "n features"]:
    """Return the rows of all files, flattened, in float32; a single file of float32 is not copied.

    Raises:
        UserError: the files have different numbers of features.
    """
    widths = [math.prod(file.rows.shape[1:]) for file in files]
    if len(set(widths)) > 1:
        listed = ", ".join(f"{width} in {file.path.name}" for file, width in zip(files, widths, strict=True))
        raise UserError(f"Expected as many features in every file, got {listed}: give files of one encoder.")
    if len(files) == 1 and files[0].rows.dtype == np.float32:
        return files[0].rows.reshape(len(files[0].rows), -1)
    values = np.empty((sum(len(file.rows) for file in files), widths[0]), np.float32)
    start = 0
    for rows in (part for file in files for part in chunks(file.rows)):
        with np.errstate(over="ignore"):  # float64 may overflow; `check_values` reports it
            values[start : start + len(rows)] = rows.reshape(len(rows), -1)
        start += len(rows)
    return values


def chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield some rows at a time, so that a memory map is never read as a whole."""
    step = max(1, CHUNK // math.prod(rows.shape[1:]))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def check_values(values: Float[np.ndarray, "n features"], files: Sequence[VectorFile]) -> list[str]:
    """Check the values, and return notes about rows that are all zeros.

    Raises:
        UserError: there are fewer than two rows, values are NaN or infinite, or all rows are equal.
    """
    if len(values) < 2:
        raise UserError(f"Expected 2 or more rows in {files[0].path}, got {len(values)}: give more vectors.")
    bad, zero, vary, start = [], [], False, 0
    for part in chunks(values):
        bad.append(start + np.flatnonzero(~np.isfinite(part).all(1)))
        zero.append(start + np.flatnonzero(~part.any(1)))
        vary, start = vary or bool((part != values[0]).any()), start + len(part)
    rows, zeros = np.concatenate(bad), np.concatenate(zero)
    if len(rows):
        raise UserError(
            f"Expected finite numbers, got NaN or infinite ones in {len(rows)} of {len(values)} rows, the first "
            f"{position(int(rows[0]), files)} (counted from 0): leave these rows out."
        )
    if not vary:
        raise UserError(f"Expected rows that differ, got {len(values)} equal ones in {files[0].path}: check the file.")
    if not len(zeros):
        return []
    first = f"{position(int(zeros[0]), files)} (counted from 0)"
    return [f"{len(zeros)} of {len(values)} rows are all zeros, the first {first}: they have no direction."]


def position(row: int, files: Sequence[VectorFile]) -> str:
    """Describe a row by its number in its file."""
    starts = np.cumsum([0, *(len(file.rows) for file in files)])
    number = int(np.searchsorted(starts, row, side="right")) - 1
    return f"row {row - starts[number]} of {files[number].path}"


def thumbnails(files: Sequence[VectorFile]) -> UInt8[np.ndarray, "n channels size size"] | None:
    """Return the rows as images if they are square uint8 images with one or three channels, first or last, else None.

    Those of a single file are not copied.
    """
    images = []
    for rows in (file.rows for file in files):
        rows = rows[:, None] if rows.ndim == 3 else rows
        rows = rows.transpose(0, 3, 1, 2) if rows.ndim == 4 and rows.shape[1] not in (1, 3) else rows
        if rows.dtype != np.uint8 or rows.ndim != 4 or rows.shape[1] not in (1, 3) or rows.shape[2] != rows.shape[3]:
            return None
        images.append(rows)
    if len({rows.shape[1:] for rows in images}) > 1:
        return None
    return images[0] if len(images) == 1 else np.concatenate(images)


def row_split(split: str | Sequence[str] | None, files: Sequence[VectorFile], ids: list[str]) -> UInt8[Tensor, " n"]:
    """Return the split of the rows, by a split name for all files or for each, by a column, or by a hash of the ids.

    Raises:
        UserError: a split or column is unknown, the number of splits differs from that of the files, or there are no
            training rows.
    """
    if split is None:
        return hash_split(ids)
    own = column_of(files, split) if isinstance(split, str) and split.lower() not in SPLITS else None
    if own is not None:
        numbers = split_numbers(own)
        if numbers.isnan().any():
            row = int(numbers.isnan().float().argmax())
            raise UserError(
                f"Expected train, valid or test in every row of {split}, got none in {position(row, files)}."
            )
        parts = numbers.to(torch.uint8)
    else:
        names = [split] * len(files) if isinstance(split, str) else [str(name) for name in split]
        if len(names) != len(files) or any(name.lower() not in SPLITS for name in names):
            columns = ", ".join(files[0].columns) or "none"
            raise UserError(
                f"Expected data.split to be train, valid or test for each of {len(files)} files, or one of their "
                f"columns ({columns}), got {split}."
            )
        lengths = torch.tensor([len(file.rows) for file in files])
        parts = torch.tensor([SPLITS[name.lower()] for name in names], dtype=torch.uint8).repeat_interleave(lengths)
    if not (parts == TRAIN).any():
        raise UserError(f"Expected training rows in data.split, got none with {split}: call some of them train.")
    return parts


def word_ids(files: Sequence[VectorFile]) -> list[str] | None:
    """Return the words of word vectors as ids, None for other files.

    Raises:
        UserError: a word occurs twice.
    """
    words = [name for file in files for name in file.names or ()]
    if any(file.names is None for file in files):
        return None
    if twice := [word for word, count in Counter(words).items() if count > 1]:
        raise UserError(
            f"Expected every word once in {files[0].path}, got {twice[0]!r} again: remove one of the lines."
        )
    return words


def vectors(
    path: str | Path | Sequence[str | Path],
    column: str | None = None,
    names: str | Path | None = None,
    names_column: str | int | None = None,
    labels: str | Path | Sequence[str] | None = None,
    split: str | Sequence[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    header: bool | None = None,
    separator: str | None = None,
) -> FeatureData:
    """Load the vectors of one or several .npy, .npz or .parquet files, of a folder or a pattern of them, or of words.

    Word vectors are files of word2vec, fastText or GloVe, whose words are the ids.

    `column` names the array of an .npz file or the column of lists of a .parquet file, if there is more than one.
    Further axes are flattened, and square uint8 images are kept for thumbnails. `names` and `labels` are a table or a
    column of the files themselves; labels of a table are matched by id if it has a column of the names, else by row.
    `split` is a split name for all files, one for each, or a column. `kinds` declares kinds of labels; `header` and
    `separator` say how the tables are to be read.

    Raises:
        UserError: files, columns, names or labels are missing, damaged or do not match, values are NaN or infinite,
            there are fewer than two rows, or all rows are equal.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    if not paths:
        raise UserError("Expected a file of vectors, got an empty list: set data.path.")
    named = [names, split, *([labels] if isinstance(labels, str | Path) else labels or [])]
    taken = [str(value) for value in named if value is not None]
    shards, found = expanded(paths, SUFFIXES)
    files = [vector_file(file, column, taken) for file in shards]
    n = sum(len(file.rows) for file in files)
    name_notes: list[str] = []
    ids = word_ids(files) if names is None else None
    if ids is None:
        ids, name_notes = row_ids(names, names_column, files, n, header, separator)
    parts = row_split(split, files, ids)
    columns, reading = label_columns(labels or [], files, ids, names is not None, header, separator)
    table, notes = label_table(columns, n, kinds)
    values, images = float_rows(files), thumbnails(files)
    zeros = check_values(values, files)
    rows = torch.from_numpy(values)
    step = max(1, CHUNK // rows.shape[1])
    return FeatureData(
        name="vectors",
        values=rows,
        ids=ids,
        factors=table,
        split=parts,
        fingerprint=fingerprint("vectors", rows.shape, *rows.split(step), ids, table.factors, table.values, parts),
        notes=[*found, *(note for file in files for note in file.notes), *name_notes, *reading, *notes, *zeros],
        images=None if images is None else torch.from_numpy(images),
    )
