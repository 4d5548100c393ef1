"""The command itself, on drawn faces at a tiny size: what it writes, how it goes on after a stop, how it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
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
    for stage in ("total", "data", "vae", "encode", "guide", "iin", "judge", "oracle", "evaluation"):
        assert metrics[f"time/{stage}_s"] > 0
    assert {"memory/peak_mib", "reconstruction/psnr", "kl", "active_units", "throughput/vae_per_s"} <= metrics.keys()
    assert metrics["flow/inverse_error"] < 1e-3


def test_a_second_run_uses_the_vae_of_the_first_and_repeats_it_bit_for_bit(folder: Path, run: Path) -> None:
    again = train(folder, *TINY, f"run_dir={folder / 'again'}")
    assert f"Using the VAE {run / 'checkpoints/vae.ckpt'}" in again.stdout
    first, second = (weights(path / "checkpoints/last.ckpt") for path in (run, folder / "again"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_killed_and_resumed_equals_an_uninterrupted_one(folder: Path, run: Path) -> None:
    stopped = folder / "stopped"
    code = (
        "import os, models.vae as v\n"
        "step = v.VAE.training_step\n"
        "def dying(self, batch, index):\n"
        "    if self.global_step == 150: os._exit(9)\n"
        "    return step(self, batch, index)\n"
        "v.VAE.training_step = dying\n"
        f"import runpy; runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    command = [
        sys.executable,
        "-c",
        code,
        f"cache_dir={folder / 'cache'}",
        *TINY,
        f"run_dir={stopped}",
        "runs_dir=nowhere",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert killed.returncode == 9, killed.stderr[-2000:]
    assert (stopped / "checkpoints/vae.partial.ckpt").exists() and not (stopped / "checkpoints/vae.ckpt").exists()
    train(folder, f"ckpt={stopped / 'checkpoints/vae.partial.ckpt'}")
    for name in ("vae", "guide", "last"):
        expected, resumed = (weights(path / f"checkpoints/{name}.ckpt") for path in (run, stopped))
        assert all(torch.equal(expected[key], resumed[key]) for key in expected), name


LIKELIHOOD = "iin.objective=likelihood"


@pytest.mark.parametrize(
    "arguments",
    [[LIKELIHOOD, "iin.head=label"], [LIKELIHOOD, "iin.block_sizes=auto", "pairs.decorrelate=false"]],
)
def test_the_other_objectives(folder: Path, run: Path, arguments: list[str]) -> None:
    checkpoint = f"encoder.checkpoint={run / 'checkpoints/vae.ckpt'}"
    train(folder, *TINY, checkpoint, *arguments, "trainer.iin.steps=20", f"run_dir={folder / 'other'}")
    assert "edit/hat/counterfactual" in json.loads((folder / "other/metrics.json").read_text())


def test_a_folder_of_images_without_labels(folder: Path) -> None:
    from PIL import Image

    images = folder / "images"
    images.mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(60):
        pixels = torch.randint(256, (20, 24, 3), dtype=torch.uint8, generator=generator).numpy()
        Image.fromarray(pixels).save(images / f"{i}.png")
    train(
        folder, "data=folder", f"data.root={images}", *TINY[1:], "trainer.scale=0.1", f"run_dir={folder / 'unlabelled'}"
    )
    metrics = json.loads((folder / "unlabelled/metrics.json").read_text())
    assert "flow/nll_bits_per_dim" in metrics and not any(key.startswith("edit/") for key in metrics)
    assert (folder / "unlabelled/figures/samples.png").exists()


def test_an_autoencoder_of_latent_diffusion_as_the_encoder(folder: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    tiny = diffusers.AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=2, **blocks)
    tiny.save_pretrained(folder / "sd_vae")
    arguments = [item for item in TINY if not item.startswith("vae.")]
    train(
        folder,
        "encoder=sd_vae",
        f"encoder.weights={folder / 'sd_vae'}",
        *arguments,
        "trainer.scale=0.2",
        f"run_dir={folder / 'sd'}",
    )
    metrics = json.loads((folder / "sd/metrics.json").read_text())
    assert "time/vae_s" not in metrics and metrics["flow/inverse_error"] < 1e-3 and "edit/hat/success" in metrics
    manifest = json.loads((folder / "sd/manifest.json").read_text())
    assert len(manifest["encoder"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=celeba", "data.root=nowhere"], "nowhere"),
        (["data.n=400", "vae.latent=4"], "fewer factor dimensions than the 4 latents, got 6"),
        (["ckpt=nothing.ckpt"], "Expected ckpt="),
        (["data.n=400", "encoder.checkpoint=nothing.ckpt"], "no such file"),
        (["cache_dir=/dev/null/x"], "cache_dir="),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(folder: Path, arguments: list[str], message: str) -> None:
    result = train(folder, "trainer.scale=0.02", *arguments, "run_dir=bad", check=False)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("Expected")]
    assert len(lines) == 1 and "Traceback" not in result.stderr


def test_a_misspelt_setting_ends_with_code_2(folder: Path) -> None:
    result = train(folder, "vae.latnet=3", check=False)
    assert result.returncode == 2 and "latnet" in result.stderr


def test_nan_stops_the_training_and_keeps_the_last_good_checkpoint(folder: Path) -> None:
    result = train(folder, *TINY, "vae.learning_rate=1e18", "seed=3", f"run_dir={folder / 'nan'}", check=False)
    assert result.returncode == 2, result.stdout[-500:]
    assert "Expected a finite loss" in result.stderr and "stage vae" in result.stderr
