"""Record the SHA-256 of a run's files that are read back, and check a file against it before it is read.

A run folder has `sha256.json`, which maps the path of each such file in the folder to its digest. A file that has other
bytes, or comes from another run, is refused. Runs of earlier versions have no such list, and their files are read as
they are.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datamodules.cache import fingerprint, write_whole
from models import UserError

__all__ = ["LIST", "check_recorded", "forget", "sha256_of", "write_recorded"]

LIST = "sha256.json"
READ_BACK = ("checkpoints/*.ckpt", "checkpoints/*.safetensors", "codes.npy", "assignments.parquet",
             "matrix.safetensors")  # fmt: skip
Digests = dict[str, list[str]]  # path in the run folder -> valid digests: several while a file is being replaced


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_list(folder: Path) -> Digests | None:
    """Read the list of a run folder, or return None if there is none.

    Raises:
        UserError: the list is damaged.
    """
    path = folder / LIST
    try:
        content = json.loads(path.read_text())
        files: Digests = content["files"]
        if content["sha256"] == fingerprint(sorted(files.items())):
            return files
        got = "another digest of its own content"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        got = f"{type(error).__name__}: {error}"
    raise UserError(
        f"Expected the SHA-256 of the run's files in {path}, got a damaged file ({got}): put it back from a copy, or "
        "remove it to read the run's files without this check."
    )


def write_list(folder: Path, files: Digests) -> None:
    content = {"files": files, "sha256": fingerprint(sorted(files.items()))}
    with write_whole(folder / LIST) as temporary:
        temporary.write_text(json.dumps(content, indent=1))


@contextmanager
def changing(folder: Path) -> Iterator[Digests]:
    """Yield the list of a run folder to change it; no other process changes it meanwhile.

    The first list of a run of an earlier version has the digests of the files that are there already.
    """
    place = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot lock a folder
            fcntl.flock(place, fcntl.LOCK_EX)
        files = read_list(folder)
        if files is None:
            there = [path for pattern in READ_BACK for path in folder.glob(pattern) if path.is_file()]
            files = {path.relative_to(folder).as_posix(): [sha256_of(path)] for path in there}
        yield files
        write_list(folder, files)
    finally:
        os.close(place)


@contextmanager
def recorded(folder: Path, name: str, digest: str) -> Iterator[None]:
    """Replace a file inside the block: the digest is recorded before, and that of the former file is dropped after.

    So a process that is killed at any moment leaves a file whose digest is in the list.
    """
    with changing(folder) as files:
        files[name] = [*files.get(name, []), digest]
    yield
    with changing(folder) as files:
        files[name] = [digest]


def write_recorded(folder: Path, name: str, content: bytes) -> None:
    """Write a file of a run folder whole, beside the one that it replaces, and record its SHA-256.

    Raises:
        UserError: the folder cannot be written, or its list is damaged; the former file is still there.
    """
    path = folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
        with recorded(folder, name, hashlib.sha256(content).hexdigest()):
            with write_whole(path) as temporary, temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"Expected to write {path}, got {error.strerror or error}: free space there or choose another folder."
        ) from error


def forget(folder: Path, name: str) -> None:
    """Remove a file of a run folder, and its digest."""
    if (folder / name).exists():
        with changing(folder) as files:
            (folder / name).unlink(missing_ok=True)
            files.pop(name, None)


def check_recorded(path: Path) -> None:
    """Check a file of a run folder against the recorded SHA-256, before it is read.

    A file outside of a run folder, and one of a run of an earlier version, has none and is not checked.

    Raises:
        UserError: the file has other bytes, or the run has not written it.
    """
    for folder in path.absolute().parents[:2]:
        files = read_list(folder) if (folder / "config.yaml").is_file() else None
        if files is None:
            continue
        name = path.absolute().relative_to(folder).as_posix()
        if not any(Path(name).match(pattern) for pattern in READ_BACK):
            return
        found = sha256_of(path)
        if found not in files.get(name, []):
            was = f"with the SHA-256 {files[name][-1][:12]}" if files.get(name) else "in its list"
            raise UserError(
                f"Expected {name} of {folder} {was}, as the run has written it, got another or damaged file "
                f"({found[:12]}): put the run's own file back, or remove this one to have it computed again."
            )
        return
