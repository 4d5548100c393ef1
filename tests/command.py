"""`python train.py` as a user types it, at a size that takes seconds."""

import io
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

ROOT = Path(__file__).parents[1]
TINY = [
    "data.n=400", "data.size=16", "vae.latent=12", "vae.width=4", "iin.blocks=2", "iin.width=16", "guide.nuisance=4",
    "guide.width=16", "guide.fit_steps=60", "guide.align_steps=20", "guide.align_batch=8", "trainer.vae.steps=220",
    "trainer.iin.steps=120", "trainer.accelerator=cpu", "measured_images=20",
]  # fmt: skip

Result = subprocess.CompletedProcess[str]


def places(folder: Path) -> list[str]:
    return [f"cache_dir={folder / 'cache'}", f"runs_dir={folder / 'runs'}"]


def checked(result: Result, check: bool) -> Result:
    assert not check or result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result


def train(folder: Path, *arguments: str, check: bool = True) -> Result:
    command = [sys.executable, str(ROOT / "train.py"), *places(folder), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return checked(
        subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=500), check
    )


def here(folder: Path, run: Callable[[], object], command: list[str]) -> Result:
    """A program within this process, which need not load everything again."""
    printed, told = io.StringIO(), io.StringIO()
    with chdir(folder), redirect_stdout(printed), redirect_stderr(told), patch("sys.argv", command):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an error in tests, but not where a user types the command
            try:
                code: int | str | None = (run(), 0)[1]
            except SystemExit as ended:
                code = ended.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(command, code, printed.getvalue(), told.getvalue())


def train_here(folder: Path, *arguments: str, check: bool = True) -> Result:
    """`train`, within this process."""
    file = str(ROOT / "train.py")
    run = partial(runpy.run_path, file, run_name="__main__")
    return checked(here(folder, run, [file, *places(folder), *arguments]), check)


def ask_here(name: str, *arguments: str) -> Result:
    """`python -m NAME`, within this process."""
    return here(ROOT, partial(runpy.run_module, name, run_name="__main__"), [name, *arguments])


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]
