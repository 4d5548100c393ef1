"""The command itself with other data, encoders and objectives, and how it refuses what cannot work."""

import json
from pathlib import Path

import pytest
import torch

from tests.command import TINY, train, train_here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def vae(folder: Path) -> str:
    train_here(
        folder, "model=vae", *TINY[:4], "trainer.vae.steps=100", "trainer.accelerator=cpu", f"run_dir={folder / 'vae'}"
    )
    return f"encoder.checkpoint={folder / 'vae/checkpoints/vae.ckpt'}"


LIKELIHOOD = "iin.objective=likelihood"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("label", [LIKELIHOOD, "iin.head=label"]),
        (
            "pairs",
            [LIKELIHOOD, "iin.block_sizes=auto", "pairs.decorrelate=false", "data.correlate={glasses:{hat:0.9}}"],
        ),
        ("published", ["experiment=published", "iin.blocks=2", "iin.width=16", "iin.block_sizes=[1,1,2,1,1,3]"]),
    ],
)
def test_the_other_objectives(folder: Path, vae: str, name: str, arguments: list[str]) -> None:
    run = folder / name
    result = train_here(folder, *TINY, vae, *arguments, "trainer.iin.steps=20", f"run_dir={run}")
    metrics = json.loads((run / "metrics.json").read_text())
    assert "edit/hat/counterfactual" in metrics and metrics["time/iin_s"] > 0 and "time/guide_s" not in metrics
    flow = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    made, sizes = flow["hyper_parameters"], flow["state_dict"]["shared"].sum(1).tolist()
    assert made["objective"] == "likelihood"
    if name == "label":
        assert made["head"] == "label" and sizes == [1] * 6
    elif name == "pairs":
        assert made["head"] == "pairs" and made["block_sizes"] == sizes
        assert "Estimated block sizes: {'glasses': " + str(int(sizes[0])) in result.stdout
    else:
        assert (made["head"], made["coupling"], made["optimizer"], sizes) == (
            "pairs",
            "rnvp",
            "adam",
            [1, 1, 2, 1, 1, 3],
        )
    assert not flow["state_dict"]["shared"][:, int(sum(sizes)) :].any()  # the residual


def test_a_folder_of_images_without_labels(folder: Path) -> None:
    from PIL import Image

    images = folder / "images"
    images.mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(60):
        pixels = torch.randint(256, (20, 24, 3), dtype=torch.uint8, generator=generator).numpy()
        Image.fromarray(pixels).save(images / f"{i}.png")
    train_here(
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
    train_here(
        folder,
        "encoder=sd_vae",
        "spatial_guide.width=8",
        "spatial_guide.solver_steps=2",
        "trainer.spatial_guide.steps=100",
        "trainer.reading.steps=60",
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
        (["data.n=400", "cache_dir=/dev/null/x"], "cache_dir="),
        (["data.n=400", "iin.block_sizes=auto"], "iin.block_sizes=auto only with iin.objective=likelihood"),
        (["data.n=400", "guide.width=wide"], "Expected guide.width to be a whole number of at least 1, got 'wide'"),
        (["vae.latent=-3"], "Expected vae.latent to be a whole number of at least 1, got -3."),
        (["iin.objective=foo"], "Expected iin.objective to be faithful or likelihood, got 'foo'."),
        (["seed=4294967296"], "Expected seed to be at most 2147483647, got 4294967296"),
        (["identity_model=nothing.pt"], "no file at nothing.pt"),
        (["judge_model={hat: nothing.pt}"], "Expected a judge model (TorchScript or ONNX), got no file at nothing.pt"),
        (["trainer.accelerator=gpuu"], "Expected trainer.accelerator to be one of auto, cpu, gpu, cuda, got 'gpuu'"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(folder: Path, arguments: list[str], message: str) -> None:
    result = train_here(folder, "trainer.scale=0.02", *arguments, "run_dir=bad", check=False)
    assert not (folder / "bad").exists() and "vae started" not in result.stdout
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("Expected")]
    assert len(lines) == 1 and "Traceback" not in result.stderr


def test_latents_of_a_given_vae_are_counted_before_anything_is_trained(folder: Path, vae: str) -> None:
    sizes = "iin.block_sizes=[3,3,3,1,1,1]"  # the VAE has 12 latents
    settings = [*TINY, vae, LIKELIHOOD, sizes, "vae.latent=64", f"run_dir={folder / 'few'}"]
    result = train_here(folder, *settings, check=False)
    assert result.returncode == 2 and "fewer factor dimensions than the 12 latents, got 12" in result.stderr
    assert "encode started" not in result.stdout


def test_the_runs_of_a_sweep_do_not_lose_each_other(folder: Path) -> None:
    vae_alone = ["model=vae", *TINY[:4], "trainer.vae.steps=10", "trainer.accelerator=cpu", "runs_dir=swept"]
    result = train_here(folder, *vae_alone, "encoder.checkpoint=nothing.ckpt,null", "-m", check=False)
    assert result.returncode == 2 and "no such file" in result.stderr
    (run,) = (folder / "swept/faces/vae").iterdir()
    assert (run / "report.html").exists()
    assert list((folder / "swept/multirun").rglob("multirun.yaml")) and not (folder / "multirun.yaml").exists()


def test_a_misspelt_setting_ends_with_code_2(folder: Path) -> None:
    result = train(folder, "vae.latnet=3", check=False)
    assert result.returncode == 2 and "latnet" in result.stderr


def test_nan_stops_the_training_and_keeps_the_last_good_checkpoint(folder: Path) -> None:
    result = train_here(folder, *TINY, "vae.learning_rate=1e18", "seed=3", f"run_dir={folder / 'nan'}", check=False)
    assert result.returncode == 2, result.stdout[-500:]
    assert "Expected a finite loss" in result.stderr and "stage vae" in result.stderr
