"""The command that computes features, as a user types it, with one and with two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def extract(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "evaluation.extract", f"cache_dir={cache}", "trainer.accelerator=cpu", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)


def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    """5,000 drawn faces are three shards; the second process has the middle one."""
    settings = ["data=faces", "data.n=5000", "data.size=16", "encoder=pixels"]
    alone = extract(tmp_path / "one", *settings)
    assert alone.returncode == 0, alone.stderr[-3000:]
    together = extract(tmp_path / "two", *settings, "trainer.devices=2")
    assert together.returncode == 0, together.stderr[-3000:]
    assert "Features 5000 x 768" in alone.stdout and "Features 5000 x 768" in together.stdout
    (one,), (two,) = ((tmp_path / name).rglob("features.npy") for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes() and np.load(one).shape == (5000, 768)
    sums = [sorted(file.read_text() for file in path.parent.rglob("*.sha256")) for path in (one, two)]
    assert sums[0] == sums[1] and len(sums[0]) == 3
    assert json.loads(one.with_name("manifest.json").read_text())["data"] == "faces"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["data=faces", "encoder=vae"], "Expected a frozen encoder, got encoder=vae"),
        (["data=faces", "encoder=nothing"], "Expected train.py's settings, got: "),
    ],
)
def test_errors_are_one_line(tmp_path: Path, arguments: list[str], line: str) -> None:
    result = extract(tmp_path, *arguments)
    assert result.returncode == 2 and result.stderr.startswith(line) and result.stderr.count("\n") == 1
