"""The command itself, on drawn faces at a tiny size: what it writes, and how it goes on after a stop."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.command import ROOT, TINY, train, weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    path = folder / "runs/faces/iin/first"
    result = train(folder, *TINY, f"run_dir={path}")
    assert f"Open: {path / 'report.html'}" in result.stdout
    return path


def test_the_run_folder_is_the_contracts(run: Path) -> None:
    for name in ("config.yaml", "manifest.json", "checkpoints/vae.ckpt", "checkpoints/last.ckpt", "report.html"):
        assert (run / name).stat().st_size > 100, name
    assert list((run / "figures").glob("edit_glasses.png")) and list((run / "tensorboard").rglob("events*"))
    metrics = json.loads((run / "metrics.json").read_text())
    assert all(isinstance(value, (int, float)) for value in metrics.values())
    for factor in ("glasses", "sex", "smile", "hat", "beard", "skin"):
        for prefix in ("edit", "baseline/mean_difference", "baseline/linear_svm", "oracle"):
            assert f"{prefix}/{factor}/counterfactual" in metrics
    trained = ("vae", "guide", "iin", "judge", "baselines", "oracle")
    for stage in ("data", "encode", "autoencoder", "flow", "evaluation", *trained):
        assert metrics[f"time/{stage}_s"] > 0 and metrics[f"throughput/{stage}_per_s"] > 0
    assert all(metrics[f"time/{stage}_s"] > 0 for stage in ("pictures", "report", "total"))
    assert {"memory/peak_mib", "reconstruction/psnr", "kl", "active_units", "throughput/vae_per_s"} <= metrics.keys()
    assert metrics["flow/inverse_error"] < 1e-3


def test_a_run_folder_is_not_taken_for_a_run_of_other_settings(folder: Path, run: Path) -> None:
    before = (run / "config.yaml").read_bytes(), (run / "metrics.json").read_bytes()
    result = train(folder, *TINY, "seed=1", f"run_dir={run}", check=False)
    assert result.returncode == 2 and "got seed=1 (there 0): choose another run_dir=" in result.stderr
    result = train(folder, f"ckpt={run / 'checkpoints/last.ckpt'}", "iin.blocks=12", check=False)
    assert result.returncode == 2 and "got iin.blocks=12 (there 2)" in result.stderr
    assert before == ((run / "config.yaml").read_bytes(), (run / "metrics.json").read_bytes())


def test_a_second_run_uses_the_vae_of_the_first_and_repeats_it_bit_for_bit(folder: Path, run: Path) -> None:
    again = train(folder, *TINY, f"run_dir={folder / 'again'}")
    assert f"Using the VAE {run / 'checkpoints/vae.ckpt'}" in again.stdout
    first, second = (weights(path / "checkpoints/last.ckpt") for path in (run, folder / "again"))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("stage", "module"), [("vae", "models.vae import VAE as Dying"), ("iin", "models.iin import IIN as Dying")]
)
def test_a_run_killed_and_resumed_equals_an_uninterrupted_one(folder: Path, run: Path, stage: str, module: str) -> None:
    """Killed after the first checkpoint of the stage (step 100) and before its end."""
    stopped, partial = folder / f"stopped_{stage}", f"checkpoints/{stage}.partial.ckpt"
    code = (
        f"import os\nfrom {module}\n"
        "step = Dying.training_step\n"
        "def dying(self, batch, index):\n"
        "    if self.global_step == 110: os._exit(9)\n"
        "    return step(self, batch, index)\n"
        "Dying.training_step = dying\n"
        f"import runpy; runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    places = [f"cache_dir={folder / 'cache'}", f"run_dir={stopped}", "runs_dir=nowhere"]
    command = [sys.executable, "-c", code, *TINY, *places]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert killed.returncode == 9, killed.stderr[-2000:]
    assert (stopped / partial).exists()
    assert (stopped / "checkpoints/vae.ckpt").exists() == (stage != "vae")
    resumed = train(folder, f"ckpt={stopped / partial}")  # beside a finished VAE of the same settings, not taken
    assert f"{stage} started" in resumed.stdout and "Using the VAE" not in resumed.stdout
    for name in ("vae", "guide", "last"):
        expected, found = (weights(path / f"checkpoints/{name}.ckpt") for path in (run, stopped))
        assert all(torch.equal(expected[key], found[key]) for key in expected), name
    whole, parts = (json.loads((path / "metrics.json").read_text()) for path in (run, stopped))
    machine = ("time/", "throughput/", "memory/", "waiting/")
    assert {key: value for key, value in whole.items() if not key.startswith(machine)} == {
        key: value for key, value in parts.items() if not key.startswith(machine)
    }


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_first_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """SLURM sends SIGTERM; a person types Ctrl-C. The checkpoint is of a step in the middle of an epoch."""
    run = tmp_path / "run"
    command = [sys.executable, str(ROOT / "train.py"), "model=sae", "data=digits", "encoder=pixels",
               "trainer.accelerator=cpu", "sae.expansion=2", "trainer.sae.steps=100000", "trainer.sae.batch_size=8",
               f"run_dir={run}", f"cache_dir={tmp_path / 'cache'}"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    partial, deadline = run / "checkpoints/sae.partial.ckpt", time.monotonic() + 100
    while not partial.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in errors
    assert (
        f"Stopped by {number.name}, what is trained is saved in {run}: go on by python train.py ckpt={partial}"
        in errors
    )
    assert torch.load(partial, weights_only=True)["global_step"] > 0 and not list(run.rglob("*.tmp"))
