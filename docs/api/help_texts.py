"""The module docstring of a command is its help text; the site shows it as `--help` prints it."""

from typing import Any

import griffe

__all__ = ["HelpTexts"]


class HelpTexts(griffe.Extension):
    """Put the docstrings of commands into a block of code, so that their columns stay aligned."""

    def on_module(self, *, mod: griffe.Module, **others: Any) -> None:
        if mod.docstring and "main" in mod.members and "python -m evaluation." in mod.docstring.value:
            mod.docstring.value = f"```text\n{mod.docstring.value}\n```"
