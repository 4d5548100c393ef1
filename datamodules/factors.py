"""What a factor is, tables of them, and the images they describe."""

import difflib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from models import UserError
from models.labels import Factor

__all__ = [
    "MOST_CLASSES", "SPLITS", "TEST", "TRAIN", "VALIDATION", "Factor", "FactorTable", "ImageData", "check_training",
    "complete_split", "confidence_notes", "factor_table", "fingerprint", "hash_split", "infer_labels", "missing_notes",
    "named_columns", "near_names", "probability_column", "split_numbers", "sure_labels",
]  # fmt: skip

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = {
    "train": TRAIN, "training": TRAIN, "0": TRAIN,
    "valid": VALIDATION, "val": VALIDATION, "validation": VALIDATION, "dev": VALIDATION, "1": VALIDATION,
    "test": TEST, "testing": TEST, "2": TEST,
}  # fmt: skip
NO_YES = {"false": 0.0, "no": 0.0, "true": 1.0, "yes": 1.0}
PROBABILITY = "_probability"  # behind a column's name: how sure the labels in it are
SURE = 0.6  # labels of a lower probability are left out
MOST_CLASSES = 20  # text with more values names things (people, files), not the classes of a factor


@dataclass(frozen=True)
class FactorTable:
    """Labels of n images for several factors.

    `values` (n, factors): binary 0 or 1, categorical the class number, continuous in the user's unit; NaN where
    the label is unknown. `confidence`, where a table says it, is the probability that a label is right.
    """

    factors: tuple[Factor, ...]
    values: Float[Tensor, "n factors"]
    confidence: Float[Tensor, "n factors"] | None = None

    def index(self, name: str) -> int:
        """The column of a factor.

        Raises:
            UserError: no factor has that name; near names are suggested.
        """
        names = [factor.name for factor in self.factors]
        if name not in names:
            raise UserError(f"Expected a factor among {', '.join(names)}, got {name!r}.{near_names(name, names)}")
        return names.index(name)

    def __getitem__(self, rows: Tensor | slice) -> "FactorTable":
        confidence = None if self.confidence is None else self.confidence[rows]
        return FactorTable(self.factors, self.values[rows], confidence)


@dataclass(frozen=True)
class ImageData:
    """A data set: images, their factors and the split, whatever files it came from."""

    name: str
    images: UInt8[Tensor, "n channels size size"]  # RGB, or 1 channel of grey; in memory, or a memory map of the cache
    ids: list[str]
    factors: FactorTable
    split: UInt8[Tensor, " n"]  # 0 train, 1 validation, 2 test
    fingerprint: str
    notes: list[str] = field(default_factory=list)  # what the user should know about the labels
    skipped: list[str] = field(default_factory=list)  # files that could not be read
    # (rows, factor, value per row) -> the same scenes drawn with that factor at that value
    counterfactual: Callable[[Tensor, str, Tensor], UInt8[Tensor, "rows channels size size"]] | None = None
    people: Int64[Tensor, " n"] | None = None  # who is in each image, None where nobody says

    def rows(self, split: int) -> Tensor:
        """Row numbers of a split."""
        return torch.nonzero(self.split == split).flatten()

    @property
    def size(self) -> int:
        return self.images.shape[-1]


def near_names(name: str, names: Iterable[str]) -> str:
    """A sentence that asks whether the given name's near ones were meant, empty where none is near."""
    lower = {n.lower(): n for n in names}
    near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    return f" Did you mean {' or '.join(near)}?" if near else ""


