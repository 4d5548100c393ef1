"""Read files of vectors (.npy, .npz, .parquet, word vectors): the array or columns of features, and other columns.

A float .npy file is memory-mapped; arrays of an archive and columns of a table are held in memory.
"""

import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.readable import readable
from datamodules.tables import ID_COLUMNS
from datamodules.word_vectors import WORD_SUFFIXES, read_word_vectors
from models import UserError, near_names
from models.archives import check_archive, check_parquet

__all__ = ["SUFFIXES", "VectorFile", "vector_file"]

SUFFIXES = (".npy", ".npz", ".parquet", *WORD_SUFFIXES)
SPARSE = {"format", "shape", "data"}  # arrays of an archive that scipy.sparse.save_npz wrote
NUMBERS = "fiub"  # numpy's kinds of numbers
# Columns of single numbers that are not features by default.
NO_FEATURES = (*ID_COLUMNS, "id", "index", "row", "__index_level_0__", "label", "labels", "class", "target", "y",
               "cluster", "split", "partition", "is_train", "is_valid", "is_val", "is_test")  # fmt: skip


class VectorFile(NamedTuple):
    """The content of a file: the rows of features, of any shape, and the other arrays or columns by name."""

    path: Path
    rows: np.ndarray
    columns: Mapping[str, Callable[[], pd.Series]]
    notes: Sequence[str] = ()
    names: Sequence[str] | None = None  # of the rows, which word vectors have


def vector_file(path: Path, column: str | None, taken: Sequence[str]) -> VectorFile:
    """Read the vectors of a file; `taken` are the columns of names, labels or the split, which are not features.

    Raises:
        UserError: the file is missing, of another type, damaged or empty, it does not have exactly one array or column
            of features, or rows have different lengths.
    """
    if not path.is_file():
        raise UserError(f"Expected a file of vectors at {path}, got no such file: set data.path to one.")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"Expected a file of vectors (.npy, .npz, .parquet), got {path}: save them as one of these.")
    suffix = path.suffix.lower()
    kind = f"{'a' if suffix == '.parquet' else 'an'} {suffix} file"
    with readable(path, "word vectors" if suffix in WORD_SUFFIXES else kind):
        if suffix in WORD_SUFFIXES:
            words, rows = read_word_vectors(path)
            file = VectorFile(path, rows, {}, names=words)
        else:
            file = (read_parquet if suffix == ".parquet" else read_numpy)(path, column, taken)
    if not file.rows.size:
        raise UserError(f"Expected numbers in {path}, got an array of shape {file.rows.shape}: check how it was saved.")
    return file


def chosen(path: Path, column: str | None, known: Sequence[str], fitting: Sequence[str], described: str) -> str:
    """Return the array or column with the features: the given one, or the only one that fits.

    Raises:
        UserError: there is none, or more than one.
    """
    if column is not None and column not in known:
        near = near_names(column, known)
        raise UserError(f"Expected data.column among {', '.join(known)} of {path}, got {column!r}.{near}")
    if column is not None:
        return column
    if len(fitting) != 1:
        got = f"{len(fitting)} ({', '.join(fitting)})" if fitting else "none"
        raise UserError(
            f"Expected one array of features in {path}, got {got} among {described}: name it by data.column=."
        )
    return fitting[0]


