"""Read labels and splits from the folders that images lie in, as torchvision's ImageFolder does.

`train/cat/1.jpg` or `cat/1.jpg`: a split's word is the first folder of every image, and the class is the first folder
below it. Folders that all images share say nothing.
"""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from datamodules.factors import MOST_CLASSES, FactorTable
from datamodules.splits import SPLITS, TRAIN
from models.labels import Factor

__all__ = ["CLASS", "Subfolders", "subfolders"]

CLASS = "class"  # name of the factor
FEWEST = 5  # images of a class on average, where there are many; otherwise they may be people or days
WORDS = {word: part for word, part in SPLITS.items() if not word.isdecimal()}  # folders 0, 1, 2 are classes


class Subfolders(NamedTuple):
    """The split and the classes in the paths of images, each None if the folders do not tell it, with notes on each."""

    split: UInt8[Tensor, " n"] | None
    classes: FactorTable | None
    split_notes: list[str]
    class_notes: list[str]


def numbered(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts names by their letters, and numbers in them by their value."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def subfolders(ids: Sequence[str]) -> Subfolders:
    """Read the split and the class of each image from its path below the folder of all.

    Images of another part than the training split may have no class.

    >>> found = subfolders(["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg"])
    >>> found.split.tolist(), found.classes.factors[0].values, found.classes.values.flatten().tolist()
    ([0, 0, 1], ('cat', 'dog'), [0.0, 1.0, 0.0])
    """
    folders = [PurePosixPath(name).parts[:-1] for name in ids]
    while all(folders) and len({parts[0] for parts in folders}) == 1:
        folders = [parts[1:] for parts in folders]
    split_notes: list[str] = []
    words = [parts[0].lower() if parts else "" for parts in folders]
    split = None
    if set(words) <= WORDS.keys() and TRAIN in (WORDS[word] for word in words):
        split = torch.tensor([WORDS[word] for word in words], dtype=torch.uint8)
        split_notes.append(f"The split is that of the subfolders {', '.join(sorted({parts[0] for parts in folders}))}.")
        folders = [parts[1:] for parts in folders]
    needed = [parts for row, parts in enumerate(folders) if split is None or split[row] == TRAIN]
    names = sorted({parts[0] for parts in folders if parts}, key=numbered)
    if not all(needed) or len({parts[0] for parts in needed}) < 2:
        return Subfolders(split, None, split_notes, [])
    if len(names) > max(MOST_CLASSES, len(ids) // FEWEST):
        note = f"The {len(names):,} subfolders are no classes: they have fewer than {FEWEST} images each on average."
        return Subfolders(split, None, split_notes, [note])
    numbers = [[names.index(parts[0]) if parts else torch.nan] for parts in folders]
    factor = Factor(CLASS, "binary" if len(names) == 2 else "categorical", tuple(names), "the images' subfolders")
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    note = f"{CLASS} is the subfolder of each image: {len(names)} classes ({listed})."
    return Subfolders(split, FactorTable((factor,), torch.tensor(numbers, dtype=torch.float32)), split_notes, [note])
