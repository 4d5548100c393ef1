"""`.ci/run` with stand-ins for make and apt-get: a browser is installed where it can be, and pytest's line ends it."""

import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / ".ci" / "run"
TOOLS = ("bash", "dirname", "env", "grep", "mktemp", "rm", "tail", "tee", "timeout")
LAST = "==== 2 passed, 1 skipped in 3.1s ===="


def run(folder: Path, apt: int, tests: int, user: int = 0, browser: bool = False) -> tuple[int, list[str], list[str]]:
    """Exit code, printed lines and what apt-get was called with, of exit codes of apt-get and of make."""
    calls = folder / "calls"
    calls.touch()
    stands = {"apt-get": f'echo "$@" >> {calls}; echo noise; exit {apt}', "id": f"echo {user}"}
    stands["make"] = f'echo "{LAST}"; echo "make: *** Error" >&2; exit {tests}'
    stands |= {"chromium": "exit 1", "chromedriver": "exit 1"} if browser else {}
    for name, text in stands.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool}"))
    done = subprocess.run([RUN], env={"PATH": str(folder)}, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines(), calls.read_text().splitlines()


def test_a_browser_is_installed_in_silence(tmp_path: Path) -> None:
    code, lines, calls = run(tmp_path, apt=0, tests=0)
    assert code == 0 and lines[-1] == LAST and "noise" not in lines
    assert calls == ["update", "install -y chromium chromium-driver"]


def test_without_one_the_tests_run_all_the_same(tmp_path: Path) -> None:
    code, lines, _ = run(tmp_path, apt=100, tests=2)
    assert code == 2 and lines[-1] == LAST
    assert lines[0] == "Chromium could not be installed: the tests that need a browser are skipped."


@pytest.mark.parametrize("here", [{"user": 1000}, {"browser": True}], ids=str)
def test_nothing_is_installed_by_a_user_or_where_it_is_there(here: dict[str, int], tmp_path: Path) -> None:
    code, lines, calls = run(tmp_path, apt=0, tests=0, **here)  # type: ignore[arg-type]
    assert code == 0 and lines[-1] == LAST and not calls
