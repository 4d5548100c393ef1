"""Write files atomically, name them after factors, read and write JSON and csv, and convert pictures."""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from datamodules.cache import write_whole
from datamodules.pictures import UNCLEAR, ImageSource, decode, why_unreadable
from models import UserError

__all__ = [
    "ImageSource",
    "csv_text",
    "file_name",
    "harmless",
    "jsonable",
    "name_of",
    "read_image",
    "readable_picture",
    "read_json",
    "to_pillow",
    "write_file",
    "write_json",
]

FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # the first characters of a formula in a spreadsheet
LONGEST = 100  # bytes of a name in a file's name


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file atomically, see `write_whole`.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        with write_whole(path) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(
            f"Expected to write {path}, got {error.strerror or error}: free space there or choose another folder."
        ) from error


def file_name(name: str) -> str:
    """Turn a name, of a factor for instance, into the stem of a file that no other name has.

    Letters of all scripts, digits, spaces and `_.+-` stay. Where another character is replaced, the name is long, or it
    starts or ends as no file should, part of its SHA-256 follows, so that `a/b` and `a_b` are two files.

    >>> file_name("glasses"), file_name("C++"), file_name("a/b")
    ('glasses', 'C++', 'a_b-c14cddc0')
    """
    cleaned = re.sub(r"[^\w .+-]+", "_", unicodedata.normalize("NFC", name)).strip(" .").encode()[:LONGEST]
    stem = re.sub(r"^[-+.]+", "_", cleaned.decode(errors="ignore")) or "_"
    return stem if stem == name else f"{stem}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def harmless(cell: Any) -> Any:
    """Put an apostrophe before a text that a spreadsheet would execute as a formula.

    >>> harmless("=1+1"), harmless("-1.5"), harmless("cat")
    ("'=1+1", '-1.5', 'cat')
    """
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r\n", "\n").replace("\r", "\n")  # csv does not quote the latter, so it would end the row
    if not cell.startswith(FORMULAS):
        return text
    try:
        float(cell)
    except ValueError:
        return f"'{text}"
    return text


def csv_text(table: pd.DataFrame, index: bool = False) -> str:
    """Return a table as csv, with names and texts made harmless, see `harmless`."""
    shown = table.set_axis([harmless(name) for name in table.columns], axis="columns")
    for place, kind in enumerate(shown.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            shown.isetitem(place, shown.iloc[:, place].astype(object).map(harmless))
    if index:
        shown.index = shown.index.map(harmless).rename(harmless(table.index.name))
    return shown.to_csv(index=index)


def jsonable(value: Any) -> Any:
    """Convert a value for JSON: tensors and arrays to lists, NaN and infinities to null.

    >>> jsonable({"loss": float("nan"), "shape": (2, 3)})
    {'loss': None, 'shape': [2, 3]}
    """
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_file(path, json.dumps(jsonable(content), indent=1))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run, or return an empty dictionary if there is none.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"Expected JSON in {path}, got {error}: put the run's own file back.") from error
    if not isinstance(content, dict):
        raise UserError(
            f"Expected names with values in {path}, got {type(content).__name__}: put the run's own file back."
        )
    return content


def read_image(image: ImageSource, size: int, crop: float = 1.0) -> UInt8[Tensor, "3 size size"]:
    """Read an image, cropped and resized like the images of a data set.

    Raises:
        UserError: there is no such file, or it is not an image.
    """
    with readable_picture(image):
        return torch.from_numpy(decode(image, size, crop).copy())


def name_of(image: ImageSource) -> str:
    """Return how a message names a picture: by its path, if it has one."""
    return str(image) if isinstance(image, str | Path) else "the picture"


@contextmanager
def readable_picture(image: ImageSource) -> Iterator[None]:
    """Turn the errors of reading a picture into a `UserError`.

    Raises:
        UserError: there is no such file, it is not an image, or its numbers are of an unclear range.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        name, why = name_of(image), why_unreadable(error, str(image))
        if why == UNCLEAR:
            raise UserError(
                f"Expected a picture of 8 or 16 bits a channel, or decimals from 0 to 1 or to 255, got {name} with "
                f"{error}: scale its numbers, or save it as an 8-bit PNG or a JPEG."
            ) from error
        got = why if why == "no such file" else f"a file that cannot be read as one ({why})"
        raise UserError(f"Expected an image at {name}, got {got}: give the path of a JPEG or PNG file.") from error


def to_pillow(images: Float[Tensor, "n 3 size size"]) -> list[Image.Image]:
    """Convert images in [0, 1] to Pillow images, to save or show them."""
    pixels = images.detach().cpu().clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(pixel) for pixel in pixels]
