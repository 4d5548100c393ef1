"""Decode images from files, archives or parquet files once, into a memory map of one size.

The cache of a set of images is a folder named by the source and the settings, with `images.uint8`, the pixels of one
image after the other, and `manifest.json`. It is written under a temporary name and renamed when it is complete.
"""

import hashlib
import io
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from datamodules.cache import MIB, cache_errors, check_space, fingerprint, remove_abandoned
from datamodules.file_digests import digests
from datamodules.file_tree import counted
from datamodules.pictures import IMAGE_SUFFIXES, decode, frames_of, has_heif, why_unreadable
from datamodules.progress import with_progress
from models import UserError

__all__ = [
    "Decoded",
    "EncodedImages",
    "IMAGE_SUFFIXES",
    "decode",
    "decode_images",
    "from_files",
    "from_parquet",
    "from_zip",
    "image_field",
]

# Counted by hand and no digest of the code, as it is part of what data a run was made of: another word or a faster
# loop must not make a finished run's data another's. It rises where `decode` gives other pixels.
VERSION = 1
DEEP = 2  # the same for the formats that have decimals and other colour spaces, which version 1 misread
TIFF, SEVERAL = (".tif", ".tiff"), (".gif", ".png", ".apng", ".webp", ".avif", ".tif", ".tiff")
PIXELS, MANIFEST = "images.uint8", "manifest.json"
SAMPLED = 4096  # MiB of the decoded images that are checked whenever they are opened: 2.4 s at 1.7 GiB/s


class EncodedImages(NamedTuple):
    """Images as they are stored. `digests(cache_dir)` identify their bytes; `contents()` reads them in order."""

    ids: list[str]
    digests: Callable[[str | Path], Sequence[object]]
    contents: Callable[[], Iterable[Callable[[], bytes]]]


class Decoded(NamedTuple):
    """Decoded images: `rows` are the indices of the readable ones in the source, `skipped` the ids of the others."""

    images: UInt8[Tensor, "n 3 size size"]
    rows: Int64[Tensor, " n"]
    skipped: list[str]
    fingerprint: str
    notes: list[str] = []  # how many were skipped and why, and how many have several frames


def from_files(paths: Sequence[Path], ids: list[str]) -> EncodedImages:
    return EncodedImages(ids, partial(digests, paths), lambda: (path.read_bytes for path in paths))


def from_zip(path: Path, members: list[zipfile.ZipInfo], ids: list[str]) -> EncodedImages:
    """Return the members of an archive as images, which are read without unpacking it."""

    def contents() -> Iterator[Callable[[], bytes]]:
        archive = zipfile.ZipFile(path)  # is closed with the last reader, which may outlive this loop
        return (partial(archive.read, member) for member in members)

    known = [(member.file_size, member.CRC) for member in members]  # a reader checks the bytes against the CRC
    return EncodedImages(ids, lambda _: known, contents)


def from_parquet(paths: Sequence[Path], ids: list[str]) -> EncodedImages:
    """Return the images of parquet files, as bytes or the Hugging Face's {bytes, path}, see `image_field`."""

    def contents() -> Iterator[Callable[[], bytes]]:
        return (partial(bytes, content) for path in paths for content in read_rows(path))

    return EncodedImages(ids, partial(digests, paths), contents)


def image_field(schema: pa.Schema) -> str | None:
    """Return the name of the column of images, `image` or `img`, or None if there is none.

    >>> image_field(pa.schema([("img", pa.binary()), ("label", pa.int64())]))
    'img'
    """
    return next((name for name in ("image", "img") if name in schema.names), None)


def read_rows(path: Path) -> Iterator[bytes]:
    """Yield the bytes of the images of a parquet file.

    Raises:
        UserError: the file is damaged.
    """
    schema = pq.read_schema(path)
    name = image_field(schema) or "image"
    nested = pa.types.is_struct(schema.field(name).type)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64, columns=[f"{name}.bytes" if nested else name]):
                column = batch.column(0).field("bytes") if nested else batch.column(0)
                yield from (content or b"" for content in column.to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"Expected images in {path}, got a damaged file: download it again.") from error


