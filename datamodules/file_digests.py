"""Identify image files by the SHA-256 of their content, which is computed once and remembered.

Size and time of a file say nothing certain about its content: files can be swapped, and unpacking an archive again sets
new times. They are only a hint that a remembered digest still holds: it does as long as path, size, both times and
inode of the file are the same. Renaming or writing a file sets its time of status change, which cannot be set back.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from datamodules.cache import fingerprint, write_whole
from datamodules.progress import with_progress

__all__ = ["digests"]

RECENT = 2 * 10**9  # nanoseconds in which a file may change again without another time
CHUNK = 512  # files that a thread reads at a time
MANY = 20_000  # files whose digests take long enough to show a progress


def stamp(path: Path) -> tuple[int, int, int, int]:
    """Return size, times of change of content and of status, and inode; zeros for a link to no file."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0, 0)
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def digest(path: Path) -> bytes:
    """Return the SHA-256 of a file, 32 bytes; zeros for one that cannot be read, which fails when it is decoded."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return bytes(32)


def remembered(file: Path, n: int) -> tuple[Int64[np.ndarray, "n 4"], UInt8[np.ndarray, "n 32"]]:
    """Return the stamps and digests of n files from the cache; zeros if there are none or they are damaged."""
    with suppress(OSError, SafetensorError, KeyError, TypeError), safe_open(file, "np") as stored:
        stamps, found = stored.get_tensor("stamps"), stored.get_tensor("digests")
        if stored.metadata()["sha256"] == fingerprint(stamps.tobytes(), found.tobytes()) and len(found) == n:
            return stamps, found
    return np.zeros((n, 4), np.int64), np.zeros((n, 32), np.uint8)


def digests(paths: Sequence[Path], cache_dir: str | Path) -> list[str]:
    """Return the SHA-256 of every file in hexadecimal; those of unchanged files are taken from the cache."""
    names = fingerprint("digests", [str(path.absolute()) for path in paths])
    file = Path(cache_dir).expanduser() / "digests" / f"{names[:32]}.safetensors"
    now = time.time_ns()
    stamps = np.array([stamp(path) for path in paths], np.int64).reshape(len(paths), 4)
    before, found = remembered(file, len(paths))
    changed = np.flatnonzero((stamps != before).any(1) | ~stamps.any(1))
    parts = [changed[i : i + CHUNK] for i in range(0, len(changed), CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = pool.map(lambda rows: b"".join(digest(paths[row]) for row in rows), parts)
        shown = with_progress(read, len(changed), "Reading files", CHUNK) if len(changed) > MANY else read
        for rows, content in zip(parts, shown, strict=True):
            found[rows] = np.frombuffer(content, np.uint8).reshape(-1, 32)
    stamps[now - stamps[:, 2] < RECENT] = 0
    if (stamps != before).any():
        checksum = fingerprint(stamps.tobytes(), found.tobytes())
        with suppress(OSError), write_whole(file) as temporary:  # without it they are computed again
            temporary.write_bytes(save({"stamps": stamps, "digests": found}, {"sha256": checksum}))
    return [row.tobytes().hex() for row in found]
