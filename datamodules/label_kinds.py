"""Infer the kind of a factor from the spelling of its labels, and convert them to numbers.

The rules, in this order:

- Empty cells and NaN are missing. Among numbers or true and false, NA, N/A, None and null are missing too, and so are
  infinities; among other words they are classes.
- true and false, or yes and no, are binary.
- Numbers are numbers if all of them are written as such: 7, -1, 0.50, 1e-3. 01 is a word, as a number would lose its
  leading zero. Two different numbers are binary. At most 20 whole numbers are classes if they repeat; all others are
  continuous. Beside the classes 0, 1, 2, …, the number -1 is noise, which has no label.
- Words are classes. Different spellings are different classes, except for Unicode's compositions of the same character.

`data.kinds={race: categorical}` declares a kind instead.
"""

import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.table_files import nfc, spelled
from models import UserError

__all__ = ["KINDS", "MOST_CLASSES", "Labels", "infer_labels", "is_missing_word", "is_number", "known_words"]

MOST_CLASSES = 20  # text with more different values is taken as names (people, files), not as classes of a factor
KINDS = ("binary", "categorical", "continuous")
MISSING = {"na", "n/a", "#n/a", "<na>", "none", "null"}  # among numbers; among words they may be classes
INFINITE = {"inf", "infinity"}
BOOLEANS: tuple[dict[str, int], ...] = ({"false": 0, "true": 1}, {"no": 0, "yes": 1})
NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


class Labels(NamedTuple):
    """An attribute as numbers: 0 and 1 if binary, the class index if categorical, NaN where unknown.

    `values` are the names of the numbers, as in `Factor`; there are fewer than two if the attribute does not vary.
    `notes` say how labels were read that could mean something else.
    """

    kind: Literal["binary", "categorical", "continuous"]
    values: tuple[str, ...]
    numbers: Float[Tensor, " n"]
    notes: tuple[str, ...] = ()


def is_number(word: str) -> bool:
    """Tell whether a word is a number as it is usually written, without leading zeros.

    >>> [is_number(word) for word in ("7", "-0.50", "1e-3", "007", "1_000")]
    [True, True, True, False, False]
    """
    return NUMBER.fullmatch(word) is not None


def is_missing_word(word: str) -> bool:
    return word.lower() in MISSING or word.lower() == "nan"


