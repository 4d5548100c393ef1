"""Read files of captions: COCO's json, and tables of image paths and captions such as Flickr8k's and Flickr30k's."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.tables import ID_COLUMNS
from datamodules.texts import USUAL, check_cells, read_lines
from datamodules.vector_files import readable
from models import UserError, near_names

__all__ = ["read_captions"]

IMAGES = (*ID_COLUMNS, "image_name", "filepath", "image_path")
TEXTS = (*USUAL, "comment", "captions")


def coco_captions(path: Path) -> pd.DataFrame:
    """Read COCO's json as a table of `image` and `text`; images without a caption have one row without text.

    Raises:
        UserError: the json has no images and annotations.
    """
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise UserError(f"Expected COCO's captions in {path}, got json without images and annotations: choose another.")
    names = {image["id"]: str(image["file_name"]) for image in content["images"]}
    of_images: dict[Any, list[str | None]] = {key: [] for key in names}
    for annotation in content["annotations"]:
        of_images.setdefault(annotation["image_id"], []).append(annotation["caption"])
    rows = [(names.get(key), text) for key, texts in of_images.items() for text in texts or [None]]
    return pd.DataFrame(rows, columns=["image", "text"], dtype=object)


def usual_column(path: Path, table: pd.DataFrame, given: str | None, setting: str, usual: Sequence[str]) -> str:
    """Return the given column, or the first one with a usual name.

    Raises:
        UserError: there is no such column.
    """
    lower = {name.lower(): name for name in reversed(table.columns)}
    column = given if given is not None else next((lower[name] for name in usual if name in lower), None)
    if column not in table:
        near = near_names(str(column), table.columns) if column else ""
        got = repr(column) if column else "none with a usual name"
        raise UserError(f"Expected data.{setting} among {', '.join(table)} of {path}, got {got}: name it.{near}")
    return str(column)


def caption_table(path: Path, image_column: str | None, text_column: str | None, split: str | None) -> pd.DataFrame:
    """Read a table of captions: one with a header, or Flickr8k's own lines of `name.jpg#0`, a tab and the text.

    The separator of a table with a header is the one that its header has most of.
    """
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
    """Read a file of captions as a table with a row per pair: `image`, `text`, and `split` if it is a column.

    A missing image or text is "".

    Raises:
        UserError: the file is missing, cannot be read or has no rows, or there is no such column.
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
