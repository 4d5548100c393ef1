"""Write files atomically, check free space, and name caches by a fingerprint of what they depend on."""

import ast
import hashlib
import inspect
import shutil
import textwrap
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from models import UserError

__all__ = [
    "MIB",
    "cache_errors",
    "check_space",
    "code_digest",
    "fingerprint",
    "is_cache",
    "mark_cache",
    "remove_abandoned",
    "write_whole",
]

MIB = 2**20
TAG = "CACHEDIR.TAG"  # https://bford.info/cachedir/: programs for backups leave such a folder out
SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of Facet: what is in it can be computed again.\n"


@contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Turn errors in writing a cache into a `UserError`.

    Raises:
        UserError: the body raises an OSError, or safetensors' own error, which is not one.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        got = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"Expected a cache folder to write to, got {got} at {folder}: free space there or set cache_dir= to "
            "another folder."
        ) from error


def mark_cache(folder: Path) -> None:
    """Mark a folder that exists as a cache of Facet; one that cannot be written can still be read."""
    with suppress(OSError):
        if folder.is_dir() and not (folder / TAG).exists():
            with write_whole(folder / TAG) as temporary:
                temporary.write_text(SIGNATURE)


def is_cache(folder: Path) -> bool:
    """Tell whether a folder is marked as a cache of Facet."""
    try:
        return (folder / TAG).read_text() == SIGNATURE
    except (OSError, ValueError):
        return False


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` at the end, so that no one reads half a file.

    The folder is created; the temporary file is removed if the body fails. Errors are not converted: write a cache
    inside `cache_errors`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Check that the folder's disk has the needed number of bytes free.

    Raises:
        UserError: it has fewer.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"Expected {needed / MIB:.0f} MiB free for the {what} in {folder}, got {free / MIB:.0f} MiB: free "
            "space there or set cache_dir= to another folder."
        )


def remove_abandoned(folder: Path) -> None:
    """Remove temporary folders of killed processes: those that have not been written to for an hour."""
    for left in folder.glob("*.tmp"):
        written = max(path.stat().st_mtime for path in (left, *left.glob("*")))
        if time.time() - written > 3600:
            shutil.rmtree(left, ignore_errors=True)


def fingerprint(*parts: object) -> str:
    """Return the SHA-256 of the parts in hexadecimal: bytes and tensors by content, everything else by its repr.

    >>> fingerprint("features", 1) == fingerprint("features", 1)
    True
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.contiguous().cpu().numpy().tobytes()
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def code_digest(*parts: Any) -> str:
    """Return a digest of what functions, classes or modules do, which names the caches of what they computed.

    Comments, docstrings and layout do not count, so that a better word makes nothing be computed again. A function that
    has no source, as one typed into an interpreter, counts by its name.
    """
    return hashlib.sha256("\0".join(map(code_of, parts)).encode()).hexdigest()[:16]


@cache
def code_of(part: Any) -> str:
    """Return the source of a function, class or module without its comments and docstrings."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(part)))
    except (OSError, TypeError):
        return str(getattr(part, "__qualname__", part))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and len(body) > 1 and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                del body[0]
    return ast.unparse(tree)
