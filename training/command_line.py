"""Read the command line as typed: names, texts and paths keep their spelling, whatever Hydra's grammar makes of them.

Hydra parses `query=1.10` as the number 1.1, `run_dir=2026_11_27` as 20261127, `query=null` as no query, and refuses
`data.path=train (1).csv`. Where an option is a text, the characters after `=` are its value.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

Typed: TypeAlias = "str | list[Typed]"
__all__ = ["as_typed", "mapping_as_typed", "parsable", "quoted", "row_count", "typed_values", "unquoted"]

QUOTED = re.compile(r"""\s*(['"])((?:\\.|(?!\1).)*)\1\s*""", re.DOTALL)


def unquoted(text: str) -> str:
    r"""Return a text without the quotes around all of it.

    >>> unquoted("'a, b'"), unquoted("it's")
    ('a, b', "it's")
    """
    if found := QUOTED.fullmatch(text):
        return re.sub(rf"\\([\\{found[1]}])", r"\1", found[2])
    return text


def parts(text: str, separator: str = ",") -> Iterator[str]:
    """Split the inside of a list or mapping at the separators that are neither in quotes nor in brackets."""
    depth, quote, start = 0, "", 0
    for i, character in enumerate(text):
        before = text[start:i].strip()
        if quote:
            quote = "" if character == quote and text[i - 1] != "\\" else quote
        elif character in "'\"" and (not before or before in "[{"):  # elsewhere it is an apostrophe
            quote = character
        elif character in "[]":
            depth += 1 if character == "[" else -1
        elif character == separator and not depth:
            yield text[start:i].strip()
            start = i + 1
    yield text[start:].strip()


def as_typed(text: str) -> Typed:
    """Return a text as typed, or a list of texts if it is in brackets; an element with a comma needs quotes.

    >>> as_typed("1.10"), as_typed("[my photo (1).jpg, 'a, b']"), as_typed("[[a,b],[c,d]]")
    ('1.10', ['my photo (1).jpg', 'a, b'], [['a', 'b'], ['c', 'd']])
    """
    inside = text.strip()
    if not (inside.startswith("[") and inside.endswith("]")):
        return unquoted(text)
    inside = inside[1:-1].strip()
    return [as_typed(part) for part in parts(inside)] if inside else []


def mapping_as_typed(text: str) -> dict[str, Typed] | None:
    """Return a mapping of texts as typed, or None if the text is none.

    >>> mapping_as_typed("{race: 01, 'a, b': [x, y]}")
    {'race': '01', 'a, b': ['x', 'y']}
    """
    inside = text.strip()
    if not (inside.startswith("{") and inside.endswith("}")):
        return None
    entries = [list(parts(entry, ":")) for entry in parts(inside[1:-1]) if entry]
    if any(len(entry) < 2 or not entry[0] for entry in entries):
        return None
    return {unquoted(key): as_typed(":".join(value)) for key, *value in entries}


def row_count(value: object) -> int | None:
    """Return the number of rows that an option names, or None if it names rows.

    >>> row_count("20"), row_count("cat"), row_count(["20"])
    (20, None, None)
    """
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value, re.ASCII):
        return int(value)
    return value if type(value) is int else None


def parsable(argument: str) -> bool:
    """Tell whether Hydra's grammar accepts an argument of the command line."""
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def quote(value: Typed) -> str:
    """Write a text, or a list of texts, such that Hydra's grammar reads it back unchanged."""
    if isinstance(value, list):
        return f"[{','.join(map(quote, value))}]"
    return "'" + re.sub(r"(\\*)(')", r"\1\1\\'", value) + ("\\" if value.endswith("\\") else "") + "'"


def entries(mapping: Mapping[str, Typed]) -> str:
    """Write a mapping of texts in Hydra's grammar, which has no quotes around keys."""
    return "{" + ",".join(f"{key}:{quote(value)}" for key, value in mapping.items()) + "}"


def quoted(arguments: Sequence[str]) -> list[str]:
    """Quote the values that Hydra's grammar refuses, such as paths with brackets, so that they are texts as typed.

    >>> quoted(["data.path=train (1).csv", "seed=1", "-m"])
    ["data.path='train (1).csv'", 'seed=1', '-m']
    """
    result = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        mapping = mapping_as_typed(value)
        text = quote(as_typed(value)) if mapping is None else entries(mapping)
        tried = f"{key}={text}"
        is_setting = bool(equals) and re.fullmatch(r"[+~]{0,2}[\w./@-]+", key) is not None and not key.startswith("-")
        result.append(tried if is_setting and not parsable(argument) and parsable(tried) else argument)
    return result


def typed_values(arguments: Sequence[str]) -> dict[str, str]:
    """Map the name of each setting on the command line to its value as typed."""
    split = (argument.partition("=") for argument in arguments)
    return {key.lstrip("+"): value for key, equals, value in split if equals and not key.startswith(("~", "-"))}
