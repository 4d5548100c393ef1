"""Read files of captions: COCO's and Karpathy's json, and tables of image paths and captions of any format."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.headers import first_row
from datamodules.readable import readable
from datamodules.table_files import SUFFIXES, Table, named, nfc, parse_table, read_table
from datamodules.tables import ID_COLUMNS
from datamodules.texts import USUAL, one_text_per_row
from datamodules.vector_labels import described
from models import UserError, near_names

__all__ = ["read_captions"]

IMAGES = (*ID_COLUMNS, "image_name", "filepath", "image_path")
TEXTS = (*USUAL, "comment", "captions", "sentences")
KARPATHY = {"train": "train", "restval": "train", "val": "valid", "test": "test"}


def coco_captions(content: dict[str, Any]) -> pd.DataFrame:
    """Read COCO's json as a table of `image` and `text`; images without a caption have one row without text."""
    names = {image["id"]: str(image["file_name"]) for image in content["images"]}
    of_images: dict[Any, list[str | None]] = {key: [] for key in names}
    for annotation in content["annotations"]:
        of_images.setdefault(annotation["image_id"], []).append(annotation["caption"])
    rows = [(names.get(key), text) for key, texts in of_images.items() for text in texts or [None]]
    return pd.DataFrame(rows, columns=["image", "text"], dtype=object)


def karpathy_captions(content: dict[str, Any]) -> pd.DataFrame:
    """Read the json of Karpathy's splits of COCO, Flickr8k and Flickr30k as a table of `image`, `text` and `split`.

    The images that he adds to COCO's training images, `restval`, are for training.
    """
    rows = []
    for image in content["images"]:
        name = "/".join(filter(None, [image.get("filepath"), str(image["filename"])]))
        part = KARPATHY[image["split"]]
        rows += [(name, sentence["raw"], part) for sentence in image["sentences"] or [{"raw": None}]]
    return pd.DataFrame(rows, columns=["image", "text", "split"], dtype=object)


def json_captions(path: Path) -> pd.DataFrame | Table:
    """Read a json file of captions.

    Raises:
        UserError: the json is neither COCO's, nor Karpathy's, nor a list of objects.
    """
    with readable(path, "captions"):
        raw = path.read_bytes()
        content = json.loads(raw.decode("utf-8-sig"))
        if isinstance(content, list) and content and isinstance(content[0], dict):
            return parse_table(str(path), raw)
        if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
            return coco_captions(content)
        if isinstance(content, dict) and "sentences" in next(iter(content.get("images") or [{}])):
            return karpathy_captions(content)
    raise UserError(f"Expected COCO's captions in {path}, got json without images and annotations: choose another.")


def usual_column(path: Path, names: Sequence[str], given: str | int | None, setting: str, usual: Sequence[str]) -> str:
    """Return the given column, or the first one with a usual name.

    Raises:
        UserError: there is no such column.
    """
    lower = {name.lower(): name for name in reversed(names)}
    column = nfc(str(given)) if given is not None else next((lower[name] for name in usual if name in lower), None)
    if column not in names:
        near = near_names(str(column), names) if column else ""
        got = repr(column) if column else "none with a usual name"
        raise UserError(f"Expected data.{setting} among {', '.join(names)} of {path}, got {got}: name it.{near}")
    return str(column)


def with_header(table: Table, wanted: Sequence[str], header: bool | None) -> Table:
    """Decide whether the first line is a header; a table of two columns, one of file names, needs none."""
    if table.header is not None or header is not None or not len(table.cells):
        return named(table, bool(header))
    first = [nfc(str(cell).strip()) for cell in table.cells.iloc[0]]
    is_named = any(name in wanted or name.lower() in (*IMAGES, *TEXTS) for name in first)
    if is_named or first_row(table.cells) != "row":
        return named(table, True)
    files = [bool(re.search(r"\.[A-Za-z]{3,4}(#\d+)?$", name)) for name in first]
    names = ["image" if is_file else "text" for is_file in files]
    return named(table, False, names if sorted(names) == ["image", "text"] else None)


def caption_table(path: Path, image_column: str | int | None, text_column: str | int | None, split: str | None,
                  header: bool | None, separator: str | None) -> tuple[pd.DataFrame, list[str]]:  # fmt: skip
    """Read a table of captions; `name.jpg#0`, as in Flickr8k's own file, is the first caption of name.jpg."""
    if path.suffix.lower() == ".json":
        content = json_captions(path)
        if isinstance(content, pd.DataFrame):
            return content, []
        table = content
    else:
        table = read_table(path, "captions", separator=separator, short=True)
    wanted = [nfc(str(name)) for name in (image_column, text_column, split) if name is not None]
    table = with_header(table, wanted, header)
    if not len(table.cells):
        return pd.DataFrame({"image": [], "text": []}), []
    names = [str(name) for name in table.cells]
    image = usual_column(path, names, image_column, "image_column", IMAGES)
    text = usual_column(path, names, text_column, "text_column", TEXTS)
    table = one_text_per_row(table, text)
    files = table.cells[image]
    if files.map(lambda cell: bool(re.search(r"\S#\d+$", str(cell)))).all():
        files = files.map(lambda cell: cell.rpartition("#")[0])
    own = {"split": table.cells[usual_column(path, names, split, "split", ())]} if split else {}
    note = described(path, len(table.cells), table, f"images in column {image!r}, captions in column {text!r}", names)
    return pd.DataFrame({"image": files, "text": table.cells[text], **own}, dtype=object), [note]


def read_captions(path: Path, image_column: str | int | None = None, text_column: str | int | None = None,
                  split: str | None = None, header: bool | None = None, separator: str | None = None
                  ) -> tuple[pd.DataFrame, list[str]]:  # fmt: skip
    """Read a file of captions as a table with a row per pair, `image`, `text`, and `split` if it has one; and notes.

    A missing image or text is "".

    Raises:
        UserError: the file is missing, cannot be read or has no rows, or there is no such column.
    """
    if not path.is_file():
        raise UserError(f"Expected a file of captions at {path}, got no such file: set data.path to one.")
    if path.suffix.lower() not in (*SUFFIXES, ".json"):
        raise UserError(f"Expected captions in a .json, .csv, .tsv, .txt, .jsonl or .parquet file, got {path}.")
    table, notes = caption_table(path, image_column, text_column, split, header, separator)
    if not len(table):
        raise UserError(f"Expected captions in {path}, got no row: give a file with some.")
    return table.apply(lambda column: column.map(lambda cell: "" if pd.isna(cell) else str(cell).strip())), notes
