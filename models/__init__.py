"""Networks that turn inputs into codes, and the error and the checks that every package uses."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Annotated, TypeAlias

from annotated_types import Ge, Gt, Le, Lt

__all__ = [
    "HIGHEST_SEED",
    "Count",
    "Fraction",
    "Natural",
    "NotNegative",
    "Positive",
    "PositiveShare",
    "Seed",
    "Share",
    "UserError",
    "check_choice",
    "check_whole",
    "near_names",
    "one_line",
]

# Numbers that settings accept. `training.build.check_arguments` checks them before a run reads its data.
Count: TypeAlias = Annotated[int, Ge(1)]
Natural: TypeAlias = Annotated[int, Ge(0)]
Positive: TypeAlias = Annotated[float, Gt(0)]
NotNegative: TypeAlias = Annotated[float, Ge(0)]
Share: TypeAlias = Annotated[float, Ge(0), Le(1)]
PositiveShare: TypeAlias = Annotated[float, Gt(0), Le(1)]
Fraction: TypeAlias = Annotated[float, Ge(0), Lt(1)]
HIGHEST_SEED = 2**31 - 1  # NumPy takes seeds below 2³²; stages and repeated fits add to a run's seed
Seed: TypeAlias = Annotated[int, Ge(0), Le(HIGHEST_SEED)]


class UserError(ValueError):
    """An error that the user can cause and correct.

    The message is one line: what was expected, what was given, what to do. Commands print it and exit with code 2.
    """


def one_line(error: Exception | str) -> str:
    r"""Return a message as one line of printable characters; those that a terminal would obey become question marks.

    >>> one_line("got a\n  b\x1b[2J")
    'got a b?[2J'
    """
    text = " ".join(str(error).split())
    return "".join(character if character.isprintable() else "?" for character in text)


def check_whole(name: str, value: object, least: int) -> None:
    """Refuse a setting that is not a whole number of at least `least`.

    Raises:
        UserError: it is another number or no number.

    >>> check_whole("temi.heads", 8, 1)
    """
    if type(value) is not int or value < least:
        raise UserError(f"Expected {name} to be a whole number of at least {least}, got {value!r}.")


def check_choice(setting: str, value: object, choices: Sequence[str | None]) -> None:
    """Raise a `UserError` unless `value` is one of the choices of a setting.

    >>> check_choice("vae.likelihood", "gaussian", ("gaussian", "laplace"))
    """
    if value not in choices:
        words = ", ".join("null" if choice is None else choice for choice in choices)
        raise UserError(f"Expected {setting} to be one of {words}, got {value}.")


def near_names(name: str, names: Iterable[str]) -> str:
    """Return a sentence that suggests the known names closest to `name`, or an empty string if none is close.

    >>> near_names("glases", ["glasses", "hat"])
    ' Did you mean glasses?'
    """
    lower = {n.lower(): n for n in names}
    near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    return f" Did you mean {' or '.join(near)}?" if near else ""
