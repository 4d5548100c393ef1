"""Options and one-line errors of the commands."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from omegaconf import MISSING

from evaluation.command import command, options
from models import UserError


@dataclass
class Choice:
    run: str = MISSING
    n: int = 8
    value: Any = None
    values: list[Any] | None = None
    edits: dict[str, Any] | None = None


def test_options_have_their_types() -> None:
    chosen = options(Choice, ["run=runs/faces/iin", "n=3", "value=with", "values=[-3,2]", "edits={glasses:1,hat:with}"])
    assert chosen == Choice("runs/faces/iin", 3, "with", [-3, 2], {"glasses": 1, "hat": "with"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"Expected run=\.\.\., got none"),
        (["run=x", "vaule=1"], r"an option among run, n, value, values, edits, got 'vaule=1'\. Did you mean value"),
        (["run=x", "+n=1"], r"got '\+n=1'"),
        (["run=x,y"], r"Expected one value for an option .*, got 'run=x,y'"),
        (["run=x", "n=many"], r"Expected another kind of value for n, got 'n=many'"),
        (["runs/faces"], r"Expected key=value, got 'runs/faces'"),
        (["run=x", "values=[1"], r"Expected key=value, got 'values=\[1'"),
    ],
)
def test_bad_options(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options(Choice, arguments)


def failing(arguments: Sequence[str]) -> None:
    raise UserError(f"Expected nothing,\ngot {' '.join(arguments)}.")


def test_an_error_is_one_line_and_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["edit", "a=1"])
    with pytest.raises(SystemExit) as end:
        command(failing)
    assert end.value.code == 2
    assert capsys.readouterr() == ("", "Expected nothing, got a=1.\n")


def test_help_is_the_modules_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["edit", "--help"])
    command(failing)
    assert capsys.readouterr().out == "Options and one-line errors of the commands.\n"
