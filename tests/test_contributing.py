"""CONTRIBUTING.md's recipe for an algorithm, followed word for word in a copy of the packages."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("pyproject.toml", "train.py", "models", "datamodules", "training", "evaluation", "configs")


def blocks(language: str) -> list[str]:
    """The code blocks of the section about algorithms."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.split("## To add an algorithm")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.S)


def test_the_recipe_for_an_algorithm(tmp_path: Path) -> None:
    for name in COPIED:
        place, copy = ROOT / name, tmp_path / name
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(place, copy, ignore=ignored) if place.is_dir() else shutil.copy(place, copy)
    for block in (*blocks("python"), *blocks("yaml")):
        name, text = block.split("\n", 1)
        assert not (file := tmp_path / name.removeprefix("# ")).exists()
        file.write_text(text)
    for line in blocks("sh")[0].strip().splitlines():
        command = line.split("#")[0].split()
        command[0] = sys.executable
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300,
                              env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)})  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((tmp_path / "runs/example/metrics.json").read_text())
    assert metrics["soft_kmeans/ami"] == pytest.approx(metrics["kmeans/ami"], abs=0.15) and metrics["kmeans/ami"] > 0.5
    assert "soft_kmeans" in done.stdout and "soft_kmeans" in (tmp_path / "runs/example/report.html").read_text()
