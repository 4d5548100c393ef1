"""Frozen encoders, against diffusers' own results and against the interface in docs/architecture.md."""

import importlib.util
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import jaxtyping
import pytest
import torch
from safetensors.torch import load_file, save_file

from datamodules.factors import FactorTable, ImageData
from datamodules.features import encode
from models import UserError
from models import sd_vae as encoders
from models.sd_vae import SDVAE, TinyAutoencoder, missing_weights
from models.weights import weights_sha256
from training.files import read_image

diffusers = pytest.importorskip("diffusers")

WEIGHTS = "diffusion_pytorch_model.safetensors"


def save_autoencoder(folder: Path, seed: int = 0, **config: Any) -> Path:
    """A small AutoencoderKL at random, halving the image once."""
    torch.manual_seed(seed)
    diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        **config,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_autoencoder(tmp_path_factory.mktemp("sd_vae"))


def random_images(count: int, size: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize("count", [1, 3])
def test_shapes_and_ranges(folder: Path, count: int) -> None:
    encoder = SDVAE(16, str(folder))
    assert encoder.size == 16 and encoder.latent_shape == (4, 8, 8)
    mean, logvar = encoder.encode(random_images(count, 16))
    assert mean.shape == logvar.shape == (count, 4 * 8 * 8)
    assert mean.dtype == logvar.dtype == torch.float32
    images = encoder.decode(mean + 100 * torch.randn_like(mean))
    assert images.shape == (count, 3, 16, 16)
    assert 0 <= images.min() and images.max() <= 1 and images.std() > 0


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"scaling_factor": 0.5, "shift_factor": 0.1},
        {"latents_mean": (0.1, 0.2, 0.3, 0.4), "latents_std": (1.0, 2.0, 3.0, 4.0), "scaling_factor": 0.5},
    ],
    ids=["default", "shift", "channels"],
)
def test_latents_are_the_posterior_in_scaled_space(tmp_path: Path, config: dict[str, Any]) -> None:
    encoder = SDVAE(16, str(save_autoencoder(tmp_path, **config)))
    images = random_images(2, 16)
    mean, logvar = encoder.encode(images)

    vae = diffusers.AutoencoderKL.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    with torch.no_grad():
        posterior = vae.encode(images / 255 * 2 - 1).latent_dist
        reconstruction = vae.decode(posterior.mean).sample
    shift = torch.tensor(config.get("latents_mean", [config.get("shift_factor", 0.0)])).reshape(1, -1, 1, 1)
    scale = config.get("scaling_factor", 0.18215) / torch.tensor(config.get("latents_std", [1.0])).reshape(1, -1, 1, 1)
    torch.testing.assert_close(mean, ((posterior.mean - shift) * scale).flatten(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logvar.exp(), (posterior.var * scale**2).flatten(1), rtol=1e-4, atol=1e-6)
    expected = ((reconstruction + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(encoder.decode(mean), expected, rtol=1e-4, atol=1e-5)


def test_shape_annotations_are_checked(folder: Path) -> None:
    """The suite runs with every annotation of the packages checked; this is the proof that it does."""
    encoder = SDVAE(16, str(folder))
    with pytest.raises(jaxtyping.TypeCheckError):
        encoder.encode(random_images(1, 16).float())
    with pytest.raises(jaxtyping.TypeCheckError):
        encoder.encode(random_images(1, 16)[:, :1])


def test_decode_has_gradients_and_the_weights_have_none(folder: Path) -> None:
    encoder = SDVAE(16, str(folder))
    latents = torch.zeros(1, 256, requires_grad=True)
    encoder.decode(latents).sum().backward()
    assert latents.grad is not None and latents.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_stays_in_evaluation_mode(folder: Path) -> None:
    encoder = torch.nn.Sequential(SDVAE(16, str(folder))).train()
    assert not any(module.training for module in encoder[0].modules())


def test_autocast_changes_nothing(folder: Path) -> None:
    encoder = SDVAE(16, str(folder))
    images = random_images(2, 16)
    mean, _ = encoder.encode(images)
    decoded = encoder.decode(mean)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(encoder.encode(images)[0], mean, rtol=0, atol=0)
        torch.testing.assert_close(encoder.decode(mean), decoded, rtol=0, atol=0)


def test_identity_follows_the_weights_and_the_configuration(folder: Path, tmp_path: Path) -> None:
    identity = SDVAE(16, str(folder)).identity
    assert identity["name"] == "sd_vae" and len(str(identity["sha256"])) == 64
    assert identity == SDVAE(16, str(save_autoencoder(tmp_path / "again"))).identity

    weights = SDVAE(16, str(save_autoencoder(tmp_path / "weights", seed=1))).identity
    assert {key for key in identity if weights[key] != identity[key]} == {"sha256"}

    scaled = SDVAE(16, str(save_autoencoder(tmp_path / "scaled", scaling_factor=0.5))).identity
    assert {key for key in identity if scaled[key] != identity[key]} == {"architecture", "scaling_factor"}


def test_weights_sha256_sees_values_names_and_shapes() -> None:
    a, b = torch.arange(6.0), torch.ones(())
    digest = weights_sha256({"a": a, "b": b})
    assert digest == weights_sha256({"b": b.clone(), "a": a.clone()})
    others = [{"a": a + 1, "b": b}, {"b": a, "a": b}, {"a": a.reshape(2, 3), "b": b}, {"a": a.double(), "b": b}]
    assert len({digest, *map(weights_sha256, others)}) == 5


@pytest.mark.parametrize("size", [15, 1, 0])
def test_size_must_fit_the_downsampling(folder: Path, size: int) -> None:
    with pytest.raises(UserError, match=f"multiples of 2, got {size}: set the data's size to [0-9]*[02468],"):
        SDVAE(size, str(folder))


def test_subfolder(tmp_path: Path) -> None:
    save_autoencoder(tmp_path / "vae")
    assert SDVAE(16, str(tmp_path), subfolder="vae").latent_shape == (4, 8, 8)
    with pytest.raises(UserError, match=r"holds no config\.json: put config\.json and .*subfolder"):
        SDVAE(16, str(tmp_path))


def test_weights_without_a_tensor_are_not_filled_at_random(tmp_path: Path) -> None:
    file = save_autoencoder(tmp_path) / WEIGHTS
    state = load_file(file)
    del state["decoder.conv_in.weight"]
    save_file(state, file)
    with pytest.raises(UserError, match=r"lacks 1 of the autoencoder's tensors, decoder\.conv_in\.weight"):
        SDVAE(16, str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_broken_or_missing_file(tmp_path: Path, name: str) -> None:
    file = save_autoencoder(tmp_path) / name
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UserError, match="cannot be read") as caught:
        SDVAE(16, str(tmp_path))
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(UserError, match=f"holds no {name}"):
        SDVAE(16, str(tmp_path))


@pytest.mark.parametrize("weights", ["./nowhere", "/no/where", "nowhere", "a/b/c"])
def test_no_such_folder(weights: str) -> None:
    with pytest.raises(UserError, match=f"encoder.weights={weights} is no folder: put config.json"):
        SDVAE(16, weights)


@pytest.mark.parametrize("weights", ["no/where", "no t/valid"])
def test_hub_name_without_a_network(weights: str) -> None:
    with pytest.raises(UserError, match=f"{weights} is neither a folder nor in the hub's cache.* pass encoder.weights"):
        SDVAE(16, weights)


def test_download_is_announced_and_the_cache_is_asked_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bool] = []

    def snapshot_download(name: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        asked.append(local_files_only)
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        return str(folder)

    class HfApi:
        def model_info(self, name: str, files_metadata: bool) -> SimpleNamespace:
            sizes = {"config.json": 1000, WEIGHTS: 334_999_000, "diffusion_pytorch_model.bin": 10**9}
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in sizes.items()])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", HfApi)
    assert SDVAE(16, "some/autoencoder").latent_shape == (4, 8, 8)
    assert asked == [True, False]
    assert "downloading some/autoencoder (335 MB) to " in capsys.readouterr().out


def test_without_diffusers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[diffusion\]'"):
        SDVAE(16, str(folder))


def save_tiny(folder: Path, seed: int = 0) -> Path:
    """A small AutoencoderTiny at random, halving the image once."""
    torch.manual_seed(seed)
    diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("taesd"))


