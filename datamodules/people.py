"""The person in each image, so that no person is used both for training and for evaluation."""

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from datamodules.factors import ImageData
from datamodules.splits import TRAIN
from models import UserError

__all__ = ["check_people", "disjoint_halves", "people_numbers", "split_names", "training_halves"]

WORDS = ("training", "validation", "test")


def number_of(name: str) -> int:
    """Return a person's number, or 62 bits of the hash of any other name; it is the same in every subset of the data.

    >>> number_of("42")
    42
    """
    if name.isdecimal() and len(name) < 19:
        return int(name)
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8], "big") >> 2


def people_numbers(column: pd.Series, ids: Sequence[str]) -> Int64[Tensor, " n"]:
    """Return a number for the person in each image; an image without a person gets a negative number of its own.

    >>> people_numbers(pd.Series([7, 7, 8]), ["a.png", "b.png", "c.png"])
    tensor([7, 7, 8])
    """
    numbers = pd.to_numeric(column, errors="coerce")
    whole = numbers.notna() & (numbers == numbers.round())
    named = [
        number_of(f"{number:.0f}" if is_whole else str(value).strip()) if known else -1 - number_of(name)
        for number, is_whole, value, known, name in zip(numbers, whole, column, column.notna(), ids, strict=True)
    ]
    return torch.tensor(named, dtype=torch.int64)


def split_names(people: Int64[Tensor, " n"] | None, ids: Sequence[str]) -> list[str]:
    """Return the names that a split by hash uses: the person, or the image's id if the person is unknown.

    >>> split_names(torch.tensor([7, -1]), ["a.png", "b.png"])
    ['7', 'b.png']
    """
    if people is None:
        return list(ids)
    return [str(person) if person >= 0 else name for person, name in zip(people.tolist(), ids, strict=True)]


def check_people(people: Int64[Tensor, " n"] | None, split: UInt8[Tensor, " n"], ids: Sequence[str]) -> None:
    """Check that every person is in one split only.

    Raises:
        UserError: a person is in more than one split.
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
    """Split rows into two halves, as even as possible, so that no name (a person, or an image) is in both.

    The names are ordered by a hash and cut where about half of the rows are on each side.

    Raises:
        UserError: all rows have the same name.

    >>> first, second = disjoint_halves(torch.tensor([1, 1, 2, 2]), torch.arange(4))
    >>> sorted([first.tolist(), second.tolist()])
    [[0, 1], [2, 3]]
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
    """Return the training rows of the reader and those of the judges; no person is in both.

    Raises:
        UserError: see `disjoint_halves`.
    """
    return disjoint_halves(data.ids if data.people is None else data.people, data.rows(TRAIN))
