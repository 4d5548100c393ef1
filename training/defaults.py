"""Choose the encoder of photographs if the command line names none: a pretrained one if its weights are available.

A VAE that is trained from scratch on a few thousand faces loses the details that are to be edited. The run's
config.yaml stores the choice, so ckpt= and the commands on finished runs use the same encoder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose

from models.sd_vae import missing_weights
from training.settings import Settings
from training.stored_settings import read_settings

__all__ = ["with_encoder"]

DATA = ("celeba", "folder")
PREFERRED, FALLBACK = "taesd", "vae"
SIDE = 128  # pixels at which the preferred encoder preserves a face; its 256 latents at 64 pixels do not
DIVISOR = 8
OF_THE_VAE = ("encoder.", "vae.", "vae=", "trainer.vae")  # settings that imply encoder=vae


def with_encoder(
    config: Settings, overrides: Sequence[str], choices: Mapping[str, Any]
) -> tuple[Settings, Mapping[str, Any]]:
    """Return the configuration and the choices of its groups, with the pretrained encoder if it can be used.

    The choice is printed; for the VAE the line says what it loses and why it is used.
    """
    if not undecided(config, overrides, choices):
        return config, choices
    file = Path(config.run_dir) / "config.yaml"
    before = read_settings(file).get("groups", {}).get("encoder") if file.is_file() else None
    if before is not None and before != PREFERRED:
        return config, choices
    # The VAE's configuration has no image_size, so users add it with +; the other one has it, so + would be an error.
    given = [o.removeprefix("+") if o.startswith("+image_size=") else o for o in overrides]
    other = compose("train", [*given, f"encoder={PREFERRED}"])
    small = other.data.size < SIDE or other.data.size % DIVISOR
    reason = f"encoder={PREFERRED} needs {SIDE} px or more, a multiple of {DIVISOR}" if small else None
    if before is None and (reason := reason or missing_weights(other.encoder.weights)):
        print(lost(choices["data"], config.data.size, reason))
        return config, choices
    print(f"data={choices['data']}: encoder={PREFERRED} at {other.data.size} px; encoder={FALLBACK} trains a VAE.")
    return other, {**choices, "encoder": PREFERRED}


def undecided(config: Settings, overrides: Sequence[str], choices: Mapping[str, Any]) -> bool:
    """Tell whether the run edits photographs and the command line chooses no encoder."""
    names = [override.lstrip("+~") for override in overrides]
    named = any(name.startswith(("encoder=", "encoder@", *OF_THE_VAE)) for name in names)
    return (
        choices.get("data") in DATA
        and choices.get("model") == "iin"
        and choices.get("encoder") == FALLBACK
        and choices.get("experiment") is None
        and config.get("ckpt") is None
        and not named
    )


def lost(data: str, size: int, reason: str) -> str:
    """Return the line that explains why a VAE is trained and what it loses."""
    return (
        f"data={data}: a VAE is trained from scratch at {size} px, which loses glasses and the person, as {reason}; "
        f"encoder={PREFERRED}, from the hub or from a folder named by {PREFERRED.upper()}_WEIGHTS, keeps them."
    )
