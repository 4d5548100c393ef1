"""`python train.py` as a user types it, at a size that takes seconds."""

import io
import json
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
    "trainer.iin.steps=120", "vae.final_width=0", "trainer.accelerator=cpu", "measured_images=20",
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
    printed, errors = io.StringIO(), io.StringIO()
    with chdir(folder), redirect_stdout(printed), redirect_stderr(errors), patch("sys.argv", command):
        # A module that runpy runs would leave its bytecode with the shape checks where the ordinary one is looked for.
        with warnings.catch_warnings(), patch("sys.dont_write_bytecode", True):
            warnings.simplefilter("ignore")  # an error in tests, but not where a user types the command
            try:
                code: int | str | None = (run(), 0)[1]
            except SystemExit as ended:
                code = ended.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(command, code, printed.getvalue(), errors.getvalue())


def train_here(folder: Path, *arguments: str, check: bool = True) -> Result:
    """`train`, within this process."""
    file = str(ROOT / "train.py")
    run = partial(runpy.run_path, file, run_name="__main__")
    return checked(here(folder, run, [file, *places(folder), *arguments]), check)


def ask_here(name: str, *arguments: str) -> Result:
    """`python -m NAME`, within this process."""
    return here(ROOT, partial(runpy.run_module, name, run_name="__main__"), [name, *arguments])


def small_clip(folder: Path, features: int) -> Path:
    """A tiny CLIP at random weights, as the hub has them: a folder of open_clip's configuration and weights."""
    import open_clip

    config = {
        "embed_dim": features,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    small, name = folder / "clip", f"tiny-{features}"
    small.mkdir()
    (small / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    torch.save(open_clip.create_model(name).state_dict(), small / "open_clip_pytorch_model.bin")
    return small


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]