def fingerprint(*parts: object) -> str:
    """SHA-256 over the parts' text (bytes as they are, tensors by content), as hex."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.contiguous().cpu().numpy().tobytes()
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()


class Labels(NamedTuple):
    """One attribute as numbers: of a binary one 0 and 1, of a categorical one the class, NaN where unknown.

    `values` names what the numbers mean, as in `Factor`; fewer than two of them where the attribute does not vary.
    """

    kind: Literal["binary", "categorical", "continuous"]
    values: tuple[str, ...]
    numbers: Float[Tensor, " n"]


def plain(column: pd.Series) -> pd.Series:
    """Numbers (also those written as text, true/false and yes/no) as float, else stripped text; NaN where unknown."""
    if pd.api.types.is_numeric_dtype(column.dtype):  # booleans are
        numbers = column.to_numpy(dtype=float, na_value=np.nan)
        return pd.Series(np.where(np.isfinite(numbers), numbers, np.nan))
    if column.isna().all():
        return pd.Series(np.full(len(column), np.nan))
    text = column.astype(object).map(str, na_action="ignore").str.strip().reset_index(drop=True)
    text = text.where(text != "")
    lower = text.str.lower()
    if set(lower.dropna()) <= NO_YES.keys():
        return lower.map(NO_YES).astype(float)
    numbers = pd.to_numeric(text, errors="coerce")
    return numbers if bool((numbers.notna() == text.notna()).all()) else text


def infer_labels(column: pd.Series) -> Labels:
    """What kind of factor an attribute is, from its values.

    Two values, numbers or text, are binary, the smaller one 0; more numbers are continuous; more texts are
    categorical, numbered in alphabetical order.
    """
    known = plain(column)
    values = sorted(known.dropna().unique())
    if pd.api.types.is_numeric_dtype(known.dtype):
        if len(values) > 2:
            return Labels("continuous", ("low", "high"), torch.tensor(known.to_numpy(), dtype=torch.float32))
        names = ("no", "yes") if values in ([0, 1], [-1, 1]) else tuple(f"{value:g}" for value in values)
    else:
        names = tuple(str(value) for value in values)
    numbers = known.map({value: number for number, value in enumerate(values)}).to_numpy(dtype=float)
    return Labels("categorical" if len(values) > 2 else "binary", names, torch.tensor(numbers, dtype=torch.float32))


def named_columns(factors: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Factor name -> attribute; a list of attributes names the factors after them."""
    return dict(factors) if isinstance(factors, Mapping) else {name: name for name in factors}


def probability_column(column: str, attributes: pd.DataFrame) -> str | None:
    """The column beside an attribute that says how sure its labels are, None where there is none."""
    return column + PROBABILITY if column + PROBABILITY in attributes else None


def probabilities(column: str, attributes: pd.DataFrame) -> Float[Tensor, " n"] | None:
    """How sure the labels of an attribute are, from 0 to 1; NaN where that is empty, None where nothing says it.

    Where one is above 1, all are percent.

    Raises:
        UserError: text, or a number that is neither a probability nor a percentage.
    """
    beside = probability_column(column, attributes)
    if beside is None:
        return None
    known = plain(attributes[beside])
    numeric = pd.api.types.is_numeric_dtype(known.dtype)
    wrong = known[(known < 0) | (known > 100)] if numeric else known[pd.to_numeric(known, errors="coerce").isna()]
    if len(wrong := wrong.dropna()):
        raise UserError(
            f"Expected probabilities from 0 to 1 or from 0 to 100 % in column {beside!r}, got {wrong.iloc[0]}: mend "
            "the table or rename the column."
        )
    numbers = torch.tensor(known.to_numpy(dtype=float), dtype=torch.float32)
    return numbers / 100 if bool((numbers > 1).any()) else numbers


def sure_labels(column: str, attributes: pd.DataFrame) -> pd.Series:
    """An attribute without the labels whose probability is below `SURE`, or is not known."""
    sure = probabilities(column, attributes)
    return attributes[column] if sure is None else attributes[column].where((sure >= SURE).numpy())


def confidence_notes(attributes: pd.DataFrame, factors: Mapping[str, str] | Sequence[str]) -> list[str]:
    """A line for each factor of which labels are left out because they are not sure."""
    notes = []
    for name, column in named_columns(factors).items():
        if column in attributes and probability_column(column, attributes):
            known = int(plain(attributes[column]).notna().sum())
            left_out = known - int(plain(sure_labels(column, attributes)).notna().sum())
            notes.append(
                f"{name}: {left_out} of {known} labels are left out, as {column}{PROBABILITY} is below {SURE:.0%} for "
                "them; the others count as it says."
            )
    return notes


