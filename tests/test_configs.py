"""The configurations name what their constructors take, with the constructors' own defaults but for a few."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from training import resolvers
from training.settings import flat

CONFIGS = Path(__file__).parents[1] / "configs"
GROUPS = [
    (group, file.stem) for group in ("model", "encoder", "data") for file in sorted((CONFIGS / group).glob("*.yaml"))
]
# What a configuration sets otherwise than its constructor, and why.
DIFFERENT = {
    "vae.flip": "null: by the data",
    "vae.final_width": "drawn faces",
    "idec.reconstruction_weight": "IDEC is DEC with it",
    "idec.clustering_weight": "as in IDEC's paper",
    "idec.learning_rate": "as in IDEC's code",
    "autoencoder.hidden": "a smaller one for reductions",
    "autoencoder.corruption": "none for reductions",
    "encoder.size": "the resolution that DINOv2 is known at",
    "encoder.weights": "taesd3 beside taesd",
    "data.size": "the encoder's",
    "data.cache_dir": "the run's",
}
PHOTOGRAPHS = {"vae.latent", "vae.width", "vae.scale", "iin.reach", "guide.nuisance", "guide.align_steps",
               "guide.reading_weight"}  # fmt: skip


def composed(*overrides: str) -> Any:
    assert resolvers
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", ["run_dir=x", *overrides])


def arguments(config: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, value and the constructor's default of every argument that has one; an unknown argument is an error."""
    if "_target_" in config:
        parameters = inspect.signature(get_object(config._target_)).parameters
        for name in map(str, config):
            if name.startswith("_") or OmegaConf.is_missing(config, name):
                continue
            default, value = parameters[name].default, config[name]
            value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            if default is not inspect.Parameter.empty:
                yield f"{place}{name}", value, list(default) if isinstance(default, tuple) else default
    for name in config:
        if isinstance(config._get_node(name), DictConfig):
            yield from arguments(config[name], f"{place}{name}.")


@pytest.mark.parametrize(("group", "name"), GROUPS, ids=[f"{group}={name}" for group, name in GROUPS])
def test_configurations_have_the_defaults_of_their_constructors(group: str, name: str) -> None:
    config = composed(f"{group}={name}", *(["encoder=vae"] if group != "encoder" else []))
    different = {key for key, value, default in arguments(config) if value != default}
    assert different <= DIFFERENT.keys() | (PHOTOGRAPHS if name in ("celeba", "folder") else set())


def test_what_is_tuned_for_data_reaches_no_other_model() -> None:
    """As a VAE of photographs is wider whatever is done with it, but its guide is no part of a clustering."""
    clustering = flat(composed("model=dec", "data=folder", "data.root=x", "encoder=vae"))
    assert clustering["vae.latent"] == 256 and not any(key.startswith(("guide.", "iin.")) for key in clustering)
    assert not any(key.startswith("trainer.dec") for key in flat(composed("model=mds")))


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        ((), "vae.final_width", 32),
        (("data=celeba",), "vae.final_width", 0),
        (("data=celeba", "encoder=vae"), "iin.reach", 1.5),
        (("data=celeba", "encoder=taesd"), "iin.reach", 1.0),
        (("model=dec",), "trainer.dec.interval", 30),
        (("model=dec", "data=vectors", "data.path=x"), "trainer.dec.interval", 140),
        (("model=dec", "trainer.dec.interval=7"), "trainer.dec.interval", 7),
        (("model=mds",), "trainer.autoencoder.epochs", 100),
    ],
)
def test_values_that_are_tuned_for_data(overrides: tuple[str, ...], key: str, value: float) -> None:
    assert flat(composed(*overrides))[key] == value
