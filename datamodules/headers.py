"""Tell whether the first line of a table is a header, by what stands below it."""

import re
from typing import Literal

import pandas as pd

from datamodules.label_kinds import is_missing_word, is_number

__all__ = ["first_row"]

# Column names that are usual enough to be told from values.
USUAL = {
    "attribute", "caption", "captions", "category", "class", "classname", "cluster", "comment", "file", "file_name",
    "filename", "filepath", "id", "image", "image_id", "image_name", "image_path", "img", "index", "label", "labels",
    "name", "names", "partition", "path", "query", "sentence", "split", "target", "text", "title", "word", "words", "y",
}  # fmt: skip


def has_extension(cell: str) -> bool:
    return re.search(r"\.[A-Za-z][A-Za-z0-9]{1,4}(#\d+)?$", cell) is not None


def shape(cell: str) -> str:
    """Return a cell with all its digits alike, as `thing 0` of `thing 17`, or "" if it has none."""
    return re.sub(r"[0-9]+", "0", cell) if re.search(r"[0-9]", cell) else ""


def is_figure(cell: str) -> bool:
    """Tell whether a cell is a number or a code of digits, as 007, 12:30 or 2024-01-31."""
    return is_number(cell) or re.fullmatch(r"(?=.*[0-9])[-+0-9.,:/ %]+", cell) is not None


def vote(first: str, rest: pd.Series) -> Literal["header", "row"] | None:
    """Tell what a column's first cell is, compared with the others."""
    distinct = rest.unique()
    if first in distinct:
        return "row"
    words = [cell for cell in distinct if not is_missing_word(cell)]
    numbers = sum(map(is_figure, words))
    if is_figure(first) or is_missing_word(first):
        return "row" if 2 * numbers > len(words) else None
    if words and numbers == len(words):
        return "header"
    if has_extension(first):
        return "row" if 2 * sum(map(has_extension, distinct)) > len(distinct) else None
    if all(map(has_extension, distinct)):
        return "header"
    if shape(first) and 2 * sum(shape(cell) == shape(first) for cell in distinct) > len(distinct):
        return "row"
    return "header" if first.lower() in USUAL else None


def first_row(cells: pd.DataFrame) -> Literal["header", "row"] | None:
    """Return what the first row is, or None if the columns do not tell or contradict each other.

    >>> first_row(pd.DataFrame([["name", "age"], ["Ann", "31"], ["Bob", "40"]]))
    'header'
    """
    votes = set()
    for column in cells:
        texts = cells[column].map(lambda cell: "" if cell is None else str(cell).strip())
        rest = texts.iloc[1:][texts.iloc[1:] != ""]
        if len(texts) and texts.iloc[0] and len(rest):
            votes.add(vote(texts.iloc[0], rest))
    votes.discard(None)
    return votes.pop() if len(votes) == 1 else None
