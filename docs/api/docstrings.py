"""Docstrings as the site shows them: help texts as `--help` prints them, examples as code."""

import re
from typing import Any

import griffe

__all__ = ["Verbatim"]

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)  # to the next empty line


class Verbatim(griffe.Extension):
    """Put the help texts of commands and the examples of functions into blocks of code."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        if obj.docstring is None:
            return
        text = obj.docstring.value
        if obj.is_module and "main" in obj.members and "python -m evaluation." in text:
            obj.docstring.value = f"```text\n{text}\n```"
        else:
            obj.docstring.value = EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
