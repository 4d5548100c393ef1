"""List the commands, models, data sets and encoders with a line each: python -m evaluation."""

import ast
import re
from collections.abc import Sequence
from pathlib import Path

from evaluation.command import command

__all__ = ["choices", "commands", "main"]

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"
GROUPS = {
    "model": "Models, python train.py model=NAME",
    "data": "Data sets, data=NAME",
    "encoder": "Encoders, encoder=NAME",
}


def commands() -> dict[str, str]:
    """List the modules that can be run and the first sentence of each one's docstring, without importing them."""
    found = {}
    files = {path.stem: path for path in HERE.glob("*.py")} | {
        path.parent.name: path for path in HERE.glob("*/__main__.py")
    }
    for name, path in sorted(files.items()):
        source = path.read_text()
        if not name.startswith("__") and "    command(main" in source:
            text = ast.get_docstring(ast.parse(source)) or ""
            found[name] = re.split(r":\s+python -m| \(python -m|\n\n", text)[0].replace("\n", " ").rstrip(".")
    return found


def choices(group: str) -> dict[str, str]:
    """List the YAML files of a group of the configuration and the first comment of each."""
    found = {}
    for path in sorted((CONFIGS / group).glob("*.yaml")):
        comments = [line.lstrip("# ") for line in path.read_text().splitlines() if re.match(r"# (?!@package)", line)]
        found[path.stem] = comments[0].rstrip(".") if comments else ""
    return found


def main(arguments: Sequence[str]) -> None:
    """Print the commands, models, data sets and encoders with a line each."""
    tables = {"Commands, python -m evaluation.NAME": commands()}
    tables |= {title: choices(group) for group, title in GROUPS.items()}
    for title, table in tables.items():
        width = max(map(len, table))
        print(title)
        print("".join(f"  {name:{width}}  {text}\n" for name, text in table.items()))
    print("python -m evaluation.NAME --help shows the options of a command, configs/ the settings of train.py.")


if __name__ == "__main__":
    command(main)
