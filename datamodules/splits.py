"""Split images or rows into train, validation and test by a hash of their names."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from datamodules.label_kinds import known_words
from models import UserError

__all__ = ["SPLITS", "TEST", "TRAIN", "VALIDATION", "complete_split", "hash_split", "split_numbers"]

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = {
    "train": TRAIN, "training": TRAIN, "0": TRAIN,
    "valid": VALIDATION, "val": VALIDATION, "validation": VALIDATION, "dev": VALIDATION, "1": VALIDATION,
    "test": TEST, "testing": TEST, "2": TEST,
}  # fmt: skip


def hash_split(ids: Iterable[str], seed: int = 0) -> UInt8[Tensor, " n"]:
    """Split ids into 80 % train, 10 % validation and 10 % test by a hash of each.

    An id's split does not depend on the other ids.

    >>> hash_split(["a", "b", "c", "a"]).shape
    torch.Size([4])
    """
    digests = [hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest() for name in ids]
    share = torch.tensor([int.from_bytes(digest[:6], "big") / 2**48 for digest in digests], dtype=torch.float64)
    return (share >= 0.8).to(torch.uint8) + (share >= 0.9).to(torch.uint8)


def complete_split(split: UInt8[Tensor, " n"], ids: Sequence[str]) -> tuple[UInt8[Tensor, " n"], list[str]]:
    """Fill empty parts of a split from the training rows, and return notes about it.

    Parts are empty in a data set that is cut down to its first images, for example.

    >>> complete_split(torch.tensor([0, 1, 2], dtype=torch.uint8), ["a", "b", "c"])
    (tensor([0, 1, 2], dtype=torch.uint8), [])
    """
    drawn, split, notes = hash_split(ids), split.clone(), []
    if not (split == TRAIN).any():
        return drawn, ["No training images among these: split 80/10/10 by a hash of the image ids instead."]
    for part, word in ((VALIDATION, "validation"), (TEST, "test")):
        if not (split == part).any():
            moved = (split == TRAIN) & (drawn == part)
            split[moved] = part
            notes.append(
                f"No {word} images among these: {int(moved.sum())} training images, chosen by a hash of their ids, "
                "take their place (one person may be in both)."
            )
    return split, notes


def split_part(name: str) -> int | None:
    """Return the part of the split that a column of true and false names, as is_train does, or None."""
    word = re.sub(r"^is|[^a-z]", "", re.sub(r"[^a-z]", "", name.lower()))
    return SPLITS.get({"heldout": "test"}.get(word, word)) if word.isalpha() else None


def split_numbers(column: pd.Series) -> Float[Tensor, " n"]:
    """Convert a column of split names or numbers to 0 (train), 1 (validation) and 2 (test); empty cells are NaN.

    A column such as `is_train` or `is_valid` may say true or false, or 1 or 0: rows that are not in the part that it
    names are for training, or for testing if it names training.

    Raises:
        UserError: a cell has another word or number.

    >>> split_numbers(pd.Series(["train", "val", "test"]))
    tensor([0., 1., 2.])
    >>> split_numbers(pd.Series(["True", "False"], name="is_train"))
    tensor([0., 2.])
    """
    codes, words = known_words(column)
    lower = [f"{float(word):g}" if re.fullmatch(r"[0-9.]+", word) else word.lower() for word in words]
    part, known = split_part(str(column.name)), set(lower)
    yes, no = {"true", "yes"}, {"false", "no"}
    meaning: Mapping[str, int] = SPLITS
    if known and part is not None and known <= {*yes, *no, "0", "1"}:
        other = TEST if part == TRAIN else TRAIN
        meaning = dict.fromkeys((*yes, "1"), part) | dict.fromkeys((*no, "0"), other)
    elif known and known <= yes | no:
        raise UserError(
            f"Expected train, valid or test (or 0, 1, 2) in column {column.name!r}, got {words[0]!r}: name the column "
            "is_train, is_valid or is_test, or write the words."
        )
    wrong = sorted(known - meaning.keys())
    if wrong:
        raise UserError(
            f"Expected train, valid or test (or 0, 1, 2) in column {column.name!r}, got {wrong[0]!r}: correct the "
            "table."
        )
    numbers = np.array([meaning[word] for word in lower] + [np.nan], dtype=np.float32)
    return torch.from_numpy(numbers[codes])
