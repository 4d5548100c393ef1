"""Files of a run that are read back: no flipped bit and no other run's file goes unnoticed."""

import json
import os
import random
from pathlib import Path

import pytest

from datamodules import checksums
from datamodules.checksums import LIST, check_recorded, forget, write_recorded
from models import UserError

NAMES = ("vae.ckpt", "guide.ckpt", "last.ckpt", "sae.partial.ckpt", "autoencoder.ckpt", "edits.partial.safetensors")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return written(tmp_path / "run", 0)


def written(folder: Path, seed: int) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text("{}")
    for name in NAMES:
        write_recorded(folder, f"checkpoints/{name}", random.Random(f"{seed}{name}").randbytes(3000))
    return folder


def noticed(run: Path) -> bool:
    try:
        for file in run.glob("checkpoints/*"):
            check_recorded(file)
    except UserError as error:
        assert "\n" not in str(error) and str(error).startswith("Expected ")
        return True
    return False


def test_no_flipped_bit_goes_unnoticed(run: Path) -> None:
    """Of 50 in the checkpoints and 50 in the list of their digests."""
    assert not noticed(run)
    draw = random.Random(0)
    for file in [*(run / "checkpoints" / draw.choice(NAMES) for _ in range(50)), *[run / LIST] * 50]:
        content = bytearray(whole := file.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
        assert noticed(run), file
        file.write_bytes(whole)
    assert not noticed(run)


def test_files_of_another_run_are_refused(run: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other", 1)
    for name in NAMES:
        own = (run / "checkpoints" / name).read_bytes()
        (run / "checkpoints" / name).write_bytes((other / "checkpoints" / name).read_bytes())
        with pytest.raises(
            UserError, match=rf"Expected checkpoints/{name} of .* as the run has written it, got another"
        ):
            check_recorded(run / "checkpoints" / name)
        (run / "checkpoints" / name).write_bytes(own)
    (run / "checkpoints" / "dec.ckpt").write_bytes(b"never written by this run")
    with pytest.raises(UserError, match="in its list"):
        check_recorded(run / "checkpoints" / "dec.ckpt")


def test_a_run_of_an_earlier_version_is_read_and_gets_its_list(run: Path) -> None:
    (run / LIST).unlink()
    (run / "checkpoints" / "vae.ckpt").write_bytes(b"whatever it was")
    assert not noticed(run)
    write_recorded(run, "checkpoints/last.ckpt", b"new")
    assert not noticed(run)
    (run / "checkpoints" / "vae.ckpt").write_bytes(b"changed afterwards")
    assert noticed(run)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_killed_while_it_writes_leaves_a_valid_file(
    run: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the new file takes the place of the former, or after that and before the former is forgotten."""
    file, former = run / "checkpoints" / "last.ckpt", (run / "checkpoints" / "last.ckpt").read_bytes()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        replace = Path.replace

        def killed(path: Path, target: Path) -> Path:
            if target.name == "last.ckpt":
                if when == "after":
                    replace(path, target)
                raise KeyboardInterrupt
            return replace(path, target)

        patched.setattr(Path, "replace", killed)
        write_recorded(run, "checkpoints/last.ckpt", b"new")
    assert file.read_bytes() == (former if when == "before" else b"new") and not noticed(run)
    write_recorded(run, "checkpoints/last.ckpt", b"newer")
    assert json.loads((run / LIST).read_text())["files"]["checkpoints/last.ckpt"] == [checksums.sha256_of(file)]


def test_a_full_disk_is_one_line_and_keeps_the_former_file(run: Path, no_room: None) -> None:
    file = run / "checkpoints" / "last.ckpt"
    former = file.read_bytes()
    with pytest.raises(UserError, match="Expected to write .*last.ckpt, got File too large: free space there"):
        write_recorded(run, "checkpoints/last.ckpt", os.urandom(100_000))
    assert file.read_bytes() == former and not noticed(run)
    assert not list(file.parent.glob(".*.tmp"))


def test_a_removed_file_is_forgotten(run: Path) -> None:
    forget(run, "checkpoints/sae.partial.ckpt")
    assert not (run / "checkpoints" / "sae.partial.ckpt").exists() and "sae" not in (run / LIST).read_text()
