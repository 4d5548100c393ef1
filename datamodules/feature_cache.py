"""A cache of features: a memory map on disk that is computed by shards, checked by SHA-256, and resumed."""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from datamodules.cache import cache_errors, check_space, code_digest, fingerprint, write_whole
from datamodules.factors import ImageData
from datamodules.progress import with_progress
from models.interfaces import Embed, Identity

__all__ = ["SHARD", "Shards", "computed", "fill", "opened"]

SHARD = 2048  # rows, which have to be computed again after an interruption
FLOAT = np.dtype("<f4")


@dataclass(frozen=True)
class Shards:
    """The cache of one encoder's features of one data set, in shards of rows."""

    folder: Path
    shape: tuple[int, int]  # rows, width
    shard: int = SHARD

    @property
    def count(self) -> int:
        return -(-self.shape[0] // self.shard)

    @property
    def file(self) -> Path:
        return self.folder / "features.npy"

    def rows(self, number: int) -> slice:
        return slice(number * self.shard, min((number + 1) * self.shard, self.shape[0]))

    def checksum(self, number: int) -> Path:
        return self.folder / "shards" / f"{number:05d}.sha256"

    def open(self) -> None:
        """Create the file in its full size, unless there is an undamaged one; its rows are still to be computed."""
        if self.file.is_file():
            try:
                values = self.values()
                if values.shape == self.shape and values.dtype == FLOAT:
                    return
            except (OSError, ValueError, EOFError):
                pass
            print(f"The cached features {self.file} are damaged and are computed again.")
        with cache_errors(self.folder):
            (self.folder / "shards").mkdir(parents=True, exist_ok=True)
            for checksum in (self.folder / "shards").iterdir():  # checksums of rows that are lost
                checksum.unlink()
            check_space(self.folder, math.prod(self.shape) * FLOAT.itemsize, "features")
            with write_whole(self.file) as temporary:
                np.lib.format.open_memmap(temporary, "w+", FLOAT, self.shape)

    def values(self) -> Float[np.ndarray, "n width"]:
        """Return all rows, memory-mapped; changes are not written to the file."""
        return np.load(self.file, mmap_mode="c")

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are missing or damaged."""
        return [number for number in range(self.count) if not self.intact(number)]

    def intact(self, number: int) -> bool:
        """Return whether a shard is complete and matches its checksum."""
        path = self.checksum(number)
        if not path.is_file():
            return False
        if path.read_text().strip() == sha256(self.values()[self.rows(number)]):
            return True
        print(f"Rows from {self.rows(number).start} of the features {self.file} are damaged and are computed again.")
        return False

    def write(self, number: int, features: Float[Tensor, "rows width"]) -> None:
        """Write the rows of a shard, and then its checksum, which marks it as complete.

        Raises:
            UserError: the disk is full or cannot be written.
        """
        content = np.ascontiguousarray(features.numpy(), FLOAT)
        with cache_errors(self.folder):
            self.checksum(number).unlink(missing_ok=True)
            with self.file.open("r+b") as file:  # not through a memory map: a full disk would kill the process
                file.seek((self.rows(number).start - self.shape[0]) * content[0].nbytes, os.SEEK_END)
                file.write(content.data)
                file.flush()
                os.fsync(file.fileno())
            with write_whole(self.checksum(number)) as temporary:
                temporary.write_text(sha256(content))


def sha256(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()


def prefetched(images: UInt8[Tensor, "n channels size size"], batch: int) -> Iterator[Tensor]:
    """Yield batches of images; the next one is read from disk while the current one is encoded."""
    with ThreadPoolExecutor(1) as pool:
        parts = list(images.split(batch))
        ahead = pool.submit(parts[0].clone)
        for part in parts[1:]:
            here, ahead = ahead.result(), pool.submit(part.clone)
            yield here
        yield ahead.result()


def fill(images: UInt8[Tensor, "n channels size size"], embed: Embed, shards: Shards, numbers: list[int],
         device: torch.device | str, batch: int, shown: bool = True) -> None:  # fmt: skip
    """Compute the given shards one after the other, with at most one of them in memory."""
    total = sum(len(images[shards.rows(number)]) for number in numbers)
    pieces: list[Tensor] = []
    batches = ((number, part) for number in numbers for part in prefetched(images[shards.rows(number)], batch))
    for number, part in with_progress(batches, total, "Encoding images", each=batch) if shown else batches:
        with torch.inference_mode():
            pieces.append(embed(part.to(device)).float().cpu())
        if sum(map(len, pieces)) == len(images[shards.rows(number)]):
            shards.write(number, torch.cat(pieces))
            pieces = []


def write_rows(data: ImageData, folder: Path, manifest: dict[str, Any]) -> None:
    """Write ids, splits and labels of the rows, and the manifest, beside the features.

    Labels may change while the images, and so the cache, stay the same: the files are written again if they differ.
    """
    table: dict[str, Any] = {"id": data.ids, "split": data.split.numpy()}
    for factor, column in zip(data.factors.factors, data.factors.values.unbind(1), strict=True):
        table[f"label/{factor.name}"] = column.numpy()
    contents = {
        "rows.parquet": pd.DataFrame(table).to_parquet(),
        "manifest.json": json.dumps(manifest, indent=1).encode(),
    }
    with cache_errors(folder):
        for name, content in contents.items():
            if not (folder / name).is_file() or (folder / name).read_bytes() != content:
                with write_whole(folder / name) as temporary:
                    temporary.write_bytes(content)


def stored_width(folder: Path, n: int) -> int | None:
    """Return the dimension of the features in a cache, or None if there are none or its files are damaged."""
    try:
        rows, width = json.loads((folder / "manifest.json").read_text())["shape"]
        return width if np.load(folder / "features.npy", mmap_mode="r").shape == (rows, width) == (n, width) else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def opened(data: ImageData, identity: Identity, embed: Embed, cache_dir: str | Path, device: torch.device | str,
           shard: int = SHARD) -> Shards:  # fmt: skip
    """Open the cache of these features, or create it; its shards may be missing.

    For a new one the first image is encoded, which gives the dimension.
    """
    # Features of a GPU, which may compute in bfloat16, and of a CPU differ.
    kind = torch.device(device).type
    key = fingerprint("features", code_digest(Shards), data.fingerprint, sorted(identity.items()), kind, shard)
    folder = Path(cache_dir).expanduser() / "features" / key[:32]
    with cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)  # fails before anything is computed
    width = stored_width(folder, len(data.images))
    if width is None:
        with torch.inference_mode():
            width = embed(data.images[:1].to(device)).shape[1]
    write_rows(data, folder, {"encoder": identity, "data": data.name, "shape": (len(data.images), width)})
    shards = Shards(folder, (len(data.images), width), shard)
    shards.open()
    return shards


def computed(data: ImageData, identity: Identity, embed: Embed, cache_dir: str | Path, device: torch.device | str,
             batch: int, shard: int) -> Float[Tensor, "n width"]:  # fmt: skip
    """Return the features of every image, memory-mapped; those that are not in the cache are computed."""
    shards = opened(data, identity, embed, cache_dir, device, shard)
    if numbers := shards.missing():
        fill(data.images, embed, shards, numbers, device, batch)
    return torch.from_numpy(shards.values())