def factor_labels(name: str, column: str, attributes: pd.DataFrame) -> Labels:
    """The labels of one factor.

    Raises:
        UserError: no such attribute; it does not vary on these rows; it has too many classes.
    """
    if column not in attributes:
        names = [str(c) for c in attributes]
        near = near_names(column, names) or f" There are: {', '.join(names[:50])}."
        raise UserError(f"Expected factor {name!r} to be an attribute of the tables, got {column!r}.{near}")
    labels = infer_labels(sure_labels(column, attributes))
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
    attributes: pd.DataFrame, factors: Mapping[str, str] | Sequence[str], sources: Mapping[str, str] | None = None
) -> FactorTable:
    """The labels of the chosen attributes, one row per row of `attributes`.

    `factors` maps a factor's name to its attribute, `sources` an attribute to where it comes from.

    Raises:
        UserError: as `factor_labels`.
    """
    chosen, values, confidence = [], torch.empty(len(attributes), 0), torch.empty(len(attributes), 0)
    for name, column in named_columns(factors).items():
        labels = factor_labels(name, column, attributes)
        # A renamed attribute's yes and no would not tell which end is meant.
        names = (f"not {column}", column) if labels.values == ("no", "yes") and name != column else labels.values
        chosen.append(Factor(name, labels.kind, names, (sources or {}).get(column, column)))
        values = torch.cat([values, labels.numbers[:, None]], dim=1)
        sure = probabilities(column, attributes)
        sure = torch.ones(len(attributes)) if sure is None else sure.nan_to_num(1.0)  # where it is empty, no label is
        confidence = torch.cat([confidence, sure[:, None]], dim=1)
    return FactorTable(tuple(chosen), values, confidence if bool((confidence < 1).any()) else None)


def check_training(table: FactorTable, split: UInt8[Tensor, " n"]) -> None:
    """Nothing can be learnt about a factor that does not vary in the training split, however it varies elsewhere.

    Raises:
        UserError: a factor of which the training images have one value only, or no label.
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
    """A line for each factor that some images have no label of."""
    missing = table.values.isnan().sum(dim=0).tolist()
    return [
        f"{factor.name}: {count} of {len(table.values)} images have no label."
        for factor, count in zip(table.factors, missing, strict=True)
        if count
    ]


def split_numbers(column: pd.Series) -> Float[Tensor, " n"]:
    """0 train, 1 validation, 2 test from a column of such words or numbers; NaN where it is empty.

    Raises:
        UserError: another word or number.
    """
    known = plain(column)
    words = known.map(lambda v: v.lower() if isinstance(v, str) else f"{v:g}", na_action="ignore")
    wrong = sorted(set(words.dropna()) - SPLITS.keys())
    if wrong:
        raise UserError(
            f"Expected train, valid or test (or 0, 1, 2) in column {column.name!r}, got {wrong[0]!r}: mend the table."
        )
    return torch.tensor(words.map(SPLITS).to_numpy(dtype=float), dtype=torch.float32)


def hash_split(ids: Iterable[str], seed: int = 0) -> UInt8[Tensor, " n"]:
    """80 % train, 10 % validation, 10 % test by a hash of each id: an image keeps its part when others come or go."""
    digests = [hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest() for name in ids]
    share = torch.tensor([int.from_bytes(digest[:6], "big") / 2**48 for digest in digests], dtype=torch.float64)
    return (share >= 0.8).to(torch.uint8) + (share >= 0.9).to(torch.uint8)


def complete_split(split: UInt8[Tensor, " n"], ids: Sequence[str]) -> tuple[UInt8[Tensor, " n"], list[str]]:
    """The split with no part empty, as in a data set cut down to its first images, and a note of what was done."""
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
