"""CelebA, in the layouts of torchvision, Kaggle and the Hugging Face hub.

Liu, Luo, Wang, Tang (2015), https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: 202,599 photographs of 10,177 people,
178 x 218 pixels, with 40 binary attributes and an official split in which every person is in one part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from datamodules.cache import fingerprint
from datamodules.celeba_files import IDENTITY, PARTITION, advice, locate
from datamodules.factors import (
    FactorTable,
    ImageData,
    check_training,
    factor_notes,
    factor_table,
    named_columns,
)
from datamodules.images import decode_images
from datamodules.people import check_people, people_numbers, split_names
from datamodules.splits import TRAIN, complete_split, hash_split, split_numbers
from datamodules.table_files import Table
from datamodules.tables import join_tables, read_tables, rows_of
from models import Count, Share, UserError

__all__ = ["FACTORS", "celeba"]

FACTORS = {"glasses": "Eyeglasses", "sex": "Male", "smile": "Smiling", "race": "race"}
WIDTH = 178  # of CelebA's photographs in pixels, the unit of `crop`
VALUES = {
    "Eyeglasses": ("without", "with"),
    "Male": ("female", "male"),
    "Smiling": ("not smiling", "smiling"),
    "Pale_Skin": ("not pale", "pale"),
}
PALE_SKIN = (
    "race is Pale_Skin here: CelebA has no race label. Pale_Skin says that an annotator found the skin pale in the "
    "photograph; it follows lighting and make-up as well as skin tone and is no race. For a race label, give a table "
    "with a race column as data.extra_attributes."
)
NO_PARTITION = (
    f"No {PARTITION} table: split 80/10/10 by a hash of the image ids, not officially (one person may be in two parts)."
)
NO_PARTITION_OF_PEOPLE = f"No {PARTITION} table: split 80/10/10 by a hash of the person in {IDENTITY}, not officially."


def without_race(factors: dict[str, str], table: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Replace the attribute `race` by Pale_Skin if no table has it, and return a note about it."""
    if "race" in table or "Pale_Skin" not in table or "race" not in factors.values():
        return factors, []
    return {name: "Pale_Skin" if column == "race" else column for name, column in factors.items()}, [PALE_SKIN]


def with_value_names(table: FactorTable, attributes: Sequence[str]) -> FactorTable:
    """Name the values of CelebA's best known attributes, instead of no and yes."""
    named = [
        factor._replace(values=VALUES.get(attribute, factor.values)) if factor.kind == "binary" else factor
        for factor, attribute in zip(table.factors, attributes, strict=True)
    ]
    return replace(table, factors=tuple(named))


def known_people(ids: Sequence[str], identity: Mapping[str, Table]) -> Int64[Tensor, " n"] | None:
    """Return the number of the person in each image, or None without a table of people."""
    if not identity:
        return None
    table = join_tables(ids, identity).table
    return people_numbers(table[table.columns[0]], ids)


def official_split(
    ids: Sequence[str], partition: Mapping[str, Table], people: Int64[Tensor, " n"] | None
) -> tuple[UInt8[Tensor, " n"], list[str]]:
    """Return the official split of these images, and notes about images that it does not list.

    Raises:
        UserError: a person is in two splits.
    """
    names = split_names(people, ids)
    if not partition:
        return hash_split(names), [NO_PARTITION if people is None else NO_PARTITION_OF_PEOPLE]
    table = join_tables(ids, partition).table
    numbers = split_numbers(table[table.columns[0]])
    unknown = int(numbers.isnan().sum())
    notes = [f"{unknown} images are not in the partition table: they are used for training."] if unknown else []
    split = numbers.nan_to_num(TRAIN).to(torch.uint8)
    check_people(people, split, ids)
    split, more = complete_split(split, names)
    return split, notes + more


def subset_notes(n: int, labels: Mapping[str, Table]) -> list[str]:
    """Return a note if the tables describe more than the n images."""
    described = max((rows_of(table) for table in labels.values()), default=n)
    return [f"A part of the data set: {n} of the {described} images in its tables."] if described > n else []


def crop_share(crop: int | float) -> float:
    """Convert `crop` to a share of the shorter side; values above 1 are CelebA's pixels.

    >>> crop_share(89), crop_share(0.75)
    (0.5, 0.75)
    """
    return crop / WIDTH if crop > 1 else crop


def celeba(
    root: str | Path,
    size: Count = 64,
    factors: Mapping[str, str] | Sequence[str] | None = None,
    extra_attributes: str | Path | Sequence[str | Path] | None = None,
    crop: Count = 160,
    download: bool = False,
    max_unreadable: Share = 0.01,
    cache_dir: str | Path = "cache",
    kinds: Mapping[str, str] | None = None,
    id_column: str | int | None = None,
    header: bool | None = None,
    separator: str | None = None,
) -> ImageData:
    """Load CelebA from below `root`, with the chosen attributes as factors; images are decoded once into `cache_dir`.

    `factors` maps a factor's name to an attribute (default: `FACTORS`; a list names factors after their attributes).
    `extra_attributes` are tables indexed by image id, relative to the working directory or to `root`; a column
    NAME_probability gives the probability that the labels in NAME are correct, see `factors.sure_labels`. `crop` is the
    side of the centred square, in pixels of the photograph's 178; others are cropped in proportion. `kinds` declares
    kinds of factors. `id_column`, `header` and `separator` say how the extra tables are to be read.

    Raises:
        UserError: images or labels are missing, an attribute is unknown or constant in the training split, a person is
            in two splits, images or tables cannot be read, or the cache folder cannot be written.
    """
    if not 0 < crop <= WIDTH:
        raise UserError(f"Expected data.crop between 1 and {WIDTH} pixels, got {crop}: choose a side within that.")
    root = Path(root).expanduser()
    images, labels, partition, identity = locate(root, download)
    extra = read_tables(extra_attributes, root, separator)
    if not labels and not extra:
        raise UserError(f"Expected CelebA in {root}, got {len(images.ids)} images but no labels: {advice(root)}")
    attributes = join_tables(images.ids, labels, extra, id_column, header)
    chosen, race_notes = without_race(named_columns(FACTORS if factors is None else factors), attributes.table)
    table = with_value_names(factor_table(attributes.table, chosen, attributes.sources, kinds), list(chosen.values()))
    people = known_people(images.ids, identity)
    split, split_notes = official_split(images.ids, partition, people)
    check_training(table, split)  # before minutes of decoding, and again for the readable images
    rows = (decoded := decode_images(images, size, cache_dir, crop_share(crop), max_unreadable)).rows
    check_training(table[rows], split[rows])
    return ImageData(
        name="celeba",
        images=decoded.images,
        ids=[images.ids[row] for row in rows.tolist()],
        factors=table[rows],
        split=split[rows],
        fingerprint=fingerprint(decoded.fingerprint, split[rows]),
        notes=[
            *decoded.notes,
            *attributes.notes,
            *race_notes,
            *split_notes,
            *subset_notes(len(images.ids), labels),
            *factor_notes(table, attributes.table, chosen, kinds),
        ],
        skipped=decoded.skipped,
        people=None if people is None else people[rows],
    )
