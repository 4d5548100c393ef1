"""Features in, codes out."""

__all__ = ["UserError"]


class UserError(ValueError):
    """What a user can cause and mend.

    The message is one line: what was expected, what came, what to do. Commands print it and exit with code 2.
    """
