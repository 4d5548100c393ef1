"""List the files below a folder, and tell which of them are images."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datamodules.pictures import HEIF, has_heif, is_image

# Endings of tables and texts about images, which are no images that somebody misses.
ABOUT = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet", ".xlsx", ".md", ".html", ".xml", ".yaml", ".yml")

__all__ = ["counted", "files_below", "sorted_out"]


def files_below(root: Path, depth: int | None = None) -> list[Path]:
    """List all files below a folder, or down to `depth` folders below it, sorted, without hidden ones.

    Links to folders are followed, each folder once: first by its own place, so that a link back or a second link adds
    nothing.
    """
    files: list[Path] = []
    known: set[tuple[int, int]] = set()
    folders: list[Path] = [root]
    links: list[Path] = []
    while folders or links:
        folder = folders.pop(0) if folders else links.pop(0)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in known:
            continue
        known.add((status.st_dev, status.st_ino))
        deep = depth is not None and len(folder.relative_to(root).parts) >= depth
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:  # without permission to read it
            continue
        for entry in entries:
            if entry.name.startswith((".", "__MACOSX")):
                continue
            path = folder / entry.name
            if not entry.is_dir():
                files.append(path)
            elif not deep:
                (links if entry.is_symlink() else folders).append(path)
    return sorted(files)


def counted(words: Sequence[str], most: int = 5) -> str:
    """Count words, the most frequent first.

    >>> counted(["damaged", "truncated", "damaged"])
    '2 damaged, 1 truncated'
    """
    counts = Counter(words).most_common()
    rest = sum(count for _, count in counts[most:])
    return ", ".join(f"{count:,} {word}" for word, count in counts[:most]) + (f", {rest:,} others" if rest else "")


def sorted_out(files: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Separate the images from the other files, and return a note about these, by the endings of their names.

    HEIC pictures are left out where the package pillow-heif is not installed.
    """
    images = [path for path in files if is_image(path.name)]
    heif = [path for path in images if path.suffix.lower() in HEIF]
    notes = []
    if heif and not has_heif():
        images = [path for path in images if path.suffix.lower() not in HEIF]
        notes.append(f"{len(heif):,} HEIC pictures are left out: pip install pillow-heif, which reads them.")
    others = [path.suffix.lower() or "without an ending" for path in files
              if not is_image(path.name) and path.suffix.lower() not in ABOUT]  # fmt: skip
    if others:
        notes.append(f"Other files than images are left out: {counted(others)}.")
    return images, notes
