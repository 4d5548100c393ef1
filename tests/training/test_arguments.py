"""Settings that no constructor accepts are refused before a run reads its data."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from models import UserError
from training.arguments import check_arguments, check_targets

CONFIGS = Path(__file__).parents[2] / "configs"
WRONG = [
    ("models.vae.VAE", {"latent": -3}, "Expected latent to be a whole number of at least 1, got -3."),
    ("models.vae.VAE", {"latent": True}, "Expected latent to be a whole number of at least 1, got True."),
    ("models.vae.VAE", {"learning_rate": -1}, "Expected learning_rate to be a number above 0, got -1."),
    ("models.vae.VAE", {"learning_rate": float("nan")}, "Expected learning_rate to be a number above 0, got nan."),
    ("models.vae.VAE", {"width": "24"}, "Expected width to be a whole number of at least 1, got '24'."),
    ("models.iin.IIN", {"objective": "foo"}, "Expected objective to be faithful or likelihood, got 'foo'."),
    ("models.iin.IIN", {"correlation": 1.0}, "Expected correlation to be a number from 0 to less than 1 or a list"),
    (
        "models.autoencoder.Autoencoder",
        {"hidden": [5, 0]},
        "Expected hidden to be a list of a whole number of at least 1",
    ),
    ("models.sae.SAE", {"weighting": "squared"}, "Expected weighting to be uniform or reverse, got 'squared'."),
    ("models.dec.DEC", {"tolerance": 2}, "Expected tolerance to be a number from 0 to 1, got 2."),
    ("models.clip.CLIP", {"normalize": 2}, "Expected normalize to be true or false, got 2."),
    ("datamodules.folder.folder", {"crop": 0}, "Expected crop to be a number above 0 and at most 1, got 0."),
    ("datamodules.folder.folder", {"factors": 3}, "Expected factors to be a mapping or a list of text or null, got 3."),
    ("datamodules.faces.faces", {"seed": 2**32 - 1}, "Expected seed to be a whole number from 0 to 2147483647"),
]


@pytest.mark.parametrize(("target", "settings", "message"), WRONG)
def test_settings_out_of_range_are_refused(target: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        check_arguments({"_target_": target, **settings})
    assert str(raised.value).startswith(message)


def test_the_message_has_the_name_of_the_setting() -> None:
    settings = OmegaConf.create({"vae": {"_target_": "models.vae.VAE", "latent": 0}})
    with pytest.raises(UserError, match=r"^Expected vae\.latent to be a whole number of at least 1, got 0\.$"):
        check_targets(settings)


def test_the_prompt_encoder_is_only_checked_where_prompts_use_it() -> None:
    encoder = {"_target_": "models.clip.CLIP", "normalize": 2}
    check_targets(OmegaConf.create({"prompts": None, "prompt_encoder": encoder}))
    with pytest.raises(UserError, match=r"prompt_encoder\.normalize"):
        check_targets(OmegaConf.create({"prompts": {"hat": ["a", "b"]}, "prompt_encoder": encoder}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": {"bins": 0}}, "Expected pairs.bins to be a whole number of at least 1, got 0."),
        ({"pairs": {"decorrelate": "foo"}}, "Expected pairs.decorrelate to be true or false, got 'foo'."),
        ({"prompt_confidence": 0.2}, "Expected prompt_confidence to be a number from 0.5 to 1, got 0.2."),
    ],
)
def test_settings_outside_of_targets_are_checked_too(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        check_targets(OmegaConf.create(settings))
    assert str(raised.value) == message
