"""Features in, codes out."""

from collections.abc import Sequence

__all__ = ["UserError", "check_choice"]


class UserError(ValueError):
    """What a user can cause and mend.

    The message is one line: what was expected, what came, what to do. Commands print it and exit with code 2.
    """


def check_choice(setting: str, value: object, choices: Sequence[str | None]) -> None:
    """Refuse a word that a setting does not know."""
    if value not in choices:
        words = ", ".join("null" if choice is None else choice for choice in choices)
        raise UserError(f"Expected {setting} to be one of {words}, got {value}.")
