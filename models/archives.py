"""Refuse archives that are a few kilobytes in size and gigabytes when they are read."""

import zipfile
from pathlib import Path

from models import UserError

__all__ = ["check_archive", "check_parquet", "check_zip"]

ALWAYS = 256 * 2**20  # bytes that any member, or all together, may have
BYTES, MOST_REPEATED = 8, 1000  # bytes of a value; sorted numbers and repeated words reach 100 to 300
RATIO = 100  # beyond that, bytes per stored byte; photographs and features reach 1 to 3, tables of labels 10 to 30


def check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """Check the size that each member of an archive, and all together, will have in memory, before one is read.

    The sizes are those that the archive states; Python reads no more of a member than that.

    Raises:
        UserError: a member, or the whole, is a hundred times as large as what is stored of it.
    """
    members = archive.infolist()
    sizes = [(f"its member {each.filename!r}", each.file_size, each.compress_size) for each in members]
    sizes.append(("its content", sum(each.file_size for each in members), path.stat().st_size))
    for name, size, stored in sizes:
        if size > max(ALWAYS, RATIO * stored):
            raise UserError(
                f"Expected an archive of at most {RATIO} times its size, got {path}, where {name} grows from "
                f"{stored / 2**20:,.1f} to {size / 2**20:,.0f} MiB: unpack it yourself if you know what it holds."
            )


def check_parquet(path: Path) -> None:
    """Check the number of values that a parquet file states: one value can be repeated a billion times in a few bytes.

    Raises:
        UserError: they take a thousand times as much memory as the file.
    """
    import pyarrow.parquet as pq

    known = pq.read_metadata(path)
    groups = (known.row_group(i) for i in range(known.num_row_groups))
    values = sum(group.column(j).num_values for group in groups for j in range(known.num_columns))
    if BYTES * values > max(ALWAYS, MOST_REPEATED * path.stat().st_size):
        raise UserError(
            f"Expected a table of at most {MOST_REPEATED} times its size, got {path}, whose {values:,} values come "
            f"from {path.stat().st_size / 2**20:,.1f} MiB: convert it yourself if you know what it holds."
        )


def check_zip(path: Path) -> None:
    """Check a file that may be a zip archive, as checkpoints and .npz files are, see `check_archive`.

    Raises:
        UserError: see `check_archive`.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(path, archive)
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return  # the reader of the file says so
