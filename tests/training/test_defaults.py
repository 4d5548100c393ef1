"""Which encoder photographs get: the pretrained one where its weights are at hand and nothing was said."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from training import defaults
from training.defaults import with_encoder
from training.run_folder import Run
from training.settings import resolve_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    import train  # registers the resolver  # noqa: F401

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        yield


@pytest.fixture
def at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "missing_weights", lambda weights: None)


@pytest.fixture
def run_dir(tmp_path: Path) -> str:
    return f"run_dir={tmp_path / 'run'}"


def decided(*overrides: str) -> tuple[Any, dict[str, Any]]:
    """The settings that a command line leads to, and the choices that are stored with them."""
    chosen = {"data": "faces", "encoder": "vae", "model": "iin", "trainer": "default", "experiment": None}
    chosen |= {key: value for key, _, value in (item.partition("=") for item in overrides) if key in chosen}
    config, choices = with_encoder(compose("train", list(overrides)), overrides, chosen)
    return config, dict(choices)


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        (["data=celeba"], 128),
        (["data=folder", "data.root=photos"], 128),
        (["data=celeba", "data.size=192"], 192),
        (["data=celeba", "+image_size=256", "seed=3"], 256),
        (["data=celeba", "guide.width=16", "trainer.scale=2", "trainer=quick"], 128),
    ],
)
def test_photographs_get_the_pretrained_encoder(
    overrides: list[str], size: int, at_hand: None, capsys: pytest.CaptureFixture[str]
) -> None:
    config, choices = decided(*overrides)
    assert config.encoder._target_ == "models.sd_vae.TinyAutoencoder" and choices["encoder"] == "taesd"
    assert config.data.size == config.encoder.size == size and "vae" not in config
    assert config.guide.reading_weight == 0.0, "the guide of latents with places has no reader"
    (line,) = capsys.readouterr().out.splitlines()
    assert f"encoder=taesd at {size} px" in line


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data=celeba", "encoder=vae"],
        ["data=celeba", "vae.latent=12"],
        ["data=celeba", "encoder.checkpoint=vae.ckpt"],
        ["data=celeba", "trainer.vae.steps=3"],
        ["data=celeba", "model=vae"],
        ["data=celeba", "experiment=published"],
        ["data=celeba", "ckpt=last.ckpt"],
    ],
)
def test_what_was_said_stays(overrides: list[str], at_hand: None, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [*overrides, "run_dir=nowhere"]  # not the time
    config, choices = decided(*overrides)
    assert config == compose("train", overrides) and config.encoder.name == choices["encoder"] == "vae"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["data=celeba"], "neither a folder nor in the hub's cache, and the hub cannot be reached"),
        (["data=folder", "data.size=64"], "encoder=taesd needs 128 px or more, a multiple of 8"),
        (["data=folder", "data.size=130"], "encoder=taesd needs 128 px or more, a multiple of 8"),
    ],
)
def test_without_weights_a_vae_is_trained_and_its_loss_is_said(
    overrides: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TAESD_WEIGHTS", "no/where")
    config, choices = decided(*overrides)
    assert config.encoder.name == choices["encoder"] == "vae" and config.vae.latent == 256
    (line,) = capsys.readouterr().out.splitlines()
    assert reason in line and f"at {config.data.size} px, which loses glasses and the person" in line


def test_a_folder_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (tmp_path / name).touch()
    monkeypatch.setenv("TAESD_WEIGHTS", str(tmp_path))
    assert decided("data=celeba")[0].encoder.weights == str(tmp_path)


@pytest.mark.parametrize("begun", ["vae", "taesd"])
def test_a_run_folder_keeps_the_encoder_that_it_was_begun_with(
    begun: str, run_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["data=celeba", run_dir]
    monkeypatch.setattr(defaults, "missing_weights", lambda weights: "absent" if begun == "vae" else None)
    config, choices = decided(*overrides)
    settings = resolve_settings(config, overrides, choices)
    Run(settings.run_dir, settings)
    monkeypatch.setattr(defaults, "missing_weights", lambda weights: None if begun == "vae" else "absent")
    again, choices = decided(*overrides)
    assert choices["encoder"] == begun and resolve_settings(again, overrides, choices) == settings


def test_ckpt_goes_on_with_the_stored_encoder(run_dir: str, tmp_path: Path, at_hand: None) -> None:
    config, choices = decided("data=celeba", run_dir)
    settings = resolve_settings(config, ["data=celeba", run_dir], choices)
    Run(settings.run_dir, settings)
    ckpt = tmp_path / "run/checkpoints/guide.partial.ckpt"
    ckpt.parent.mkdir()
    ckpt.touch()
    overrides = [f"ckpt={ckpt}", "data=celeba", "measured_images=7"]
    resumed = resolve_settings(*decided(*overrides)[:1], overrides, {"data": "celeba", "encoder": "vae"})
    assert resumed.encoder.size == 128 and resumed.groups.encoder == "taesd" and resumed.measured_images == 7
