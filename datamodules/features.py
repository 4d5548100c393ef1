"""Run a frozen encoder over a data set once, and serve what it gave from the device's memory.

The encoder does not change, so neither do its latents: the mean and log-variance of 162,770 CelebA images at 64
latents are 83 MB, and a flow that draws z from them each step trains as if it encoded the images anew.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from datamodules.factors import ImageData, fingerprint
from datamodules.images import cache_errors, with_progress, write_whole
from models import UserError

__all__ = ["Batches", "ImageEncoder", "Latents", "encode"]

VERSION = 2  # of the shards and of what encoders say of an image


@runtime_checkable
class ImageEncoder(Protocol):
    """What a frozen encoder offers, see docs/architecture.md."""

    size: int

    @property
    def latent_shape(self) -> tuple[int, ...]: ...
    @property
    def identity(self) -> dict[str, str | int | float | bool]: ...
    def encode(self, images: UInt8[Tensor, "batch 3 size size"]) -> tuple[Tensor, Tensor]: ...
    def decode(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 3 size size"]: ...


class Latents(NamedTuple):
    """The posterior q(z|x) of every image, a normal with this mean and log-variance."""

    mean: Float[Tensor, "n latent"]
    logvar: Float[Tensor, "n latent"]

    def rows(self, rows: Tensor | slice) -> "Latents":
        return Latents(self.mean[rows], self.logvar[rows])


@torch.inference_mode()
def encode(data: ImageData, encoder: ImageEncoder, cache_dir: str | Path, device: torch.device | str = "cpu",
           batch: int = 256, shard: int = 8192) -> Latents:  # fmt: skip
    """Latents of every image of the data set, computed once.

    The cache is a folder named by data and encoder, one file per shard, each written to a temporary name and renamed:
    an interrupted run goes on at its shard. Every file's checksum is compared on read; a damaged one is made again.

    Raises:
        UserError: images of another size than the encoder reads, or a cache folder that cannot be written.
    """
    if data.size != encoder.size:
        raise UserError(
            f"Expected {encoder.size}x{encoder.size} images, as the encoder reads, got {data.size}x{data.size}; "
            f"set data.size={encoder.size}."
        )
    key = fingerprint("latents", VERSION, data.fingerprint, sorted(encoder.identity.items()), shard)
    folder = Path(cache_dir).expanduser() / "latents" / key
    with cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)  # before any work is done for it
    parts = []
    starts = range(0, len(data.images), shard)
    for number, start in enumerate(with_progress(starts, len(data.images), "Encoding images", each=shard)):
        path = folder / f"{number:05d}.npz"
        part = read_shard(path)
        if part is None:
            images = data.images[start : start + shard]
            pieces = [encoder.encode(chunk.to(device)) for chunk in images.split(batch)]
            part = Latents(*(torch.cat(piece).float().cpu() for piece in zip(*pieces, strict=True)))
            write_shard(path, part)
        parts.append(part)
    return Latents(*(torch.cat(part).to(device) for part in zip(*parts, strict=True)))


def write_shard(path: Path, part: Latents) -> None:
    checksum = np.array(json.dumps(fingerprint(part.mean, part.logvar)))
    with cache_errors(path.parent), write_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, mean=part.mean.numpy(), logvar=part.logvar.numpy(), checksum=checksum)


def read_shard(path: Path) -> Latents | None:
    """A shard, or None where it is missing or not what was written."""
    try:
        with np.load(path) as file:
            part = Latents(torch.from_numpy(file["mean"]), torch.from_numpy(file["logvar"]))
            intact = json.loads(str(file["checksum"])) == fingerprint(part.mean, part.logvar)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        intact = False
    if not intact:
        print(f"The cached latents {path} are damaged and are computed again.")
        return None
    return part


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
