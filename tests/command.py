"""`python train.py` as a user types it, at a size that takes seconds."""

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
TINY = [
    "data.n=400", "data.size=16", "vae.latent=12", "vae.width=4", "iin.blocks=2", "iin.width=16", "guide.nuisance=4",
    "guide.width=16", "guide.fit_steps=60", "guide.align_steps=20", "guide.align_batch=8", "trainer.vae.steps=220",
    "trainer.iin.steps=120", "trainer.accelerator=cpu", "measured_images=20",
]  # fmt: skip


def train(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        f"cache_dir={folder / 'cache'}",
        f"runs_dir={folder / 'runs'}",
        *arguments,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=500)
    assert not check or result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]
