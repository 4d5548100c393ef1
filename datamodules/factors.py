"""Tables of factors, inferred from the columns of label tables, and data sets of images."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from datamodules.label_kinds import KINDS, MOST_CLASSES, Labels, infer_labels
from datamodules.splits import TRAIN
from datamodules.table_files import nfc
from models import UserError, near_names
from models.labels import Factor

__all__ = [
    "FactorTable",
    "ImageData",
    "SPLIT_WORDS",
    "check_training",
    "column_name",
    "confidence_notes",
    "factor_notes",
    "factor_table",
    "missing_notes",
    "named_columns",
    "probability_column",
    "sure_labels",
    "words",
]

NO_YES = {"false": 0.0, "no": 0.0, "true": 1.0, "yes": 1.0}
PROBABILITY = "_probability"  # suffix of the column with the probabilities that a column's labels are correct
SURE = 0.6  # labels with a lower probability are omitted


@dataclass(frozen=True)
class FactorTable:
    """Labels of n images for several factors.

    `values` (n, factors) are 0 or 1 for a binary factor, the class index for a categorical one, and in the user's unit
    for a continuous one; unknown labels are NaN. `confidence` is the probability that a label is correct, if a table
    has it.
    """

    factors: tuple[Factor, ...]
    values: Float[Tensor, "n factors"]
    confidence: Float[Tensor, "n factors"] | None = None

    def index(self, name: str) -> int:
        """Return the column of a factor.

        Raises:
            UserError: no factor has that name; the message suggests similar names.
        """
        names = [factor.name for factor in self.factors]
        same = names if name in names else [nfc(each) for each in names]
        if name not in same and (name := nfc(name)) not in same:
            raise UserError(f"Expected a factor among {', '.join(names)}, got {name!r}.{near_names(name, names)}")
        return same.index(name)

    def __getitem__(self, rows: Tensor | slice) -> "FactorTable":
        confidence = None if self.confidence is None else self.confidence[rows]
        return FactorTable(self.factors, self.values[rows], confidence)


@dataclass(frozen=True)
class ImageData:
    """A data set: images, their factors and the split."""

    name: str
    images: UInt8[Tensor, "n channels size size"]  # RGB or grey, in memory or memory-mapped
    ids: list[str]
    factors: FactorTable
    split: UInt8[Tensor, " n"]  # 0 train, 1 validation, 2 test
    fingerprint: str
    notes: list[str] = field(default_factory=list)  # what the user should know about the labels
    skipped: list[str] = field(default_factory=list)  # files that could not be read
    # Maps (rows, factor, value per row) to the same scenes, drawn with that value of the factor.
    counterfactual: Callable[[Tensor, str, Tensor], UInt8[Tensor, "rows channels size size"]] | None = None
    people: Int64[Tensor, " n"] | None = None  # number of the person in each image, None if unknown

    def rows(self, split: int) -> Tensor:
        """Return the row indices of a split."""
        return torch.nonzero(self.split == split).flatten()

    @property
    def size(self) -> int:
        return self.images.shape[-1]


def plain(column: pd.Series) -> pd.Series:
    """Convert a column to float if it has numbers (also as text), true/false or yes/no, else to stripped text.

    Unknown values are NaN.
    """
    if pd.api.types.is_numeric_dtype(column.dtype):  # includes booleans
        numbers = column.to_numpy(dtype=float, na_value=np.nan)
        return pd.Series(np.where(np.isfinite(numbers), numbers, np.nan))
    if column.isna().all():
        return pd.Series(np.full(len(column), np.nan))
    text = column.astype(object).map(str, na_action="ignore").str.strip().reset_index(drop=True)
    text = text.where(~text.isin(["", "nan", "NaN"]))
    lower = text.str.lower()
    if set(lower.dropna()) <= NO_YES.keys():
        return lower.map(NO_YES).astype(float)
    numbers = pd.to_numeric(text, errors="coerce")
    return numbers if bool((numbers.notna() == text.notna()).all()) else text


def named_columns(factors: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Return a dictionary from factor to attribute; factors of a list are named like their attributes.

    >>> named_columns(["Smiling"])
    {'Smiling': 'Smiling'}
    """
    return dict(factors) if isinstance(factors, Mapping) else {name: name for name in factors}


def probability_column(column: str, attributes: pd.DataFrame) -> str | None:
    """Return the name of the column with the probabilities of an attribute's labels, or None if there is none.

    >>> probability_column("race", pd.DataFrame({"race": ["a"], "race_probability": [0.9]}))
    'race_probability'
    """
    return column + PROBABILITY if column + PROBABILITY in attributes else None


