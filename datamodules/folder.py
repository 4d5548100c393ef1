"""Load any folder of images, with or without a table of attributes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from datamodules.cache import fingerprint
from datamodules.factors import (
    FactorTable,
    ImageData,
    check_training,
    factor_notes,
    factor_table,
    named_columns,
    probability_column,
    sure_labels,
)
from datamodules.file_tree import files_below, sorted_out
from datamodules.images import IMAGE_SUFFIXES, decode_images, from_files
from datamodules.label_kinds import MOST_CLASSES, infer_labels
from datamodules.people import check_people, people_numbers, split_names
from datamodules.splits import TRAIN, complete_split, hash_split, split_numbers
from datamodules.subfolders import CLASS, Subfolders, subfolders
from datamodules.tables import ID_COLUMNS, join_tables, read_tables
from models import Count, PositiveShare, Seed, Share, UserError, near_names

__all__ = ["folder"]

SPLIT_COLUMNS = ("split", "partition", "is_train", "is_valid", "is_val", "is_test")
PEOPLE_COLUMNS = ("person", "identity")


def find_images(root: Path) -> tuple[list[Path], list[str]]:
    """List all images below a folder, sorted, without hidden ones, and return notes about its other files.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if not root.is_dir():
        raise UserError(f"Expected a folder of images at {root}, got no such folder: set data.root to one.")
    paths, notes = sorted_out(files_below(root))
    if not paths:
        kinds = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES[:12])
        got = f"none ({' '.join(notes).rstrip('.')})" if notes else "none"
        raise UserError(f"Expected images ({kinds}, ...) in {root}, got {got}: set data.root to the folder with them.")
    return paths, notes


