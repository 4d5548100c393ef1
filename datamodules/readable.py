"""Turn the errors of damaged files, of whatever library reads them, into one line."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from models import UserError

__all__ = ["readable"]


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Turn the errors of reading a damaged file into a `UserError`.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error,
            pa.ArrowException) as error:  # fmt: skip
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(
            f"Expected {kind} in {path}, got a file that cannot be read as one ({reason}): repair or replace it."
        ) from error
