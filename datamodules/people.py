"""Who is in which image, so that nobody is both learnt from and judged."""

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from datamodules.factors import TRAIN, ImageData
from models import UserError

__all__ = ["check_people", "disjoint_halves", "people_numbers", "split_names", "training_halves"]

WORDS = ("training", "validation", "test")


def number_of(name: str) -> int:
    """A person's number as it stands, of any other name 62 bits of its hash: the same in every subset of the data."""
    if name.isdecimal() and len(name) < 19:
        return int(name)
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8], "big") >> 2


def people_numbers(column: pd.Series, ids: Sequence[str]) -> Int64[Tensor, " n"]:
    """A number for the person in each image; where the table says none, a negative one of the image's own."""
    numbers = pd.to_numeric(column, errors="coerce")
    whole = numbers.notna() & (numbers == numbers.round())
    named = [
        number_of(f"{number:.0f}" if is_whole else str(value).strip()) if known else -1 - number_of(name)
        for number, is_whole, value, known, name in zip(numbers, whole, column, column.notna(), ids, strict=True)
    ]
    return torch.tensor(named, dtype=torch.int64)


def split_names(people: Int64[Tensor, " n"] | None, ids: Sequence[str]) -> list[str]:
    """What a split by hash goes by: the person, or the image's id where nobody is known."""
    if people is None:
        return list(ids)
    return [str(person) if person >= 0 else name for person, name in zip(people.tolist(), ids, strict=True)]


def check_people(people: Int64[Tensor, " n"] | None, split: UInt8[Tensor, " n"], ids: Sequence[str]) -> None:
    """A person who is learnt from must not be measured on.

    Raises:
        UserError: people in more than one split.
    """
    if people is None:
        return
    table = pd.DataFrame({"person": people.numpy(), "split": split.numpy()})
    parts = table.groupby("person")["split"].nunique()
    several = parts.index[parts > 1]
    if not len(several):
        return
    example = table[table["person"] == several[0]].drop_duplicates("split").sort_values("split")
    (one, first), (other, second) = ((ids[row], WORDS[part]) for row, part in example["split"].iloc[:2].items())
    raise UserError(
        f"Expected each person in one split, got {len(several)} people in several (one of them in {one}, {first}, and "
        f"{other}, {second}): give all images of a person the same split in the table, or leave the table of people "
        "or of splits out."
    )


def disjoint_halves(
    names: Int64[Tensor, " n"] | Sequence[Hashable], rows: Int64[Tensor, " some"]
) -> tuple[Int64[Tensor, " first"], Int64[Tensor, " second"]]:
    """These rows as two halves, as even as can be, with no name in both: of people, or of images where none are known.

    The names are ordered by a hash, and cut where half of the rows are on either side.

    Raises:
        UserError: all rows have one name.
    """
    every = names.tolist() if isinstance(names, Tensor) else names
    chosen = np.array([str(every[row]) for row in rows.tolist()], dtype=object)
    codes, unique = pd.factorize(chosen)
    if len(unique) < 2:
        raise UserError(
            f"Expected training images of at least two people, as the reader and the judge learn from different ones, "
            f"got {len(unique)}: add images of others, or leave the table of people out."
        )
    order = sorted(
        range(len(unique)), key=lambda i: hashlib.sha256(f"half/{unique[i]}".encode(errors="surrogateescape")).digest()
    )
    cumulated = np.bincount(codes)[order].cumsum()
    cut = 1 + int(np.abs(cumulated[:-1] - len(rows) / 2).argmin())
    first = torch.from_numpy(np.isin(codes, order[:cut]))
    return rows[first], rows[~first]


def training_halves(data: ImageData) -> tuple[Int64[Tensor, " first"], Int64[Tensor, " second"]]:
    """The training rows that a reader learns from and those that the judges learn from: nobody is in both.

    Raises:
        UserError: as `disjoint_halves`.
    """
    return disjoint_halves(data.ids if data.people is None else data.people, data.rows(TRAIN))