def known_words(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Return the number of the word in each row, −1 where there is none, and the different words."""
    codes, distinct = pd.factorize(column.astype(object), use_na_sentinel=True)
    words = [nfc((spelled(value) or "").strip()) for value in distinct]
    known = list(dict.fromkeys(word for word in words if word and word.lower() != "nan"))
    place = {word: number for number, word in enumerate(known)}
    numbers = np.array([place.get(word, -1) for word in words] + [-1])
    return numbers[codes], known


def infer_labels(column: pd.Series, kind: str | None = None, many: bool = False) -> Labels:
    """Infer an attribute's kind of factor from its values, see above, and convert it to numbers.

    `kind` is the declared kind. With `many`, more whole numbers than 20 are classes if there are five rows for each,
    and they need not repeat, as in the labels of a clustering.

    Raises:
        UserError: the labels can be read in two ways, do not fit the kind, or are too large for single precision.

    >>> infer_labels(pd.Series(["no", "yes", None])).numbers
    tensor([0., 1., nan])
    """
    codes, words = known_words(column)
    name = str(column.name)
    finite = [word for word in words if not is_missing_word(word) and word.lower().lstrip("+-") not in INFINITE]
    numeric = bool(finite) and all(map(is_number, finite))
    boolean = next((pair for pair in BOOLEANS if finite and {word.lower() for word in finite} <= pair.keys()), None)
    if boolean is BOOLEANS[1] and len(finite) < len(words):
        boolean = None  # a word beside yes and no
    kept = finite if numeric or boolean or kind == "continuous" else words
    if kind == "continuous":
        return continuous(name, codes, words, kept)
    if kind == "binary" or (kind is None and boolean is not None and {word.lower() for word in kept} == boolean.keys()):
        return binary(name, codes, words, kept, boolean)
    if numeric and kind is None:
        return of_numbers(name, codes, words, kept, many)
    order = sorted(kept, key=lambda word: (float(word), word)) if numeric else sorted(kept)
    odd = [word for word in order if is_missing_word(word)] if kind is None else []
    notes = [f"{word!r} is read as a class: leave its cells empty if it means no label." for word in odd]
    return classes(codes, words, order, tuple(order), notes)


def classes(codes: np.ndarray, words: Sequence[str], order: Sequence[str], names: tuple[str, ...],
            notes: Sequence[str] = ()) -> Labels:  # fmt: skip
    """Number the words by their order; other words are unknown."""
    place = {word: number for number, word in enumerate(order)}
    numbers = np.array([place.get(word, math.nan) for word in words] + [math.nan], dtype=np.float32)
    kind: Literal["binary", "categorical"] = "categorical" if len(order) > 2 else "binary"
    return Labels(kind, names, torch.from_numpy(numbers[codes]), tuple(notes))


def binary(name: str, codes: np.ndarray, words: Sequence[str], kept: Sequence[str], pair: dict[str, int] | None
           ) -> Labels:  # fmt: skip
    """Read two values; of −1, 0 and 1 the 0 is unknown."""
    if pair is not None:
        numbers = np.array([pair.get(word.lower(), math.nan) for word in words] + [math.nan], dtype=np.float32)
        return Labels("binary", ("no", "yes"), torch.from_numpy(numbers[codes]))
    numeric = all(map(is_number, kept))
    order = sorted(kept, key=float) if numeric else sorted(kept)
    if order == ["-1", "0", "1"]:
        order = ["-1", "1"]
    if len(order) > 2:
        raise UserError(f"Expected two values of {name!r}, which data.kinds declares binary, got {len(order)}, "
                        f"{', '.join(order[:5])}: declare it categorical, or correct the table.")  # fmt: skip
    read = [float(word) for word in order] if numeric else []
    names = ("no", "yes") if read in ([0, 1], [-1, 1]) else tuple(order)
    return classes(codes, words, order, names)


def continuous(name: str, codes: np.ndarray, words: Sequence[str], kept: Sequence[str]) -> Labels:
    """Convert words to numbers.

    Raises:
        UserError: one is no number, or too large or too long for single precision.
    """
    numbers, own = np.full(len(words) + 1, math.nan), set(kept)
    for place, word in enumerate(words):
        if word in own:
            try:
                numbers[place] = float(word)
            except ValueError as error:
                raise UserError(f"Expected numbers in {name!r}, which data.kinds declares continuous, got {word!r}: "
                                "correct the table, or declare another kind.") from error  # fmt: skip
    with np.errstate(over="ignore"):
        single = numbers.astype(np.float32)
    known = ~np.isnan(numbers)
    if np.isinf(single[known]).any():
        raise UserError(f"Expected numbers below 3.4e38 in {name!r}, got {np.abs(numbers[known]).max():g}: rescale it.")
    exact = np.unique(numbers[known])
    if np.array_equal(exact, exact.round()) and len(np.unique(single[known])) < len(exact):
        big = exact[np.abs(exact) > 2**24]
        raise UserError(
            f"Expected whole numbers up to 2^24 in {name!r}, as larger ones are equal in single precision, got "
            f"{big[0]:.0f}: subtract a constant, or declare data.kinds={{{name}: categorical}} if they are classes."
        )
    return Labels("continuous", ("low", "high"), torch.from_numpy(single[codes]))


def of_numbers(name: str, codes: np.ndarray, words: Sequence[str], kept: Sequence[str], many: bool) -> Labels:
    """Read numbers without a declared kind.

    Raises:
        UserError: few different numbers, of which one has several spellings, as 1 and 1.0 or the versions 1.1 and 1.10.
    """
    values: dict[float, str] = {}
    own, few = set(kept), len({float(word) for word in kept}) <= MOST_CLASSES
    known = int(np.isin(codes, [place for place, word in enumerate(words) if word in own]).sum())
    for word in sorted(kept, key=lambda word: (float(word), word)):
        if float(word) in values and few:
            raise UserError(
                f"Expected one spelling of every number in {name!r}, got {values[float(word)]!r} and {word!r}: declare "
                f"data.kinds={{{name}: categorical}} if these are two classes, or continuous if they are one number."
            )
        values.setdefault(float(word), word)
    numbers, order = list(values), list(values.values())
    whole = all(number.is_integer() for number in numbers)
    if len(numbers) <= 2:
        return binary(name, codes, words, order, None)
    most = max(MOST_CLASSES, known // 5) if many else MOST_CLASSES
    if not whole or len(numbers) > most or (not many and known < 2 * len(numbers)):
        return continuous(name, codes, words, kept)
    notes = []
    if numbers == [*range(-1, len(numbers) - 1)] and len(numbers) > 3:
        noise = int((codes == words.index(order[0])).sum())
        notes = [f"-1 is read as noise, no label, in {noise} rows: data.kinds={{{name}: categorical}} keeps it."]
        order = order[1:]
    elif numbers == [-1, 0, 1]:
        notes = [f"-1, 0 and 1 are read as three classes: data.kinds={{{name}: binary}} reads 0 as no label."]
    elif numbers != [*range(len(numbers))] and numbers != [*range(1, len(numbers) + 1)] and not many:
        notes = [f"{len(numbers)} whole numbers are read as classes, not as a quantity: data.kinds={{{name}: "
                 "continuous} changes that."]  # fmt: skip
    shown = tuple(f"{float(word):.0f}" if float(word).is_integer() else word for word in order)
    return classes(codes, words, order, shown, notes)