def probabilities(column: str, attributes: pd.DataFrame) -> Float[Tensor, " n"] | None:
    """Return the probabilities, from 0 to 1, that an attribute's labels are correct, or None if no column has them.

    Empty cells are NaN. If any number is above 1, all are percentages.

    Raises:
        UserError: the column has text, or a number that is neither a probability nor a percentage.
    """
    beside = probability_column(column, attributes)
    if beside is None:
        return None
    known = plain(attributes[beside])
    numeric = pd.api.types.is_numeric_dtype(known.dtype)
    wrong = known[(known < 0) | (known > 100)] if numeric else known[pd.to_numeric(known, errors="coerce").isna()]
    if len(wrong := wrong.dropna()):
        raise UserError(
            f"Expected probabilities from 0 to 1 or from 0 to 100 % in column {beside!r}, got {wrong.iloc[0]}: correct "
            "the table or rename the column."
        )
    numbers = torch.tensor(known.to_numpy(dtype=float), dtype=torch.float32)
    return numbers / 100 if bool((numbers > 1).any()) else numbers


def sure_labels(column: str, attributes: pd.DataFrame) -> pd.Series:
    """Return an attribute without the labels whose probability is below `SURE` or unknown.

    >>> sure_labels("race", pd.DataFrame({"race": ["a", "b"], "race_probability": [0.9, 0.5]})).tolist()
    ['a', nan]
    """
    sure = probabilities(column, attributes)
    return attributes[column] if sure is None else attributes[column].where((sure >= SURE).numpy())


def confidence_notes(attributes: pd.DataFrame, factors: Mapping[str, str] | Sequence[str]) -> list[str]:
    """Return a note for each factor with a column of probabilities: how many labels are omitted because of it."""
    notes = []
    for name, column in named_columns(factors).items():
        if column in attributes and probability_column(column, attributes):
            known = int(plain(attributes[column]).notna().sum())
            left_out = known - int(plain(sure_labels(column, attributes)).notna().sum())
            notes.append(
                f"{name}: {left_out} of {known} labels are left out, as {column}{PROBABILITY} is below {SURE:.0%} for "
                "them; the others are weighted by it."
            )
    return notes


def check_kinds(kinds: Mapping[str, str] | None, names: Sequence[str]) -> dict[str, str]:
    """Return the declared kinds, after checking that each is one and that its factor or column is there.

    Raises:
        UserError: a name or a kind is unknown.
    """
    for name, kind in (kinds or {}).items():
        if kind not in KINDS:
            raise UserError(f"Expected data.kinds={{{name}: …}} to be one of {', '.join(KINDS)}, got {kind!r}.")
        if nfc(str(name)) not in names:
            near = near_names(str(name), names) or f" There are: {', '.join(names[:50])}."
            raise UserError(f"Expected data.kinds of factors or columns of the table, got {name!r}.{near}")
    return {nfc(str(name)): kind for name, kind in (kinds or {}).items()}


def factor_labels(name: str, column: str, attributes: pd.DataFrame, kind: str | None = None) -> Labels:
    """Return the labels of one factor, of the declared kind if there is one.

    Raises:
        UserError: there is no such attribute, it is constant on these rows, or it has too many classes.
    """
    if column not in attributes:
        names = [str(c) for c in attributes]
        near = near_names(column, names) or f" There are: {', '.join(names[:50])}."
        raise UserError(f"Expected factor {name!r} to be an attribute of the tables, got {column!r}.{near}")
    labels = infer_labels(sure_labels(column, attributes), kind)
    if len(labels.values) < 2:
        got = f"only {labels.values[0]!r}" if labels.values else "no value at all"
        raise UserError(
            f"Expected factor {name!r} (attribute {column!r}) to vary over the {len(attributes)} images, got {got}: "
            "choose another attribute or leave the factor out."
        )
    if labels.kind == "categorical" and len(labels.values) > MOST_CLASSES:
        raise UserError(
            f"Expected factor {name!r} (attribute {column!r}) to have at most {MOST_CLASSES} classes, "
            f"got {len(labels.values)}: choose another attribute or merge classes in the table."
        )
    return labels


