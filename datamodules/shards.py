"""Several files that are one data set: a folder of shards, or a pattern such as part-*.npy, in the order of numbers."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from models import UserError

__all__ = ["expanded", "natural"]


ARRAYS = (".npy", ".npz", ".parquet")


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Return a key that sorts numbers in names by their value.

    >>> sorted([Path("emb_10.npy"), Path("emb_9.npy")], key=natural)[0].name
    'emb_9.npy'
    """
    parts = [part for part in re.split(r"(\d+)", path.as_posix()) if part]
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def expanded(paths: Sequence[str | Path], suffixes: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Replace folders and patterns by their files of the given endings, and return notes about them.

    Raises:
        UserError: a folder or a pattern has no such file, or files of several kinds.
    """
    files: list[Path] = []
    notes: list[str] = []
    for path in (Path(path).expanduser() for path in paths):
        if path.is_dir():
            found = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
        elif any(mark in str(path) for mark in "*?[") and not path.exists():
            found = [Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file()]
        else:
            files.append(path)
            continue
        fitting = sorted((file for file in found if file.suffix.lower() in suffixes), key=natural)
        arrays = [file for file in fitting if file.suffix.lower() in ARRAYS]
        fitting = arrays or fitting  # beside arrays, a .txt is a note
        if not fitting:
            raise UserError(
                f"Expected files of vectors ({', '.join(suffixes)}) at {path}, got no such file: set data.path."
            )
        if len(kinds := sorted({file.suffix.lower() for file in fitting})) > 1:
            raise UserError(
                f"Expected shards of one kind in {path}, got {' and '.join(kinds)}: name them, such as "
                f"data.path={path if path.is_dir() else path.parent}/*{kinds[0]}."
            )
        files += fitting
        notes.append(f"{len(fitting):,} files of {path}, in this order: {fitting[0].name} to {fitting[-1].name}.")
    return files, notes
