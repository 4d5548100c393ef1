"""The command that computes features: two processes as a user starts them, and what is refused before any starts."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE

import pytest

from datamodules.faces import faces
from datamodules.features import extract
from datamodules.vision import digits
from evaluation.extract import main
from models import UserError
from models.backbones import Pixels

ROOT = Path(__file__).parents[2]
# The command, with a note of who writes what; every process but the first is slow.
NOTED = """
import os, time
from datamodules.feature_cache import Shards
from evaluation.command import command
from evaluation.extract import main

rank, write = os.environ.get("LOCAL_RANK", "0"), Shards.write

def noted(self, number, features):
    time.sleep(int(rank))
    write(self, number, features)
    (self.folder / f"{number}.rank").write_text(rank)

Shards.write = noted
if __name__ == "__main__":
    command(main)
"""


def started(folder: Path, arguments: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    (folder / "noted.py").write_text(NOTED)
    command = [sys.executable, "-m", "noted", f"cache_dir={folder / 'two'}", "trainer.accelerator=cpu",
               "trainer.devices=2", "encoder=pixels", *arguments]  # fmt: skip
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}:{ROOT}"} | environment
    return subprocess.Popen(command, cwd=ROOT, text=True, env=variables, stdout=PIPE, stderr=PIPE)


def ended(processes: Sequence[subprocess.Popen[str]], folder: Path) -> tuple[str, Path, list[str]]:
    """What they printed, the features' file, and who wrote each shard."""
    printed = ""
    for process in processes:
        lines, errors = process.communicate(timeout=300)
        assert process.returncode == 0 and "Warning" not in errors, errors[-3000:]
        printed += lines
    (file,) = (folder / "two").rglob("features.npy")
    return printed, file, [note.read_text() for note in sorted(file.parent.glob("*.rank"))]


def torchruns(rank: int, count: int, port: int) -> dict[str, str]:
    """The environment in which torchrun starts a process."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    return {name: str(value) for name, value in place.items()} | {
        "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)
    }  # fmt: skip


def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    """5,000 drawn faces are three shards; the second process has the middle one and is waited for."""
    processes = [started(tmp_path, ["data=faces", "data.n=5000", "data.size=16"])]  # which starts the other
    printed, two, ranks = ended(processes, tmp_path)
    assert ranks == ["0", "1", "0"]
    data = faces(n=5000, size=16, cache_dir=tmp_path / "two")
    assert extract(data, Pixels(), tmp_path / "one").values.shape == (5000, 768)
    (one,) = (tmp_path / "one").rglob("features.npy")
    assert one.read_bytes() == two.read_bytes()
    sums = [sorted(file.read_text() for file in path.parent.rglob("*.sha256")) for path in (one, two)]
    assert sums[0] == sums[1] and len(sums[0]) == 3
    assert json.loads(two.with_name("manifest.json").read_text())["data"] == "faces"
    assert printed.count(f"Features 5000 x 768: {two}") == 1 and "Encoding images: 2952 of 2952" in printed
    assert one.parent.name == two.parent.name


def test_a_process_may_have_nothing_to_do(tmp_path: Path) -> None:
    """All digits are one shard; here the processes are started as torchrun does."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    processes = [started(tmp_path, ["data=digits"], **torchruns(rank, 2, port)) for rank in range(2)]
    printed, file, ranks = ended(processes, tmp_path)
    assert ranks == ["0"] and printed.count(f"Features 1797 x 64: {file}") == 1
    extract(digits(), Pixels(), tmp_path / "one")
    assert next((tmp_path / "one").rglob("features.npy")).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["data=faces", "encoder=vae"], "Expected a frozen encoder, got encoder=vae"),
        (["data=faces", "encoder=nothing"], "Expected train.py's settings, got: "),
        (
            ["data=digits", "encoder=pixels", "trainer.devices=0"],
            "Expected available trainer.devices and trainer.num_nodes",
        ),
    ],
)
def test_errors_are_one_line(tmp_path: Path, arguments: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        main([f"cache_dir={tmp_path}", "trainer.accelerator=cpu", *arguments])
    assert "\n" not in str(caught.value)


def test_another_number_of_processes_than_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in torchruns(0, 4, port=1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="Expected as many processes as the settings say, got another number: .*4"):
        main([f"cache_dir={tmp_path}", "trainer.accelerator=cpu", "data=digits", "encoder=pixels"])