def factor_table(
    attributes: pd.DataFrame, factors: Mapping[str, str] | Sequence[str], sources: Mapping[str, str] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> FactorTable:  # fmt: skip
    """Build the table of factors of the chosen attributes, with a row per row of `attributes`.

    `factors` maps a factor's name to its attribute, `sources` an attribute to a description of its source, `kinds` a
    factor or an attribute to its declared kind.

    Raises:
        UserError: see `factor_labels`.
    """
    chosen, values, confidence = [], torch.empty(len(attributes), 0), torch.empty(len(attributes), 0)
    declared = check_kinds(kinds, [*named_columns(factors), *map(str, attributes)])
    for name, column in named_columns(factors).items():
        labels = factor_labels(name, column, attributes, declared.get(name, declared.get(column)))
        # Yes and no would be ambiguous for a factor that is named differently than its attribute.
        names = (f"not {column}", column) if labels.values == ("no", "yes") and name != column else labels.values
        chosen.append(Factor(name, labels.kind, names, (sources or {}).get(column, column)))
        values = torch.cat([values, labels.numbers[:, None]], dim=1)
        sure = probabilities(column, attributes)
        sure = (
            torch.ones(len(attributes)) if sure is None else sure.nan_to_num(1.0)
        )  # labels without a probability are omitted
        confidence = torch.cat([confidence, sure[:, None]], dim=1)
    return FactorTable(tuple(chosen), values, confidence if bool((confidence < 1).any()) else None)


def reading_notes(
    attributes: pd.DataFrame, factors: Mapping[str, str] | Sequence[str], kinds: Mapping[str, str] | None = None
) -> list[str]:
    """Return a note for each factor whose labels could mean something else than they were read as."""
    declared = {nfc(str(name)): kind for name, kind in (kinds or {}).items()}
    return [
        f"{name}: {note}"
        for name, column in named_columns(factors).items()
        for note in factor_labels(name, column, attributes, declared.get(name, declared.get(column))).notes
    ]


def factor_notes(
    table: FactorTable, attributes: pd.DataFrame, factors: Mapping[str, str] | Sequence[str],
    kinds: Mapping[str, str] | None = None,
) -> list[str]:  # fmt: skip
    """Return all notes about the labels of the factors: omitted, ambiguous and missing ones."""
    doubts = [*confidence_notes(attributes, factors), *reading_notes(attributes, factors, kinds)]
    return [*doubts, *missing_notes(table)]


def check_training(table: FactorTable, split: UInt8[Tensor, " n"]) -> None:
    """Check that every factor varies in the training split, because nothing can be learnt about it otherwise.

    Raises:
        UserError: the training images have only one value of a factor, or no label.
    """
    training = split == TRAIN
    for factor, column in zip(table.factors, table.values[training].unbind(1), strict=True):
        values = column[~column.isnan()].unique().tolist()
        if len(values) < 2:
            one = (f"{value:g}" if factor.kind == "continuous" else factor.values[int(value)] for value in values)
            got = next((f"only {value!r}" for value in one), "no value at all")
            raise UserError(
                f"Expected factor {factor.name!r} to vary over the {int(training.sum())} training images, got {got}: "
                "choose another attribute, label more images, or leave the factor out."
            )


def missing_notes(table: FactorTable) -> list[str]:
    """Return a note for each factor of which images have no label.

    >>> missing_notes(FactorTable((Factor("hat", "binary", ("no", "yes")),), torch.tensor([[1.0], [torch.nan]])))
    ['hat: 1 of 2 images have no label.']
    """
    missing = table.values.isnan().sum(dim=0).tolist()
    return [
        f"{factor.name}: {count} of {len(table.values)} images have no label."
        for factor, count in zip(table.factors, missing, strict=True)
        if count
    ]


SPLIT_WORDS = ("train", "validation", "test")
# Columns that tables of rows have themselves; a factor of such a name is written as label/<name>.
OWN_COLUMNS = re.compile(r"(id|split|name|text|image|kind|side|t|x|y|z|on_map|cosine|euclidean|neighbors|embedding_\d+|"
                         r"projection_[xyz])")  # fmt: skip


def column_name(factor: str) -> str:
    """Return the column of a factor in tables of rows: its name, or label/<name> where tables have such a column.

    >>> column_name("hat"), column_name("image")
    ('hat', 'label/image')
    """
    return f"label/{factor}" if OWN_COLUMNS.fullmatch(factor) else factor


def words(table: FactorTable) -> dict[str, np.ndarray]:
    """Return the labels as names of values, or as numbers for continuous factors; unknown ones are missing.

    >>> words(FactorTable((Factor("hat", "binary", ("no", "yes")),), torch.tensor([[1.0], [0.0]])))["hat"]
    array(['yes', 'no'], dtype=object)
    """
    columns: dict[str, np.ndarray] = {}
    for factor, column in zip(table.factors, table.values.unbind(1), strict=True):
        values = column.numpy()
        if factor.kind != "continuous":
            values = np.array([None if np.isnan(v) else factor.values[int(v)] for v in values], dtype=object)
        columns[column_name(factor.name)] = values
    return columns
