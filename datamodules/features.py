"""Run a frozen encoder over a data set once, and serve what it gave from memory or a memory map.

The encoder does not change, so neither do its features. A cache is a folder named by data and encoder:

- `features.npy`: (n, width) float32, every row where it belongs from the first shard on
- `shards/00000.sha256`: of a shard that is whole; written after its rows, so that an interrupted run goes on there
- `rows.parquet`: id, split and labels of every row
- `manifest.json`: what the key was made of
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from datamodules.factors import FactorTable, ImageData, fingerprint
from datamodules.images import cache_errors, check_space, with_progress, write_whole
from models import UserError

__all__ = [
    "Batches", "FeatureData", "FeatureEncoder", "ImageEncoder", "Latents", "Shards", "as_read", "check_images",
    "encode", "extract", "fill", "opened",
]  # fmt: skip

VERSION = 3  # of the shards and of what encoders say of an image
SHARD = 2048  # rows: what a kill can lose
FLOAT = np.dtype("<f4")
Identity: TypeAlias = dict[str, str | int | float | bool]
Embed: TypeAlias = Callable[[Tensor], Tensor]  # uint8 images to features, (batch, width)


@runtime_checkable
class FeatureEncoder(Protocol):
    """What a frozen encoder offers, see docs/architecture.md."""

    @property
    def identity(self) -> Identity: ...
    def embed(self, images: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]: ...


@runtime_checkable
class ImageEncoder(Protocol):
    """A frozen encoder with a decoder: its features are latents that can be edited, see docs/architecture.md."""

    size: int

    @property
    def latent_shape(self) -> tuple[int, ...]: ...
    @property
    def identity(self) -> Identity: ...
    def encode(self, images: UInt8[Tensor, "batch 3 size size"]) -> tuple[Tensor, Tensor]: ...
    def decode(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 3 size size"]: ...


class Latents(NamedTuple):
    """The posterior q(z|x) of every image, a normal with this mean and log-variance."""

    mean: Float[Tensor, "n latent"]
    logvar: Float[Tensor, "n latent"]

    def rows(self, rows: Tensor | slice) -> "Latents":
        return Latents(self.mean[rows], self.logvar[rows])


@dataclass(frozen=True)
class FeatureData:
    """Features of a data set's rows, with what is known of each row."""

    name: str
    values: Float[Tensor, "n features"]  # in memory, or a memory map
    ids: list[str]
    factors: FactorTable  # labels; a row's may be unknown, and there may be none at all
    split: UInt8[Tensor, " n"]  # 0 train, 1 validation, 2 test
    fingerprint: str
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    images: UInt8[Tensor, "n channels size size"] | None = None  # what thumbnails are made of
    texts: list[str] | None = None  # what rows are of, where they are texts

    def rows(self, split: int) -> Tensor:
        """Row numbers of a split."""
        return torch.nonzero(self.split == split).flatten()


