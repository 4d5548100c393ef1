"""Encode a data set once with a frozen encoder, and return its features from a memory map.

The encoder is frozen, so its features can be cached. A cache is a folder named by data and encoder:

- `features.npy`: (n, width) float32, in its full size from the start
- `shards/00000.sha256`: checksum of a complete shard, written after its rows, so that an interrupted run is resumed
- `rows.parquet`: id, split and labels of every row
- `manifest.json`: the encoder and the data that the cache's key depends on
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from datamodules.cache import code_digest, fingerprint
from datamodules.factors import FactorTable, ImageData
from datamodules.feature_cache import SHARD, computed
from models import UserError
from models.interfaces import FeatureEncoder, Identity, ImageEncoder

__all__ = ["FeatureData", "Latents", "as_read", "check_images", "check_values", "coded_identity", "encode", "extract"]


class Latents(NamedTuple):
    """The posterior q(z|x) of every image, a normal distribution with this mean and log-variance."""

    mean: Float[Tensor, "n latent"]
    logvar: Float[Tensor, "n latent"]

    def rows(self, rows: Tensor | slice) -> "Latents":
        return Latents(self.mean[rows], self.logvar[rows])


@dataclass(frozen=True)
class FeatureData:
    """Features of a data set's rows, with their ids, labels and split."""

    name: str
    values: Float[Tensor, "n features"]  # in memory, or a memory map
    ids: list[str]
    factors: FactorTable  # labels, which may be unknown; there may be no factor
    split: UInt8[Tensor, " n"]  # 0 train, 1 validation, 2 test
    fingerprint: str
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    images: UInt8[Tensor, "n channels size size"] | None = None  # for thumbnails
    texts: list[str] | None = None  # the texts of the rows, if they are embeddings of texts

    def rows(self, split: int) -> Tensor:
        """Row numbers of a split."""
        return torch.nonzero(self.split == split).flatten()


def coded_identity(encoder: FeatureEncoder | ImageEncoder) -> Identity:
    """Return an encoder's identity with a digest of its code, both of which its features depend on."""
    return {**encoder.identity, "code": code_digest(type(encoder))}


def encode(data: ImageData, encoder: ImageEncoder, cache_dir: str | Path, device: torch.device | str = "cpu",
           batch: int = 256, shard: int = SHARD) -> Latents:  # fmt: skip
    """Return the latents of every image of the data set, on the device; they are computed once and cached.

    Raises:
        UserError: the images do not suit the encoder, or the cache folder cannot be written.
    """
    check_images(data, encoder.size)

    def embed(images: Tensor) -> Tensor:
        return torch.cat(encoder.encode(images), 1)

    values = computed(data, coded_identity(encoder), embed, cache_dir, device, batch, shard)
    return Latents(*values.to(device).chunk(2, 1))


def check_images(data: ImageData, size: int) -> None:
    """Check that images are RGB and of an encoder's size, so that reconstructions can be compared with them.

    Raises:
        UserError: they are not.
    """
    if data.images.shape[1] != 3:
        raise UserError("Expected RGB images, as the encoder reads, got grey ones: cluster them or choose other data=.")
    if data.size != size:
        raise UserError(
            f"Expected {size}x{size} images, as the encoder reads, got {data.size}x{data.size}; set data.size={size}, "
            "or the encoder's size where the data has none to set."
        )


def as_read(images: UInt8[Tensor, "n channels height width"], size: int) -> UInt8[Tensor, "n 3 size size"]:
    """Convert images for an encoder with a decoder: resize them to its size, and expand grey to RGB.

    >>> as_read(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), 32).shape
    torch.Size([2, 3, 32, 32])
    """
    if images.shape[-1] != size:
        images = torch.nn.functional.interpolate(images, (size, size), mode="bicubic", antialias=True)
    return images.expand(-1, 3, -1, -1)


def extract(data: ImageData, encoder: ImageEncoder | FeatureEncoder, cache_dir: str | Path,
            device: torch.device | str = "cpu", batch: int = 256, shard: int = SHARD) -> FeatureData:  # fmt: skip
    """Return the features of every image of the data set; they are computed once and cached.

    For an encoder with a decoder they are the means of its latents, of images that are resized to its size.

    Raises:
        UserError: the images do not suit the encoder, or the cache folder cannot be written.
    """
    if isinstance(encoder, FeatureEncoder):
        values = computed(data, coded_identity(encoder), encoder.embed, cache_dir, device, batch, shard)
    else:
        read = replace(data, images=as_read(data.images, encoder.size))
        values = encode(read, encoder, cache_dir, device, batch, shard).mean.cpu()
    identity = fingerprint(data.fingerprint, sorted(encoder.identity.items()))
    notes = [*data.notes, *enlarged(data.size, encoder)]
    return FeatureData(
        data.name, values, data.ids, data.factors, data.split, identity, notes, data.skipped, data.images
    )


def enlarged(size: int, encoder: ImageEncoder | FeatureEncoder) -> list[str]:
    """Print and return a note where images are smaller than the encoder reads, and are enlarged for it."""
    side = encoder.size if isinstance(encoder, ImageEncoder) else getattr(getattr(encoder, "prepare", None), "crop", 0)
    if side <= size:
        return []
    note = (
        f"Images of {size} pixels are enlarged to {side} for the encoder: data.size={side} keeps more of large files."
    )
    print(note, flush=True)
    return [note]


def check_values(values: Float[Tensor, "n features"]) -> None:
    """Check that features are finite and not all equal.

    Raises:
        UserError: they are not.
    """
    for start, part in enumerate(values.split(8192)):
        if not (finite := part.isfinite().all(1)).all():
            row = start * 8192 + int((~finite).nonzero()[0])
            raise UserError(
                f"Expected finite features, got NaN or infinities in row {row}: check the data or the encoder."
            )
    if len(values) < 2 or bool((values == values[0]).all()):
        raise UserError(f"Expected features that differ, got {len(values)} equal rows: choose other data or a layer.")