class Pixels(NamedTuple):
    """The pixels of an image, or None and why it cannot be read; and whether it has more frames than the first."""

    content: bytes | None
    reason: str = ""
    frames: bool = False


def pixels_of(named: tuple[str, Callable[[], bytes]], size: int, crop: float) -> Pixels:
    name, read = named
    try:
        content = read()
        frames = name.lower().endswith(SEVERAL) and has_frames(content)
        return Pixels(decode(content, size, crop).tobytes(), frames=frames)
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        return Pixels(None, why_unreadable(error, name))


def has_frames(content: bytes) -> bool:
    with Image.open(io.BytesIO(content)) as image:
        return frames_of(image) > 1


def decode_all(source: EncodedImages, size: int, crop: float) -> Iterator[Pixels]:
    """Yield the pixels of each image in order; about 64 MiB are in memory."""
    threads = os.cpu_count() or 1
    chunk_length = max(2 * threads, min(256, 64 * MIB // (3 * size * size)))
    with ThreadPoolExecutor(threads) as pool:
        readers = iter(zip(source.ids, source.contents(), strict=False))
        while chunk := list(islice(readers, chunk_length)):
            yield from pool.map(partial(pixels_of, size=size, crop=crop), chunk)


def check_unreadable(skipped: Sequence[str], n: int, share: float, reasons: Sequence[str] = ()) -> None:
    """Check the number of unreadable images.

    Raises:
        UserError: more than the given share of the n images (and more than two), or all of them, are unreadable.
    """
    if len(skipped) > max(2, share * n) or len(skipped) == n:
        more = ", ..." if len(skipped) > 5 else ""
        why = f": {counted(reasons)}" if reasons else ""
        raise UserError(
            f"Expected at most {share:.2%} of {n} images to be unreadable, got {len(skipped)} or more "
            f"({', '.join(skipped[:5])}{more}{why}): replace or remove them, or raise max_unreadable."
        )


def reading_notes(n: int, reasons: Sequence[str], frames: int) -> list[str]:
    """Return notes about images that are skipped, and why, and about those with several frames.

    >>> reading_notes(1000, ["damaged", "truncated", "damaged"], 0)
    ['3 of 1,000 images are skipped: 2 damaged, 1 truncated.']
    """
    notes = [f"{len(reasons):,} of {n:,} images are skipped: {counted(reasons)}."] if reasons else []
    return notes + ([f"{frames:,} images have several frames or pages: the first is used."] if frames else [])


def content_digest(path: Path, sampled: int) -> str:
    """Return the SHA-256 of up to `sampled` evenly spaced MiB of a file: of all of it, if it is not larger."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in range(0, size, max(MIB, size // sampled)):
            file.seek(start)
            digest.update(file.read(MIB))
    return digest.hexdigest()


def write_images(folder: Path, source: EncodedImages, size: int, crop: float, max_unreadable: float) -> None:
    """Decode into `folder`; the manifest is written last."""
    skipped: list[int] = []
    reasons: list[str] = []
    frames, total = 0, len(source.ids)
    with (folder / PIXELS).open("wb") as file:
        for row, pixels in enumerate(with_progress(decode_all(source, size, crop), total, "Decoding images")):
            frames += pixels.frames
            if pixels.content is None:
                skipped.append(row)
                reasons.append(pixels.reason)
                check_unreadable([source.ids[i] for i in skipped], total, max_unreadable, reasons)
            else:
                file.write(pixels.content)
        file.flush()
        os.fsync(file.fileno())
    if skipped:
        print(f"Skipped unreadable images: {', '.join(source.ids[row] for row in skipped)}", flush=True)
    manifest = {"version": VERSION, "skipped": skipped, "digest": content_digest(folder / PIXELS, SAMPLED)}
    manifest |= {"sampled": SAMPLED, "reasons": reasons, "frames": frames}
    (folder / MANIFEST).write_text(json.dumps(manifest | {"checksum": fingerprint(sorted(manifest.items()))}))


def build(final: Path, source: EncodedImages, size: int, crop: float, max_unreadable: float) -> None:
    """Decode into a temporary folder and rename it to `final`."""
    with cache_errors(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(final.parent)
        check_space(final.parent, len(source.ids) * 3 * size * size, "decoded images")
        temporary = final.with_name(f"{final.name}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.mkdir()
        try:
            write_images(temporary, source, size, crop, max_unreadable)
            temporary.rename(final)
        except OSError:
            if not final.exists():  # otherwise another process was faster
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


class Reading(NamedTuple):
    """The rows that could not be read, why, and the number of images with several frames."""

    skipped: list[int]
    reasons: list[str]
    frames: int


def reading_of(folder: Path, n: int, image_bytes: int) -> Reading | None:
    """Return what a cache folder's manifest says, or None if the folder is damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        checksum = manifest.pop("checksum")
        whole = (folder / PIXELS).stat().st_size == (n - len(manifest["skipped"])) * image_bytes
        if checksum != fingerprint(sorted(manifest.items())) or not whole:
            return None
        sampled = manifest.get("sampled", 256)  # fewer in an earlier version
        if content_digest(folder / PIXELS, sampled) != manifest["digest"]:
            return None
        reasons = manifest.get("reasons", ["unreadable"] * len(manifest["skipped"]))  # of caches from before
        return Reading(manifest["skipped"], reasons, manifest.get("frames", 0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def cached(folder: Path, source: EncodedImages, size: int, crop: float, max_unreadable: float) -> Reading:
    """Decode the images into `folder` unless they are there, and return which could not be read.

    Raises:
        UserError: there are too many of them, or the cache cannot be written.
    """
    n, image_bytes = len(source.ids), 3 * size * size
    reading = reading_of(folder, n, image_bytes) if folder.exists() else None
    if reading is None:
        if folder.exists():
            print(f"The cache {folder} is damaged: decoding the images again.", flush=True)
            with cache_errors(folder):
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        build(folder, source, size, crop, max_unreadable)
        reading = reading_of(folder, n, image_bytes)
    if reading is None:
        raise UserError(
            f"Expected to read back what was written to {folder}, got other bytes: check the disk or set cache_dir= to "
            "another folder."
        )
    return reading


def decode_images(
    source: EncodedImages, size: int, cache_dir: str | Path, crop: float = 1.0, max_unreadable: float = 0.01
) -> Decoded:
    """Decode each image once, to (3, size, size) uint8, and memory-map the result.

    `crop` is the side of the centred square as a share of the shorter side. Unreadable images are omitted, as long as
    their share is at most `max_unreadable`, or there are at most two.

    Raises:
        UserError: too many images are unreadable, or the cache folder cannot be written or has too little space.
    """
    has_heif()
    deep = [DEEP] * any(name.lower().endswith(TIFF) for name in source.ids)
    key = fingerprint(VERSION, source.ids, source.digests(cache_dir), size, crop, *deep)
    folder = Path(cache_dir).expanduser() / "images" / key[:32]
    reading = cached(folder, source, size, crop, max_unreadable)
    rows, total = reading.skipped, len(source.ids)
    skipped = [source.ids[row] for row in rows]
    check_unreadable(skipped, total, max_unreadable, reading.reasons)
    kept = torch.ones(total, dtype=torch.bool)
    kept[rows] = False
    n = int(kept.sum())
    images = torch.from_file(str(folder / PIXELS), shared=False, size=n * 3 * size * size, dtype=torch.uint8)
    return Decoded(
        images.view(n, 3, size, size), kept.nonzero().flatten(), skipped, fingerprint(key, rows),
        reading_notes(total, reading.reasons, reading.frames),
    )  # fmt: skip