@dataclass(frozen=True)
class Shards:
    """The cache of one encoder's features of one data set: what is there, what is missing, and how it is made."""

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
        """A file of the full size, whose rows are not there yet; nothing where there is one."""
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
            for checksum in (self.folder / "shards").iterdir():  # of rows that are gone
                checksum.unlink()
            check_space(self.folder, math.prod(self.shape) * FLOAT.itemsize, "features")
            with write_whole(self.file) as temporary:
                np.lib.format.open_memmap(temporary, "w+", FLOAT, self.shape)

    def values(self) -> Float[np.ndarray, "n width"]:
        """All rows, memory-mapped; a change would stay in memory."""
        return np.load(self.file, mmap_mode="c")

    def missing(self) -> list[int]:
        """The shards that are not there, or not what was written."""
        return [number for number in range(self.count) if not self.intact(number)]

    def intact(self, number: int) -> bool:
        """Whether the rows of a shard are what was written."""
        path = self.checksum(number)
        if not path.is_file():
            return False
        if path.read_text().strip() == sha256(self.values()[self.rows(number)]):
            return True
        print(f"Rows from {self.rows(number).start} of the features {self.file} are damaged and are computed again.")
        return False

    def write(self, number: int, features: Float[Tensor, "rows width"]) -> None:
        """The rows of a shard into their place, then the checksum that says that they are whole.

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
    """Batches of images, the next one read from disk while this one is encoded."""
    with ThreadPoolExecutor(1) as pool:
        parts = list(images.split(batch))
        ahead = pool.submit(parts[0].clone)
        for part in parts[1:]:
            here, ahead = ahead.result(), pool.submit(part.clone)
            yield here
        yield ahead.result()


def fill(images: UInt8[Tensor, "n channels size size"], embed: Embed, shards: Shards, numbers: list[int],
         device: torch.device | str, batch: int, shown: bool = True) -> None:  # fmt: skip
    """Compute these shards, one after the other; at no time more than one of them is in memory."""
    total = sum(len(images[shards.rows(number)]) for number in numbers)
    pieces: list[Tensor] = []
    batches = ((number, part) for number in numbers for part in prefetched(images[shards.rows(number)], batch))
    for number, part in with_progress(batches, total, "Encoding images", each=batch) if shown else batches:
        with torch.inference_mode():
            pieces.append(embed(part.to(device)).float().cpu())
        if sum(map(len, pieces)) == len(images[shards.rows(number)]):
            shards.write(number, torch.cat(pieces))
            pieces = []


def write_rows(data: ImageData, folder: Path, made_of: dict[str, Any]) -> None:
    """What is known of the rows, and what the cache was made of, beside the features.

    Labels may change where the images, and so the cache, stay: what is there already is held against what is known now.
    """
    table: dict[str, Any] = {"id": data.ids, "split": data.split.numpy()}
    for factor, column in zip(data.factors.factors, data.factors.values.unbind(1), strict=True):
        table[f"label/{factor.name}"] = column.numpy()
    contents = {
        "rows.parquet": pd.DataFrame(table).to_parquet(),
        "manifest.json": json.dumps(made_of, indent=1).encode(),
    }
    with cache_errors(folder):
        for name, content in contents.items():
            if not (folder / name).is_file() or (folder / name).read_bytes() != content:
                with write_whole(folder / name) as temporary:
                    temporary.write_bytes(content)


def opened(data: ImageData, identity: Identity, embed: Embed, cache_dir: str | Path, device: torch.device | str,
           shard: int = SHARD) -> Shards:  # fmt: skip
    """The cache of these features, in whatever state. Of a new one, the first image tells how many there are."""
    # Of a GPU, which may compute in bfloat16, and of a CPU they are not the same.
    kind = torch.device(device).type
    key = fingerprint("features", VERSION, data.fingerprint, sorted(identity.items()), kind, shard)
    folder = Path(cache_dir).expanduser() / "features" / key[:32]
    with cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)  # before any work is done for it
    try:
        width = json.loads((folder / "manifest.json").read_text())["shape"][1]
    except (OSError, ValueError, KeyError):
        with torch.inference_mode():
            width = embed(data.images[:1].to(device)).shape[1]
    write_rows(data, folder, {"encoder": identity, "data": data.name, "shape": (len(data.images), width)})
    shards = Shards(folder, (len(data.images), width), shard)
    shards.open()
    return shards


def computed(data: ImageData, identity: Identity, embed: Embed, cache_dir: str | Path, device: torch.device | str,
             batch: int, shard: int) -> Float[Tensor, "n width"]:  # fmt: skip
    """Features of every image, memory-mapped, computed where they are not in the cache."""
    shards = opened(data, identity, embed, cache_dir, device, shard)
    if numbers := shards.missing():
        fill(data.images, embed, shards, numbers, device, batch)
    return torch.from_numpy(shards.values())


def encode(data: ImageData, encoder: ImageEncoder, cache_dir: str | Path, device: torch.device | str = "cpu",
           batch: int = 256, shard: int = SHARD) -> Latents:  # fmt: skip
    """Latents of every image of the data set, on the device, computed once.

    Raises:
        UserError: images that the encoder does not read, or a cache folder that cannot be written.
    """
    check_images(data, encoder.size)

    def embed(images: Tensor) -> Tensor:
        return torch.cat(encoder.encode(images), 1)

    values = computed(data, encoder.identity, embed, cache_dir, device, batch, shard)
    return Latents(*values.to(device).chunk(2, 1))


def check_images(data: ImageData, size: int) -> None:
    """Raises UserError where what an encoder of this size makes of the images could not be held against them."""
    if data.images.shape[1] != 3:
        raise UserError("Expected RGB images, as the encoder reads, got grey ones: cluster them or choose other data=.")
    if data.size != size:
        raise UserError(
            f"Expected {size}x{size} images, as the encoder reads, got {data.size}x{data.size}; set data.size={size}, "
            "or the encoder's size where the data has none to set."
        )


def as_read(images: UInt8[Tensor, "n channels height width"], size: int) -> UInt8[Tensor, "n 3 size size"]:
    """Images as an encoder with a decoder reads them: of its size, grey as RGB."""
    if images.shape[-1] != size:
        images = torch.nn.functional.interpolate(images, (size, size), mode="bicubic", antialias=True)
    return images.expand(-1, 3, -1, -1)


def extract(data: ImageData, encoder: ImageEncoder | FeatureEncoder, cache_dir: str | Path,
            device: torch.device | str = "cpu", batch: int = 256, shard: int = SHARD) -> FeatureData:  # fmt: skip
    """Features of every image of the data set, computed once.

    Of an encoder with a decoder they are the means of its latents, of images resized where it reads another size.

    Raises:
        UserError: images that the encoder does not take; a cache folder that cannot be written.
    """
    if isinstance(encoder, FeatureEncoder):
        values = computed(data, encoder.identity, encoder.embed, cache_dir, device, batch, shard)
    else:
        read = replace(data, images=as_read(data.images, encoder.size))
        values = encode(read, encoder, cache_dir, device, batch, shard).mean.cpu()
    identity = fingerprint(data.fingerprint, sorted(encoder.identity.items()))
    return FeatureData(
        data.name, values, data.ids, data.factors, data.split, identity, data.notes, data.skipped, data.images
    )


class Batches:
    """Shuffled batches of rows of tensors that stay where they are; a data loader without loading.

    Lightning calls `set_epoch`, so that the order depends on the seed and the epoch alone and a resumed run sees what
    an uninterrupted one would have seen.
    """

    def __init__(self, tensors: dict[str, Tensor], batch_size: int, seed: int, rows: Tensor,
                 steps: int) -> None:  # fmt: skip
        self.tensors, self.batch_size, self.seed, self.rows, self.steps = tensors, batch_size, seed, rows, steps
        self.epoch = 0
        self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """One epoch of `steps` batches; passes over the rows follow one another, each in its own order."""
        first = self.epoch * self.steps * self.batch_size
        needed = torch.arange(first, first + self.steps * self.batch_size)
        passes = needed // len(self.rows)
        orders = {int(p): self.order(int(p)) for p in passes.unique()}
        chosen = torch.cat([orders[int(p)][needed[passes == p] % len(self.rows)] for p in passes.unique()])
        for rows in chosen.split(self.batch_size):
            yield {name: tensor[rows.to(tensor.device)] for name, tensor in self.tensors.items()}

    def order(self, number: int) -> Tensor:
        """The order of the rows in one pass."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        return self.rows[torch.randperm(len(self.rows), generator=generator)]
