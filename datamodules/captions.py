"""Images with one or several captions each: COCO's captions json, Flickr8k's and Flickr30k's tables, any csv of paths
and captions; or two arrays of their embeddings, row by row.

They are split by image, so that all captions of an image are in one split: by a split name for each file, by a column,
or 80/10/10 by a hash of the image's name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from datamodules.cache import fingerprint
from datamodules.caption_files import read_captions
from datamodules.factors import FactorTable, ImageData
from datamodules.features import FeatureData, extract
from datamodules.images import decode_images, from_files
from datamodules.splits import SPLITS, hash_split, split_numbers
from datamodules.table_files import nfc
from datamodules.texts import TextData, extract_texts
from datamodules.vectors import vectors
from models import Count, PositiveShare, Share, UserError
from models.interfaces import FeatureEncoder, TextEncoder

__all__ = ["PairData", "extract_pairs", "pairs"]


@dataclass(frozen=True)
class PairData:
    """Images and texts, or their embeddings, and the image of each text; a text is in the split of its image."""

    images: ImageData | FeatureData
    texts: TextData | FeatureData
    image_of: Int64[Tensor, " texts"]
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """Ids of the texts, each of which is one pair."""
        return self.texts.ids

    @property
    def fingerprint(self) -> str:
        return fingerprint("pairs", self.images.fingerprint, self.texts.fingerprint, self.image_of)


def no_factors(n: int) -> FactorTable:
    return FactorTable((), torch.empty(n, 0))


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def per_file(setting: str, value: Any, count: int) -> list[Any]:
    """Return a list with a value for each file, given one for each or one for all.

    Raises:
        UserError: there is another number of values.
    """
    given = as_list(value)
    if len(given) not in (1, count):
        raise UserError(f"Expected data.{setting} once or for each of {count} files, got {len(given)}: give as many.")
    return given * (count // len(given))


def pairs(path: str | Path | Sequence[str | Path] | None = None,
          images: str | Path | Sequence[str | Path] | None = None,
          texts: str | Path | Sequence[str | Path] | None = None,
          image_column: str | int | None = None, text_column: str | int | None = None,
          split: str | Sequence[str] | None = None,
          captions: Count | None = None, most: Count | None = None, size: Count = 224, crop: PositiveShare = 1.0,
          max_unreadable: Share = 0.01, cache_dir: str | Path = "cache", header: bool | None = None,
          separator: str | None = None) -> PairData:  # fmt: skip
    """Load pairs from files of captions with folders of images, or from two arrays of embeddings, `images` and `texts`.

    `path` is COCO's or Karpathy's json, of which the latter has its own split, a table, or a list of files. Images are
    loaded from the folder `images`, by default the folder of the captions. `split` is a split name for all files, one
    for each, or a column. At most the first `most` images of each file and the first `captions` captions of each image
    are taken. Pairs without an image or a caption are omitted, as long as their share is at most `max_unreadable`.
    `header` and `separator` say how tables are to be read.

    Raises:
        UserError: a file, folder or column is missing or damaged, too many pairs are incomplete, an image is in two
            splits, or the arrays do not match.
    """
    for setting, value in (("captions", captions), ("most", most)):
        if value is not None and value < 1:
            raise UserError(f"Expected data.{setting} of at least 1, got {value}: choose more, or null for all.")
    if texts is not None:
        if path is not None or images is None:
            raise UserError("Expected data.images=IMG.npy with data.texts=TXT.npy and no data.path, got "
                            f"{'none' if images is None else path}: give both sides of the pairs.")  # fmt: skip
        return paired_vectors(as_list(images), as_list(texts), split)
    if path is None:
        raise UserError("Expected data.path, a file of captions, or data.images and data.texts, two arrays, got none.")
    files = [Path(file).expanduser() for file in as_list(path)]
    folders = [Path(folder).expanduser() if folder else file.parent
               for file, folder in zip(files, per_file("images", images, len(files)), strict=True)]  # fmt: skip
    if lacking := [folder for folder in folders if not folder.is_dir()]:
        raise UserError(f"Expected a folder of images at {lacking[0]}, got no such folder: set data.images.")
    splits = per_file("split", split, len(files))
    parts: list[pd.DataFrame] = []
    notes: list[str] = []
    for file, folder, name_or_column in zip(files, folders, splits, strict=True):
        column = None if name_or_column is None or str(name_or_column).lower() in SPLITS else str(name_or_column)
        part, lines = read_captions(file, image_column, text_column, column, header, separator)
        part, notes = part.assign(file=image_files(folder, part["image"])), notes + lines
        if name_or_column is not None and column is None:
            part["split"] = name_or_column
        parts.append(part if most is None else part[part.groupby("file", sort=False).ngroup() < most])
    table = pd.concat(parts, ignore_index=True)
    data = image_pairs(table, captions, size, crop, max_unreadable, cache_dir)
    return replace(data, notes=[*notes, *data.notes])


def image_files(folder: Path, names: pd.Series) -> list[str]:
    """Return the path of every image; names are compared in Unicode's composed form.

    If no image is in the folder that the names have, as with Karpathy's `val2014/`, and all file names are different,
    they are looked for without it.
    """
    files = {name: folder / name for name in names.unique() if name}
    lacking = [name for name, file in files.items() if not file.is_file()]
    plain = {Path(name).name for name in files}
    if len(lacking) == len(files) == len(plain):
        files = {name: folder / Path(name).name for name in files}
    elif lacking:
        below = {nfc(file.name): file for file in folder.iterdir() if not file.name.isascii()}
        files |= {name: below[nfc(name)] for name in lacking if nfc(name) in below}
    return [str(files.get(name, folder)) for name in names]


def both_sides(table: pd.DataFrame, share: float) -> tuple[pd.DataFrame, list[str]]:
    """Return the pairs that have an image and a caption, and a note about the others.

    Raises:
        UserError: more than the given share of the pairs (and more than two), or all of them, are incomplete.
    """
    lacking = (table["image"] == "") | (table["text"] == "")
    count = int(lacking.sum())
    if count > max(2, share * len(table)) or count == len(table):
        row = table[lacking].iloc[0]
        got = f"no caption of {row['image']}" if row["image"] else f"no image of {row['text']!r}"
        raise UserError(f"Expected an image and a caption in every pair, got {count} of {len(table)} that lack one, "
                        f"the first {got}: complete them, or raise data.max_unreadable.")  # fmt: skip
    notes = [f"{count} of {len(table)} pairs have no image or no caption and are left out."] if count else []
    return table[~lacking].reset_index(drop=True), notes


def image_split(table: pd.DataFrame, image_of: Int64[Tensor, " texts"], ids: list[str]) -> UInt8[Tensor, " images"]:
    """Return the split of each image, by the table's column or by a hash of the names.

    Raises:
        UserError: the column has another word than train, valid or test, or an empty cell, or an image is in two
            splits.
    """
    if "split" not in table:
        return hash_split(ids)
    numbers = split_numbers(table["split"])
    if bool(numbers.isnan().any()):
        raise UserError("Expected train, valid or test for every pair in data.split, got none for some: correct it.")
    split = torch.empty(len(ids)).index_copy(0, image_of, numbers)
    if bool((wrong := split[image_of] != numbers).any()):
        name = table["image"].iloc[int(wrong.float().argmax())]
        raise UserError(f"Expected an image in one part of the split, got {name} in several: correct data.split.")
    return split.to(torch.uint8)


def image_pairs(table: pd.DataFrame, captions: int | None, size: int, crop: float, max_unreadable: float,
                cache_dir: str | Path) -> PairData:  # fmt: skip
    """Load the pairs of a table with the columns `file`, `image` (its name), `text` and optionally `split`."""
    table, notes = both_sides(table, max_unreadable)
    number = table.groupby("file", sort=False).cumcount()
    if captions is not None:
        table, number = table[number < captions], number[number < captions]
    codes, files = pd.factorize(table["file"])
    image_of = torch.from_numpy(codes).long()
    names = table.drop_duplicates("file")["image"]
    ids = [str(name) for name in (names if names.is_unique else files)]
    split = image_split(table, image_of, ids)
    decoded = decode_images(from_files([Path(file) for file in files], ids), size, cache_dir, crop, max_unreadable)
    new_row = torch.full((len(ids),), -1).index_copy(0, decoded.rows, torch.arange(len(decoded.rows)))
    kept = new_row[image_of] >= 0
    texts = table["text"][kept.numpy()].tolist()
    text_ids = [f"{ids[image]}#{i}" for image, i in zip(image_of[kept].tolist(), number[kept.numpy()], strict=True)]
    parts, image_of = split[image_of[kept]], new_row[image_of[kept]]
    split, ids = split[decoded.rows], [ids[row] for row in decoded.rows.tolist()]
    return PairData(
        ImageData("pairs", decoded.images, ids, no_factors(len(ids)), split, fingerprint(decoded.fingerprint, split)),
        TextData("pairs", texts, text_ids, no_factors(len(texts)), parts, fingerprint(texts, parts)),
        image_of, notes + decoded.notes, decoded.skipped,
    )  # fmt: skip


def paired_vectors(images: list[Any], texts: list[Any], split: str | Sequence[str] | None) -> PairData:
    """Load pairs from arrays with a row per pair; equal image rows are one image with several captions."""
    for setting, files in (("images", images), ("texts", texts)):
        for file in files:
            if not Path(file).expanduser().is_file():
                raise UserError(f"Expected an array at data.{setting}={file}, got no such file: give both sides.")
    both = vectors(images, split=split), vectors(texts, split=split)
    shapes = [tuple(side.values.shape) for side in both]
    if shapes[0] != shapes[1]:
        raise UserError(f"Expected a row of data.images for each of data.texts, as wide, got {shapes[0]} and "
                        f"{shapes[1]}: repeat an image's row for each of its captions.")  # fmt: skip
    hashes = pd.util.hash_pandas_object(pd.DataFrame(both[0].values.numpy()), index=False)
    numbers = pd.factorize(hashes)[0]
    first = torch.from_numpy(np.unique(numbers, return_index=True)[1])
    image_of = torch.from_numpy(numbers).long()
    ids = [both[0].ids[row] for row in first.tolist()]
    parts = both[0].split[first] if split is not None else hash_split(ids)
    if split is not None and not torch.equal(parts[image_of], both[1].split):
        raise UserError("Expected an image in one part of the split, got equal rows of data.images in several.")
    of_images = FeatureData("pairs", both[0].values[first], ids, both[0].factors[first], parts,
                            fingerprint(both[0].fingerprint, parts))  # fmt: skip
    of_texts = replace(both[1], name="pairs", split=parts[image_of])
    return PairData(of_images, of_texts, image_of, [note for side in both for note in side.notes])


def extract_pairs(data: PairData, encoder: Any, cache_dir: str | Path, device: torch.device | str = "cpu") -> PairData:
    """Replace images and texts by their embeddings, which are cached; pairs of embeddings are returned unchanged.

    Raises:
        UserError: the encoder does not embed both images and texts, or embeds them in different spaces.
    """
    if isinstance(data.images, FeatureData) or isinstance(data.texts, FeatureData):
        return data
    if not isinstance(encoder, FeatureEncoder) or not isinstance(encoder, TextEncoder):
        raise UserError(f"Expected an encoder of images and texts for pairs, got {encoder.identity['name']}: set "
                        "encoder=clip.")  # fmt: skip
    images = extract(data.images, encoder, cache_dir, device)
    texts = extract_texts(data.texts, encoder, cache_dir, device)
    if images.values.shape[1] != texts.values.shape[1]:
        raise UserError(f"Expected images and texts in one space, got {images.values.shape[1]} and "
                        f"{texts.values.shape[1]} features: set encoder.layer=null.")  # fmt: skip
    return replace(data, images=images, texts=texts)