def check_array(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Check that an array has rows of numbers.

    Raises:
        UserError: it has not.
    """
    if len(shape) < 2 or dtype.kind not in NUMBERS:
        raise UserError(
            f"Expected rows of numbers (n, features) in {name}{path}, got an array of shape {shape} of {dtype}: save "
            "the vectors as such, or choose other ones by data.column=."
        )


def read_numpy(path: Path, column: str | None, taken: Sequence[str]) -> VectorFile:
    """Read an array, memory-mapped, or an archive of arrays; the content tells which of them it is, not the suffix."""
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
    if is_archive:
        return read_archive(path, column, taken)
    if column is not None:
        raise UserError(f"Expected data.column=null for {path}, which holds one array, got {column}: leave it out.")
    rows = np.load(path, mmap_mode="c", allow_pickle=False)
    check_array(path, "", rows.shape, rows.dtype)
    return VectorFile(path, rows, {})


def read_archive(path: Path, column: str | None, taken: Sequence[str]) -> VectorFile:
    """Read the array of features of an archive; other arrays are read when they are needed."""
    with zipfile.ZipFile(path) as archive:
        check_archive(path, archive)
        headers = {name[:-4]: header(archive, name) for name in archive.namelist() if name.endswith(".npy")}
    if headers.keys() >= SPARSE:
        return VectorFile(path, read_sparse(path), {})
    fitting = [
        key for key, (shape, dtype) in headers.items()
        if len(shape) > 1 and (dtype.kind == "f" or dtype == np.uint8) and key not in taken
    ]  # fmt: skip
    described = ", ".join(f"{key} {shape} {dtype}" for key, (shape, dtype) in headers.items()) or "no array at all"
    key = chosen(path, column, list(headers), fitting, described)
    check_array(path, f"{key} of ", *headers[key])
    others = {name: partial(array_column, path, name) for name in headers if name != key}
    return VectorFile(path, array_in(path, key), others)


def read_sparse(path: Path) -> np.ndarray:
    """Read a matrix that scipy.sparse.save_npz wrote, as a dense one of float32.

    Raises:
        UserError: it would take more than half of the memory.
        ValueError: its parts do not fit each other.
    """
    from scipy import sparse

    matrix = sparse.load_npz(path)
    n, width = matrix.shape
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * n * width > memory / 2:
        raise UserError(
            f"Expected a sparse matrix that fits into memory as a dense one, got {n:,} x {width:,} numbers in {path}: "
            "reduce its columns first, for instance by scikit-learn's TruncatedSVD."
        )
    rows = matrix.tocsr()
    rows.check_format(full_check=True)  # otherwise a damaged one would write outside of the array
    return rows.astype(np.float32).toarray()


def header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the shape and type of an array, without its content.

    Raises:
        ValueError: the member is too short for that shape, for which memory would be taken.
    """
    with archive.open(name) as file:
        first = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > archive.getinfo(name).file_size:
        raise ValueError(f"{name} states the shape {shape} and is too short for it")
    return shape, dtype


def array_in(path: Path, key: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def array_column(path: Path, key: str) -> pd.Series:
    """Read an array of an archive with a value per row.

    Raises:
        UserError: it cannot be read, or has more than one value per row.
    """
    with readable(path, f"an array {key}"):
        array = array_in(path, key)
        array = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1:
        raise UserError(
            f"Expected one number or word per row in {key} of {path}, got an array of shape {array.shape}: choose "
            "another one."
        )
    return pd.Series(array)


def read_parquet(path: Path, column: str | None, taken: Sequence[str]) -> VectorFile:
    """Read a column of lists of numbers, or else all columns of single numbers."""
    check_parquet(path)
    schema = pq.read_schema(path)
    lists = [field.name for field in schema
             if is_list(stored(field.type)) and is_simple_number(stored(field.type).value_type)]  # fmt: skip
    single = [field.name for field in schema if is_number(field.type) and field.name not in taken]
    numbers = [name for name in single if name.lower() not in NO_FEATURES]
    used, notes = numbers, []
    if column is not None or lists or not numbers:
        described = ", ".join(f"{field.name} ({field.type})" for field in schema)
        used = [chosen(path, column, schema.names, [name for name in lists if name not in taken], described)]
        if used[0] not in lists:
            raise UserError(
                f"Expected lists of numbers in column {used[0]} of {path}, got {schema.field(used[0]).type}: choose "
                "another data.column."
            )
        rows = read_lists(path, used[0])
    else:
        rows = read_numbers(path, used)
        left = [name for name in single if name not in used]
        notes = [f"Not used as features of {path.name}, by their names: {', '.join(left)}."] if left else []
    others = {name: partial(table_column, path, name) for name in schema.names if name not in used}
    return VectorFile(path, rows, others, notes)


def stored(kind: pa.DataType) -> pa.DataType:
    """Return the type that a column is stored as: lists of one length for Arrow's fixed-shape tensors."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_simple_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def is_number(kind: pa.DataType) -> bool:
    return is_simple_number(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind)


def read_lists(path: Path, column: str) -> np.ndarray:
    """Read a column of lists in parts, as (n, length) float32.

    Raises:
        UserError: a list is missing or has another length than the first.
    """
    rows, start = np.empty((0, 0), np.float32), 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(8192, columns=[column]):
            lists = as_lists(batch.column(0))
            lengths = np.where(lists.is_null(), 0, pc.list_value_length(lists).fill_null(0))
            if start == 0:
                rows = np.empty((file.metadata.num_rows, lengths[0]), np.float32)
            if (lengths != rows.shape[1]).any():
                row = int(np.flatnonzero(lengths != rows.shape[1])[0])
                raise UserError(
                    f"Expected lists of one length in column {column} of {path}, got {rows.shape[1]} numbers in row 0 "
                    f"and {lengths[row]} in row {start + row}: correct the table."
                )
            with np.errstate(over="ignore"):  # float64 may overflow; the check for infinite values reports it
                rows[start : start + len(lists)] = (
                    lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), rows.shape[1])
                )
            start += len(lists)
    return rows


def as_lists(column: pa.Array) -> pa.Array:
    """Return a column's lists; tensors whose axes are stored in another order are put in their own."""
    if not isinstance(column, pa.ExtensionArray):
        return column
    permuted = isinstance(column, pa.FixedShapeTensorArray) and column.type.permutation is not None
    if not permuted or column.null_count:
        return column.storage
    numbers = column.to_numpy_ndarray()
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), math.prod(numbers.shape[1:]))


def read_numbers(path: Path, columns: Sequence[str]) -> np.ndarray:
    """Read columns of numbers as (n, columns) float32; missing ones are NaN."""
    rows = np.empty((pq.read_metadata(path).num_rows, len(columns)), np.float32)
    for i, name in enumerate(columns):
        with np.errstate(over="ignore"):
            column = pq.read_table(path, columns=[name]).column(0)
            column = column.cast(pa.uint8()) if pa.types.is_boolean(column.type) else column
            rows[:, i] = column.cast(pa.float64(), safe=False).to_numpy()
    return rows


def table_column(path: Path, name: str) -> pd.Series:
    with readable(path, f"a column {name}"):
        return pq.read_table(path, columns=[name]).column(0).to_pandas()
