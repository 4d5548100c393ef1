"""Options and one-line errors of the commands."""

import importlib
import re
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import MISSING

from evaluation.__main__ import commands
from evaluation.command import command, help_text, option, parse_options
from models import UserError

PACKAGE = Path(__file__).parents[2] / "evaluation"


@dataclass
class Choice:
    """Options, given as key=value."""

    run: str = option(MISSING, "run folder")
    n: int = option(8, "number of images", former="many")
    value: Any = option(None, "value of the factor")
    values: list[Any] | None = option(None, "several values (default: all)")
    edits: dict[str, Any] | None = option(None, "values of several factors")
    parts: list[str] = option(["a", "b"], "parts")
    json: bool = option(False, "print one JSON object")


@dataclass
class Texts:
    """Options that are texts."""

    run: str = option(MISSING, "run folder")
    parts: list[str] = option(["a", "b"], "parts")
    query: Any = option(None, "name, or list of names", text=True)
    classes: dict[str, Any] | None = option(None, "values by name", text=True)
    label: str | None = option("all", "factor")


TYPED = [
    "null",
    "true",
    "1.10",
    "1_000",
    "café",
    "my photo (1).jpg",
    "a,b",
    "a=b",
    "it's",
    "x:y",
    "50%",
    "眼镜",
    "2026_11_27",
]


@pytest.mark.parametrize("text", TYPED)
def test_texts_are_taken_as_typed(text: str) -> None:
    options = parse_options(Texts, [f"run={text}", f"query={text}", f"parts=['{text}']".replace("'it's'", '"it\'s"')])
    assert (options.run, options.query, options.parts) == (text, text, [text])


def test_lists_and_mappings_of_texts_are_taken_as_typed() -> None:
    options = parse_options(
        Texts,
        ["run=x", "parts=[my photo (1).jpg,'a, b',null]", "query=[[a,1.10],[01,d]]", "classes={race:01,'a: b':x}"],
    )
    assert options.parts == ["my photo (1).jpg", "a, b", "null"]
    assert options.query == [["a", "1.10"], ["01", "d"]]
    assert options.classes == {"race": "01", "a: b": "x"}
    assert parse_options(Texts, ["run=x", "parts=face.png"]).parts == ["face.png"]
    assert parse_options(Texts, ["run=x", "label=null"]).label is None


def test_options_have_their_types() -> None:
    chosen = parse_options(
        Choice, ["run=runs/faces/iin", "n=3", "value=with", "values=[-3,2]", "edits={glasses:1,hat:with}"]
    )
    assert chosen == Choice("runs/faces/iin", 3, "with", [-3, 2], {"glasses": 1, "hat": "with"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"Expected run=\.\.\., got none"),
        (["run=x", "vaule=1"], r"an option among run, n, value, values, .*, got 'vaule=1'\. Did you mean value"),
        (["run=x", "+n=1"], r"got '\+n=1'"),
        (["run=x", "n=1,2"], r"Expected one value for n, got 'n=1,2'"),
        (["run=x", "n=many"], r"Expected another kind of value for n, got 'n=many'"),
        (["runs/faces"], r"Expected key=value, got 'runs/faces'"),
        (["run=x", "values=[1"], r"Expected key=value, got 'values=\[1'"),
    ],
)
def test_bad_options(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_options(Choice, arguments)


def test_an_option_works_under_its_former_name_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_options(Choice, ["run=x", "many=3"]) == parse_options(Choice, ["run=x", "n=3"])
    assert capsys.readouterr() == ("", "many= is now called n=: the former name still works.\n")


@pytest.mark.parametrize(
    ("module", "former", "name"),
    [
        ("evaluation.benchmark", "what", "task"),
        ("evaluation.embeddings.interpolation", "ways", "interpolations"),
        ("evaluation.semantics.__main__", "most", "max_images"),
    ],
)
def test_options_that_were_renamed(module: str, former: str, name: str) -> None:
    schema = importlib.import_module(module).Options
    assert {each.metadata["former"]: each.name for each in fields(schema)}[former] == name


def failing(arguments: Sequence[str]) -> None:
    raise UserError(f"Expected nothing,\ngot {' '.join(arguments)}.")


def test_an_error_is_one_line_and_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["edit", "a=1"])
    with pytest.raises(SystemExit) as end:
        command(failing)
    assert end.value.code == 2
    assert capsys.readouterr() == ("", "Expected nothing, got a=1.\n")


def test_help_is_the_text_of_the_module_and_its_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["edit", "--help"])
    command(failing, Choice)
    assert capsys.readouterr().out.splitlines() == [
        "Options and one-line errors of the commands.",
        "",
        "Options, given as key=value.",
        "  run     run folder (required)",
        "  n       number of images (default: 8)",
        "  value   value of the factor (default: none)",
        "  values  several values (default: all)",
        "  edits   values of several factors (default: none)",
        "  parts   parts (default: [a,b])",
        "  json    print one JSON object (default: false)",
    ]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules after import of package:RuntimeWarning")
@pytest.mark.parametrize("name", commands())
def test_every_command_describes_every_option(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the shape checks' code would be taken for the ordinary one
    runpy.run_module(f"evaluation.{name}", run_name="__main__", alter_sys=True)
    printed = capsys.readouterr().out
    module = importlib.import_module(
        f"evaluation.{name}.__main__" if (PACKAGE / name).is_dir() else f"evaluation.{name}"
    )
    assert f"python -m evaluation.{name}" in printed
    assert max(map(len, printed.splitlines())) <= 120
    for schema in (module.Options, *([module.SourceOptions] if hasattr(module, "SourceOptions") else [])):
        assert "\n".join(help_text(schema)) in printed
        for each in fields(schema):
            assert len(each.metadata["description"].split()) > 1, f"{each.name} needs an explanation"
            (line,) = (line for line in printed.splitlines() if line.startswith(f"  {each.name} "))
            start = printed.index(line)
            assert re.search(r"\((default: .+|required)\)", " ".join(printed[start:].split())[:400])
