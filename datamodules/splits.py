"""Split images or rows into train, validation and test by a hash of their names."""

import hashlib
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

__all__ = ["SPLITS", "TEST", "TRAIN", "VALIDATION", "complete_split", "hash_split"]

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
