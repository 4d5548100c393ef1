"""The command itself with other data, encoders and objectives, and how it refuses what cannot work."""

import json
from pathlib import Path

import pytest
import torch

from tests.command import TINY, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def vae(folder: Path) -> str:
    train(
        folder, "model=vae", *TINY[:4], "trainer.vae.steps=100", "trainer.accelerator=cpu", f"run_dir={folder / 'vae'}"
    )
    return f"encoder.checkpoint={folder / 'vae/checkpoints/vae.ckpt'}"


LIKELIHOOD = "iin.objective=likelihood"


@pytest.mark.parametrize(
    "arguments",
    [
        [LIKELIHOOD, "iin.head=label"],
        [LIKELIHOOD, "iin.block_sizes=auto", "pairs.decorrelate=false", "data.correlate={glasses:{hat:0.9}}"],
    ],
)
def test_the_other_objectives(folder: Path, vae: str, arguments: list[str]) -> None:
    train(folder, *TINY, vae, *arguments, "trainer.iin.steps=20", f"run_dir={folder / 'other'}")
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
