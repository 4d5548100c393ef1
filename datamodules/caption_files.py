"""Files of captions: COCO's json, and tables of image paths and captions such as Flickr8k's and Flickr30k's."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.factors import near_names
from datamodules.tables import ID_COLUMNS
from datamodules.texts import USUAL, check_cells, read_lines
from datamodules.vector_files import readable
from models import UserError

__all__ = ["read_captions"]

IMAGES = (*ID_COLUMNS, "image_name", "filepath", "image_path")
TEXTS = (*USUAL, "comment", "captions")


def coco_captions(path: Path) -> pd.DataFrame:
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise UserError(f"Expected COCO's captions in {path}, got json without images and annotations: choose another.")
    names = {image["id"]: str(image["file_name"]) for image in content["images"]}
    of_images: dict[Any, list[str | None]] = {key: [] for key in names}
    for annotation in content["annotations"]:
        of_images.setdefault(annotation["image_id"], []).append(annotation["caption"])
    rows = [(names.get(key), text) for key, texts in of_images.items() for text in texts or [None]]
    return pd.DataFrame(rows, columns=["image", "text"], dtype=object)


def usual_column(path: Path, table: pd.DataFrame, asked: str | None, setting: str, usual: Sequence[str]) -> str:
    """The column asked for, or the first one with a usual name.

    Raises:
        UserError: no such column.
    """
    lower = {name.lower(): name for name in reversed(table.columns)}
    found = asked if asked is not None else next((lower[name] for name in usual if name in lower), None)
    if found not in table:
        near = near_names(str(found), table.columns) if found else ""
        got = repr(found) if found else "none with a usual name"
        raise UserError(f"Expected data.{setting} among {', '.join(table)} of {path}, got {got}: name it.{near}")
    return str(found)


def caption_table(path: Path, image_column: str | None, text_column: str | None, split: str | None) -> pd.DataFrame:
    """Of a table with a header, separated by whatever its header has most of; or Flickr's own name.jpg#0, tab, text."""
    lines = read_lines(path)
    if lines and re.match(r"\S+#\d\t", lines[0]):
        cells = [line.partition("\t") for line in lines if line.strip()]
        table = pd.DataFrame([(name.rpartition("#")[0], text) for name, _, text in cells], columns=["image", "text"])
    else:
        separator = max(",;\t|", key=(lines or [""])[0].count)
        quoting: Any = 3 if separator in "\t|" else 0  # Flickr30k's captions have single quotation marks
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, quoting=quoting, engine="python"
                            if separator == "|" else "c", encoding="utf-8-sig")  # fmt: skip
        check_cells(table)
        table.columns = [str(name).strip() for name in table.columns]
    image = usual_column(path, table, image_column, "image_column", IMAGES)
    text = usual_column(path, table, text_column, "text_column", TEXTS)
    own = {"split": table[usual_column(path, table, split, "split", ())]} if split else {}
    return pd.DataFrame({"image": table[image], "text": table[text], **own}, dtype=object)


def read_captions(path: Path, image_column: str | None = None, text_column: str | None = None,
                  split: str | None = None) -> pd.DataFrame:  # fmt: skip
    """A row for each pair, `image` and `text`, and `split` where that is a column; "" where a side is missing.

    Raises:
        UserError: no such file, or one of another kind or without rows; no such column.
    """
    if not path.is_file():
        raise UserError(f"Expected a file of captions at {path}, got no such file: set data.path to one.")
    with readable(path, "captions"):
        if path.suffix.lower() == ".json":
            table = coco_captions(path)
        else:
            table = caption_table(path, image_column, text_column, split)
    if not len(table):
        raise UserError(f"Expected captions in {path}, got no row: give a file with some.")
    return table.apply(lambda column: column.map(lambda cell: "" if pd.isna(cell) else str(cell).strip()))