def test_a_tiny_autoencoders_latents_are_the_librarys_with_one_deviation(tiny: Path) -> None:
    encoder = TinyAutoencoder(16, str(tiny))
    assert encoder.size == 16 and encoder.latent_shape == (4, 8, 8)
    images = random_images(3, 16)
    with torch.autocast("cpu", torch.bfloat16):  # in full, whatever is around it
        mean, logvar = encoder.encode(images)
    vae = diffusers.AutoencoderTiny.from_pretrained(tiny, low_cpu_mem_usage=False)
    with torch.no_grad():
        expected = vae.encode(images / 255 * 2 - 1).latents
        decoded = ((vae.decode(expected).sample + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(mean, expected.flatten(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((logvar / 2).exp(), torch.full_like(mean, TinyAutoencoder.DEVIATION))
    torch.testing.assert_close(encoder.decode(mean), decoded, rtol=0, atol=0.02)  # in bfloat16, perhaps


def test_a_tiny_autoencoder_reads_any_number_of_images_in_parts(tiny: Path) -> None:
    encoder, images = TinyAutoencoder(16, str(tiny)), random_images(5, 16)
    mean, _ = encoder.encode(images)
    decoded = encoder.decode(mean)
    encoder.batch = 2
    torch.testing.assert_close(encoder.encode(images)[0], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.decode(mean), decoded, rtol=0, atol=0.02)
    assert encoder.decode(100 * torch.randn(1, 256)).shape == (1, 3, 16, 16)
    assert decoded.is_contiguous() and 0 <= decoded.min() and decoded.max() <= 1


def test_gradients_flow_through_a_tiny_decoder_in_either_precision(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TinyAutoencoder(16, str(tiny))
    encoder.train()
    assert not any(parameter.requires_grad or encoder.training for parameter in encoder.parameters())
    gradients = []
    for fast in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        latents = torch.linspace(-1, 1, 512).reshape(2, 256).requires_grad_()
        encoder.decode(latents).square().sum().backward()
        assert latents.grad is not None and latents.grad.dtype == torch.float32
        gradients.append(latents.grad)
    assert gradients[0].abs().sum() > 0
    assert torch.nn.functional.cosine_similarity(gradients[0], gradients[1]).min() > 0.99


def test_identity_of_a_tiny_autoencoder(tiny: Path, tmp_path: Path) -> None:
    identity = TinyAutoencoder(16, str(tiny)).identity
    assert (identity["name"], identity["posterior_deviation"]) == ("taesd", TinyAutoencoder.DEVIATION)
    assert identity == TinyAutoencoder(16, str(save_tiny(tmp_path / "again"))).identity
    other = TinyAutoencoder(16, str(save_tiny(tmp_path / "other", seed=1))).identity
    assert {key for key in identity if other[key] != identity[key]} == {"sha256"}


def test_latents_of_a_tiny_autoencoder_are_cached(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = torch.zeros(5, dtype=torch.uint8)
    table = FactorTable((), torch.zeros(5, 0))
    data = ImageData("drawn", random_images(5, 16), list("abcde"), table, split, "drawn")
    encoder = TinyAutoencoder(16, str(tiny))
    first = encode(data, encoder, tmp_path, batch=2)
    assert first.mean.shape == (5, 256) and len(first.logvar.unique()) == 1
    monkeypatch.setattr(TinyAutoencoder, "encode", lambda self, images: pytest.fail("The cache was not read."))
    assert torch.equal(encode(data, encoder, tmp_path, batch=2).mean, first.mean)


@pytest.mark.parametrize("size", [15, 0])
def test_sizes_that_a_tiny_autoencoder_does_not_divide(tiny: Path, size: int) -> None:
    with pytest.raises(UserError, match=f"encoder=taesd with .* multiples of 2, got {size}: set the data's size"):
        TinyAutoencoder(size, str(tiny))


def test_weights_of_another_kind_of_autoencoder(folder: Path, tiny: Path) -> None:
    with pytest.raises(UserError, match="of an AutoencoderTiny there") as caught:
        TinyAutoencoder(16, str(folder))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="of an AutoencoderKL there"):
        SDVAE(16, str(tiny))


def test_what_is_missing_of_weights(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_weights(str(tiny)) is None
    assert missing_weights(str(tmp_path)) == f"{tmp_path} holds no config.json"
    assert missing_weights("no/where") == (
        "no/where is neither a folder nor in the hub's cache, and the hub cannot be reached"
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "diffusers is not installed" in str(missing_weights(str(tiny)))


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class HfApi:
        def model_info(self, name: str, timeout: float) -> None:
            time.sleep(5)

    monkeypatch.setattr(huggingface_hub, "HfApi", HfApi)
    monkeypatch.setattr(encoders, "PATIENCE", 0.05)
    started = time.monotonic()
    assert "cannot be reached" in str(missing_weights("some/autoencoder"))
    assert time.monotonic() - started < 4


def test_a_hub_that_answers_is_downloaded_from(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def snapshot_download(name: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        return str(tiny)

    class HfApi:
        def model_info(self, name: str, files_metadata: bool = False, timeout: float | None = None) -> SimpleNamespace:
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=WEIGHTS, size=4_903_000)])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", HfApi)
    assert missing_weights("some/autoencoder") is None
    assert "encoder=taesd: downloading some/autoencoder (5 MB) to " in capsys.readouterr().out


@pytest.mark.parametrize(("name", "size", "least"), [("taesd", 128, 27.0), ("taesd3", 64, 28.0)])
def test_published_weights_keep_a_photograph(name: str, size: int, least: float) -> None:
    shared = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[3] / "shared/data"))
    photographs = sorted((shared / "photo_faces/img_align_celeba").glob("*.jpg"))[:300:60]
    if not (shared / name).is_dir() or not photographs:
        pytest.skip("needs the development data in ../shared/data")
    encoder = TinyAutoencoder(size, str(shared / name))
    images = torch.stack([read_image(file, size, 160 / 178) for file in photographs])
    errors = (encoder.decode(encoder.encode(images)[0]) - images / 255).square().mean()
    assert encoder.identity["name"] == name and -10 * errors.log10() > least
