"""Read the files of a run folder, which someone else may have written, or a full disk cut short.

Whatever is wrong with one is one line, which names the file and what it should hold.
"""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from datamodules.checksums import check_recorded
from models import UserError
from models.archives import check_zip
from training.files import read_json

__all__ = ["damaged", "read_array", "read_manifest", "read_metrics", "read_run_table"]

MOST_CELLS = 2**30  # of a table, which may repeat one value a billion times in a few bytes
WORDS, NAMED, COUNTS = "a list of texts", "a list of factors with names", "counts by name"
PARTS = {"data": "a mapping", "encoder": "a mapping", "versions": "a mapping", "git": "a mapping"}
DATA = {"name": "a text", "fingerprint": "a text", "size": "a whole number", "channels": "a whole number",
        "features": "a whole number", "splits": COUNTS, "factors": NAMED, "notes": WORDS, "skipped": WORDS}  # fmt: skip


def damaged(file: Path, expected: str, got: object) -> UserError:
    """Return the error for a file of a run that does not hold what it should."""
    reason = " ".join(str(got).split())
    shown = reason if len(reason) <= 120 else f"{reason[:117]}..."
    return UserError(
        f"Expected {expected} in {file}, got {shown or type(got).__name__}: put the run's own file back, or train the "
        "run again."
    )


def is_kind(value: Any, kind: str) -> bool:
    """Tell whether a value of a JSON file is of the kind that `PARTS` or `DATA` states."""
    if kind == WORDS:
        return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    if kind == NAMED:
        return isinstance(value, list) and all(
            isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in value
        )
    if kind == COUNTS:
        return isinstance(value, dict) and all(type(entry) is int for entry in value.values())
    return {"a mapping": isinstance(value, dict), "a text": isinstance(value, str)}.get(kind, type(value) is int)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the `manifest.json` of a run folder; empty if there is none.

    Raises:
        UserError: the file is damaged.
    """
    file = folder / "manifest.json"
    found = {key: value for key, value in read_json(file).items() if value is not None or key == "encoder"}
    for place, content, kinds in (("", found, PARTS), ("data.", found.get("data"), DATA)):
        for key, kind in kinds.items():
            value = content.get(key) if isinstance(content, dict) else None
            if value is not None and not is_kind(value, kind):
                raise damaged(file, f"{kind} as {place}{key}", repr(value))
    return found


def read_metrics(folder: Path) -> dict[str, float]:
    """Read the `metrics.json` of a run folder, empty if there is none; null is NaN.

    Raises:
        UserError: the file is damaged, or holds other things than numbers.
    """
    file = folder / "metrics.json"
    found = {}
    for key, value in read_json(file).items():
        try:
            if type(value) not in (int, float, type(None)):
                raise TypeError
            found[key] = math.nan if value is None else float(value)
        except (TypeError, OverflowError) as error:
            raise damaged(file, f"a number as {key}", repr(value)) from error
    return found


def read_run_table(file: Path, columns: Collection[str], rows: int | None = None) -> pd.DataFrame:
    """Read a table of a run, .csv or .parquet, that has these columns, and this number of rows where it is known.

    Raises:
        UserError: the file is damaged, or another table than the run has written.
    """
    try:
        if file.suffix == ".parquet":
            known = pq.read_metadata(file)
            if known.num_rows * known.num_columns > MOST_CELLS or rows not in (None, known.num_rows):
                raise ValueError(f"{known.num_rows} rows of {known.num_columns} columns")
            table = pd.read_parquet(file)
        else:
            table = pd.read_csv(file)
            if rows not in (None, len(table)):
                raise ValueError(f"{len(table)} rows")
    except Exception as error:  # pandas, Arrow and the disk each raise their own kind
        raise damaged(file, "a table" if rows is None else f"a table of {rows} rows", error) from error
    check_recorded(file)
    if missing := [name for name in columns if name not in table]:
        raise damaged(file, f"a table with the columns {', '.join(columns)}", f"none called {', '.join(missing)}")
    return table


def read_array(file: Path, rows: int) -> np.ndarray:
    """Read an array of a run, an .npy file with this number of rows of numbers.

    Raises:
        UserError: the file is damaged, or another array than the run has written.
    """
    try:
        check_zip(file)
        array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.ndim != 2 or len(array) != rows or array.dtype.kind != "f":
            raise ValueError(f"an array of shape {getattr(array, 'shape', 'none')}")
    except Exception as error:  # NumPy, zipfile and the disk each raise their own kind
        raise damaged(file, f"an array of {rows} rows", error) from error
    check_recorded(file)
    return array