def printable(path: Path) -> str:
    r"""Return a path as text that can be encoded in UTF-8; other bytes of its name are escaped, as in \xe9."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


def unusable(column: pd.Series, training: Bool[Tensor, " n"], kind: str | None = None) -> str | None:
    """Return why an attribute cannot be a factor, or None if it can.

    Raises:
        UserError: it can be read in two ways.
    """
    labels = infer_labels(column, kind)
    if len(labels.values) < 2:
        return "one value only" if labels.values else "no value at all"
    if labels.kind == "categorical" and len(labels.values) > MOST_CLASSES:
        return f"{len(labels.values)} different texts"
    numbers = labels.numbers[training]
    values = len(numbers[~numbers.isnan()].unique())
    return None if values > 1 else f"{'one value only' if values else 'no value at all'} in the training split"


def usable_columns(
    table: pd.DataFrame, training: Bool[Tensor, " n"], others: Sequence[str | None], kinds: Mapping[str, str] | None
) -> tuple[list[str], list[str]]:
    """Return the attributes that can be factors, and a note for each one that cannot; ids and `others` are ignored."""
    beside = {probability_column(column, table) for column in table}  # columns of probabilities
    chosen = [c for c in table if c.lower() not in ID_COLUMNS and c not in beside and c not in others]
    used, notes = [], []
    for column in chosen:
        try:
            why = unusable(sure_labels(column, table), training, (kinds or {}).get(column))
        except UserError as error:
            notes.append(f"{column} is not used as a factor. {error}")
            continue
        used += [] if why else [column]
        notes += [f"{column} is not used as a factor: it has {why}."] if why else []
    return used, notes


def chosen_factors(
    factors: Mapping[str, str] | Sequence[str] | None, table: pd.DataFrame, training: Bool[Tensor, " n"],
    others: Sequence[str | None], kinds: Mapping[str, str] | None,
) -> tuple[dict[str, str], list[str]]:  # fmt: skip
    """Return the attribute of each factor, by default of every usable one, and notes about those that are not."""
    if factors is not None:
        return named_columns(factors), []
    usable, notes = usable_columns(table, training, others, kinds)
    return named_columns(usable), notes


def people_column(table: pd.DataFrame, named: str | None) -> str | None:
    """Return the column of people: the given one, or one with a usual name and more than two values, or None.

    Raises:
        UserError: there is no column with the given name.
    """
    if named is None:
        usual = [column for column in table if column.lower() in PEOPLE_COLUMNS and table[column].nunique() > 2]
        return usual[0] if usual else None
    if named not in table:
        raise UserError(
            f"Expected data.people to be a column of data.attributes, got {named!r}: give a table that has it."
            f"{near_names(named, [str(column) for column in table])}"
        )
    return named


def split_column(table: pd.DataFrame, named: str | None) -> str | None:
    """Return the column of the split: the given one, or the one with a usual name, or None.

    Raises:
        UserError: there is no such column, or several have usual names.
    """
    usual = [str(column) for column in table if column.lower() in SPLIT_COLUMNS]
    if named is not None and named not in table:
        near = near_names(named, [str(column) for column in table])
        raise UserError(f"Expected data.split to be a column of data.attributes, got {named!r}: check its name.{near}")
    if named is None and len(usual) > 1:
        raise UserError(
            f"Expected one column of the split, got {', '.join(usual)}: name it by data.split=, and leave the others "
            "out of the table."
        )
    return named if named is not None else next(iter(usual), None)


def folder_split(
    ids: Sequence[str], table: pd.DataFrame, seed: int, people: Int64[Tensor, " n"] | None, places: Subfolders,
    given: str | None = None,
) -> tuple[UInt8[Tensor, " n"], list[str]]:  # fmt: skip
    """Return the table's own split, or that of the images' subfolders, `places`, or one by a hash, with notes.

    Images without a split in the table are split by a hash of the person or the id.

    Raises:
        UserError: a person is in two splits.
    """
    names = split_names(people, ids)
    drawn = hash_split(names, seed)
    column = split_column(table, given)
    if column is None and places.split is None:
        return drawn, []
    if column is None and places.split is not None:
        check_people(people, places.split, ids)
        split, more = complete_split(places.split, names)
        return split, places.split_notes + more
    numbers = split_numbers(table[column])
    unknown = numbers.isnan()
    count = int(unknown.sum())
    notes = [f"{count} images have no {column}: they are split by a hash of their ids."] if count else []
    split = torch.where(unknown, drawn, numbers.nan_to_num()).to(torch.uint8)
    check_people(people, split, ids)
    split, more = complete_split(split, names)
    return split, notes + more


def named(classes: FactorTable | None, factors: Mapping[str, str] | Sequence[str] | None) -> FactorTable | None:
    """Return the classes of subfolders, if any, under the name that `factors` gives them, without them if it is empty.

    Raises:
        UserError: `factors` names anything else.
    """
    if factors is None:
        return classes
    wanted = named_columns(factors)
    if wrong := [name for name, column in wanted.items() if classes is None or column != CLASS]:
        raise UserError(f"Expected a table for the factors {', '.join(wrong)}, got none: set data.attributes.")
    if classes is None:
        return None
    return FactorTable(
        tuple(classes.factors[0]._replace(name=name) for name in wanted), classes.values.expand(-1, len(wanted))
    )


def check_crop(crop: float) -> None:
    if not 0 < crop <= 1:
        raise UserError(f"Expected data.crop above 0 and at most 1, got {crop}: choose a share within that.")


def folder(
    root: str | Path,
    attributes: str | Path | Sequence[str | Path] | None = None,
    factors: Mapping[str, str] | Sequence[str] | None = None,
    size: Count = 64,
    crop: PositiveShare = 1.0,
    split_seed: Seed = 0,
    max_unreadable: Share = 0.01,
    cache_dir: str | Path = "cache",
    people: str | None = None,
    split: str | None = None,
    kinds: Mapping[str, str] | None = None,
    id_column: str | int | None = None,
    header: bool | None = None,
    separator: str | None = None,
) -> ImageData:
    """Load all images below `root`, decoded once into `cache_dir`; an image's id is its path below `root`.

    `attributes` are tables indexed by image id, relative to the working directory or to `root`; `factors` maps a
    factor's name to one of their columns (default: every usable one). Without a table, subfolders of classes are the
    factor `class`; subfolders train, val and test are the split, unless a table has one. `crop` is the side of the
    centred square as a share of the shorter side. `people` is the column with the person in each image (default:
    `person` or `identity`), so that no person is in two splits, `split` that of the split (`split`, `partition` or
    `is_train`). `kinds` declares kinds; `id_column`, `header` and `separator` say how the tables are to be read.

    Raises:
        UserError: there are no images, factors are given without a table, an attribute is unknown or constant in the
            training split, a person is in two splits, or files cannot be read or the cache folder not be written.
    """
    check_crop(crop)
    root = Path(root).expanduser()
    paths, other_files = find_images(root)
    ids = [printable(path.relative_to(root)) for path in paths]
    places = subfolders(ids)
    classes = named(places.classes, factors) if attributes is None else None
    labels = join_tables(ids, {}, read_tables(attributes, root, separator), id_column, header)
    column = people_column(labels.table, people)
    known = None if column is None else people_numbers(labels.table[column], ids)
    parts, split_notes = folder_split(ids, labels.table, split_seed, known, places, split)
    others = [column, split_column(labels.table, split)]
    chosen, notes = chosen_factors([] if attributes is None else factors, labels.table, parts == TRAIN, others, kinds)
    table = factor_table(labels.table, chosen, labels.sources, kinds) if classes is None else classes
    check_training(table, parts)  # before minutes of decoding, and again for the readable images
    reading = places.class_notes if attributes is None else labels.notes
    doubts = factor_notes(table, labels.table, chosen, kinds)
    rows = (decoded := decode_images(from_files(paths, ids), size, cache_dir, crop, max_unreadable)).rows
    check_training(table[rows], parts[rows])
    return ImageData(
        name="folder",
        images=decoded.images,
        ids=[ids[row] for row in rows.tolist()],
        factors=table[rows],
        split=parts[rows],
        fingerprint=fingerprint(decoded.fingerprint, parts[rows]),
        notes=[*other_files, *decoded.notes, *reading, *notes, *split_notes, *doubts],
        skipped=decoded.skipped,
        people=None if known is None else known[rows],
    )
