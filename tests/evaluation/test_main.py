"""The list of what there is."""

import re
from pathlib import Path

import pytest

from evaluation.__main__ import choices, commands, main

ROOT = Path(__file__).parents[2]


def test_every_command_of_the_readme_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    named = set(re.findall(r"python -m evaluation\.(\w+)", (ROOT / "README.md").read_text()))
    assert named and named <= commands().keys()
    assert all(commands().values()) and not any("python -m" in text for text in commands().values())
    main([])
    assert "python -m evaluation.NAME --help" in capsys.readouterr().out


@pytest.mark.parametrize("group", ["model", "data", "encoder", "logger", "callbacks"])
def test_every_choice_has_a_line(group: str) -> None:
    found = choices(group)
    assert found and all(found.values())
