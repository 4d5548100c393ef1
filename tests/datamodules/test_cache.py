"""Digests of code."""

import importlib
from pathlib import Path

import pytest

from datamodules.cache import code_digest


def test_words_and_comments_do_not_count_but_code_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    sources = {
        "a": 'def f(x):\n    """One text."""\n    return x + 1  # a comment\n',
        "b": 'def f(x):\n    """Another."""\n    return (x + 1)\n',
        "c": "def f(x):\n    return x + 2\n",
    }
    for name, source in sources.items():
        (tmp_path / f"digest_{name}.py").write_text(source)
    a, b, c = (code_digest(importlib.import_module(f"digest_{name}").f) for name in sources)
    assert a == b != c and len(a) == 16
    f, g = (importlib.import_module(f"digest_{name}").f for name in "ac")
    assert code_digest(f, g) != code_digest(g, f)
    assert code_digest(len) == code_digest(len), "a function without source counts by its name"
